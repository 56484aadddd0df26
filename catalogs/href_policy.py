"""What may be opened: hrefs from foreign catalogs are checked against a short list."""

# ruff: noqa: PTH114, PTH118, PTH120
# ^ a catalog has hrefs by the ten thousand, and pathlib takes three times as long for them

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urljoin, urlsplit, urlunsplit

from catalogs.errors import InvalidInputError

if TYPE_CHECKING:
    from catalogs.providers import Provider

RASTER_SUFFIXES = (".tif", ".tiff", ".jp2")
"""Endings of the files we read; anything else could be a description that names other files."""

_SCHEME = re.compile(r"[A-Za-z][\w+.-]*:")
# ^ wider than a URL's: GDAL has prefixes such as GTIFF_DIR:
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f\\<>\"]")
_VSI_PATH = re.compile(r"(?:^|/)vsi\w*[/?]", re.IGNORECASE)
_WHITESPACE = re.compile(r"\s")
_USER_INFO = re.compile(r"(\w+://)[^\s/@'\"]*@")
_QUERY = re.compile(r"(?<=[\w/.)])\?[^\s'\"]+")
_SECRET = re.compile(r"(?i)\b(sig|signature|token|password|secret|key)=[^\s&'\"]+")
_ODATA_NODE = re.compile(r"Nodes\((.+)\)")
# ^ OData's way to name a file in a product, as in the https addresses of Copernicus Data Space
_HOST = re.compile(r"(?:[A-Za-z0-9-]+\.)+[A-Za-z0-9-]+(?::\d+)?|localhost(?::\d+)?")


class UntrustedHrefError(InvalidInputError):
    """An href points where the job has not allowed us to look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HrefPolicy:
    """The places that hrefs of one catalog may point to."""

    provider: Provider

    origin: str | None = None
    """Catalog file or address as the user named it; its folder or host is trusted."""

    allow: tuple[str, ...] = ()
    """More folders, hosts, or s3 buckets ("s3://name"), named by the user."""

    def resolve(self, href: str, base: str) -> str:
        """Return href as an absolute path or address, if it may be opened.

        Args:
            href: As the catalog wrote it.
            base: Path or address of the document that holds it.

        Raises:
            Untrusted: It may not.
        """
        _check_characters(href)
        for start, mirror in self.provider.mirrors.items():
            if href.startswith(start):
                return self._resolve_url(mirror + href.removeprefix(start), href)
        if is_remote(href):
            return self._resolve_url(href, href)
        if href.startswith("file://"):
            return self._resolve_path(unquote(_file_url_to_path(href)))
        if _SCHEME.match(href):
            raise UntrustedHrefError(
                f"{redact(href)!r} uses a scheme that is never opened: https, or a path beside "
                "the catalog, is."
            )
        if is_remote(base):
            return self._resolve_url(urljoin(base, href), href)
        return self._resolve_path(os.path.join(os.path.dirname(base), href))

    def resolve_raster(self, href: str, base: str) -> str:
        """Settle the href of a raster, whose name must end like one (see RASTERS)."""
        settled = self.resolve(href, base)
        if not file_name(settled).lower().endswith(RASTER_SUFFIXES):
            raise UntrustedHrefError(
                f"{redact(href)!r} is no raster by its name ({', '.join(RASTER_SUFFIXES)})."
            )
        return settled

    def _resolve_url(self, url: str, href: str) -> str:
        parts = urlsplit(url)
        if parts.username is not None or parts.password is not None or parts.fragment:
            raise UntrustedHrefError(f"{redact(href)!r} carries a user name or a fragment.")
        if ".." in unquote(parts.path).split("/"):
            raise UntrustedHrefError(f"{redact(href)!r} climbs out of its folder.")
        if parts.scheme == "s3":
            return self._resolve_s3_url(parts, href)
        if self._is_origin(parts):
            return urlunsplit(parts)
        place = _host_and_port(parts, href)
        if parts.scheme != "https" and not _is_loopback(parts.hostname or ""):
            raise UntrustedHrefError(f"{redact(href)!r} is not https.")
        if place not in self._allowed_hosts():
            raise UntrustedHrefError(
                f"{redact(href)!r} lies on {place}, which is not a host of "
                f"{self.provider.name}: add {place} to the job's allow list if you trust it."
            )
        return urlunsplit(parts)

    def _resolve_s3_url(self, parts: SplitResult, href: str) -> str:
        allowed = {
            *self.provider.buckets,
            *(entry[5:].strip("/") for entry in self.allow if entry.startswith("s3://")),
        }
        if parts.netloc not in allowed:
            raise UntrustedHrefError(
                f"{redact(href)!r} lies in a bucket that is not one of {self.provider.name}: "
                f"add s3://{parts.netloc} to the job's allow list if you trust it."
            )
        return urlunsplit(parts)

    def _resolve_path(self, path: str) -> str:
        real = _resolve_links(path)
        # ^ follows links, so that a link cannot lead out
        folders = _trusted_folders(self.origin, self.allow)
        if any(real.startswith(folder) for folder in folders):
            return real
        raise UntrustedHrefError(
            f"{real} lies outside of the catalog's own folder: add {self._suggest_folder(real)} to the "
            "job's allow list if you trust it."
        )

    def _suggest_folder(self, real: str) -> str:
        """Return the folder to advise: what the file shares with the catalog, else its own."""
        own = str(Path(real).parent)
        if self.origin is None or is_remote(self.origin):
            return own
        shared = os.path.commonpath([real, Path(self.origin).resolve()])
        return own if shared == os.sep else shared

    def _is_origin(self, parts: SplitResult) -> bool:
        if self.origin is None or not is_remote(self.origin):
            return False
        own = urlsplit(self.origin)
        return (parts.scheme, parts.netloc.lower()) == (own.scheme, own.netloc.lower())

    def _allowed_hosts(self) -> set[str]:
        return {
            *self.provider.hosts,
            *(name for entry in self.allow if (name := parse_host(entry))),
        }


@lru_cache(maxsize=64)
def _trusted_folders(origin: str | None, allow: tuple[str, ...]) -> tuple[str, ...]:
    """Return the trusted folders, without links and with a slash at the end."""
    folders = [entry for entry in allow if not parse_host(entry)]
    if origin is not None and not is_remote(origin):
        folders.append(os.path.dirname(os.path.realpath(origin)))
    return tuple(os.path.join(os.path.realpath(folder), "") for folder in folders)


def _resolve_links(path: str) -> str:
    """Return a path without links; the folder's part is remembered, for thousands share it."""
    folder, name = os.path.split(path)
    if name in ("", ".", ".."):
        return os.path.realpath(path)
    real = os.path.join(_resolve_folder_links(folder), name)
    return os.path.realpath(real) if os.path.islink(real) else real


