"""Results of the commands: what each of them prints with ``--json``.

Those of ``terramosaic models …`` are in :mod:`flows.run.model_results`. The JSON Schemas in
docs/json are generated from these models: see :mod:`flows.run.schemas`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from catalogs.sensors import SENSORS

if TYPE_CHECKING:
    from pipeline.quality.quality_metrics import QualityMetrics

RunStatus = Literal["complete", "unchanged", "partial", "failed", "refused"]
PeriodStatus = Literal["finished", "ready", "thin", "gap", "waiting", "busy"] | RunStatus

Modality = Annotated[str, Field(json_schema_extra={"enum": [*SENSORS]})]
Basis = Annotated[str, Field(json_schema_extra={"enum": ["table", "receipts"]})]

Count = Annotated[int, Field(json_schema_extra={"minimum": 0})]
NonNegative = Annotated[float, Field(json_schema_extra={"minimum": 0})]
Share = Annotated[float, Field(json_schema_extra={"minimum": 0, "maximum": 1})]
Percent = Annotated[float, Field(json_schema_extra={"minimum": 0, "maximum": 100})]
Date = Annotated[str, Field(json_schema_extra={"format": "date"})]
DateTime = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Warnings = Annotated[
    tuple[str, ...],
    Field(
        description="What must be known before the product is used, such as what was assumed about "
        "scenes; a sentence that holds for many scenes names some of them and their number."
    ),
]
# ^ bounds and formats are told in the schemas and not checked here: a rounding error in a figure
#   must not fail a run that is done


class Result(BaseModel):
    """Base of all results: frozen, with the keys that are declared and no others."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON-ready values, in the order of its fields."""
        return self.model_dump(mode="json")


# -- tiles ---------------------------------------------------------------------------------------


class TileFailure(Result):
    """A tile that could not be made, or whose stored values are damaged, and why."""

    tile: str = Field(description="Identifier of the tile.")
    reason: str = Field(description="What went wrong, with the asset concerned.")
    retryable: bool = Field(
        description="Whether another attempt may succeed; else something must be changed before."
    )


class TileCounts(Result):
    """The tiles of a run by their outcome."""

    total: Count = Field(description="Tiles of the plan.")
    done: Count = Field(description="Tiles computed by this run.")
    skipped: Count = Field(description="Tiles that were finished before.")
    failed: tuple[TileFailure, ...] = Field(description="Tiles that failed, in order.")


class DamagedFile(Result):
    """A stored file that is not what was written."""

    tile: str | None = Field(description="Tile concerned; empty for a file that belongs to none.")
    file: str | None = Field(description="File concerned.")
    reason: str = Field(description="What is wrong with it.")


# -- quality -------------------------------------------------------------------------------------


class Accuracy(Result):
    """Agreement of a map with a known truth."""

    overall: Share | None = Field(
        description="Share of pixels with the right class; null where no pixel was compared."
    )
    macro_f1: Share | None = Field(
        description="Mean F1 of the truth's classes with at least 0.5 % of the pixels; likewise."
    )
    n: Count = Field(description="Pixels compared.")

    @field_validator("overall", "macro_f1")
    @classmethod
    def _drop_nan(cls, value: float | None) -> float | None:
        return None if value is None or math.isnan(value) else value


class SeamLine(Result):
    """Result of the seam test for the lines of one kind."""

    z: float = Field(
        description="Excess in standard deviations of what boundaries on no line show on the same "
        "map; without a seam it follows N(0, 1)."
    )
    lines: Count = Field(description="Lines that were compared.")
    rate: NonNegative = Field(
        description="Share of neighbouring pixels that differ in class across the lines, all "
        "boundaries of a line together, or their mean step."
    )
    excess: float = Field(description="Difference between that rate and the rate beside the lines.")
    worst: float = Field(
        description="The same difference at the boundary of the lines where it is largest."
    )


class Proportion(Result):
    """A share of sampled pixels with its 95 % interval."""

    n: Count = Field(description="Pixels sampled.")
    share: Share = Field(description="Share of these pixels.")
    low: Share = Field(description="Lower end of the 95 % interval (Wilson).")
    high: Share = Field(description="Upper end of the 95 % interval (Wilson).")


