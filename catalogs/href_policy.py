"""Which hrefs of a catalog may be opened: hosts, buckets and folders that are allowed."""

# ruff: noqa: PTH110, PTH114, PTH118, PTH120
# ^ a catalog has tens of thousands of hrefs, and pathlib takes three times as long

from __future__ import annotations

import ipaddress
import os
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit, urlunsplit

from catalogs.errors import InvalidInputError

if TYPE_CHECKING:
    from catalogs.providers import Provider

RASTER_SUFFIXES = (".tif", ".tiff", ".jp2")
"""Suffixes of the files that are read; other formats may refer to further files."""

_SCHEME = re.compile(r"[A-Za-z][\w+.-]*:")
# ^ wider than the scheme of a URL: GDAL has prefixes such as GTIFF_DIR:
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f<>\"]")
_NOT_IN_URL = re.compile(r"[^\x21-\x7e]+")
_VSI_PATH = re.compile(r"(?:^|/)vsi\w*[/?]", re.IGNORECASE)
_WHITESPACE = re.compile(r"\s")
_USER_INFO = re.compile(r"(\w+://)[^\s/@'\"]*@")
_QUERY = re.compile(r"(?<=[\w/.)])\?[^\s'\"]+")
_SECRET = re.compile(r"(?i)\b(sig|signature|token|password|secret|key)=[^\s&'\"]+")
_ODATA_NODE = re.compile(r"Nodes\((.+)\)")
# ^ how OData names a file of a product, as in the https URLs of Copernicus Data Space
_HOST = re.compile(r"(?:[A-Za-z0-9-]+\.)+[A-Za-z0-9-]+(?::\d+)?|localhost(?::\d+)?")


