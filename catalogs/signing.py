"""Signing hrefs just before they are read; tokens are short-lived and never stored."""

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

TOKEN_URL = "https://planetarycomputer.microsoft.com/api/sas/v1/token"  # noqa: S105 # a URL
"""URL of the token service; storage account and container follow.

source: Planetary Computer documentation, "Using tokens for data access".
"""

SUBSCRIPTION_KEY_VARIABLE = "PC_SDK_SUBSCRIPTION_KEY"
"""Environment variable with an optional subscription key, which gives longer tokens."""

EXPIRY_RESERVE = 60.0
"""Seconds before its expiry from which a token is no longer used."""


@dataclass(frozen=True, slots=True)
class _Token:
    query: str
    expires_at: float
    """Time of this process's monotonic clock, in seconds."""


@dataclass(frozen=True, slots=True)
class SignedHref:
    """An href that can be read now, with the GDAL options for it."""

    href: str
    """May contain a token: never write it to a log, a task graph, a receipt or a file."""

    gdal_options: Mapping[str, str] = field(default_factory=dict)
    """GDAL configuration options, without secrets: keys stay in the worker's environment."""

    def __repr__(self) -> str:
        href = href_policy.redact(self.href)
        return f"SignedHref(href={href!r}, gdal_options={dict(self.gdal_options)})"


_tokens: dict[str, _Token] = {}
_locks: dict[str, threading.Lock] = {}
_lock = threading.Lock()


def sign_with_options(href: str, provider: Provider | str) -> SignedHref:
    """Sign an href, and return it with the GDAL options of its host or S3 bucket.

    Raises:
        InvalidInputError: The provider is unknown, or the token service refuses.
        TransientError: The token service is busy, unreachable or sends a broken response.
    """
    if isinstance(provider, str):
        provider = providers.get(provider)
    return SignedHref(sign(href, provider), _gdal_options(urlsplit(href), provider))


def _gdal_options(parts: SplitResult, provider: Provider) -> dict[str, str]:
    """Return the GDAL options for a URL.

    source: GDAL, "Network based file systems", /vsis3/ and /vsicurl/.
    """
    if parts.scheme == "https" and provider.signing == "bearer":
        return {"GDAL_HTTP_AUTH": "BEARER"} if parts.netloc.lower() in provider.hosts else {}
        # ^ the token itself is in the worker's GDAL_HTTP_BEARER
    bucket = provider.buckets.get(parts.netloc) if parts.scheme == "s3" else None
    if bucket is None:
        return {}
        # ^ a bucket of the job's allow list: the worker's environment configures it
    options: dict[str, str] = {}
    if bucket.endpoint:
        options |= {"AWS_S3_ENDPOINT": bucket.endpoint, "AWS_VIRTUAL_HOSTING": "FALSE"}
        # ^ object stores other than Amazon's take the bucket in the path, not in the host
    if bucket.region:
        options["AWS_REGION"] = bucket.region
    if bucket.access == "requester-pays":
        options["AWS_REQUEST_PAYER"] = "requester"
    if bucket.access == "public":
        options["AWS_NO_SIGN_REQUEST"] = "YES"
    return options


def sign(href: str, provider: Provider | str) -> str:
    """Sign an href; return it unchanged where its provider needs no signature.

    The result may contain a token: never write it to a log, a task graph, a receipt or a file.

    Raises:
        InvalidInputError: The provider is unknown, or the token service refuses.
        TransientError: The token service is busy, unreachable or sends a broken response.
    """
    if isinstance(provider, str):
        provider = providers.get(provider)
    parts = urlsplit(href)
    if provider.signing != "planetary-computer" or not _is_blob_url(parts.scheme, parts.hostname):
        return href
    account = str(parts.hostname).removesuffix(BLOB_HOST_SUFFIX)
    container = parts.path.lstrip("/").partition("/")[0]
    return f"{href_policy.redact(href)}?{_get_token(f'{account}/{container}')}"


def forget_token(href: str) -> None:
    """Discard the token of an href that was refused, so that a new one is fetched."""
    parts = urlsplit(href)
    account = (parts.hostname or "").removesuffix(BLOB_HOST_SUFFIX)
    _tokens.pop(f"{account}/{parts.path.lstrip('/').partition('/')[0]}", None)


def _is_blob_url(scheme: str, host: str | None) -> bool:
    return scheme == "https" and (host or "").endswith(BLOB_HOST_SUFFIX)


def _get_token(container: str) -> str:
    """Return the query string of a valid token; concurrent callers share one request."""
    with _lock:
        container_lock = _locks.setdefault(container, threading.Lock())
    with container_lock:
        token = _tokens.get(container)
        if token is None or token.expires_at <= time.monotonic():
            token = _tokens[container] = _fetch_token(container)
        return token.query


def _fetch_token(container: str) -> _Token:
    import requests  # noqa: PLC0415

    # ^ slow to import, and catalogs without signed files do not need it

    key = os.environ.get(SUBSCRIPTION_KEY_VARIABLE)
    headers = {"Ocp-Apim-Subscription-Key": key} if key else {}
    try:
        with http_client.open_session() as session:
            response = session.get(
                f"{TOKEN_URL}/{container}",
                headers=headers,
                timeout=http_client.TIMEOUT,
                allow_redirects=False,
            )
            return _parse_token(container, response)
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        raise TransientError(
            f"No token for {container} ({type(error).__name__}): check that {TOKEN_URL} can be "
            "reached, then run the same command again."
        ) from None
        # ^ a chained exception could print a token


def _parse_token(container: str, response: Any) -> _Token:
    if response.status_code in http_client.RETRY_STATUSES:
        raise TransientError(
            f"No token for {container}: {TOKEN_URL} answers {response.status_code}. Run the "
            "same command again later."
        )
    if response.status_code != 200:
        raise InvalidInputError(
            f"No token for {container}: {TOKEN_URL} answers {response.status_code}. Check that it "
            "is a public container of the Planetary Computer."
        )
    document = response.json()
    expiry = dt.datetime.fromisoformat(document["msft:expiry"])
    now = parsedate_to_datetime(response.headers["Date"])
    # ^ the server's clock, as the local one may be wrong by many minutes
    lifetime = (expiry - now).total_seconds() - EXPIRY_RESERVE
    return _Token(str(document["token"]), time.monotonic() + lifetime)