class Quality(Result):
    """Quality figures of a product that need no truth."""

    window: SeamLine | None = Field(
        description="Lines at which model windows blend; null where there are none, or the map is "
        "too small or too uniform for the test."
    )
    tile: SeamLine | None = Field(description="Lines between tiles, likewise.")
    zone: SeamLine | None = Field(description="Borders of UTM zones on the first mosaic, likewise.")
    disagreement: Proportion | None = Field(
        description="Pixels that get another class where the windows lie half a stride further; "
        "null where none was sampled."
    )
    precision: Proportion | None = Field(
        description="Pixels that keep their class in full precision; null where none was sampled."
    )
    silent: Count = Field(description="Windows without a finite output.")

    @classmethod
    def from_metrics(cls, metrics: QualityMetrics) -> Quality:
        """Build the result from measured figures, rounded as in an item."""
        return Quality.model_validate(metrics.to_dict())


class ProductQuality(Quality):
    """Quality figures of one of several products."""

    item: str = Field(
        description="Path of the product's item; of several products, the one with the largest z."
    )

    @classmethod
    def from_product(cls, item: str, metrics: QualityMetrics) -> ProductQuality:
        """Build the result from a product's item and its measured figures."""
        return cls.model_validate({"item": item, **metrics.to_dict()})


# -- cost ----------------------------------------------------------------------------------------


class ActualUsage(Result):
    """What the tiles of a run took."""

    bytes: Count | None = Field(
        description="Bytes read over the network; null where nothing was counted, as with files of "
        "this machine."
    )
    requests: Count | None = Field(
        description="Requests over the network; null where nothing was counted."
    )
    seconds: NonNegative = Field(description="Seconds of making tiles, all workers side by side.")
    cost: NonNegative | None = Field(description="Cost by the job's prices; null without prices.")


class PlannedUsage(ActualUsage):
    """What the tiles of a run were estimated to take."""

    basis: Basis = Field(
        description="Source of the estimate: a table, or the receipts of earlier runs."
    )


class CostParts(Result):
    """A cost by what it is paid for."""

    cpu: NonNegative = Field(description="Cost of CPU hours.")
    gpu: NonNegative = Field(description="Cost of GPU hours.")
    read: NonNegative = Field(description="Cost of the bytes read.")
    requests: NonNegative = Field(description="Cost of requests.")
    storage: NonNegative = Field(description="Cost of storage.")


class Cost(Result):
    """An estimated cost by the job's prices."""

    currency: str = Field(description="Currency of the job's prices.")
    amount: NonNegative = Field(description="Cost of the run, storage included.")
    low: NonNegative = Field(description="Lower end of the estimate.")
    high: NonNegative = Field(description="Upper end of the estimate.")
    parts: CostParts


# -- run, plan, search, verify -------------------------------------------------------------------


class RunResult(Result):
    """Result of a run: its status, where the product lies, how long it took, how good it is."""

    status: RunStatus = Field(
        description="complete: every tile is there. unchanged: it was finished before, nothing was "
        "done. partial: some tiles failed. failed: tiles failed and nothing is published. refused: "
        "nothing is published, for the given reason."
    )
    reason: str | None = Field(
        description="Why the product is refused: less of the region is observed than "
        "qc.min_observed, or the quality gate is not passed; null where it is not refused."
    )
    item: str | None = Field(
        description="Path of item.json, the STAC item of the product; null where nothing is "
        "published."
    )
    map: str | None = Field(
        description="Path of the COG with the model's output: land cover, the embedding, or the "
        "generated layer; null where none is published."
    )
    quicklook: str | None = Field(
        description="Path of the quicklook PNG; null where none is published."
    )
    tiles: TileCounts
    scenes: Count = Field(description="Scenes of the plan.")
    seconds: dict[str, NonNegative] = Field(
        description="Wall-clock seconds by stage, in the order in which they ran."
    )
    accuracy: Accuracy | None = Field(
        description="Agreement with the known truth, on observed pixels; null where the truth is "
        "not known."
    )
    seam: Quality | None = Field(
        description="Results of the seam test and of repeated inference; null where they were not "
        "measured."
    )
    planned: PlannedUsage | None = Field(
        description="Estimate for the tiles that this run made; null where none was made."
    )
    actual: ActualUsage | None = Field(description="What these tiles took.")
    warnings: Warnings


