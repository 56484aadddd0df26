"""Where the numbers of a run go: to whoever asks for them, or into a file of node_exporter's.

``TERRAMOSAIC_METRICS`` says where; without it nobody is told, and nothing is imported for it.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalogs.errors import InvalidInputError
from flows.observe.run_metrics import COMMON_LABELS, METRICS, RunMetrics
from pipeline.runtime import atomic_files, cancellation

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

log = logging.getLogger(__name__)

ENVIRONMENT_VARIABLE = "TERRAMOSAIC_METRICS"

LOOPBACK = "127.0.0.1"

WRITE_INTERVAL = 5.0
"""Seconds between two versions of a file, at least."""

_ADDRESS_PATTERN = re.compile(r"(?:(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]*):)?([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Address:
    """Where metrics are served."""

    host: str
    port: int


Destination = Address | Path
"""An address, a ``*.prom`` file, or a folder with one such file for each product and period."""


def read_destination() -> Destination | None:
    """Return where the environment wants the metrics; None = nowhere.

    Raises:
        InvalidInputError: what it says is no such place.
    """
    text = os.environ.get(ENVIRONMENT_VARIABLE, "").strip()
    if not text:
        return None
    address = _ADDRESS_PATTERN.fullmatch(text)
    if address and int(address[2]) < 2**16:
        return Address((address[1] or LOOPBACK).strip("[]"), int(address[2]))
    if "://" in text or not ("/" in text or text.endswith(".prom")):
        raise InvalidInputError(
            f"{ENVIRONMENT_VARIABLE}={text} is neither an address nor a path. Write HOST:PORT, a port of this "
            "machine alone (9108), a folder (/var/lib/node_exporter) or a file that ends in .prom."
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
            f"{ENVIRONMENT_VARIABLE}={text}: nothing can be written to {folder} ({error.strerror or error}). "
            "Name another folder, or an address HOST:PORT."
        ) from error


@contextmanager
def export_run(plan_path: Path) -> Iterator[RunMetrics]:
    """Count the run of a plan for the length of a block, and tell of it where that is wanted."""
    metrics = RunMetrics.for_plan(plan_path)
    with _record_final_status(metrics, read_destination()):
        yield metrics


def export_existing_result(plan_path: Path, result: Mapping[str, Any]) -> None:
    """Tell of a product that needed no run, where there is a file to do so."""
    if isinstance(read_destination(), Path):
        with export_run(plan_path) as meter:
            meter.begin_tiles(result["tiles"]["total"], result["tiles"]["skipped"])
            meter.set_final_status(
                "complete" if result["status"] == "unchanged" else result["status"]
            )


@contextmanager
def _record_final_status(meter: RunMetrics, destination: Destination | None) -> Iterator[None]:
    with _export(meter, destination):
        try:
            yield
        except cancellation.Cancelled:
            meter.set_final_status("interrupted")
            raise
        except Exception:
            meter.set_final_status("failed")
            raise
        except BaseException:
            meter.set_final_status("interrupted")
            raise


def _export(meter: RunMetrics, destination: Destination | None) -> AbstractContextManager[None]:
    if destination is None:
        return nullcontext()
    return (
        _serve_http(meter, destination)
        if isinstance(destination, Address)
        else _write_textfile(meter, destination)
    )


@contextmanager
def _write_textfile(meter: RunMetrics, path: Path) -> Iterator[None]:
    page = _Textfile(meter, path)
    meter.on_change = page.write_if_due
    try:
        yield
    finally:
        page.write()


class _Textfile:
    """A file for node_exporter's textfile collector."""

    def __init__(self, meter: RunMetrics, path: Path) -> None:
        name = f"terramosaic_{meter.product}_{meter.period}.prom"
        self._path = path if path.suffix == ".prom" else path / name
        # ^ the names of products and periods are those of folders
        self._collector, self._next_write, self._has_warned = _RunCollector([meter]), 0.0, False

    def write_if_due(self) -> None:
        """Write the file, unless that was done just now."""
        if time.monotonic() >= self._next_write:
            self.write()

    def write(self) -> None:
        """Write the file; one that cannot be written costs a warning, not the run."""
        from prometheus_client import generate_latest  # noqa: PLC0415

        # ^ imported where somebody reads the metrics
        self._next_write = time.monotonic() + WRITE_INTERVAL
        try:
            atomic_files.write_atomic(self._path, generate_latest(_build_registry(self._collector)))
        except OSError as error:
            if not self._has_warned:
                log.warning("the metrics cannot be written to %s: %s", self._path, error)
            self._has_warned = True


@dataclass(slots=True, eq=False)
class _RunCollector:
    """The runs of this process that a reader sees side by side."""

    runs: list[RunMetrics]
    close: Callable[[], None] = field(default=lambda: None)

    def collect(self) -> Iterable[Family]:
        """Return every metric with the values of all runs, as prometheus_client asks for them."""
        from prometheus_client import core  # noqa: PLC0415

        # ^ imported where somebody reads the metrics
        told = [(meter.product, meter.period, meter.values()) for meter in tuple(self.runs)]
        kinds = {"counter": core.CounterMetricFamily, "gauge": core.GaugeMetricFamily}
        for metric in METRICS:
            family = kinds[metric.kind](
                metric.name, metric.documentation, labels=(*COMMON_LABELS, *metric.labels)
            )
            for product, period, values in told:
                for own, value in values[metric.name].items():
                    family.add_metric((product, period, *own), float(value))
            yield family


def _build_registry(collector: _RunCollector) -> Any:
    """Return a registry of ours: the global one has what this process is, and dask's metrics."""
    from prometheus_client import CollectorRegistry  # noqa: PLC0415

    # ^ imported where somebody reads the metrics
    registry = CollectorRegistry(auto_describe=True)
    registry.register(collector)
    return registry


_collectors: dict[Address, _RunCollector] = {}
_collectors_lock = threading.Lock()


@contextmanager
def _serve_http(meter: RunMetrics, address: Address) -> Iterator[None]:
    with _collectors_lock:
        board = _collectors.get(address) or _start_server(address)
        if board is not None:
            board.runs.append(meter)
            _collectors[address] = board
    try:
        yield
    finally:
        with _collectors_lock:
            if board is not None:
                board.runs.remove(meter)
                if not board.runs:
                    del _collectors[address]
                    board.close()


def _start_server(address: Address) -> _RunCollector | None:
    """Serve a new board; None where that cannot be, which is no reason not to run."""
    from prometheus_client import start_http_server  # noqa: PLC0415

    # ^ imported where somebody reads the metrics
    board = _RunCollector([])
    try:
        server, thread = start_http_server(address.port, address.host, _build_registry(board))
    except (OSError, UnicodeError) as error:
        # ^ the latter: a host that cannot be one
        log.warning(
            "the metrics cannot be served at %s:%s (%s): the run goes on without. Where several "
            "runs share a machine, let %s name a folder.",
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

    board.close = close
    return board
