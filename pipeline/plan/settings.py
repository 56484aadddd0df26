"""Run settings of a plan: where and how it runs. They do not decide any pixel.

They are stored under the key ``job`` of a plan file, in the form that the job has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pipeline.runtime.worker_count import WorkerCount

WeightSource = str | Mapping[str, Any] | None
"""``hub``, a path, ``{path, sha256}`` or ``{random: SEED}``; None for the weights shipped with the
model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """The options with which the model is loaded, those of the job's ``model:`` section.

    None stands for an option that the job does not set. It is absent from the plan file, except
    for ``weights``.
    """

    name: str | None = None
    task: str | Sequence[str] | None = None
    weights: WeightSource = None
    checkpoint: str | None = None
    """Path of a TerraTorch checkpoint."""

    classes: Sequence[str] | None = None
    """Class names of the checkpoint, in its order."""

    stats: str | Mapping[str, Any] | None = None
    """Path of a file with means and standard deviations, or {modality: {mean, std}}."""

    tokenizers: Mapping[str, WeightSource] | None = None
    """Modality → source of the weights of its tokenizer."""

    modality: str | Sequence[str] | None = None
    """What is generated."""

    timesteps: int | None = None
    """Diffusion steps of what is generated."""

    def to_dict(self) -> dict[str, Any]:
        """Return the options that are set, JSON-ready: keyword arguments of the model's loader."""
        options = {name: value for name, value in _fields(self).items() if value is not None}
        if self.name is not None and self.checkpoint is None:
            options["weights"] = self.weights
        return options


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionSettings:
    """The engine that builds the tiles, and its limits: the job's ``execution:`` section."""

    tile: int = 2048
    """Side of a tile in pixels, as requested."""

    engine: str = "threads"
    """``threads``, ``distributed`` or the address of a dask scheduler."""

    workers: WorkerCount = "auto"
    """Tiles built in parallel; ``{min, max}`` for a cluster that scales."""

    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``, as requested; see :class:`ModelSpec` for the type
    of device that the plan was made for."""

    precision: str = "auto"
    """Precision of the model, as requested."""

    batch: Literal["auto"] | int = "auto"
    """Windows per batch, as requested."""

    slot: str | None = None
    """Name of the concurrency limit that deployed runs share; None = by device."""

    max_hours: float | None = None
    """Hours after which building the tiles is stopped; None = no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityLimits:
    """The limits of the quality gate: the job's ``qc:`` section."""

    gate: Literal["refuse", "warn", "off"] = "warn"
    """Beyond a limit: ``refuse`` to publish, ``warn`` and publish, or ``off``."""

    max_seam_z: float = 3.0
    """Standard deviations by which pixels may change more often along window edges."""

    max_disagreement: float = 0.1
    """Fraction of pixels that may have another class in windows beside the lattice."""

    min_agreement: float = 0.995
    """Fraction of pixels that must have the same class in full precision."""

    min_observed: float = 0.01
    """Fraction of the region's pixels that must be observed, overall and by every input; 0 = none.
    It holds whatever the gate is."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values; ``min_observed``, unknown to earlier versions, only if set."""
        values = asdict(self)
        if self.min_observed == QualityLimits().min_observed:
            del values["min_observed"]
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceList:
    """The prices of computing, reading and storing: the job's ``prices:`` section."""

    currency: str = "EUR"
    cpu_hour: float = 0.0
    gpu_hour: float = 0.0
    gb_read: float = 0.0
    thousand_requests: float = 0.0
    gb_month: float = 0.0
    months: float = 12.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """Where and how a plan runs."""

    output_dir: str
    """Directory that holds the products; ``output.path`` of the job."""

    formats: Sequence[str] = ("cog", "zarr")
    """File formats of the product; ``output.formats`` of the job."""

    request_digest: str | None = None
    """sha256 of what the job requests, to detect products that a changed job makes outdated."""

    model: ModelOptions = field(default_factory=ModelOptions)
    execution: ExecutionSettings = field(default_factory=ExecutionSettings)
    quality_limits: QualityLimits = field(default_factory=QualityLimits)
    prices: PriceList | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-ready values, as a plan file holds them under ``job``."""
        return {
            "model": self.model.to_dict(),
            "request": self.request_digest,
            "output": {"path": self.output_dir, "formats": list(self.formats)},
            "execution": _fields(self.execution),
            "qc": self.quality_limits.to_dict(),
            "prices": asdict(self.prices) if self.prices else None,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSettings:
        """Build run settings from :meth:`to_dict`'s values.

        Raises:
            KeyError: the output directory is missing.
            TypeError: a section is not a mapping, or has an unknown key.
        """
        output = values["output"]
        return cls(
            output_dir=output["path"],
            formats=tuple(output.get("formats", ("cog", "zarr"))),
            request_digest=values.get("request"),
            model=ModelOptions(**values["model"]),
            execution=ExecutionSettings(**values["execution"]),
            quality_limits=QualityLimits(**values.get("qc", {})),
            prices=PriceList(**values["prices"]) if values.get("prices") else None,
        )


def _fields(record: ModelOptions | ExecutionSettings) -> dict[str, Any]:
    """Return the fields of a record by name, without copying what they hold."""
    return {name: getattr(record, name) for name in record.__slots__}
