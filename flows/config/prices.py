"""Section ``prices`` of a job."""

from __future__ import annotations

from pydantic import Field, model_validator

from flows.config.base import ConfigModel

UNIT_PRICES = ("cpu_hour", "gpu_hour", "gb_read", "thousand_requests", "gb_month")
"""Keys of which at least one has a price."""


class Prices(ConfigModel):
    """Unit prices; what has no price costs nothing."""

    currency: str = Field(
        title="Currency of all prices",
        default="EUR",
        pattern=r"^[A-Z]{3}$",
        description="three letters, as in EUR",
    )
    cpu_hour: float = Field(
        title="Price of computing on CPUs",
        default=0.0,
        ge=0,
        description="the price of one core for an hour",
    )
    gpu_hour: float = Field(
        title="Price of computing on GPUs",
        default=0.0,
        ge=0,
        description="the price of one GPU for an hour",
    )
    gb_read: float = Field(
        title="Price of reading",
        default=0.0,
        ge=0,
        description="the price of 1 GB (10^9 bytes) read over the network",
    )
    thousand_requests: float = Field(
        title="Price of requests", default=0.0, ge=0, description="the price of 1000 requests"
    )
    gb_month: float = Field(
        title="Price of storage",
        default=0.0,
        ge=0,
        description="the price of storing 1 GB for a month",
    )
    months: float = Field(
        title="Time for which products are stored",
        default=12.0,
        ge=0,
        description="the number of months that products are stored",
    )

    @model_validator(mode="after")
    def _check_any_price(self) -> Prices:
        if not any(getattr(self, key) for key in UNIT_PRICES):
            *keys, last_key = UNIT_PRICES
            raise ValueError(f"name at least one price: {', '.join(keys)} or {last_key}.")
        return self
