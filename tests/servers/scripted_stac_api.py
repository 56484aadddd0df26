"""A STAC API on loopback that answers by script: for each path, and each n-th request to it."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A received request."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Any
    at: float
    """Time of arrival, monotonic seconds."""

    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response, with the faults of its transfer."""

    body: Any = b""
    """Bytes, a JSON value, or a function from the request to one of them."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    pause: float = 0.0
    """Seconds of silence before the first byte."""

    drip: float | None = None
    """Seconds between two bytes of the body."""

    trickle: float | None = None
    """Seconds between two lines of headers, which never end."""

    cut: int | None = None
    """Bytes after which the connection is closed, whatever Content-Length states."""


Script = Sequence[Answer] | Answer


class Server:
    """Serves a script within a with statement; records requests and their concurrency."""

    def __init__(self, script: Callable[[str], Mapping[str, Script]]) -> None:
        self.requests: list[Request] = []
        self.max_concurrent = 0
        self._concurrent = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._script = script(self.url)

    def list_requests(self, path: str) -> list[Request]:
        """Return the requests to a path."""
        return [request for request in self.requests if request.path == path]

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._stopping.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5)

    def next_answer(self, request: Request) -> Answer:
        """Return the answer to the n-th request of a path; the last one is repeated."""
        with self._lock:
            self.requests.append(request)
            count = len(self.list_requests(request.path))
        answers = self._script.get(request.path, Answer(status=404, body={"description": "no"}))
        if isinstance(answers, Answer):
            return answers
        return answers[min(count, len(answers)) - 1]

    @contextlib.contextmanager
    def count_concurrent(self) -> Any:
        """Count the concurrent requests."""
        with self._lock:
            self._concurrent += 1
            self.max_concurrent = max(self.max_concurrent, self._concurrent)
        try:
            yield
        finally:
            with self._lock:
                self._concurrent -= 1

    def wait(self, seconds: float) -> None:
        """Sleep, but not after the server was stopped."""
        self._stopping.wait(seconds)

    @property
    def is_stopping(self) -> bool:
        """Return whether the server is being stopped."""
        return self._stopping.is_set()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with server.count_concurrent(), contextlib.suppress(ConnectionError):
                    _give(self, server)

            do_POST = do_GET

            def log_message(self, *args: object) -> None:
                pass

        return Handler


def _give(handler: BaseHTTPRequestHandler, server: Server) -> None:
    url = urlsplit(handler.path)
    text = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    request = Request(
        method=handler.command, path=url.path, query=dict(parse_qsl(url.query)),
        body=json.loads(text) if text else None, at=time.monotonic(),
        headers=dict(handler.headers),
    )  # fmt: skip
    answer = server.next_answer(request)
    body = answer.body(request) if callable(answer.body) else answer.body
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    server.wait(answer.pause)
    handler.send_response(answer.status)
    for name, value in ({"Content-Length": str(len(payload))} | dict(answer.headers)).items():
        handler.send_header(name, value)
    handler.flush_headers()
    while answer.trickle is not None and not server.is_stopping:
        handler.wfile.write(b"X-Wait: 1\r\n")
        server.wait(answer.trickle)
    handler.end_headers()
    if answer.drip is None:
        handler.wfile.write(payload[: answer.cut])
    else:
        for byte in payload:
            if server.is_stopping:
                break
            handler.wfile.write(bytes([byte]))
            server.wait(answer.drip)
    if answer.cut is not None:
        handler.close_connection = True


def landing(url: str, *, methods: Sequence[str] = ("GET", "POST"), search: str = "") -> Any:
    """Return the landing page of an API at url."""
    conforms = [f"https://api.stacspec.org/v1.0.0/{name}" for name in ("core", "item-search")]
    links = [
        {"rel": "search", "href": search or f"{url}/search", "method": method} for method in methods
    ]
    return {
        "type": "Catalog", "stac_version": "1.0.0", "id": "api", "description": "api",
        "conformsTo": conforms, "links": [{"rel": "self", "href": f"{url}/"}, *links],
    }  # fmt: skip


def paged(
    items: Sequence[Any], *, size: int = 2, merge: bool = False, number_matched: int | None = None
) -> Callable[[Request], Any]:
    """Return a function that answers searches page by page, for POST and GET.

    Args:
        items: All matching items.
        size: Items per page.
        merge: Whether the link to the next page holds only the changed parameters.
        number_matched: numberMatched of the response; None = absent.
    """

    def answer(request: Request) -> Any:
        parameters = request.body if request.method == "POST" else dict(request.query)
        start = int(parameters.get("token", 0))
        page: dict[str, Any] = {"type": "FeatureCollection", "links": []}
        page["features"] = list(items[start : start + size])
        if number_matched is not None:
            page["numberMatched"] = number_matched
        if start + size < len(items):
            page["links"].append(_next(request, parameters, start + size, merge=merge))
        return page

    return answer


def _next(request: Request, parameters: Mapping[str, Any], token: int, *, merge: bool) -> Any:
    if request.method == "GET":
        query = "&".join(f"{key}={value}" for key, value in {"token": token}.items())
        return {"rel": "next", "href": f"{request.path}?{query}"}
    changed = {"token": token}
    link = {"rel": "next", "href": request.path, "method": "POST", "merge": merge}
    return link | {"body": changed if merge else dict(parameters) | changed}


def serve(
    *answers: Answer, methods: Sequence[str] = ("GET", "POST"), search: str = "", **paths: Answer
) -> Server:
    """Return a server whose /search gives these answers."""
    return Server(
        lambda url: {
            "/": Answer(body=landing(url, methods=methods, search=search)),
            "/search": list(answers),
            "/collections/sentinel-2-l2a": Answer(
                body={
                    "extent": {
                        "spatial": {"bbox": [[9, 56, 10, 57]]},
                        "temporal": {"interval": [["2015-06-27T00:00:00Z", None]]},
                    }
                }
            ),
            **paths,
        }
    )


def page(features: Sequence[Any], **fields: Any) -> Answer:
    """Return a response with a single page."""
    return Answer(body={"type": "FeatureCollection", "features": features, "links": [], **fields})
