"""Read byte ranges of a remote file over HTTP, with checks and retries.

GDAL's own HTTP reader caches failures, does not check that a response holds the requested range,
and has no limit of connections. Here each range is retried by itself, a response must be the
requested range of the file that was opened, and a provider's limit holds for all threads.
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
from pipeline.reading import http_connections
from pipeline.runtime import cancellation, io_statistics

log = logging.getLogger(__name__)

HEADER_BYTES = 2**15
"""Size of the first request: header and block index of a 10 980² COG have some 10 000 bytes."""

READ_AHEAD_BYTES = 2**20
"""Maximum number of bytes that are read ahead of a file that is read sequentially (JPEG 2000)."""

MERGE_GAP_BYTES = 2**14
"""Ranges with a smaller gap between them are read by one request."""

MAX_WHOLE_FILE_BYTES = 2**26
"""Maximum size of a file that a server may send whole because it ignores ranges."""

MAX_CACHED_BYTES = 2**23
"""Maximum number of bytes of a file that are cached while it is read."""

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how long a range is requested again after an error."""

    max_attempts: int = 5
    """Maximum number of requests for one range."""

    max_refusals: int = 2
    """Requests that may be refused: 401, 403, 404, 410, or a file that has changed."""

    zero_responses_needed: int = 4
    """Number of equal responses in a row after which a range of zeros is accepted as data."""

    backoff: float = 0.5
    """Seconds before the second request; doubled before each further one."""

    timeout: tuple[float, float] = (10.0, 30.0)
    """Seconds to wait for a connection, and between two packets."""

    deadline: float = 300.0
    """Seconds in which one asset must be read, all retries included."""

    max_retry_after: float = http_client.MAX_RETRY_AFTER
    """Longest Retry-After in seconds that is waited for."""


RETRY_POLICY = RetryPolicy()


class RangeReadError(Exception):
    """A range could not be read; another request would not help."""


class FileChangedError(RangeReadError):
    """The file has changed since it was opened: open it again."""


class FileTruncatedError(FileChangedError):
    """The file ends before bytes that its own header refers to."""


class RequestRefusedError(RangeReadError):
    """The server refuses the file: it is not there, or must not be read."""


