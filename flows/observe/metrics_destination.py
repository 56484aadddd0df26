"""Export of a run's metrics: served over HTTP, or written to a file for node_exporter.

``TERRAMOSAIC_METRICS`` names the destination; without it prometheus_client is not imported.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from catalogs.errors import InvalidInputError
from flows.observe.metrics import ExportedMetrics, RunMetrics
from pipeline.runtime import atomic_files, cancellation

if TYPE_CHECKING:
    from prometheus_client import Metric

log = logging.getLogger(__name__)

ENVIRONMENT_VARIABLE = "TERRAMOSAIC_METRICS"

LOOPBACK = "127.0.0.1"

WRITE_INTERVAL = 5.0
"""Smallest interval, seconds, between two writes of a file."""

_ADDRESS_PATTERN = re.compile(r"(?:(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]*):)?([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Address:
    """Address at which metrics are served."""

    host: str
    port: int


Destination = Address | Path
"""An address, a ``*.prom`` file, or a folder of such files, one per product and period."""


def read_destination() -> Destination | None:
    """Return the destination that the environment names; None = no export.

    Raises:
        InvalidInputError: It is neither an address nor a writable path.
    """
    text = os.environ.get(ENVIRONMENT_VARIABLE, "").strip()
    if not text:
        return None
    address = _ADDRESS_PATTERN.fullmatch(text)
    if address and int(address[2]) < 2**16:
        return Address((address[1] or LOOPBACK).strip("[]"), int(address[2]))
    if "://" in text or not ("/" in text or text.endswith(".prom")):
        raise InvalidInputError(
            f"{ENVIRONMENT_VARIABLE}={text} is neither an address nor a path. Write HOST:PORT, a "
            "port on loopback (9108), a folder (/var/lib/node_exporter) or a file that ends in "
            ".prom."
        )
    return _check_writable(Path(text).expanduser().absolute(), text)


def _check_writable(path: Path, text: str) -> Path:
    folder = path.parent if path.suffix == ".prom" else path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_files.temporary_directory(folder):
            return path
    except OSError as error:
        raise InvalidInputError(
            f"{ENVIRONMENT_VARIABLE}={text}: the folder {folder} is not writable "
            f"({error.strerror or error}). Name another folder, or an address HOST:PORT."
        ) from error


@contextmanager
def export_run(plan_path: Path) -> Iterator[RunMetrics]:
    """Count the run of a plan during a block, and export its metrics to the destination."""
    destination = read_destination()
    if destination is None:
        yield RunMetrics()
        return
    metrics = ExportedMetrics(plan_path)
    with (
        _serve_http(metrics, destination)
        if isinstance(destination, Address)
        else _write_textfile(metrics, destination),
        _record_final_status(metrics),
    ):
        yield metrics


def export_existing_result(plan_path: Path, *, status: str, tiles: int, skipped: int) -> None:
    """Write the metrics of a product that was complete already, if they go to a file.

    Args:
        plan_path: its plan file.
        status: status of the result.
        tiles: number of tiles of the plan.
        skipped: number of those that were finished before the run.
    """
    if isinstance(read_destination(), Path):
        with export_run(plan_path) as metrics:
            metrics.begin_tiles(tiles, skipped)
            metrics.set_final_status("complete" if status == "unchanged" else status)


@contextmanager
def _record_final_status(metrics: RunMetrics) -> Iterator[None]:
    try:
        yield
    except cancellation.Cancelled:
        metrics.set_final_status("interrupted")
        raise
    except Exception:
        metrics.set_final_status("failed")
        raise
    except BaseException:
        metrics.set_final_status("interrupted")
        raise


@contextmanager
def _write_textfile(metrics: ExportedMetrics, path: Path) -> Iterator[None]:
    textfile = _Textfile(metrics, path)
    metrics.on_change = textfile.write_if_due
    try:
        yield
    finally:
        textfile.write()


class _Textfile:
    """A file for node_exporter's textfile collector."""

    def __init__(self, metrics: ExportedMetrics, path: Path) -> None:
        name = f"terramosaic_{metrics.product}_{metrics.period}.prom"
        self._path = path if path.suffix == ".prom" else path / name
        # ^ names of products and periods are valid file names
        self._registry, self._next_write, self._has_warned = metrics.registry, 0.0, False

    def write_if_due(self) -> None:
        """Write the file, at most every :data:`WRITE_INTERVAL` seconds."""
        if time.monotonic() >= self._next_write:
            self.write()

    def write(self) -> None:
        """Write the file; a failure is logged as a warning once."""
        from prometheus_client import generate_latest  # noqa: PLC0415

        # ^ imported only if metrics are exported
        self._next_write = time.monotonic() + WRITE_INTERVAL
        try:
            atomic_files.write_atomic(self._path, generate_latest(self._registry))
        except OSError as error:
            if not self._has_warned:
                log.warning("metrics cannot be written to %s: %s", self._path, error)
            self._has_warned = True


@dataclass(slots=True, eq=False)
class _RunCollector:
    """Prometheus collector of the runs of this process that share an address."""

    runs: list[ExportedMetrics]
    close: Callable[[], None] = field(default=lambda: None)

    def collect(self) -> Iterable[Metric]:
        """Yield every metric once, with the values of all runs."""
        for family, *others in zip(
            *(run.registry.collect() for run in tuple(self.runs)), strict=True
        ):
            for other in others:
                family.samples.extend(other.samples)
            yield family


_collectors: dict[Address, _RunCollector] = {}
"""Collectors that are served. Periods that are mapped at the same time share a server."""

_collectors_lock = threading.Lock()


@contextmanager
def _serve_http(metrics: ExportedMetrics, address: Address) -> Iterator[None]:
    with _collectors_lock:
        collector = _collectors.get(address)
        if collector is not None:
            collector.runs.append(metrics)
        elif (collector := _start_server(address, metrics)) is not None:
            _collectors[address] = collector
    try:
        yield
    finally:
        with _collectors_lock:
            if collector is not None:
                collector.runs.remove(metrics)
                if not collector.runs:
                    del _collectors[address]
                    collector.close()


def _start_server(address: Address, metrics: ExportedMetrics) -> _RunCollector | None:
    """Start serving a collector of one run; return None, with a warning, if that fails."""
    from prometheus_client import CollectorRegistry, start_http_server  # noqa: PLC0415

    # ^ imported only if metrics are exported
    collector, registry = _RunCollector([metrics]), CollectorRegistry(auto_describe=True)
    registry.register(collector)
    # ^ auto_describe, and a run at this time: a scrape may ask for metrics by name[]
    try:
        server, thread = start_http_server(address.port, address.host, registry)
    except (OSError, UnicodeError) as error:
        # ^ UnicodeError: an invalid host name
        log.warning(
            "metrics cannot be served at %s:%s (%s): the run continues without them. If several "
            "runs share a machine, set %s to a folder.",
            address.host,
            address.port,
            error,
            ENVIRONMENT_VARIABLE,
        )
        return None
    log.info("metrics at http://%s:%s/metrics", *server.server_address[:2])

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    collector.close = close
    return collector