@lru_cache(maxsize=4096)
def _resolve_folder_links(folder: str) -> str:
    return os.path.realpath(folder)


def file_name(href: str) -> str:
    """Return the last part of a path or address: B02.jp2 also where OData writes it as a node."""
    path = urlsplit(href).path if is_remote(href) else href
    name = path.removesuffix("/$value").rpartition("/")[2]
    node = _ODATA_NODE.fullmatch(name)
    return node[1] if node else name


def is_remote(href: str) -> bool:
    """Return whether href is an address rather than a path."""
    return href.lower().startswith(("https://", "http://", "s3://"))


def parse_host(entry: str) -> str | None:
    """Return the host that an entry of an allow list names, or None where it names a folder."""
    if entry.startswith(("https://", "http://", "s3://")):
        return urlsplit(entry).netloc.lower()
    if _HOST.fullmatch(entry) and not Path(entry).exists():
        return entry.lower()
    return None


def redact(text: str) -> str:
    """Return an href, or a message with hrefs in it, fit for a log: no query, fragment or user."""
    bare = _USER_INFO.sub(r"\1", text)
    if not _WHITESPACE.search(bare):
        return re.split(r"[?#]", bare, maxsplit=1)[0]
    return _SECRET.sub(r"\1=...", _QUERY.sub("", bare))


def safe_key(foreign: str) -> str:
    """Return a file name for a foreign id: 1 to 128 of A-Z a-z 0-9 _ . -, not starting with a dot.

    Ids that had to be changed get a digest at the end, so that two of them never meet.
    """
    key = re.sub(r"[^A-Za-z0-9_.-]", "_", foreign).lstrip(".")
    if key == foreign and 0 < len(key) <= 128:
        return key
    digest = hashlib.sha256(foreign.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{key[:111]}-{digest}" if key else digest


def _check_characters(href: str) -> None:
    if not isinstance(href, str) or not href:
        raise UntrustedHrefError(f"{href!r} is no href.")
    if _UNPRINTABLE.search(href):
        raise UntrustedHrefError(
            f"{href[:80]!r} holds blanks, control signs, brackets or backslashes."
        )
    if _VSI_PATH.search(href):
        raise UntrustedHrefError(f"{redact(href)!r} names a virtual file system.")


def _file_url_to_path(href: str) -> str:
    parts = urlsplit(href)
    if parts.netloc not in ("", "localhost"):
        raise UntrustedHrefError(f"{href!r} names a file on another machine.")
    return parts.path


def _host_and_port(parts: SplitResult, href: str) -> str:
    """Return host, or host:port where the port is not https's own."""
    try:
        port = parts.port
    except ValueError as error:
        raise UntrustedHrefError(f"{redact(href)!r} has no port that exists.") from error
    host = (parts.hostname or "").lower()
    return host if port in (None, 443) else f"{host}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