class _BadResponse(Exception):
    """A response is unusable; the next one may be usable."""

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
    """A remote file that is open for one read by one thread."""

    size: int
    """Size in bytes; set by :meth:`open`."""

    def __init__(self, href: str, provider: str, deadline: float, modality: str = "") -> None:
        """Prepare a file for reading; nothing is requested yet.

        Args:
            href: unsigned href.
            provider: provider whose signing and connection limits apply.
            deadline: time on the monotonic clock after which no request is retried.
            modality: modality of the asset, for the statistics of bytes and requests.
        """
        self._href = href
        self._provider = provider
        self._connections = http_connections.get_connections(provider)
        self._statistics = io_statistics.current()
        self._modality = modality
        self._deadline = deadline
        self._version: str | None = None
        self._lock = threading.Lock()
        self._recent_reads: list[tuple[int, bytes]] = []
        self._cached_blocks: dict[int, bytes] = {}
        self._sequential_position = 0

    def open(self) -> None:
        """Read the header and the size of the file.

        Raises:
            RangeReadError: the file cannot be read.
        """
        self._recent_reads = [(0, self._fetch_ranges([(0, HEADER_BYTES)])[0])]

    def read(self, start: int, count: int) -> bytes:
        """Read ``count`` bytes from ``start``; fewer at the end of the file.

        Raises:
            RangeReadError: the bytes cannot be read.
        """
        end = min(start + count, self.size)
        if start > self.size:
            raise FileTruncatedError(f"it is read beyond its end at byte {self.size}")
            # ^ the server stated a wrong size; GDAL would take a missing block index for empty
            # blocks
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
        """Read several ranges in ascending order; nearby ranges are read by one request.

        Raises:
            RangeReadError: a range cannot be read.
        """
        ranges = [(start, start + count) for start, count in zip(starts, counts, strict=True)]
        if any(stop > self.size for _, stop in ranges):
            raise FileTruncatedError(f"it is read beyond its end at byte {self.size}")
        missing = _merge_ranges(
            [gap for start, stop in ranges for gap in self._missing_ranges(start, stop)]
        )
        fetched = zip(missing, self._fetch_ranges(missing), strict=True)
        self._cached_blocks |= {start: data for (start, _), data in fetched}
        parts = [self._read_cached(start, stop) for start, stop in ranges]
        self._cache({})
        return parts

    def _cache(self, fresh: Mapping[int, bytes]) -> None:
        """Cache bytes by their position in the file, and evict the oldest ones."""
        self._cached_blocks |= fresh
        total = sum(map(len, self._cached_blocks.values()))
        while total > MAX_CACHED_BYTES:
            total -= len(self._cached_blocks.pop(next(iter(self._cached_blocks))))

    def _missing_ranges(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of a range that are not cached.

        GDAL drops a file's blocks with each warped dataset that is closed: without this cache a
        block that lies under many warp blocks would be read over the network for each of them.
        """
        for first, data in sorted(self._cached_blocks.items()):
            if start < min(first, stop):
                yield start, min(first, stop)
            start = max(start, first + len(data)) if first < stop else stop
        if start < stop:
            yield start, stop

    def _read_cached(self, start: int, stop: int) -> bytes:
        """Return a range that is cached."""
        parts = []
        for first, data in sorted(self._cached_blocks.items()):
            if first <= start < min(first + len(data), stop):
                parts.append(data[start - first : stop - first])
                start += len(parts[-1])
        return b"".join(parts)

    def _fetch_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read ranges side by side."""
        fetch = cancellation.with_cancellation(self._fetch_with_retries)
        futures = [self._connections.pool.submit(fetch, start, stop) for start, stop in ranges]
        try:
            return [cancellation.wait_for_result(future) for future in futures]
            # ^ on cancellation a thread that waits for the server is left behind
        finally:
            for future in futures:
                future.cancel()

    def _fetch_with_retries(self, start: int, stop: int) -> bytes:
        """Read bytes ``start`` to ``stop`` (excluded; fewer in a smaller file), with retries."""
        zeros = refusals = failures = 0
        final_error = RangeReadError
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
                # ^ a faulty response of zeros would decode without an error if the file is not
                # compressed
            except _BadResponse as error:
                zeros = 0
                failures += 1
                refusals += error.is_refusal
                final_error = error.final_error
                reason = str(error)
                wait = max(error.retry_after, RETRY_POLICY.backoff * 2 ** (failures - 1))
            except (requests.RequestException, HTTPError, OSError) as error:
                zeros = 0
                failures += 1
                reason, wait = type(error).__name__, RETRY_POLICY.backoff * 2 ** (failures - 1)
                # ^ their messages may hold the signed href
            if failures >= RETRY_POLICY.max_attempts or refusals >= RETRY_POLICY.max_refusals:
                raise final_error(f"{reason}, {failures} attempt(s)")
            if time.monotonic() + wait >= self._deadline:
                raise RangeReadError(
                    f"{reason}, {failures} attempt(s) in {RETRY_POLICY.deadline:.0f} s"
                )
            log.warning(
                "retry href=%s bytes=%d-%d reason=%s",
                href_policy.redact(self._href),
                start,
                stop,
                reason,
            )
            self._statistics.add(retries=1)
            cancellation.sleep(wait)

    def _request(self, start: int, stop: int) -> bytes:
        """Send one request for a range, and follow redirects within the same host."""
        headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        access = signing.sign_with_options(self._href, self._provider)
        if access.gdal_options.get("GDAL_HTTP_AUTH") == "BEARER":
            headers["Authorization"] = f"Bearer {os.environ.get('GDAL_HTTP_BEARER', '')}"
            # ^ as GDAL does with these options
        url = access.href
        for _ in range(5):
            self._statistics.add(requests=1, modality=self._modality)
            with self._connections.session.get(
                url,
                headers=headers,
                timeout=RETRY_POLICY.timeout,
                stream=True,
                allow_redirects=False,
            ) as response:
                if not response.is_redirect:
                    return self._validate_response(response, start, stop)
                location = urljoin(url, response.headers["location"])
                if not http_client.is_same_host(url, location):
                    raise RequestRefusedError(
                        f"redirects to another host, {href_policy.redact(location)}, "
                        "which is not allowed"
                    )
                url = location
        raise _BadResponse("too many redirects")

    def _validate_response(self, response: requests.Response, start: int, stop: int) -> bytes:
        """Return the body of a response that holds the requested range."""
        status, headers = response.status_code, response.headers
        if status not in (200, 206):
            raise self._error_for_status(response)
        if headers.get("Content-Encoding", "identity") != "identity":
            raise _BadResponse(f"Content-Encoding is {headers['Content-Encoding']!r}")
        if status == 200:
            return self._read_whole_file(response)[start:stop]
        match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if match is None:
            raise _BadResponse(f"Content-Range is {headers.get('Content-Range')!r}")
        first, last, size = (int(number) for number in match.groups())
        self._check_unchanged(size, headers)
        if (first, last) != (start, min(stop, size) - 1):
            raise _BadResponse(f"response holds bytes {first}-{last} instead of {start}-{stop - 1}")
        return self._read_body(response, last + 1 - first)

    def _error_for_status(self, response: requests.Response) -> Exception:
        """Return the error for a status: final, or one after which to retry."""
        status = response.status_code
        if status in (401, 403, 404, 410):
            if status in (401, 403):
                signing.forget_token(self._href)
                # ^ the token may have expired: the next attempt requests a new one
            return _BadResponse(f"HTTP {status}", is_refusal=True, final_error=RequestRefusedError)
        if status in (*http_client.RETRY_STATUSES, 416) or status >= 500:
            # ^ 416 is the server's error: every requested range lies within the file
            wait = http_client.build_retry_policy().get_retry_after(response.raw) or 0.0
            if wait > RETRY_POLICY.max_retry_after:
                return RangeReadError(f"HTTP {status}, Retry-After is {wait:.0f} s")
            return _BadResponse(f"HTTP {status}", retry_after=wait)
        return RequestRefusedError(f"HTTP {status}")

    def _read_whole_file(self, response: requests.Response) -> bytes:
        """Return the whole file, which the server sends because it ignores ranges."""
        size = int(response.headers.get("Content-Length") or 0)
        if not 0 < size <= MAX_WHOLE_FILE_BYTES:
            raise _BadResponse(f"response is the whole file ({size} bytes) instead of a range")
        self._check_unchanged(size, response.headers)
        return self._read_body(response, size)

    def _check_unchanged(self, size: int, headers: Any) -> None:
        """Raise an error if the file has changed since it was opened."""
        version = headers.get("ETag") or headers.get("Last-Modified")
        with self._lock:
            opened = getattr(self, "size", size), self._version or version
            self.size, self._version = opened
        if opened != (size, version or opened[1]):
            raise _BadResponse(
                f"file has changed ({opened[0]} bytes when opened, now {size})",
                is_refusal=True,
                final_error=FileChangedError,
            )

    def _read_body(self, response: requests.Response, count: int) -> bytes:
        """Return a body of ``count`` bytes."""
        parts: list[bytes] = []
        received = 0
        for part in response.raw.stream(2**18, decode_content=False):
            cancellation.check_cancelled()
            parts.append(part)
            received += len(part)
            self._statistics.add(num_bytes=len(part), modality=self._modality)
            if received > count or time.monotonic() > self._deadline:
                raise _BadResponse(f"response has {received} of {count} bytes")
        if received != count:
            raise _BadResponse(f"response has {received} of {count} bytes")
        return b"".join(parts)


def _merge_ranges(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Merge ranges, in ascending order, that have only a small gap between them."""
    merged: list[tuple[int, int]] = []
    for start, stop in ranges:
        if merged and 0 <= start - merged[-1][1] <= MERGE_GAP_BYTES:
            merged[-1] = (merged[-1][0], stop)
        else:
            merged.append((start, stop))
    return merged