class PlannedTiles(Result):
    """The tiles of a plan by what a run would do with them."""

    total: Count = Field(description="Tiles of the plan.")
    new: Count = Field(description="Tiles that no run has made yet.")
    skip: Count = Field(description="Tiles that are finished and stay.")
    recompute: Count = Field(description="Tiles whose scenes, recipe or model changed.")


class PlanResult(Result):
    """What a run would do, and what it would take and cost."""

    plan: str | None = Field(description="Path of the plan; null where none was written.")
    tiles: PlannedTiles
    scenes: Count = Field(description="Scenes that would be read.")
    bytes: Count | None = Field(description="Bytes to read, estimated.")
    requests: Count | None = Field(description="Requests over the network, estimated.")
    peak_memory_bytes: Count | None = Field(description="Peak memory of one machine, estimated.")
    seconds: NonNegative | None = Field(description="Seconds of making tiles, estimated.")
    cpu_hours: NonNegative = Field(description="Hours of one core.")
    gpu_hours: NonNegative = Field(description="Hours of one GPU.")
    stored_bytes: Count = Field(description="Bytes of the product's files.")
    uncertainty: NonNegative = Field(
        description="Factor by which the figures may err in either direction."
    )
    basis: Basis = Field(
        description="Source of the figures: a table, or the receipts of earlier runs of the same "
        "product."
    )
    cost: Cost | None = Field(description="Cost by the job's prices; null without prices.")
    warnings: Warnings


class UsedScene(Result):
    """A scene that a run would read."""

    id: str = Field(description="Identifier in the catalog.")
    datetime: DateTime | None = Field(
        description="Time of acquisition, RFC 3339 in UTC with Z; null for what has none (DEM)."
    )
    collection: str = Field(description="Collection in the catalog.")
    modality: Modality = Field(description="Model input that the scene serves.")
    platform: str | None = Field(description="Satellite.")
    tile: str | None = Field(
        description="Cell of the granule: MGRS tile of a Sentinel-2 granule, tile of an elevation "
        "model."
    )
    baseline: str | None = Field(description="Processing baseline.")
    orbit_state: str | None = Field(description="ascending or descending.")
    relative_orbit: int | None = Field(description="Number of the orbit within the repeat cycle.")
    cloud_cover: Percent | None = Field(description="Cloud cover of the whole scene, percent.")
    coverage: Share | None = Field(
        description="Share of the region under the scene's footprint, 0 to 1."
    )


class RefusedScene(Result):
    """A scene that is left out, and why."""

    id: str = Field(description="Identifier in the catalog.")
    reason: str = Field(description="Why it is left out.")
    collection: str | None = Field(
        description="Collection in the catalog; null where the item could not be read so far."
    )
    modality: str | None = Field(description="Model input that the scene would serve.")
    date: Date | None = Field(description="Solar day.")
    coverage: Share | None = Field(
        description="Share of the region under the scene's footprint, 0 to 1."
    )


class DayCoverage(Result):
    """The scenes of one input and day, and how much of the region they cover."""

    modality: Modality = Field(description="Model input that the scenes serve.")
    date: Date | None = Field(description="Solar day; null for what has none (DEM).")
    coverage: Share = Field(
        description="Share of the region under the footprints of the scenes that are used."
    )
    cloud_cover: Percent | None = Field(
        description="Cloud cover of these scenes, percent, weighted by what each covers of the "
        "region."
    )
    used: tuple[str, ...] = Field(description="Identifiers of these scenes.")
    refused: tuple[str, ...] = Field(
        description="Identifiers of the scenes of that day that are left out."
    )