class UntrustedHrefError(InvalidInputError):
    """An href that points outside of the allowed locations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HrefPolicy:
    """The locations that the hrefs of one catalog may point to."""

    provider: Provider

    origin: str | None = None
    """Path or URL of the catalog as the user named it; its folder or host is trusted."""

    allow: tuple[str, ...] = ()
    """More folders, hosts and S3 buckets ("s3://name") that the user trusts."""

    def resolve(self, href: str, base: str) -> str:
        """Return an href as an absolute path or URL.

        Of a remote catalog, an absolute path into a folder that is allowed is that file.

        A URL is percent-encoded where it has blanks or letters that are not ASCII. A path is taken
        as it is written; where there is no such file, its percent-decoded form is tried, and the
        other Unicode form of its letters.

        Args:
            href: The href as it stands in the catalog.
            base: Path or URL of the document that holds it.

        Raises:
            UntrustedHrefError: It may not be opened.
        """
        _check_characters(href)
        scheme = match[0].lower() if (match := _SCHEME.match(href)) else ""
        for start, mirror in self.provider.mirrors.items():
            if scheme == "s3:" and f"s3{href[2:]}".startswith(start):
                return self._resolve_url(mirror + quote(href[len(start) :]), href)
                # ^ the key of an object is no URL: its characters stand for themselves
        if is_remote(href):
            url = href if scheme == "s3:" else _encode_url(href)
            return self._resolve_url(url, url)
        if scheme == "file:":
            return self._resolve_path(file_url_to_path(href))
        if scheme:
            raise UntrustedHrefError(
                f"{redact(href)!r} has a scheme that is not allowed: use https, s3 or a path "
                "beside the catalog; a relative path with a colon begins with `./`."
            )
        if is_remote(base) and not self._is_in_allowed_folder(href):
            return self._resolve_url(_encode_url(urljoin(base, href)), _encode_url(href))
        return self._resolve_path(_find_spelling(os.path.dirname(base), href))

    def resolve_raster(self, href: str, base: str) -> str:
        """Return the href of a raster as an absolute path or URL.

        Args:
            href: The href as it stands in the catalog.
            base: Path or URL of the document that holds it.

        Raises:
            UntrustedHrefError: It may not be opened, or has none of RASTER_SUFFIXES.
        """
        resolved = self.resolve(href, base)
        if not file_name(resolved).lower().endswith(RASTER_SUFFIXES):
            raise UntrustedHrefError(
                f"{redact(href)!r} is no raster by its name ({', '.join(RASTER_SUFFIXES)})."
            )
        return resolved

    def _resolve_url(self, url: str, href: str) -> str:
        parts = urlsplit(url)
        if parts.username is not None or parts.password is not None or parts.fragment:
            raise UntrustedHrefError(
                f"{redact(href)!r} has a user name or a fragment: a # in a name is written %23."
            )
        if ".." in unquote(parts.path).split("/"):
            raise UntrustedHrefError(f"{redact(href)!r} leads out of its folder by `..`.")
        if parts.scheme == "s3":
            return self._resolve_s3_url(parts, href)
        if self._is_origin(parts):
            return urlunsplit(parts)
        host = _host_and_port(parts, href)
        if parts.scheme != "https" and not _is_loopback(parts.hostname or ""):
            raise UntrustedHrefError(f"{redact(href)!r} is not https.")
        if host not in self._allowed_hosts():
            raise UntrustedHrefError(
                f"{redact(href)!r} lies on {host}, which is not a host of "
                f"{self.provider.name}: add {host} to the job's allow list if you trust it."
            )
        return urlunsplit(parts)

    def _resolve_s3_url(self, parts: SplitResult, href: str) -> str:
        allowed = {
            *self.provider.buckets,
            *(entry[5:].strip("/") for entry in self.allow if entry.lower().startswith("s3://")),
        }
        if parts.netloc not in allowed:
            raise UntrustedHrefError(
                f"{redact(href)!r} lies in a bucket that is not one of {self.provider.name}: "
                f"add s3://{parts.netloc} to the job's allow list if you trust it."
            )
        return urlunsplit(parts)

    def _resolve_path(self, path: str) -> str:
        real = _resolve_links(path)
        # ^ follows symbolic links, so that none leads out of the folder
        folders = _trusted_folders(self.origin, self.allow)
        if any(real.startswith(folder) for folder in folders):
            return real
        raise UntrustedHrefError(
            f"{real} lies outside of the catalog's own folder: add "
            f"{self._suggest_folder(real)} to the job's allow list if you trust it."
        )

    def _is_in_allowed_folder(self, href: str) -> bool:
        """Return whether an href of a remote catalog is a path into a folder that is allowed.

        Catalogs of a computing centre name files of its file systems in this way.
        """
        folders = _trusted_folders(None, self.allow)
        is_path = href.startswith("/") and not href.startswith("//")
        return is_path and _resolve_links(href).startswith(folders)

    def _suggest_folder(self, real: str) -> str:
        """Return the folder that holds both file and catalog, else the file's own folder."""
        folder = str(Path(real).parent)
        if self.origin is None or is_remote(self.origin):
            return folder
        shared = os.path.commonpath([real, Path(self.origin).resolve()])
        return folder if shared == os.sep else shared

    def _is_origin(self, parts: SplitResult) -> bool:
        if self.origin is None or not is_remote(self.origin):
            return False
        origin = urlsplit(self.origin)
        return (parts.scheme, parts.netloc.lower()) == (origin.scheme, origin.netloc.lower())

    def _allowed_hosts(self) -> set[str]:
        return {
            *self.provider.hosts,
            *(name for entry in self.allow if (name := parse_host(entry))),
        }


@lru_cache(maxsize=64)
def _trusted_folders(origin: str | None, allow: tuple[str, ...]) -> tuple[str, ...]:
    """Return the trusted folders, with symbolic links resolved and a slash at the end."""
    folders = [entry for entry in allow if not parse_host(entry)]
    if origin is not None and not is_remote(origin):
        folders.append(os.path.dirname(os.path.realpath(origin)))
    return tuple(os.path.join(os.path.realpath(folder), "") for folder in folders)


def _resolve_links(path: str) -> str:
    """Return a path with symbolic links resolved; the result for its folder is cached."""
    folder, name = os.path.split(path)
    if name in ("", ".", ".."):
        return os.path.realpath(path)
    real = os.path.join(_resolve_folder_links(folder), name)
    return os.path.realpath(real) if os.path.islink(real) else real


