"""Bytes of a remote file: asked for in ranges, checked, and asked for again where they are wrong.

GDAL's own HTTP reader remembers failures, takes what a server sends for what it was asked for, and
makes as many connections as it likes. Here each range is repeated by itself, an answer must be the
range that was asked of the file that was opened, and a provider's limit holds for all threads.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

import requests
from urllib3.exceptions import HTTPError

from catalogs import href_policy, signing
from catalogs.sources import http_client
from pipeline.reading import http_pool
from pipeline.runtime import cancellation, io_statistics

log = logging.getLogger(__name__)

HEAD = 2**15
"""Bytes of the first request: the header and block index of a 10 980² COG have some 10 000."""

AHEAD = 2**20
"""Bytes that are read ahead, at most, of a file that is read front to back (JPEG 2000)."""

GAP = 2**14
"""Bytes between two ranges that are rather read than asked around."""

WHOLE = 2**26
"""Bytes of a file that may arrive whole where a server ignores ranges."""

KEPT = 2**23
"""Bytes of a file's blocks that are kept, at most, for as long as it is read."""

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a server is borne with."""

    attempts: int = 5
    """Requests for one range."""

    refusals: int = 2
    """Of them, answers 401, 403, 404, 410 and of another file: more change nothing."""

    beliefs: int = 4
    """Answers in a row that must be nothing but zeros before they are believed."""

    pause: float = 0.5
    """Seconds before the second request; doubled before each further one."""

    timeout: tuple[float, float] = (10.0, 30.0)
    """Seconds to wait for a connection, and between two packets."""

    deadline: float = 300.0
    """Seconds that the reading of one asset may take, everything included."""

    longest_wait: float = 120.0
    """Seconds that a server may ask us to wait (Retry-After)."""


PATIENCE = Patience()


class Failed(Exception):
    """A range cannot be had, however often it is asked for."""


class Changed(Failed):
    """The file is another one than when it was opened: start again."""


class _Fault(Exception):
    """One answer is no good; the next one may be."""

    def __init__(
        self,
        reason: str,
        *,
        wait: float = 0.0,
        refused: bool = False,
        ends: type[Failed] = Failed,
    ) -> None:
        super().__init__(reason)
        self.wait = wait
        self.refused = refused
        self.ends = ends


class RangeFile:
    """A remote file for the time of one read; it belongs to one thread."""

    size: int
    """Bytes, known once :meth:`open` has returned."""

    def __init__(self, href: str, provider: str, until: float, kind: str = "") -> None:
        """Name a file.

        Args:
            href: unsigned address.
            provider: who signs, and whose limits hold.
            until: when to give up, on the monotonic clock.
            kind: the modality, for the count of what is read.
        """
        self._href = href
        self._provider = provider
        self._lane = http_pool.lane(provider)
        self._traffic = io_statistics.current()
        self._kind = kind
        self._until = until
        self._version: str | None = None
        self._lock = threading.Lock()
        self._held: list[tuple[int, bytes]] = []
        self._blocks: dict[int, bytes] = {}
        self._next = 0

    def open(self) -> None:
        """Read the beginning.

        Raises:
            Failed: it cannot be read.
        """
        self._held = [(0, self._ask([(0, HEAD)])[0])]

    def read(self, start: int, count: int) -> bytes:
        """Return bytes from a place; fewer where the file ends.

        Raises:
            Failed: they cannot be read.
        """
        end = min(start + count, self.size)
        if start > self.size:
            raise Changed(f"is read beyond its end at byte {self.size}")
            # ^ its size was wrong: GDAL would take a lost block index for empty blocks
        if end <= start:
            return b""
        for first, data in self._held:
            if first <= start and end <= first + len(data):
                return data[start - first : end - first]
        if not any(self._gaps(start, end)):
            return self._cut(start, end)
        ahead = AHEAD if start == self._next else HEAD
        stop = min(max(end, start + ahead), self.size) if count < AHEAD else end
        data = self._ask([(start, stop)])[0]
        self._next = stop
        self._held = [self._held[0], *self._held[-3:], (start, data)]
        self._keep({start: data})
        return data[: end - start]

    def read_ranges(self, starts: Sequence[int], counts: Sequence[int]) -> list[bytes]:
        """Return several ranges, in as few requests as is sensible; ascending.

        Raises:
            Failed: they cannot be read.
        """
        wanted = [(start, start + count) for start, count in zip(starts, counts, strict=True)]
        if any(stop > self.size for _, stop in wanted):
            raise Changed(f"is read beyond its end at byte {self.size}")
        lacking = _together([gap for one in wanted for gap in self._gaps(*one)])
        answers = zip(lacking, self._ask(lacking), strict=True)
        self._blocks |= {start: data for (start, _), data in answers}
        found = [self._cut(*one) for one in wanted]
        self._keep({})
        return found

    def _keep(self, fresh: Mapping[int, bytes]) -> None:
        """Keep bytes by their place, the latest ones."""
        self._blocks |= fresh
        held = sum(map(len, self._blocks.values()))
        while held > KEPT:
            held -= len(self._blocks.pop(next(iter(self._blocks))))

    def _gaps(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of a range that are not here.

        GDAL forgets a file's blocks with each warped view of it that is closed: one that lies under
        many blocks of the lattice would come over the network for every one of them.
        """
        for first, data in sorted(self._blocks.items()):
            if start < min(first, stop):
                yield start, min(first, stop)
            start = max(start, first + len(data)) if first < stop else stop
        if start < stop:
            yield start, stop

    def _cut(self, start: int, stop: int) -> bytes:
        """Return a range out of what is here."""
        parts = []
        for first, data in sorted(self._blocks.items()):
            if first <= start < min(first + len(data), stop):
                parts.append(data[start - first : stop - first])
                start += len(parts[-1])
        return b"".join(parts)

    def _ask(self, wanted: Sequence[tuple[int, int]]) -> list[bytes]:
        ask = cancellation.carried(self._range)
        waiting = [self._lane.pool.submit(ask, start, stop) for start, stop in wanted]
        try:
            return [cancellation.result(one) for one in waiting]
            # ^ a server may be silent for half a minute: its thread is left to it
        finally:
            for one in waiting:
                one.cancel()

    def _range(self, start: int, stop: int) -> bytes:
        """Return bytes ``start`` to ``stop`` (excluded; fewer in a smaller file), at last."""
        zeros = refusals = faults = 0
        ends = Failed
        while True:
            cancellation.look()
            try:
                data = self._answer(start, stop)
                if data.lstrip(b"\0"):
                    return data
                zeros += 1
                if zeros >= PATIENCE.beliefs or not data:
                    return data
                continue
                # ^ nothing but zeros decodes without an error where nothing is compressed
            except _Fault as fault:
                zeros = 0
                faults += 1
                refusals += fault.refused
                ends = fault.ends
                reason, wait = str(fault), max(fault.wait, PATIENCE.pause * 2 ** (faults - 1))
            except (requests.RequestException, HTTPError, OSError) as error:
                zeros = 0
                faults += 1
                reason, wait = type(error).__name__, PATIENCE.pause * 2 ** (faults - 1)
                # ^ their texts may hold the signed address
            if faults >= PATIENCE.attempts or refusals >= PATIENCE.refusals:
                raise ends(f"{reason}, {faults} attempt(s)")
            if time.monotonic() + wait >= self._until:
                raise Failed(f"{reason}, {faults} attempt(s) in {PATIENCE.deadline:.0f} s")
            log.warning(
                "again href=%s bytes=%d-%d reason=%s",
                href_policy.redact(self._href),
                start,
                stop,
                reason,
            )
            self._traffic.add(retries=1)
            cancellation.sleep(wait)

    def _answer(self, start: int, stop: int) -> bytes:
        headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        access = signing.access(self._href, self._provider)
        if access.options.get("GDAL_HTTP_AUTH") == "BEARER":
            headers["Authorization"] = f"Bearer {os.environ.get('GDAL_HTTP_BEARER', '')}"
            # ^ as GDAL would do
        address = access.href
        for _ in range(5):
            self._traffic.add(requests=1, kind=self._kind)
            with self._lane.session.get(
                address,
                headers=headers,
                timeout=PATIENCE.timeout,
                stream=True,
                allow_redirects=False,
            ) as answer:
                if not answer.is_redirect:
                    return self._checked(answer, start, stop)
                goal = urljoin(address, answer.headers["location"])
                if not http_client.same_host(address, goal):
                    raise Failed(
                        f"leads to another host, {href_policy.redact(goal)}, for which nobody has vouched"
                    )
                address = goal
        raise _Fault("leads around in circles")

    def _checked(self, answer: requests.Response, start: int, stop: int) -> bytes:
        """Return the body of an answer that is what was asked for."""
        status, headers = answer.status_code, answer.headers
        if status not in (200, 206):
            raise self._refused(answer)
        if headers.get("Content-Encoding", "identity") != "identity":
            raise _Fault("comes in another encoding")
        if status == 200:
            return self._whole(answer)[start:stop]
        found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if found is None:
            raise _Fault(f"answers the range {headers.get('Content-Range')!r}")
        first, last, size = (int(number) for number in found.groups())
        self._same(size, headers)
        if (first, last) != (start, min(stop, size) - 1):
            raise _Fault(f"answers bytes {first}-{last} of {start}-{stop - 1}")
        return self._body(answer, last + 1 - first)

    def _refused(self, answer: requests.Response) -> Exception:
        status = answer.status_code
        if status in (401, 403, 404, 410):
            if status in (401, 403):
                signing.forget(self._href)
                # ^ the token may have expired: the next attempt asks for a fresh one
            return _Fault(f"HTTP {status}", refused=True)
        if status in (*http_client.RETRIED, 416) or status >= 500:
            # ^ 416: every range that is asked for lies inside of the file
            wait = http_client.retries().get_retry_after(answer.raw) or 0.0
            if wait > PATIENCE.longest_wait:
                return Failed(f"HTTP {status}, come back in {wait:.0f} s")
            return _Fault(f"HTTP {status}", wait=wait)
        return Failed(f"HTTP {status}")

    def _whole(self, answer: requests.Response) -> bytes:
        """Return the file, from a server that has ignored the range."""
        size = int(answer.headers.get("Content-Length") or 0)
        if not 0 < size <= WHOLE:
            raise _Fault(f"answers no range but the whole file ({size} bytes)")
        self._same(size, answer.headers)
        return self._body(answer, size)

    def _same(self, size: int, headers: Any) -> None:
        """Refuse bytes of a file that has changed since it was opened."""
        version = headers.get("ETag") or headers.get("Last-Modified")
        with self._lock:
            known = getattr(self, "size", size), self._version or version
            self.size, self._version = known
        if known != (size, version or known[1]):
            raise _Fault(
                f"{size} bytes after {known[0]}: it has changed", refused=True, ends=Changed
            )

    def _body(self, answer: requests.Response, count: int) -> bytes:
        parts: list[bytes] = []
        got = 0
        for part in answer.raw.stream(2**18, decode_content=False):
            cancellation.look()
            parts.append(part)
            got += len(part)
            self._traffic.add(received=len(part), kind=self._kind)
            if got > count or time.monotonic() > self._until:
                raise _Fault(f"sends {got} of {count} bytes")
        if got != count:
            raise _Fault(f"sends {got} of {count} bytes")
        return b"".join(parts)


def _together(wanted: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges, ascending, of which those that lie close to each other are one."""
    merged: list[tuple[int, int]] = []
    for start, stop in wanted:
        if merged and 0 <= start - merged[-1][1] <= GAP:
            merged[-1] = (merged[-1][0], stop)
        else:
            merged.append((start, stop))
    return merged
