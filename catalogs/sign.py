"""Make an href readable, just before it is read: tokens are short-lived and never stored."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from catalogs import providers, trust
from catalogs.errors import Transient, Wrong

if TYPE_CHECKING:
    from catalogs.providers import Provider

BLOB_HOSTS = ".blob.core.windows.net"


def sign(href: str, provider: Provider | str) -> str:
    """Return href as it can be read now; unchanged where no signature is needed.

    The result is a secret: it belongs into no log, graph, receipt or file.

    Raises:
        Wrong: The package that fetches the tokens is missing.
        Transient: The token could not be fetched.
    """
    known = providers.get(provider) if isinstance(provider, str) else provider
    if known.signing == "planetary-computer" and _is_blob(href):
        return _with_token(href)
    return href
    # ^ "environment" too: GDAL takes the credentials of an s3 address from the worker itself


def _is_blob(href: str) -> bool:
    parts = urlsplit(href)
    return parts.scheme == "https" and (parts.hostname or "").endswith(BLOB_HOSTS)


def _with_token(href: str) -> str:
    try:
        import planetary_computer  # noqa: PLC0415
    except ImportError as error:
        raise Wrong(
            "Reading from planetary-computer needs its signing package: "
            "pip install planetary-computer."
        ) from error
    import requests  # noqa: PLC0415

    try:
        signed = planetary_computer.sign_url(href)
    except requests.RequestException as error:
        reason = type(error).__name__
        # ^ the message itself may hold an address with a token in it
        raise Transient(
            f"No token for {trust.redact(href)} ({reason}): try again; if it persists, see "
            "whether planetarycomputer.microsoft.com is reachable."
        ) from error
    return str(signed)
