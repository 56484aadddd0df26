"""A local web server that serves byte ranges of a folder, with scripted failures."""

from __future__ import annotations

import contextlib
import http.server
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

FAULTS = (
    *("404", "403", "416", "429", "500", "503"),
    "short",  # half of the body, then the connection ends
    "truncated",  # fewer bytes than requested, stated in Content-Range
    "shrunk",  # Content-Range states a smaller file
    "zeros",  # zeros in place of the data
    "whole",  # the range is ignored
    "page",  # a page of text with status 200, as gateways send it
    "shifted",  # another range than the requested one, stated in Content-Range
    "reset",  # the connection is reset before the response
    "cut",  # ... and within the response
    "stall",  # the headers, and then nothing
    "silent",  # no response at all
    "redirect",  # to another host
    "circle",  # to itself
)

Script = Callable[[str, int, int], str | None]
"""(path, first byte, number of earlier requests for these bytes) -> a fault, or None."""


def fail_sometimes(seed: int, share: float, faults: tuple[str, ...] = FAULTS) -> Script:
    """Return a script by which a share of the requests fails; it depends on the seed alone."""

    def script(path: str, start: int, count: int) -> str | None:
        rng = random.Random(f"{seed}:{path}:{start}:{count}")
        return rng.choice(faults) if rng.random() < share else None

    return script


@dataclass
class Server:
    """State of the server: the folder, the failures, and counts of requests."""

    folder: Path
    script: Script | None = None
    latency: float = 0.0
    """Seconds before each response."""

    stall: float = 2.0
    """Seconds of silence."""

    retry_after: str = "0"
    address: str = ""
    requests: int = 0
    sent: int = 0
    active: int = 0
    max_active: int = 0
    """Maximum number of simultaneous requests."""

    times: list[float] = field(default_factory=list)
    request_counts: Counter[tuple[str, int]] = field(default_factory=Counter)
    queries: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reset_counts(self) -> None:
        """Reset all counts."""
        self.requests = self.sent = self.max_active = 0
        self.request_counts.clear()
        self.times.clear()
        self.queries.clear()


@contextlib.contextmanager
def serving(folder: Path, **settings) -> Iterator[Server]:
    """Serve a folder on a free port of the loopback interface."""
    state = Server(folder, **settings)
    handler = type("Bound", (_Handler,), {"state": state})
    with _Threads(("127.0.0.1", 0), handler) as web:
        state.address = f"http://127.0.0.1:{web.server_address[1]}"
        thread = threading.Thread(target=web.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield state
        finally:
            web.shutdown()
            thread.join()


class _Threads(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def handle_error(self, request, client_address):
        """Print nothing: broken connections are intended."""


class _Handler(http.server.BaseHTTPRequestHandler):
    state: Server
    protocol_version = "HTTP/1.1"
    wbufsize = 2**16
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        state, url = self.state, urlsplit(self.path)
        byte_range = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(byte_range[1]) if byte_range else 0
        with state.lock:
            state.requests += 1
            state.times.append(time.monotonic())
            state.queries.append(url.query)
            count = state.request_counts[url.path, start]
            state.request_counts[url.path, start] += 1
            state.active += 1
            state.max_active = max(state.max_active, state.active)
        try:
            time.sleep(state.latency)
            fault = state.script(url.path, start, count) if state.script else None
            self._answer(state.folder / unquote(url.path).lstrip("/"), byte_range, fault)
        finally:
            with state.lock:
                state.active -= 1
                # ^ before the last bytes are sent: the client may reuse the connection at once
        self.wfile.flush()

    def _answer(self, path: Path, byte_range: re.Match[str] | None, fault: str | None) -> None:
        if not path.is_file():
            fault = "404"
        if fault in ("404", "403", "416", "429", "500", "503"):
            return self._head(int(fault), 0, {"Retry-After": self.state.retry_after})
        if fault in ("redirect", "circle"):
            location = self.path if fault == "circle" else f"http://localhost:1{self.path}"
            return self._head(302, 0, {"Location": location})
        if fault == "silent":
            time.sleep(self.state.stall)
        if fault in ("silent", "reset"):
            return self._hang_up()
        if fault == "page":
            return self._send(200, b"<html>Please sign in</html>", {})
        size = path.stat().st_size
        start, stop = 0, size
        if byte_range:
            start, stop = int(byte_range[1]), min(int(byte_range[2] or size - 1) + 1, size)
        if start >= size:
            return self._head(416, 0, {})
        return self._range(
            path, start, stop, fault if byte_range else None, partial=bool(byte_range)
        )

    def _range(self, path: Path, start: int, stop: int, fault: str | None, *, partial: bool):
        size = path.stat().st_size
        if fault == "whole":
            start, stop, partial = 0, size, False
        if fault in ("truncated", "shrunk"):
            stop = start + max((stop - start) // 2, 1)
        if fault == "shifted":
            start, stop = max(start - 64, 0), max(stop - 64, 1)
        if fault == "shrunk":
            size = stop
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(stop - start)
        if fault == "zeros":
            data = bytes(len(data))
        headers = {"Content-Range": f"bytes {start}-{stop - 1}/{size}"} if partial else {}
        if fault not in ("short", "cut", "stall"):
            return self._send(206 if partial else 200, data, headers)
        self._head(206, len(data), headers)
        self.wfile.write(data[: len(data) // 2])
        self.wfile.flush()
        if fault == "stall":
            time.sleep(self.state.stall)
        return self._hang_up(reset=fault == "cut")

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self._head(status, len(data), headers)
        if self.command != "HEAD":
            self.state.sent += len(data)
            # ^ counted first: the test may compare as soon as the client has the last byte
            self.wfile.write(data)

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _hang_up(self, *, reset: bool = True) -> None:
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.close()