@lru_cache(maxsize=4096)
def _resolve_folder_links(folder: str) -> str:
    return os.path.realpath(folder)


def file_name(href: str) -> str:
    """Return the file name in a path or URL; of an OData URL, that of its last node."""
    path = urlsplit(href).path if is_remote(href) else href
    name = path.removesuffix("/$value").rpartition("/")[2]
    node = _ODATA_NODE.fullmatch(name)
    return node[1] if node else name


def is_remote(href: str) -> bool:
    """Return whether an href is an http, https or s3 URL rather than a path."""
    return href.lower().startswith(("https://", "http://", "s3://"))


def parse_host(entry: str) -> str | None:
    """Return the host that an entry of an allow list names, or None where it names a folder."""
    if is_remote(entry):
        return urlsplit(entry).netloc.lower()
    if _HOST.fullmatch(entry) and not os.path.exists(entry):
        return entry.lower()
    return None


def file_url_to_path(url: str) -> str:
    """Return the path that a file:// URL names, percent-decoded.

    Raises:
        UntrustedHrefError: It names a file on another machine, or has a fragment.
    """
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise UntrustedHrefError(f"{url!r} names a file on another machine.")
    if parts.fragment:
        raise UntrustedHrefError(f"{url!r} has a fragment: a # in a name is written %23.")
    path = unquote(parts.path)
    _check_characters(path)
    return path


def redact(text: str) -> str:
    """Return an href, or a message with hrefs, without queries, fragments and user names."""
    bare = _USER_INFO.sub(r"\1", text)
    if not _WHITESPACE.search(bare):
        return re.split(r"[?#]" if "://" in bare else r"\?", bare, maxsplit=1)[0]
        # ^ a # belongs to the name of a local file
    return _SECRET.sub(r"\1=...", _QUERY.sub("", bare))


def _check_characters(href: str) -> None:
    if not isinstance(href, str) or not href:
        raise UntrustedHrefError(f"{href!r} is no href.")
    if "\\" in href:
        raise UntrustedHrefError(
            f"{href[:80]!r} has a backslash, as paths of Windows have: write slashes, as in "
            "./scene/B02.tif."
        )
    if _FORBIDDEN.search(href):
        raise UntrustedHrefError(
            f"{href[:80]!r} has control characters, quotation marks or angle brackets."
        )
    if href != href.strip():
        raise UntrustedHrefError(f"{href[:80]!r} begins or ends with a blank: remove it.")
    if _VSI_PATH.search(href):
        raise UntrustedHrefError(f"{redact(href)!r} names a virtual file system of GDAL.")


def _encode_url(url: str) -> str:
    """Return a URL with blanks and letters beyond ASCII percent-encoded, and nothing else."""
    return _NOT_IN_URL.sub(lambda match: quote(match[0]), url)


def _find_spelling(folder: str, href: str) -> str:
    """Return the path of a relative href in the spelling that exists; as written where none does.

    Some programs percent-encode relative hrefs, others write them as they are. Archives from macOS
    hold decomposed letters where a catalog has composed ones.
    """
    path = os.path.join(folder, href)
    if "%" not in href and href.isascii():
        return path
    decoded = unquote(href)
    _check_characters(decoded)
    spellings = dict.fromkeys(
        (
            href,
            decoded,
            *(
                unicodedata.normalize(form, text)
                for form in ("NFC", "NFD")
                for text in (href, decoded)
            ),
        )
    )
    paths = (os.path.join(folder, spelling) for spelling in spellings)
    return next(filter(os.path.exists, paths), path)


def _host_and_port(parts: SplitResult, href: str) -> str:
    """Return the host, or host:port where the port is not 443."""
    try:
        port = parts.port
    except ValueError as error:
        raise UntrustedHrefError(f"{redact(href)!r} has an invalid port.") from error
    host = (parts.hostname or "").lower()
    return host if port in (None, 443) else f"{host}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
