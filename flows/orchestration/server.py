"""The Prefect server: its address and health, and the log level of a flow's process."""

from __future__ import annotations

import logging

from catalogs.errors import TerramosaicError


def resolve_api_url() -> str | None:
    """Return the address of the server that the environment or a profile of Prefect names.

    Returns:
        The address; None where no server is named.

    Raises:
        TerramosaicError: the server does not answer.
    """
    from prefect.settings import get_current_settings  # noqa: PLC0415

    # ^ takes a second to import
    url = get_current_settings().api.url
    error = check_health() if url is not None else None
    if error is not None:
        raise TerramosaicError(
            f"Prefect's server at {url} does not answer ({error}). Start it; or run without "
            "one: unset PREFECT_API_URL, or take it out of Prefect's profile."
        )
    return url


def check_health() -> Exception | None:
    """Return why the server does not answer; None where it does."""
    from prefect.client.orchestration import get_client  # noqa: PLC0415

    # ^ takes a second to import
    with get_client(sync_client=True) as client:
        return client.api_healthcheck()


def enable_info_logging() -> None:
    """Log on level INFO in a flow's process; the details of a run are in its own log file."""
    for name in ("flows", "pipeline", "catalogs"):
        logging.getLogger(name).setLevel(logging.INFO)