class SearchResult(Result):
    """The scenes that a job would use, and those that it would not."""

    used: tuple[UsedScene, ...]
    refused: tuple[RefusedScene, ...]
    coverage: tuple[DayCoverage, ...] = Field(
        description="One entry for each input and day, inputs together, days in order."
    )
    report: str | None = Field(description="Path of the page that --report wrote.")
    warnings: Warnings


class VerifyResult(Result):
    """Comparison of every stored byte with its receipt."""

    ok: bool = Field(description="Whether nothing is damaged and every quality gate is passed.")
    bad: tuple[DamagedFile, ...] = Field(description="What does not match its receipt.")
    seam: ProductQuality | None = Field(
        description="Quality figures of the stored product; null where no product is complete "
        "enough to measure them."
    )


# -- series and deployments ----------------------------------------------------------------------


class PeriodTiles(Result):
    """The tiles of one period by their outcome."""

    total: Count
    done: Count
    skipped: Count
    failed: Count


class PeriodResult(Result):
    """One period of a series."""

    start: Date = Field(description="First day.")
    end: Date = Field(description="Last day, inclusive.")
    status: PeriodStatus = Field(
        description="Before a run: finished, ready, thin (covered by less than the schedule's "
        "min_coverage, or its product would be refused), gap (no scene), waiting (thin or a gap "
        "whose scenes may still come). After it: the status of the run, or busy (another run works "
        "on this period)."
    )
    item: str | None = Field(description="Path of the product's item; null where there is none.")
    scenes: Count | None = Field(
        description="Scenes used; null where the catalog was not searched."
    )
    coverage: Share | None = Field(
        description="Share of the region under the scenes of the first input with a date."
    )
    cloud_cover: Percent | None = Field(
        description="Mean cloud cover of these scenes as the catalog states it, percent; null "
        "where it states none."
    )
    tiles: PeriodTiles | None = Field(description="Tiles of the run; null where nothing was run.")
    reason: str | None = Field(description="Why it is thin, a gap, outdated, or failed.")


class BackfillResult(Result):
    """The periods of a backfill or a refresh, in the order in which they are made."""

    name: str = Field(description="The job's name.")
    dry_run: bool = Field(description="Whether the periods were only listed.")
    periods: tuple[PeriodResult, ...] = Field(description="In the order in which they are made.")


class Deployment(Result):
    """One deployment on the Prefect server."""

    name: str = Field(description="Name, as flow/job.")
    id: str = Field(description="Identifier of the deployment.")
    cron: str | None = Field(
        description="Schedule as a cron expression; null where the deployment runs on demand only."
    )
    timezone: str | None = Field(description="Time zone of the schedule.")
    queue: str = Field(description="Work queue; workers take scheduled runs first.")


class DeployResult(Result):
    """The deployments that are registered on the Prefect server."""

    pool: str = Field(description="Work pool.")
    deployments: tuple[Deployment, ...]


class CountryAccuracy(Result):
    """Overall accuracy on one synthetic country."""

    model: float = Field(description="Of the model.")
    model_without_tokens: float = Field(description="With the encoder's tokens set to zero.")
    per_pixel_qda: float = Field(description="Of a Gaussian classifier of single pixels.")


class TrainResult(Result):
    """The weights that were trained. Its keys are not fixed yet, so that it has no schema."""

    weights: str = Field(description="Path of the weights.")
    card: str = Field(description="Path of the page that describes them.")
    sha256: str = Field(description="Checksum of the weights.")
    bytes: Count = Field(description="Size of the weights.")
    seconds: NonNegative = Field(description="Time of the training, countries included.")
    test_countries: dict[str, CountryAccuracy] = Field(
        description="Accuracy by the seed of countries that it was not trained on."
    )
    real_places: dict[str, float] = Field(description="Accuracy on real land; empty.")


class ErrorResult(Result):
    """Output of a command that fails, instead of its result."""

    error: str = Field(description="What is wrong, why, and what to do.")
    exit_code: Literal[1, 2, 3] = Field(description="The exit code of the command.")
