"""Prefect's server: whether there is one, and what is set before Prefect is imported."""

from __future__ import annotations

import logging
import os

from catalogs.errors import TerramosaicError

log = logging.getLogger(__name__)

PREFECT_DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    # ^ nothing is sent anywhere, and nothing waits for an answer on an offline machine
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    # ^ Prefect's own default is a pickle, which is a program to whoever reads it
}


def prepare_environment() -> None:
    """Set what the user has not set. Call it before Prefect is imported."""
    for name, value in PREFECT_DEFAULTS.items():
        os.environ.setdefault(name, value)


class _ServerState:
    has_answered = False


def resolve_api_url() -> str | None:
    """Return the address of the server that the environment or a profile of Prefect names.

    One that has answered before and does so no longer is done without: None.

    Raises:
        TerramosaicError: none answers there.
    """
    prepare_environment()
    from prefect.settings import get_current_settings  # noqa: PLC0415

    # ^ takes a second to import
    named = get_current_settings().api.url
    if named is None:
        return None
    reason = check_health()
    if reason is None:
        _ServerState.has_answered = True
    elif _ServerState.has_answered or "PREFECT__FLOW_RUN_ID" in os.environ:
        # ^ within a flow run: whoever began it was told by the server
        log.warning("Prefect's server at %s no longer answers: the run goes on alone", named)
        return None
    else:
        raise TerramosaicError(
            f"Prefect's server at {named} does not answer ({reason}). Start it; or run without "
            "one: unset PREFECT_API_URL, or take it out of Prefect's profile."
        )
    return named


def is_unreachable(error: Exception) -> bool:
    """Tell whether an error means that the server is away, or was for a moment."""
    kinds = {one.__name__ for one in type(error).__mro__}
    # ^ of httpx, which Prefect brings along
    if "HTTPStatusError" in kinds:
        return bool(getattr(error, "response").status_code >= 500)  # noqa: B009
    return "TransportError" in kinds or check_health() is not None


def check_health() -> Exception | None:
    """Return why the server does not answer; None where it does."""
    from prefect.client.orchestration import get_client  # noqa: PLC0415

    # ^ takes a second to import
    with get_client(sync_client=True) as client:
        return client.api_healthcheck()


def enable_info_logging() -> None:
    """Let a flow's process say on its own stream what it waits for; all else is in its journal."""
    for name in ("flows", "pipeline", "catalogs"):
        logging.getLogger(name).setLevel(logging.INFO)
