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
from catalogs.errors import Transient, Wrong

if TYPE_CHECKING:
    from collections.abc import Mapping

TIMEOUT = (5.0, 60.0)
"""Seconds to wait for a connection, and between two packets."""

DEADLINE = 300.0
"""Seconds that one answer may take to arrive, however steadily it drips."""

LARGEST = 256 * 2**20
"""Bytes of one document, unpacked. A page of 100 Sentinel-2 items has some 3 million."""

ATTEMPTS = 5
"""Retries of a request that was answered by a busy or broken server."""

LONGEST_WAIT = 120.0
"""Seconds that a server may ask us to wait (Retry-After); one that asks for more is left alone."""

RETRIED = (408, 429, 500, 502, 503, 504)

BROKEN_OFF = 3
"""Attempts at an answer whose body breaks off; urllib3 repeats only what fails before the body."""

_PACKET = 2**16


class _BrokenOff(Transient):
    """An answer began and did not arrive whole."""


class _Patience(Retry):
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
        if wait is not None and wait > LONGEST_WAIT:
            host = getattr(kwargs.get("_pool"), "host", "The catalog")
            raise Transient(
                f"{host} answers {response.status} and asks to come back in {wait:.0f} s: "
                "try again then."
            )
        return super().increment(method, url, response, *args, **kwargs)


class _Watched(HTTPConnection):
    """A connection that is cut where the head of an answer does not arrive in time."""

    def getresponse(self) -> Any:
        late = threading.Event()

        def cut() -> None:
            late.set()
            with suppress(OSError, AttributeError):
                self.sock.shutdown(socket.SHUT_RDWR)

        watch = threading.Timer(DEADLINE, cut)
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


class _WatchedTls(_Watched, HTTPSConnection):
    """The same over TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Watched


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _WatchedTls


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}


def session(lanes: int = 10) -> requests.Session:
    """Return an HTTP session that retries, POST too, and follows redirections within a host.

    Args:
        lanes: Threads that will use it at once.
    """
    opened = requests.Session()
    for scheme in ("https://", "http://"):
        opened.mount(scheme, _Adapter(max_retries=retries(), pool_maxsize=lanes))
    opened.hooks["response"].append(_stay)
    return opened


def retries() -> Retry:
    """Return the retry policy of every request to a catalog, POST included."""
    return _Patience(
        total=ATTEMPTS,
        backoff_factor=0.3,
        status_forcelist=RETRIED,
        allowed_methods=None,
        raise_on_status=False,
    )


def document(web: requests.Session, address: str, **asked: Any) -> Mapping[str, Any]:
    """Return the JSON object that an address answers with; see :func:`fetch`."""
    return parse(fetch(web, address, **asked), address)


def fetch(web: requests.Session, address: str, **asked: Any) -> bytes:
    """Return what an address answers.

    Args:
        web: From :func:`session`.
        address: http or https.
        asked: What requests calls method, json, params, headers; a plain GET without.

    Raises:
        Wrong: It answers with an error that stays, leads to another host, or is too large.
        Transient: It does not answer, is busy, or is too slow.
    """
    for _ in range(BROKEN_OFF):
        try:
            return _exchange(web, address, **asked)
        except _BrokenOff as error:
            last = error
    raise last


def parse(text: str | bytes, place: str) -> Mapping[str, Any]:
    """Return the JSON object in text; place is where it came from.

    Raises:
        Wrong: It is no JSON object.
        Transient: It came over the web and seems to have broken off.
    """
    where = href_policy.redact(place)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        if href_policy.is_remote(place) and text.lstrip()[:1] in (b"{", b"[", "{", "["):
            raise Transient(
                f"{where} answers with broken JSON ({error}): try again later."
            ) from error
        raise Wrong(f"{where} is no JSON: {error}.") from error
    if not isinstance(found, dict):
        raise Wrong(f"{where} is no STAC document, but a {type(found).__name__}.")
    return found


def same_host(one: str, other: str) -> bool:
    """Return whether two addresses have scheme, host and port in common."""
    parts = urlsplit(one), urlsplit(other)
    return len({(part.scheme.lower(), part.netloc.lower()) for part in parts}) == 1


def stray(origin: str, address: str) -> Wrong:
    """Return the error for an answer that leads somewhere else."""
    return Wrong(
        f"{urlsplit(origin).netloc} leads to another host, {href_policy.redact(address)}: "
        "give that one's address if you trust it."
    )


def _stay(answer: requests.Response, *_args: object, **_kwargs: object) -> None:
    """Refuse a redirection to any other host: nobody has vouched for it."""
    if answer.is_redirect:
        goal = urljoin(answer.url, answer.headers["location"])
        if not same_host(answer.url, goal):
            answer.close()
            raise stray(answer.url, goal)


def _exchange(web: requests.Session, address: str, *, method: str = "GET", **asked: Any) -> bytes:
    place = href_policy.redact(address)
    try:
        with web.request(method, address, timeout=TIMEOUT, stream=True, **asked) as answer:
            text = _body(answer, place)
    except HTTPError as error:
        raise _BrokenOff(
            f"{place} breaks off ({type(error).__name__}): try again later."
        ) from error
    except (OSError, ValueError) as error:
        # ^ requests' own errors are OSErrors; ValueError: a header or address that cannot be sent
        raise Transient(
            f"{place} does not answer ({type(error).__name__}): try again later."
        ) from error
    _check_status(answer.status_code, text, place)
    return text


def _body(answer: requests.Response, place: str) -> bytes:
    """Return the unpacked body, read packet by packet so that neither drip nor bomb goes on."""
    start = time.monotonic()
    parts: list[bytes] = []
    size = 0
    while part := answer.raw.read1(_PACKET, decode_content=True):
        parts.append(part)
        size += len(part)
        if size > LARGEST:
            raise Wrong(
                f"{place} answers with more than {LARGEST >> 20} MiB: that is no catalog document."
            )
        if time.monotonic() - start > DEADLINE:
            raise Transient(
                f"{place} is too slow ({size} bytes in {DEADLINE:.0f} s): try again later."
            )
    return b"".join(parts)


def _check_status(status: int, text: bytes, place: str) -> None:
    if status in RETRIED:
        raise Transient(f"{place} answers {status}: try again later.")
    if status != 200:
        said = href_policy.redact(" ".join(text[:300].decode("utf-8", "replace").split()))
        raise Wrong(f"{place} answers {status}, not a document{f': {said}' if said else ''}.")
