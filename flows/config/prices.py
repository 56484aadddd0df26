"""Section ``prices`` of a job, and the cost of an estimate at these prices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from flows.config.base import ConfigModel

if TYPE_CHECKING:
    from pipeline.resource_estimate import CostEstimate

BYTES_PER_GB = 1e9


class Prices(ConfigModel):
    """Unit prices; what has no price costs nothing."""

    currency: str = Field(
        default="EUR", pattern=r"^[A-Z]{3}$", description="three letters, as in EUR"
    )
    cpu_hour: float = Field(default=0.0, ge=0, description="the price of one core for an hour")
    gpu_hour: float = Field(default=0.0, ge=0, description="the price of one GPU for an hour")
    gb_read: float = Field(
        default=0.0, ge=0, description="the price of 1 GB (10^9 bytes) read over the network"
    )
    thousand_requests: float = Field(default=0.0, ge=0, description="the price of 1000 requests")
    gb_month: float = Field(default=0.0, ge=0, description="the price of storing 1 GB for a month")
    months: float = Field(
        default=12.0, ge=0, description="the number of months that products are stored"
    )

    @model_validator(mode="after")
    def _check_any_price(self) -> Prices:
        unit_prices = (
            self.cpu_hour, self.gpu_hour, self.gb_read, self.thousand_requests, self.gb_month
        )  # fmt: skip
        if not any(unit_prices):
            raise ValueError(
                "name at least one price: cpu_hour, gpu_hour, gb_read, thousand_requests or "
                "gb_month."
            )
        return self

    def compute_parts(
        self,
        *,
        cpu_hours: float,
        gpu_hours: float,
        bytes_read: float,
        requests: float,
        bytes_stored: float,
    ) -> dict[str, float]:
        """Return the cost of each resource: cpu, gpu, read, requests and storage."""
        parts = {
            "cpu": cpu_hours * self.cpu_hour,
            "gpu": gpu_hours * self.gpu_hour,
            "read": bytes_read / BYTES_PER_GB * self.gb_read,
            "requests": requests / 1000 * self.thousand_requests,
            "storage": bytes_stored / BYTES_PER_GB * self.gb_month * self.months,
        }
        return {name: round(amount, 6) for name, amount in parts.items()}

    def compute_cost(self, estimate: CostEstimate) -> dict[str, Any]:
        """Return the cost of an estimate: amount, low and high end of its range, and parts."""
        parts = self.compute_parts(
            cpu_hours=estimate.cpu_hours,
            gpu_hours=estimate.gpu_hours,
            bytes_read=estimate.remote_bytes,
            requests=estimate.requests,
            bytes_stored=estimate.stored_bytes,
        )
        amount = sum(parts.values())
        return {
            "currency": self.currency,
            "amount": round(amount, 4),
            "low": round(amount / estimate.uncertainty, 4),
            "high": round(amount * estimate.uncertainty, 4),
            "parts": parts,
        }
