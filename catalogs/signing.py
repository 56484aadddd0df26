"""Make an href readable, just before it is read: tokens are short-lived and never stored."""

from __future__ import annotations

import datetime as dt
import os
import threading
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from catalogs import href_policy, providers
from catalogs.errors import InvalidInputError, TransientError
from catalogs.sources import http_client

if TYPE_CHECKING:
    from collections.abc import Mapping

    from catalogs.providers import Provider

BLOB_HOST_SUFFIX = ".blob.core.windows.net"

TOKEN_URL = "https://planetarycomputer.microsoft.com/api/sas/v1/token"
"""Where read tokens are given out, by storage account and container.

source: Planetary Computer documentation, "Using tokens for data access".
"""

SUBSCRIPTION_KEY_VARIABLE = "PC_SDK_SUBSCRIPTION_KEY"
"""Environment variable with an optional key for longer tokens, as other tools name it."""

EXPIRY_RESERVE = 60.0
"""Seconds before its end at which a token is no longer handed out."""


@dataclass(frozen=True, slots=True)
class _Token:
    query: str
    expires_at: float
    """On this process's monotonic clock."""


@dataclass(frozen=True, slots=True)
class SignedHref:
    """An href that can be read now, and what GDAL must be told for it."""

    href: str
    """Perhaps a secret: it belongs into no log, graph, receipt or file."""

    gdal_options: Mapping[str, str] = field(default_factory=dict)
    """GDAL configuration options; never a secret, for keys stay in the worker's environment."""

    def __repr__(self) -> str:
        return f"Access(href={href_policy.redact(self.href)!r}, options={dict(self.gdal_options)})"


_tokens: dict[str, _Token] = {}
_locks: dict[str, threading.Lock] = {}
_lock = threading.Lock()


def sign_with_options(href: str, provider: Provider | str) -> SignedHref:
    """Return how an href is read now: signed, and with the options of its S3 bucket.

    Raises:
        InvalidInputError: The provider is unknown, or the token service refuses.
        TransientError: The token service does not answer properly.
    """
    known = providers.get(provider) if isinstance(provider, str) else provider
    return SignedHref(sign(href, known), _gdal_options(urlsplit(href), known))


def _gdal_options(parts: SplitResult, provider: Provider) -> dict[str, str]:
    """Return GDAL's options for an address.

    source: GDAL, "Network based file systems", /vsis3/ and /vsicurl/.
    """
    if parts.scheme == "https" and provider.signing == "bearer":
        return {"GDAL_HTTP_AUTH": "BEARER"} if parts.netloc.lower() in provider.hosts else {}
        # ^ the token itself is the worker's GDAL_HTTP_BEARER
    bucket = provider.buckets.get(parts.netloc) if parts.scheme == "s3" else None
    if bucket is None:
        return {}
        # ^ a bucket of the job's own allow list: as the worker's environment has it
    options: dict[str, str] = {}
    if bucket.endpoint:
        options |= {"AWS_S3_ENDPOINT": bucket.endpoint, "AWS_VIRTUAL_HOSTING": "FALSE"}
        # ^ stores that are not Amazon's have the bucket in the path, not in the host
    if bucket.region:
        options["AWS_REGION"] = bucket.region
    if bucket.access == "requester-pays":
        options["AWS_REQUEST_PAYER"] = "requester"
    if bucket.access == "public":
        options["AWS_NO_SIGN_REQUEST"] = "YES"
    return options


def sign(href: str, provider: Provider | str) -> str:
    """Return href as it can be read now; unchanged where no signature is needed.

    The result is a secret: it belongs into no log, graph, receipt or file.

    Raises:
        InvalidInputError: The token service refuses.
        TransientError: The token service does not answer properly.
    """
    known = providers.get(provider) if isinstance(provider, str) else provider
    parts = urlsplit(href)
    if known.signing != "planetary-computer" or not _is_blob_url(parts.scheme, parts.hostname):
        return href
    account = str(parts.hostname).removesuffix(BLOB_HOST_SUFFIX)
    container = parts.path.lstrip("/").partition("/")[0]
    return f"{href_policy.redact(href)}?{_get_token(f'{account}/{container}')}"


def forget_token(href: str) -> None:
    """Forget the token of an href that was refused, so that the next one is fresh."""
    parts = urlsplit(href)
    account = (parts.hostname or "").removesuffix(BLOB_HOST_SUFFIX)
    _tokens.pop(f"{account}/{parts.path.lstrip('/').partition('/')[0]}", None)


def _is_blob_url(scheme: str, host: str | None) -> bool:
    return scheme == "https" and (host or "").endswith(BLOB_HOST_SUFFIX)


def _get_token(container: str) -> str:
    """Return the query of a token that is still good; many threads ask, one fetches."""
    with _lock:
        own = _locks.setdefault(container, threading.Lock())
    with own:
        known = _tokens.get(container)
        if known is None or known.expires_at <= time.monotonic():
            known = _tokens[container] = _fetch_token(container)
        return known.query


def _fetch_token(container: str) -> _Token:
    import requests  # noqa: PLC0415

    key = os.environ.get(SUBSCRIPTION_KEY_VARIABLE)
    headers = {"Ocp-Apim-Subscription-Key": key} if key else {}
    try:
        with http_client.open_session() as http:
            answer = http.get(
                f"{TOKEN_URL}/{container}",
                headers=headers,
                timeout=http_client.TIMEOUT,
                allow_redirects=False,
            )
            return _parse_token(container, answer)
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        raise TransientError(
            f"No token for {container} ({type(error).__name__}): see whether {TOKEN_URL} can be reached, "
            "and run the same command again."
        ) from None
        # ^ the chained error could print a token


def _parse_token(container: str, response: Any) -> _Token:
    if response.status_code in http_client.RETRY_STATUSES:
        raise TransientError(
            f"No token for {container}: {TOKEN_URL} answers {response.status_code}; try later."
        )
    if response.status_code != 200:
        raise InvalidInputError(
            f"No token for {container}: {TOKEN_URL} answers {response.status_code}. Is it a public "
            "container of the Planetary Computer?"
        )
    document = response.json()
    end = dt.datetime.fromisoformat(document["msft:expiry"])
    now = parsedate_to_datetime(response.headers["Date"])
    # ^ the server's clock, because this machine's may be wrong by many minutes
    life = (end - now).total_seconds() - EXPIRY_RESERVE
    return _Token(str(document["token"]), time.monotonic() + life)
