"""A STAC API on loopback that answers by script: per path, and per n-th request to it."""

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
class Asked:
    """One request as it came."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Any
    at: float
    """Monotonic seconds."""

    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer, and how badly it is given."""

    body: Any = b""
    """Bytes, what JSON can hold, or a function of the request that returns such."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    pause: float = 0.0
    """Seconds of silence before the first byte."""

    drip: float | None = None
    """Seconds between two bytes of the body."""

    trickle: float | None = None
    """Seconds between two header lines, which never end."""

    cut: int | None = None
    """Bytes after which the connection is closed, whatever length was promised."""


Script = Sequence[Answer] | Answer


class Server:
    """Serves a script for a with statement; counts what was asked, and how much at once."""

    def __init__(self, script: Callable[[str], Mapping[str, Script]]) -> None:
        self.asked: list[Asked] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._script = script(self.url)

    def of(self, path: str) -> list[Asked]:
        """Return the requests to a path."""
        return [one for one in self.asked if one.path == path]

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._over.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5)

    def next_answer(self, asked: Asked) -> Answer:
        """Return the answer to the n-th request of a path; the last one is repeated."""
        with self._lock:
            self.asked.append(asked)
            count = len(self.of(asked.path))
        answers = self._script.get(asked.path, Answer(status=404, body={"description": "no"}))
        if isinstance(answers, Answer):
            return answers
        return answers[min(count, len(answers)) - 1]

    @contextlib.contextmanager
    def counted(self) -> Any:
        """Count the requests that are under way together."""
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            yield
        finally:
            with self._lock:
                self._at_once -= 1

    def wait(self, seconds: float) -> None:
        """Sleep, but no longer than the server lives."""
        self._over.wait(seconds)

    @property
    def over(self) -> bool:
        """Return whether the server is being stopped."""
        return self._over.is_set()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with server.counted(), contextlib.suppress(ConnectionError):
                    _give(self, server)

            do_POST = do_GET

            def log_message(self, *args: object) -> None:
                pass

        return Handler


def _give(handler: BaseHTTPRequestHandler, server: Server) -> None:
    parts = urlsplit(handler.path)
    text = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    asked = Asked(
        method=handler.command, path=parts.path, query=dict(parse_qsl(parts.query)),
        body=json.loads(text) if text else None, at=time.monotonic(),
        headers=dict(handler.headers),
    )  # fmt: skip
    answer = server.next_answer(asked)
    body = answer.body(asked) if callable(answer.body) else answer.body
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    server.wait(answer.pause)
    handler.send_response(answer.status)
    for name, value in ({"Content-Length": str(len(payload))} | dict(answer.headers)).items():
        handler.send_header(name, value)
    handler.flush_headers()
    while answer.trickle is not None and not server.over:
        handler.wfile.write(b"X-Wait: 1\r\n")
        server.wait(answer.trickle)
    handler.end_headers()
    if answer.drip is None:
        handler.wfile.write(payload[: answer.cut])
    else:
        for byte in payload:
            if server.over:
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
    items: Sequence[Any], *, size: int = 2, merge: bool = False, stated: int | None = None
) -> Callable[[Asked], Any]:
    """Return a function that answers searches page by page, by POST or GET.

    Args:
        items: All that match.
        size: Per page.
        merge: Whether the link to the next page holds only what changes.
        stated: As numberMatched, if at all.
    """

    def answer(asked: Asked) -> Any:
        question = asked.body if asked.method == "POST" else dict(asked.query)
        start = int(question.get("token", 0))
        page: dict[str, Any] = {"type": "FeatureCollection", "links": []}
        page["features"] = list(items[start : start + size])
        if stated is not None:
            page["numberMatched"] = stated
        if start + size < len(items):
            page["links"].append(_next(asked, question, start + size, merge=merge))
        return page

    return answer


def _next(asked: Asked, question: Mapping[str, Any], token: int, *, merge: bool) -> Any:
    if asked.method == "GET":
        query = "&".join(f"{key}={value}" for key, value in {"token": token}.items())
        return {"rel": "next", "href": f"{asked.path}?{query}"}
    changed = {"token": token}
    link = {"rel": "next", "href": asked.path, "method": "POST", "merge": merge}
    return link | {"body": changed if merge else dict(question) | changed}


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


def page(features: Sequence[Any], **more: Any) -> Answer:
    """Return the only page of an answer."""
    return Answer(body={"type": "FeatureCollection", "features": features, "links": [], **more})
