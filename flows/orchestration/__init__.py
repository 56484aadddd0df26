"""Prefect flows, deployments, artifacts, concurrency and cancellation."""
