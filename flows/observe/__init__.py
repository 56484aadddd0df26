"""Progress, run logs and metrics."""
