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

HEADER_BYTES = 2**15
"""Bytes of the first request: the header and block index of a 10 980² COG have some 10 000."""

READ_AHEAD_BYTES = 2**20
"""Bytes that are read ahead, at most, of a file that is read front to back (JPEG 2000)."""

MERGE_GAP_BYTES = 2**14
"""Bytes between two ranges that are rather read than asked around."""

MAX_WHOLE_FILE_BYTES = 2**26
"""Bytes of a file that may arrive whole where a server ignores ranges."""

MAX_CACHED_BYTES = 2**23
"""Bytes of a file's blocks that are kept, at most, for as long as it is read."""

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long a server is borne with."""

    max_attempts: int = 5
    """Requests for one range."""

    max_refusals: int = 2
    """Of them, answers 401, 403, 404, 410 and of another file: more change nothing."""

    zero_responses_needed: int = 4
    """Answers in a row that must be nothing but zeros before they are believed."""

    backoff: float = 0.5
    """Seconds before the second request; doubled before each further one."""

    timeout: tuple[float, float] = (10.0, 30.0)
    """Seconds to wait for a connection, and between two packets."""

    deadline: float = 300.0
    """Seconds that the reading of one asset may take, everything included."""

    max_retry_after: float = 120.0
    """Seconds that a server may ask us to wait (Retry-After)."""


RETRY_POLICY = RetryPolicy()


class RangeReadError(Exception):
    """A range cannot be had, however often it is asked for."""


class FileChangedError(RangeReadError):
    """The file is another one than when it was opened: start again."""


class _BadResponse(Exception):
    """One answer is no good; the next one may be."""

    def __init__(
        self,
        reason: str,
        *,
        retry_after: float = 0.0,
        is_refusal: bool = False,
        final_error: type[RangeReadError] = RangeReadError,
    ) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.is_refusal = is_refusal
        self.final_error = final_error


class RangeFile:
    """A remote file for the time of one read; it belongs to one thread."""

    size: int
    """Bytes, known once :meth:`open` has returned."""

    def __init__(self, href: str, provider: str, deadline: float, modality: str = "") -> None:
        """Name a file.

        Args:
            href: unsigned address.
            provider: who signs, and whose limits hold.
            deadline: when to give up, on the monotonic clock.
            modality: the modality, for the count of what is read.
        """
        self._href = href
        self._provider = provider
        self._connections = http_pool.get_connections(provider)
        self._statistics = io_statistics.current()
        self._modality = modality
        self._deadline = deadline
        self._version: str | None = None
        self._lock = threading.Lock()
        self._recent_reads: list[tuple[int, bytes]] = []
        self._cached_blocks: dict[int, bytes] = {}
        self._sequential_position = 0

    def open(self) -> None:
        """Read the beginning.

        Raises:
            Failed: it cannot be read.
        """
        self._recent_reads = [(0, self._fetch_ranges([(0, HEADER_BYTES)])[0])]

    def read(self, start: int, count: int) -> bytes:
        """Return bytes from a place; fewer where the file ends.

        Raises:
            Failed: they cannot be read.
        """
        end = min(start + count, self.size)
        if start > self.size:
            raise FileChangedError(f"is read beyond its end at byte {self.size}")
            # ^ its size was wrong: GDAL would take a lost block index for empty blocks
        if end <= start:
            return b""
        for first, data in self._recent_reads:
            if first <= start and end <= first + len(data):
                return data[start - first : end - first]
        if not any(self._missing_ranges(start, end)):
            return self._read_cached(start, end)
        ahead = READ_AHEAD_BYTES if start == self._sequential_position else HEADER_BYTES
        stop = min(max(end, start + ahead), self.size) if count < READ_AHEAD_BYTES else end
        data = self._fetch_ranges([(start, stop)])[0]
        self._sequential_position = stop
        self._recent_reads = [self._recent_reads[0], *self._recent_reads[-3:], (start, data)]
        self._cache({start: data})
        return data[: end - start]

    def read_ranges(self, starts: Sequence[int], counts: Sequence[int]) -> list[bytes]:
        """Return several ranges, in as few requests as is sensible; ascending.

        Raises:
            Failed: they cannot be read.
        """
        wanted = [(start, start + count) for start, count in zip(starts, counts, strict=True)]
        if any(stop > self.size for _, stop in wanted):
            raise FileChangedError(f"is read beyond its end at byte {self.size}")
        lacking = _merge_ranges([gap for one in wanted for gap in self._missing_ranges(*one)])
        answers = zip(lacking, self._fetch_ranges(lacking), strict=True)
        self._cached_blocks |= {start: data for (start, _), data in answers}
        found = [self._read_cached(*one) for one in wanted]
        self._cache({})
        return found

    def _cache(self, fresh: Mapping[int, bytes]) -> None:
        """Keep bytes by their place, the latest ones."""
        self._cached_blocks |= fresh
        held = sum(map(len, self._cached_blocks.values()))
        while held > MAX_CACHED_BYTES:
            held -= len(self._cached_blocks.pop(next(iter(self._cached_blocks))))

    def _missing_ranges(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of a range that are not here.

        GDAL forgets a file's blocks with each warped view of it that is closed: one that lies under
        many blocks of the lattice would come over the network for every one of them.
        """
        for first, data in sorted(self._cached_blocks.items()):
            if start < min(first, stop):
                yield start, min(first, stop)
            start = max(start, first + len(data)) if first < stop else stop
        if start < stop:
            yield start, stop

    def _read_cached(self, start: int, stop: int) -> bytes:
        """Return a range out of what is here."""
        parts = []
        for first, data in sorted(self._cached_blocks.items()):
            if first <= start < min(first + len(data), stop):
                parts.append(data[start - first : stop - first])
                start += len(parts[-1])
        return b"".join(parts)

    def _fetch_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        ask = cancellation.with_cancellation(self._fetch_with_retries)
        waiting = [self._connections.pool.submit(ask, start, stop) for start, stop in ranges]
        try:
            return [cancellation.wait_for_result(one) for one in waiting]
            # ^ a server may be silent for half a minute: its thread is left to it
        finally:
            for one in waiting:
                one.cancel()

    def _fetch_with_retries(self, start: int, stop: int) -> bytes:
        """Return bytes ``start`` to ``stop`` (excluded; fewer in a smaller file), at last."""
        zeros = refusals = faults = 0
        ends = RangeReadError
        while True:
            cancellation.check_cancelled()
            try:
                data = self._request(start, stop)
                if data.lstrip(b"\0"):
                    return data
                zeros += 1
                if zeros >= RETRY_POLICY.zero_responses_needed or not data:
                    return data
                continue
                # ^ nothing but zeros decodes without an error where nothing is compressed
            except _BadResponse as fault:
                zeros = 0
                faults += 1
                refusals += fault.is_refusal
                ends = fault.final_error
                reason, wait = (
                    str(fault),
                    max(fault.retry_after, RETRY_POLICY.backoff * 2 ** (faults - 1)),
                )
            except (requests.RequestException, HTTPError, OSError) as error:
                zeros = 0
                faults += 1
                reason, wait = type(error).__name__, RETRY_POLICY.backoff * 2 ** (faults - 1)
                # ^ their texts may hold the signed address
            if faults >= RETRY_POLICY.max_attempts or refusals >= RETRY_POLICY.max_refusals:
                raise ends(f"{reason}, {faults} attempt(s)")
            if time.monotonic() + wait >= self._deadline:
                raise RangeReadError(
                    f"{reason}, {faults} attempt(s) in {RETRY_POLICY.deadline:.0f} s"
                )
            log.warning(
                "again href=%s bytes=%d-%d reason=%s",
                href_policy.redact(self._href),
                start,
                stop,
                reason,
            )
            self._statistics.add(retries=1)
            cancellation.sleep(wait)

    def _request(self, start: int, stop: int) -> bytes:
        headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        access = signing.sign_with_options(self._href, self._provider)
        if access.gdal_options.get("GDAL_HTTP_AUTH") == "BEARER":
            headers["Authorization"] = f"Bearer {os.environ.get('GDAL_HTTP_BEARER', '')}"
            # ^ as GDAL would do
        address = access.href
        for _ in range(5):
            self._statistics.add(requests=1, modality=self._modality)
            with self._connections.session.get(
                address,
                headers=headers,
                timeout=RETRY_POLICY.timeout,
                stream=True,
                allow_redirects=False,
            ) as answer:
                if not answer.is_redirect:
                    return self._validate_response(answer, start, stop)
                goal = urljoin(address, answer.headers["location"])
                if not http_client.is_same_host(address, goal):
                    raise RangeReadError(
                        f"leads to another host, {href_policy.redact(goal)}, for which nobody has vouched"
                    )
                address = goal
        raise _BadResponse("leads around in circles")

    def _validate_response(self, response: requests.Response, start: int, stop: int) -> bytes:
        """Return the body of an answer that is what was asked for."""
        status, headers = response.status_code, response.headers
        if status not in (200, 206):
            raise self._error_for_status(response)
        if headers.get("Content-Encoding", "identity") != "identity":
            raise _BadResponse("comes in another encoding")
        if status == 200:
            return self._read_whole_file(response)[start:stop]
        found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if found is None:
            raise _BadResponse(f"answers the range {headers.get('Content-Range')!r}")
        first, last, size = (int(number) for number in found.groups())
        self._check_unchanged(size, headers)
        if (first, last) != (start, min(stop, size) - 1):
            raise _BadResponse(f"answers bytes {first}-{last} of {start}-{stop - 1}")
        return self._read_body(response, last + 1 - first)

    def _error_for_status(self, response: requests.Response) -> Exception:
        status = response.status_code
        if status in (401, 403, 404, 410):
            if status in (401, 403):
                signing.forget_token(self._href)
                # ^ the token may have expired: the next attempt asks for a fresh one
            return _BadResponse(f"HTTP {status}", is_refusal=True)
        if status in (*http_client.RETRY_STATUSES, 416) or status >= 500:
            # ^ 416: every range that is asked for lies inside of the file
            wait = http_client.build_retry_policy().get_retry_after(response.raw) or 0.0
            if wait > RETRY_POLICY.max_retry_after:
                return RangeReadError(f"HTTP {status}, come back in {wait:.0f} s")
            return _BadResponse(f"HTTP {status}", retry_after=wait)
        return RangeReadError(f"HTTP {status}")

    def _read_whole_file(self, response: requests.Response) -> bytes:
        """Return the file, from a server that has ignored the range."""
        size = int(response.headers.get("Content-Length") or 0)
        if not 0 < size <= MAX_WHOLE_FILE_BYTES:
            raise _BadResponse(f"answers no range but the whole file ({size} bytes)")
        self._check_unchanged(size, response.headers)
        return self._read_body(response, size)

    def _check_unchanged(self, size: int, headers: Any) -> None:
        """Refuse bytes of a file that has changed since it was opened."""
        version = headers.get("ETag") or headers.get("Last-Modified")
        with self._lock:
            known = getattr(self, "size", size), self._version or version
            self.size, self._version = known
        if known != (size, version or known[1]):
            raise _BadResponse(
                f"{size} bytes after {known[0]}: it has changed",
                is_refusal=True,
                final_error=FileChangedError,
            )

    def _read_body(self, response: requests.Response, count: int) -> bytes:
        parts: list[bytes] = []
        got = 0
        for part in response.raw.stream(2**18, decode_content=False):
            cancellation.check_cancelled()
            parts.append(part)
            got += len(part)
            self._statistics.add(num_bytes=len(part), modality=self._modality)
            if got > count or time.monotonic() > self._deadline:
                raise _BadResponse(f"sends {got} of {count} bytes")
        if got != count:
            raise _BadResponse(f"sends {got} of {count} bytes")
        return b"".join(parts)


def _merge_ranges(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges, ascending, of which those that lie close to each other are one."""
    merged: list[tuple[int, int]] = []
    for start, stop in ranges:
        if merged and 0 <= start - merged[-1][1] <= MERGE_GAP_BYTES:
            merged[-1] = (merged[-1][0], stop)
        else:
            merged.append((start, stop))
    return merged
