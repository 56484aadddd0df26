"""What computing, reading and keeping cost, as a job states it, and what a run costs by that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from flows.config.base import ConfigModel

if TYPE_CHECKING:
    from pipeline.cost_model import CostEstimate

BYTES_PER_GB = 1e9


class Prices(ConfigModel):
    """The price list of whoever pays; what is not named costs nothing."""

    currency: str = Field(
        default="EUR", pattern=r"^[A-Z]{3}$", description="three letters, as in EUR"
    )
    cpu_hour: float = Field(default=0.0, ge=0, description="of one core, for an hour")
    gpu_hour: float = Field(default=0.0, ge=0, description="of one GPU, for an hour")
    gb_read: float = Field(
        default=0.0, ge=0, description="of 1 GB (10^9 bytes) that comes over the network"
    )
    thousand_requests: float = Field(default=0.0, ge=0, description="of 1000 requests")
    gb_month: float = Field(default=0.0, ge=0, description="of 1 GB that is kept, for a month")
    months: float = Field(default=12.0, ge=0, description="for which products are kept")

    @model_validator(mode="after")
    def _check_any_price(self) -> Prices:
        named = (
            self.cpu_hour, self.gpu_hour, self.gb_read, self.thousand_requests, self.gb_month
        )  # fmt: skip
        if not any(named):
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
        """Return what each kind of thing costs; bytes read and stored."""
        found = {
            "cpu": cpu_hours * self.cpu_hour,
            "gpu": gpu_hours * self.gpu_hour,
            "read": bytes_read / BYTES_PER_GB * self.gb_read,
            "requests": requests / 1000 * self.thousand_requests,
            "storage": bytes_stored / BYTES_PER_GB * self.gb_month * self.months,
        }
        return {name: round(amount, 6) for name, amount in found.items()}

    def compute_cost(self, estimate: CostEstimate) -> dict[str, Any]:
        """Return what an estimate costs, with the range that it may lie in."""
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
