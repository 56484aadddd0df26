"""What every floor's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from catalogs.sources import http_client

settings.register_profile("suite", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("suite")
# ^ a slow machine is not a failure, and a red run must be red again


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Return the folder of real scenes and documents."""
    folder = os.environ.get("TERRAMOSAIC_REALDATA")
    if not folder:
        pytest.skip("TERRAMOSAIC_REALDATA is unset: no real scenes here")
    return Path(folder)


@pytest.fixture(scope="session", autouse=True)
def _own_prefect_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["PREFECT_HOME"] = str(tmp_path_factory.mktemp("prefect"))
    os.environ["DO_NOT_TRACK"] = "1"


@pytest.fixture(scope="session", autouse=True)
def _own_weights_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("weights")
    os.environ["TERRAMOSAIC_HOME"] = str(home)
    os.environ["HF_HUB_CACHE"] = str(home / "hub")
    os.environ.pop("TERRAMOSAIC_WEIGHTS", None)
    # ^ what a developer has fetched and pinned is neither used nor changed


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait a hundredth of the time between two requests to a busy catalog."""
    original = http_client.build_retry_policy
    monkeypatch.setattr(
        http_client, "build_retry_policy", lambda: original().new(backoff_factor=0.003)
    )
