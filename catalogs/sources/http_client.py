"""HTTP requests to catalogs: retries, and limits on time and size."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, InvalidHeader
from urllib3.util import Retry

from catalogs import href_policy
from catalogs.errors import InvalidInputError, TransientError

if TYPE_CHECKING:
    from collections.abc import Mapping

TIMEOUT = (5.0, 60.0)
"""Seconds to wait for a connection, and between two packets of a response."""

RESPONSE_DEADLINE = 300.0
"""Seconds that a whole response may take to arrive."""

MAX_DOCUMENT_BYTES = 256 * 2**20
"""Largest document in bytes, decompressed; a page of 100 Sentinel-2 items has 3 million."""

MAX_RETRIES = 5
"""Retries of a request to a busy or failing server."""

MAX_RETRY_AFTER = 120.0
"""Longest Retry-After, in seconds, that is waited for; a longer one is reported as an error."""

RETRY_STATUSES = (408, 429, 500, 502, 503, 504)

BODY_ATTEMPTS = 3
"""Attempts where a body breaks off; urllib3 retries only what fails before the body."""

_CHUNK_BYTES = 2**16


class _IncompleteResponse(TransientError):
    """A response that ended before its body was complete."""


class _RetryPolicy(Retry):
    """Retry that ignores an invalid Retry-After and raises for one that is too long."""

    def parse_retry_after(self, retry_after: str) -> float:
        try:
            return super().parse_retry_after(retry_after)
        except (InvalidHeader, ValueError, OverflowError, TypeError):
            return 0.0

    def increment(
        self, method: Any = None, url: Any = None, response: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        wait = None if response is None else self.get_retry_after(response)
        if wait is not None and wait > MAX_RETRY_AFTER:
            host = getattr(kwargs.get("_pool"), "host", "The catalog")
            raise TransientError(
                f"{host} answers {response.status} and asks to come back in {wait:.0f} s: "
                "try again then."
            )
        return super().increment(method, url, response, *args, **kwargs)


class _DeadlineHTTPConnection(HTTPConnection):
    """A connection that is closed where the head of a response is not complete in time."""

    def getresponse(self) -> Any:
        is_late = threading.Event()

        def close() -> None:
            is_late.set()
            with suppress(OSError, AttributeError):
                self.sock.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(RESPONSE_DEADLINE, close)
        timer.daemon = True
        timer.start()
        try:
            response = super().getresponse()
        finally:
            timer.cancel()
        if is_late.is_set():
            raise TimeoutError("the head of the response is late")
            # ^ a head that was cut off parses as a complete one
        return response


class _DeadlineHTTPSConnection(_DeadlineHTTPConnection, HTTPSConnection):
    """The same connection over TLS."""


class _DeadlineHTTPConnectionPool(HTTPConnectionPool):
    ConnectionCls = _DeadlineHTTPConnection


class _DeadlineHTTPSConnectionPool(HTTPSConnectionPool):
    ConnectionCls = _DeadlineHTTPSConnection


class _DeadlineAdapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {
            "http": _DeadlineHTTPConnectionPool,
            "https": _DeadlineHTTPSConnectionPool,
        }


def open_session(pool_maxsize: int = 10) -> requests.Session:
    """Return an HTTP session that retries and follows redirects within a host only.

    Args:
        pool_maxsize: Number of threads that use it concurrently.
    """
    session = requests.Session()
    for scheme in ("https://", "http://"):
        session.mount(
            scheme, _DeadlineAdapter(max_retries=build_retry_policy(), pool_maxsize=pool_maxsize)
        )
    session.hooks["response"].append(_refuse_cross_host_redirect)
    return session


def build_retry_policy() -> Retry:
    """Return the retry policy of every request to a catalog, POST included."""
    return _RetryPolicy(
        total=MAX_RETRIES,
        backoff_factor=0.3,
        status_forcelist=RETRY_STATUSES,
        allowed_methods=None,
        raise_on_status=False,
    )


def fetch_json(session: requests.Session, url: str, **request_options: Any) -> Mapping[str, Any]:
    """Fetch the JSON object at a URL; see :func:`fetch`."""
    return parse_json_object(fetch(session, url, **request_options), url)


def fetch(session: requests.Session, url: str, **request_options: Any) -> bytes:
    """Fetch the body of a URL.

    Args:
        session: From :func:`open_session`.
        url: http or https.
        request_options: method, json, params or headers of requests; a plain GET without any.

    Raises:
        InvalidInputError: A permanent error status, a redirect to another host, or a body that
            is too large.
        TransientError: The server is unreachable, busy or too slow.
    """
    for _ in range(BODY_ATTEMPTS):
        try:
            return _request(session, url, **request_options)
        except _IncompleteResponse as error:
            last_error = error
    raise last_error


def parse_json_object(text: str | bytes, location: str) -> Mapping[str, Any]:
    """Parse the text of a document that must be a JSON object.

    Args:
        text: The document.
        location: Its path or URL, for error messages.

    Raises:
        InvalidInputError: It is no JSON object.
        TransientError: It came from a server and is truncated.
    """
    source = href_policy.redact(location)
    if text[:2] in (b"\x1f\x8b", b"PK"):
        raise InvalidInputError(
            f"{source} is compressed: unpack it, and give the path of the JSON."
        )
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        if href_policy.is_remote(location) and text.lstrip()[:1] in (b"{", b"[", "{", "["):
            raise TransientError(
                f"{source} answers with broken JSON ({error}): try again later."
            ) from error
        raise InvalidInputError(f"{source} is no JSON: {error}.") from error
    if not isinstance(document, dict):
        advice = (
            ': write its items as {"type": "FeatureCollection", "features": […]}'
            if isinstance(document, list)
            else ""
        )
        raise InvalidInputError(
            f"{source} is no STAC document, but a {type(document).__name__}{advice}."
        )
    return document


def is_same_host(first_url: str, second_url: str) -> bool:
    """Return whether two URLs have the same scheme, host and port."""
    parts = urlsplit(first_url), urlsplit(second_url)
    return len({(part.scheme.lower(), part.netloc.lower()) for part in parts}) == 1


def cross_host_error(origin: str, url: str) -> InvalidInputError:
    """Return the error for a link or redirect to another host."""
    return InvalidInputError(
        f"{urlsplit(origin).netloc} leads to another host, {href_policy.redact(url)}: "
        "use that host's URL if you trust it."
    )


def _refuse_cross_host_redirect(
    response: requests.Response, *_args: object, **_kwargs: object
) -> None:
    """Refuse a redirect to another host, which the user has not named."""
    if response.is_redirect:
        target = urljoin(response.url, response.headers["location"])
        if not is_same_host(response.url, target):
            response.close()
            raise cross_host_error(response.url, target)


def _request(
    session: requests.Session, url: str, *, method: str = "GET", **request_options: Any
) -> bytes:
    location = href_policy.redact(url)
    try:
        with session.request(
            method, url, timeout=TIMEOUT, stream=True, **request_options
        ) as response:
            body = _read_body(response, location)
    except HTTPError as error:
        raise _IncompleteResponse(
            f"{location} breaks off ({type(error).__name__}): try again later."
        ) from error
    except (OSError, ValueError) as error:
        # ^ the exceptions of requests are OSErrors; ValueError: an invalid header or URL
        raise TransientError(
            f"{location} does not answer ({type(error).__name__}): try again later."
        ) from error
    _check_status(response.status_code, body, location)
    return body


def _read_body(response: requests.Response, location: str) -> bytes:
    """Read the decompressed body packet by packet, within the limits on size and time."""
    start = time.monotonic()
    parts: list[bytes] = []
    size = 0
    while part := response.raw.read1(_CHUNK_BYTES, decode_content=True):
        parts.append(part)
        size += len(part)
        if size > MAX_DOCUMENT_BYTES:
            raise InvalidInputError(
                f"{location} answers with more than {MAX_DOCUMENT_BYTES >> 20} MiB: that is no "
                "catalog document."
            )
        if time.monotonic() - start > RESPONSE_DEADLINE:
            raise TransientError(
                f"{location} is too slow ({size} bytes in {RESPONSE_DEADLINE:.0f} s): try again "
                "later."
            )
    return b"".join(parts)


def _check_status(status: int, body: bytes, location: str) -> None:
    if status in RETRY_STATUSES:
        raise TransientError(f"{location} answers {status}: try again later.")
    if status != 200:
        text = href_policy.redact(" ".join(body[:300].decode("utf-8", "replace").split()))
        raise InvalidInputError(
            f"{location} answers {status}, not a document{f': {text}' if text else ''}."
        )
