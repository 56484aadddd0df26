"""Section ``execution`` of a job."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator

from flows.config.base import ConfigModel, check_choice
from pipeline.runtime.worker_count import worker_range

PATCH_SIZE = 16
"""Side of a model's patch, pixels: tiles consist of whole patches."""


class WorkerRange(ConfigModel):
    """Smallest and largest number of workers of an adaptive cluster."""

    min: int = Field(title="Fewest workers", description="a whole number")
    max: int = Field(title="Most workers", description="a whole number")


MAX_WORKERS = 4096


class Execution(ConfigModel):
    """How tiles are computed; these keys do not change the meaning of a tile."""

    tile: int = Field(
        title="Side of a tile, the unit of work",
        default=2048,
        ge=PATCH_SIZE,
        le=65_536,
        description=f"pixels on a side, a multiple of {PATCH_SIZE} from {PATCH_SIZE} to 65536",
    )
    engine: str = Field(
        title="What computes the tiles",
        default="threads",
        description="threads, distributed or tcp://HOST:PORT",
    )
    workers: Literal["auto"] | int | WorkerRange = Field(
        title="Tiles that are computed in parallel",
        default="auto",
        description=f"auto, a whole number from 1 to {MAX_WORKERS}, or {{min: 1, max: 8}} to "
        "scale with the work",
    )
    device: str = Field(
        title="Device of the model", default="auto", description="auto, cpu, cuda or cuda:N"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        title="Precision of the model", default="auto", description="auto, fp32 or bf16"
    )
    batch: Literal["auto"] | int = Field(
        title="Windows that the model predicts at once",
        default="auto",
        description="auto or a whole number >= 1",
    )
    slot: str | None = Field(
        title="Name under which deployed runs take turns",
        default=None,
        pattern=r"^[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?$",
        description="a name in lower case: deployed runs with the same slot take turns, as on one "
        "GPU; by default gpu if the model runs on a GPU",
    )
    max_hours: float | None = Field(
        title="Limit of the time of a run",
        default=None,
        gt=0,
        le=8760,
        description="hours after which a run stops making tiles; the next run resumes",
    )

    @field_validator("tile")
    @classmethod
    def _check_tile_size(cls, value: int) -> int:
        if value % PATCH_SIZE:
            below = value - value % PATCH_SIZE
            raise ValueError(
                f"{value} is not a multiple of {PATCH_SIZE}: use {below} or {below + PATCH_SIZE}."
            )
        return value

    @field_validator("workers", mode="before")
    @classmethod
    def _check_workers(cls, value: Any) -> Any:
        limits = list(value.values()) if isinstance(value, dict) else [value]
        valid = all(type(limit) is int and 1 <= limit <= MAX_WORKERS for limit in limits)
        if (
            isinstance(value, WorkerRange)
            or value == "auto"
            or (valid and not isinstance(value, dict))
        ):
            return value
        if isinstance(value, dict) and set(value) == {"min", "max"} and valid:
            if value["min"] <= value["max"]:
                return value
            raise ValueError(f"min {value['min']} is more than max {value['max']}.")
        raise ValueError(
            f"{value!r} is neither auto, nor a whole number from 1 to {MAX_WORKERS}, nor a "
            "range of them as in {min: 1, max: 8}."
        )

    @property
    def max_parallel_tiles(self) -> int:
        """Return the largest number of tiles in parallel that ``workers`` allows."""
        return worker_range(
            self.workers.model_dump() if isinstance(self.workers, WorkerRange) else self.workers
        )[1]

    @field_validator("engine")
    @classmethod
    def _check_engine(cls, value: str) -> str:
        address = re.fullmatch(r"(tcp|tls)://[^\s/:]+:([0-9]{1,5})", value)
        if address and 0 < int(address[2]) < 2**16:
            return value
        return check_choice(
            value, ("threads", "distributed"), "engine", extra_choices=", tcp://HOST:PORT"
        )

    @field_validator("device")
    @classmethod
    def _check_device(cls, value: str) -> str:
        if re.fullmatch(r"cuda:[0-9]{1,3}", value):
            return value
        return check_choice(value, ("auto", "cpu", "cuda"), "device", extra_choices=", cuda:N")

    @field_validator("batch", mode="before")
    @classmethod
    def _check_batch(cls, value: Any) -> Any:
        if value == "auto" or (isinstance(value, int) and value is not True and value >= 1):
            return value
        raise ValueError(f"{value!r} is neither auto nor a whole number >= 1.")
