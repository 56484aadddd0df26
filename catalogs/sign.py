"""Make an href readable, just before it is read: tokens are short-lived and never stored."""

from __future__ import annotations

import datetime as dt
import os
import threading
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from catalogs import providers, static, trust
from catalogs.errors import Transient, Wrong

if TYPE_CHECKING:
    from catalogs.providers import Provider

BLOB_HOSTS = ".blob.core.windows.net"

TOKENS = "https://planetarycomputer.microsoft.com/api/sas/v1/token"
"""Where read tokens are given out, by storage account and container.

source: Planetary Computer documentation, "Using tokens for data access".
"""

SUBSCRIPTION = "PC_SDK_SUBSCRIPTION_KEY"
"""Environment variable with an optional key for longer tokens, as other tools name it."""

RESERVE = 60.0
"""Seconds before its end at which a token is no longer handed out."""


@dataclass(frozen=True, slots=True)
class _Token:
    query: str
    until: float
    """On this process's monotonic clock."""


_tokens: dict[str, _Token] = {}
_locks: dict[str, threading.Lock] = {}
_lock = threading.Lock()


def sign(href: str, provider: Provider | str) -> str:
    """Return href as it can be read now; unchanged where no signature is needed.

    The result is a secret: it belongs into no log, graph, receipt or file.

    Raises:
        Wrong: The token service refuses.
        Transient: The token service does not answer properly.
    """
    known = providers.get(provider) if isinstance(provider, str) else provider
    parts = urlsplit(href)
    if known.signing != "planetary-computer" or not _is_blob(parts.scheme, parts.hostname):
        return href
        # ^ "environment" too: GDAL takes the credentials of an s3 address from the worker itself
    account = str(parts.hostname).removesuffix(BLOB_HOSTS)
    container = parts.path.lstrip("/").partition("/")[0]
    return f"{trust.redact(href)}?{_token(f'{account}/{container}')}"


def forget(href: str) -> None:
    """Forget the token of an href that was refused, so that the next one is fresh."""
    parts = urlsplit(href)
    account = (parts.hostname or "").removesuffix(BLOB_HOSTS)
    _tokens.pop(f"{account}/{parts.path.lstrip('/').partition('/')[0]}", None)


def _is_blob(scheme: str, host: str | None) -> bool:
    return scheme == "https" and (host or "").endswith(BLOB_HOSTS)


def _token(place: str) -> str:
    """Return the query of a token that is still good; many threads ask, one fetches."""
    with _lock:
        own = _locks.setdefault(place, threading.Lock())
    with own:
        known = _tokens.get(place)
        if known is None or known.until <= time.monotonic():
            known = _tokens[place] = _fetch(place)
        return known.query


def _fetch(place: str) -> _Token:
    import requests  # noqa: PLC0415

    key = os.environ.get(SUBSCRIPTION)
    headers = {"Ocp-Apim-Subscription-Key": key} if key else {}
    try:
        with static.session() as web:
            answer = web.get(
                f"{TOKENS}/{place}", headers=headers, timeout=static.TIMEOUT, allow_redirects=False
            )
            return _read(place, answer)
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        raise Transient(
            f"No token for {place} ({type(error).__name__}): see whether {TOKENS} can be reached, "
            "and run the same command again."
        ) from None
        # ^ the chained error could print a token


def _read(place: str, answer: Any) -> _Token:
    if answer.status_code in static.RETRIED:
        raise Transient(f"No token for {place}: {TOKENS} answers {answer.status_code}; try later.")
    if answer.status_code != 200:
        raise Wrong(
            f"No token for {place}: {TOKENS} answers {answer.status_code}. Is it a public "
            "container of the Planetary Computer?"
        )
    document = answer.json()
    end = dt.datetime.fromisoformat(document["msft:expiry"])
    now = parsedate_to_datetime(answer.headers["Date"])
    # ^ the server's clock, because this machine's may be wrong by many minutes
    life = (end - now).total_seconds() - RESERVE
    return _Token(str(document["token"]), time.monotonic() + life)
