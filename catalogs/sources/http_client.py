"""Requests to catalogs over HTTP: repeated when a server is busy, bounded in time and size."""

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
"""Seconds to wait for a connection, and between two packets."""

RESPONSE_DEADLINE = 300.0
"""Seconds that one answer may take to arrive, however steadily it drips."""

MAX_DOCUMENT_BYTES = 256 * 2**20
"""Bytes of one document, unpacked. A page of 100 Sentinel-2 items has some 3 million."""

MAX_RETRIES = 5
"""Retries of a request that was answered by a busy or broken server."""

MAX_RETRY_AFTER = 120.0
"""Seconds that a server may ask us to wait (Retry-After); one that asks for more is left alone."""

RETRY_STATUSES = (408, 429, 500, 502, 503, 504)

BODY_ATTEMPTS = 3
"""Attempts at an answer whose body breaks off; urllib3 repeats only what fails before the body."""

_CHUNK_BYTES = 2**16


class _IncompleteResponse(TransientError):
    """An answer began and did not arrive whole."""


class _RetryPolicy(Retry):
    """Retry that takes a senseless Retry-After for none, and gives up on one beyond reason."""

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
    """A connection that is cut where the head of an answer does not arrive in time."""

    def getresponse(self) -> Any:
        late = threading.Event()

        def cut() -> None:
            late.set()
            with suppress(OSError, AttributeError):
                self.sock.shutdown(socket.SHUT_RDWR)

        watch = threading.Timer(RESPONSE_DEADLINE, cut)
        watch.daemon = True
        watch.start()
        try:
            answer = super().getresponse()
        finally:
            watch.cancel()
        if late.is_set():
            raise TimeoutError("the head of the answer is late")
            # ^ a head that was cut is read as one that ended
        return answer


class _DeadlineHTTPSConnection(_DeadlineHTTPConnection, HTTPSConnection):
    """The same over TLS."""


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
    """Return an HTTP session that retries, POST too, and follows redirections within a host.

    Args:
        pool_maxsize: Threads that will use it at once.
    """
    opened = requests.Session()
    for scheme in ("https://", "http://"):
        opened.mount(
            scheme, _DeadlineAdapter(max_retries=build_retry_policy(), pool_maxsize=pool_maxsize)
        )
    opened.hooks["response"].append(_refuse_cross_host_redirect)
    return opened


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
    """Return the JSON object that an address answers with; see :func:`fetch`."""
    return parse_json_object(fetch(session, url, **request_options), url)


def fetch(session: requests.Session, url: str, **request_options: Any) -> bytes:
    """Return what an address answers.

    Args:
        session: From :func:`open_session`.
        url: http or https.
        request_options: What requests calls method, json, params, headers; a plain GET without.

    Raises:
        InvalidInputError: It answers with an error that stays, leads to another host, or is too large.
        TransientError: It does not answer, is busy, or is too slow.
    """
    for _ in range(BODY_ATTEMPTS):
        try:
            return _request(session, url, **request_options)
        except _IncompleteResponse as error:
            last = error
    raise last


def parse_json_object(text: str | bytes, location: str) -> Mapping[str, Any]:
    """Return the JSON object in text; place is where it came from.

    Raises:
        InvalidInputError: It is no JSON object.
        TransientError: It came over the web and seems to have broken off.
    """
    where = href_policy.redact(location)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        if href_policy.is_remote(location) and text.lstrip()[:1] in (b"{", b"[", "{", "["):
            raise TransientError(
                f"{where} answers with broken JSON ({error}): try again later."
            ) from error
        raise InvalidInputError(f"{where} is no JSON: {error}.") from error
    if not isinstance(found, dict):
        raise InvalidInputError(f"{where} is no STAC document, but a {type(found).__name__}.")
    return found


def is_same_host(first_url: str, second_url: str) -> bool:
    """Return whether two addresses have scheme, host and port in common."""
    parts = urlsplit(first_url), urlsplit(second_url)
    return len({(part.scheme.lower(), part.netloc.lower()) for part in parts}) == 1


def cross_host_error(origin: str, url: str) -> InvalidInputError:
    """Return the error for an answer that leads somewhere else."""
    return InvalidInputError(
        f"{urlsplit(origin).netloc} leads to another host, {href_policy.redact(url)}: "
        "give that one's address if you trust it."
    )


def _refuse_cross_host_redirect(
    response: requests.Response, *_args: object, **_kwargs: object
) -> None:
    """Refuse a redirection to any other host: nobody has vouched for it."""
    if response.is_redirect:
        goal = urljoin(response.url, response.headers["location"])
        if not is_same_host(response.url, goal):
            response.close()
            raise cross_host_error(response.url, goal)


def _request(
    session: requests.Session, url: str, *, method: str = "GET", **request_options: Any
) -> bytes:
    place = href_policy.redact(url)
    try:
        with session.request(
            method, url, timeout=TIMEOUT, stream=True, **request_options
        ) as answer:
            text = _read_body(answer, place)
    except HTTPError as error:
        raise _IncompleteResponse(
            f"{place} breaks off ({type(error).__name__}): try again later."
        ) from error
    except (OSError, ValueError) as error:
        # ^ requests' own errors are OSErrors; ValueError: a header or address that cannot be sent
        raise TransientError(
            f"{place} does not answer ({type(error).__name__}): try again later."
        ) from error
    _check_status(answer.status_code, text, place)
    return text


def _read_body(response: requests.Response, location: str) -> bytes:
    """Return the unpacked body, read packet by packet so that neither drip nor bomb goes on."""
    start = time.monotonic()
    parts: list[bytes] = []
    size = 0
    while part := response.raw.read1(_CHUNK_BYTES, decode_content=True):
        parts.append(part)
        size += len(part)
        if size > MAX_DOCUMENT_BYTES:
            raise InvalidInputError(
                f"{location} answers with more than {MAX_DOCUMENT_BYTES >> 20} MiB: that is no catalog document."
            )
        if time.monotonic() - start > RESPONSE_DEADLINE:
            raise TransientError(
                f"{location} is too slow ({size} bytes in {RESPONSE_DEADLINE:.0f} s): try again later."
            )
    return b"".join(parts)


def _check_status(status: int, text: bytes, location: str) -> None:
    if status in RETRY_STATUSES:
        raise TransientError(f"{location} answers {status}: try again later.")
    if status != 200:
        said = href_policy.redact(" ".join(text[:300].decode("utf-8", "replace").split()))
        raise InvalidInputError(
            f"{location} answers {status}, not a document{f': {said}' if said else ''}."
        )
