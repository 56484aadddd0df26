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

from catalogs.errors import Wrong
from flows.observe.run_metrics import LABELS, METRICS, Meter
from pipeline.runtime import atomic_files, cancellation

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

log = logging.getLogger(__name__)

VARIABLE = "TERRAMOSAIC_METRICS"

LOOPBACK = "127.0.0.1"

EVERY = 5.0
"""Seconds between two versions of a file, at least."""

_ADDRESS = re.compile(r"(?:(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]*):)?([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Address:
    """Where metrics are served."""

    host: str
    port: int


Place = Address | Path
"""An address, a ``*.prom`` file, or a folder with one such file for each product and period."""


class _Kept:
    meters: Mapping[str, Meter] = {}
    """Path of a plan → its run: Prefect's tasks cannot carry it."""


def place() -> Place | None:
    """Return where the environment wants the metrics; None = nowhere.

    Raises:
        Wrong: what it says is no such place.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return None
    address = _ADDRESS.fullmatch(text)
    if address and int(address[2]) < 2**16:
        return Address((address[1] or LOOPBACK).strip("[]"), int(address[2]))
    if "://" in text or not ("/" in text or text.endswith(".prom")):
        raise Wrong(
            f"{VARIABLE}={text} is neither an address nor a path. Write HOST:PORT, a port of this "
            "machine alone (9108), a folder (/var/lib/node_exporter) or a file that ends in .prom."
        )
    return _writable(Path(text).expanduser().absolute(), text)


def _writable(path: Path, text: str) -> Path:
    folder = path.parent if path.suffix == ".prom" else path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_files.workspace(folder):
            return path
    except OSError as error:
        raise Wrong(
            f"{VARIABLE}={text}: nothing can be written to {folder} ({error.strerror or error}). "
            "Name another folder, or an address HOST:PORT."
        ) from error


@contextmanager
def kept(plan_path: Path) -> Iterator[Meter]:
    """Count the run of a plan for the length of a block, and tell of it where that is wanted."""
    meter, wanted = Meter.of(plan_path), place()
    _Kept.meters = {**_Kept.meters, str(plan_path): meter}
    try:
        with _told(meter, wanted):
            yield meter
    finally:
        _Kept.meters = {one: held for one, held in _Kept.meters.items() if held is not meter}


def of(plan_path: Path) -> Meter:
    """Return the meter of a plan's run; one that nobody reads, where no run is counted."""
    return _Kept.meters.get(str(plan_path)) or Meter.of(plan_path)


def stood(plan_path: Path, result: Mapping[str, Any]) -> None:
    """Tell of a product that needed no run, where there is a file to do so."""
    if isinstance(place(), Path):
        with kept(plan_path) as meter:
            meter.begin(result["tiles"]["total"], result["tiles"]["skipped"])
            meter.end("complete" if result["status"] == "unchanged" else result["status"])


@contextmanager
def _told(meter: Meter, wanted: Place | None) -> Iterator[None]:
    with _shown(meter, wanted):
        try:
            yield
        except cancellation.Halted:
            meter.end("interrupted")
            raise
        except Exception:
            meter.end("failed")
            raise
        except BaseException:
            meter.end("interrupted")
            raise


def _shown(meter: Meter, wanted: Place | None) -> AbstractContextManager[None]:
    if wanted is None:
        return nullcontext()
    return _served(meter, wanted) if isinstance(wanted, Address) else _written(meter, wanted)


@contextmanager
def _written(meter: Meter, path: Path) -> Iterator[None]:
    page = _Page(meter, path)
    meter.changed = page.due
    try:
        yield
    finally:
        page.write()


class _Page:
    """A file for node_exporter's textfile collector."""

    def __init__(self, meter: Meter, path: Path) -> None:
        name = f"terramosaic_{meter.product}_{meter.period}.prom"
        self._path = path if path.suffix == ".prom" else path / name
        # ^ the names of products and periods are those of folders
        self._board, self._next, self._failed = _Board([meter]), 0.0, False

    def due(self) -> None:
        """Write the file, unless that was done just now."""
        if time.monotonic() >= self._next:
            self.write()

    def write(self) -> None:
        """Write the file; one that cannot be written costs a warning, not the run."""
        from prometheus_client import generate_latest  # noqa: PLC0415

        # ^ imported where somebody reads the metrics
        self._next = time.monotonic() + EVERY
        try:
            atomic_files.write_atomic(self._path, generate_latest(_registry(self._board)))
        except OSError as error:
            if not self._failed:
                log.warning("the metrics cannot be written to %s: %s", self._path, error)
            self._failed = True


@dataclass(slots=True, eq=False)
class _Board:
    """The runs of this process that a reader sees side by side."""

    meters: list[Meter]
    close: Callable[[], None] = field(default=lambda: None)

    def collect(self) -> Iterable[Family]:
        """Return every metric with the values of all runs, as prometheus_client asks for them."""
        from prometheus_client import core  # noqa: PLC0415

        # ^ imported where somebody reads the metrics
        told = [(meter.product, meter.period, meter.values()) for meter in tuple(self.meters)]
        kinds = {"counter": core.CounterMetricFamily, "gauge": core.GaugeMetricFamily}
        for metric in METRICS:
            family = kinds[metric.kind](
                metric.name, metric.meaning, labels=(*LABELS, *metric.labels)
            )
            for product, period, values in told:
                for own, value in values[metric.name].items():
                    family.add_metric((product, period, *own), float(value))
            yield family


def _registry(board: _Board) -> Any:
    """Return a registry of ours: the global one has what this process is, and dask's metrics."""
    from prometheus_client import CollectorRegistry  # noqa: PLC0415

    # ^ imported where somebody reads the metrics
    registry = CollectorRegistry(auto_describe=True)
    registry.register(board)
    return registry


_boards: dict[Address, _Board] = {}
_opening = threading.Lock()


@contextmanager
def _served(meter: Meter, address: Address) -> Iterator[None]:
    with _opening:
        board = _boards.get(address) or _open(address)
        if board is not None:
            board.meters.append(meter)
            _boards[address] = board
    try:
        yield
    finally:
        with _opening:
            if board is not None:
                board.meters.remove(meter)
                if not board.meters:
                    del _boards[address]
                    board.close()


def _open(address: Address) -> _Board | None:
    """Serve a new board; None where that cannot be, which is no reason not to run."""
    from prometheus_client import start_http_server  # noqa: PLC0415

    # ^ imported where somebody reads the metrics
    board = _Board([])
    try:
        server, thread = start_http_server(address.port, address.host, _registry(board))
    except (OSError, UnicodeError) as error:
        # ^ the latter: a host that cannot be one
        log.warning(
            "the metrics cannot be served at %s:%s (%s): the run goes on without. Where several "
            "runs share a machine, let %s name a folder.",
            address.host,
            address.port,
            error,
            VARIABLE,
        )
        return None
    log.info("metrics at http://%s:%s/metrics", *server.server_address[:2])

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    board.close = close
    return board
