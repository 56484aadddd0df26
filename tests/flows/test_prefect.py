"""Progress in Prefect: the work never waits for a server that does not answer."""

from __future__ import annotations

import datetime as dt
import threading
import time
from uuid import uuid4

import pytest

from flows.orchestration import artifacts, concurrency


@pytest.fixture
def sent_progress(monkeypatch):
    """Return a list of the progress values sent to Prefect."""
    values = []
    monkeypatch.setattr(
        artifacts.prefect_artifacts, "create_progress_artifact", lambda *_, **__: uuid4()
    )
    monkeypatch.setattr(
        artifacts.prefect_artifacts,
        "update_progress_artifact",
        lambda _identity, progress: values.append(progress),
    )
    return values


def _create_progress(*, every):
    """Return a progress whose clock advances by ``every`` seconds at each reading."""
    moments = iter(range(0, 10_000, every))
    return artifacts.PrefectProgress("product", clock=lambda: float(next(moments)))


def test_progress_is_sent_at_intervals_and_at_the_end(sent_progress):
    prefect_progress = _create_progress(every=1)
    prefect_progress.start_stage("tiles", 40)
    for _ in range(40):
        prefect_progress.advance()
        time.sleep(0.002)
    prefect_progress.finish()
    assert sent_progress[-1] == 100.0
    assert 2 < len(sent_progress) < 20
    assert sent_progress == sorted(sent_progress)


def test_other_stages_send_no_progress(sent_progress):
    prefect_progress = _create_progress(every=9)
    prefect_progress.start_stage("verify", 3)
    prefect_progress.advance()
    prefect_progress.finish()
    assert sent_progress == []


def test_tiles_do_not_wait_for_a_server_that_does_not_answer(monkeypatch, sent_progress):
    release = threading.Event()
    monkeypatch.setattr(artifacts, "FINISH_TIMEOUT", 0.2)
    monkeypatch.setattr(
        artifacts.prefect_artifacts,
        "update_progress_artifact",
        lambda _identity, progress: (release.wait(60), sent_progress.append(progress)),
    )
    prefect_progress = _create_progress(every=9)
    start = time.monotonic()
    prefect_progress.start_stage("tiles", 40)
    for _ in range(40):
        prefect_progress.advance()
    prefect_progress.finish()
    assert time.monotonic() - start < 10
    assert sent_progress == []
    release.set()


def test_a_failed_update_does_not_end_the_run(monkeypatch, sent_progress, caplog):
    def fail(_identity, progress):
        raise ConnectionRefusedError(progress)

    monkeypatch.setattr(artifacts.prefect_artifacts, "update_progress_artifact", fail)
    prefect_progress = _create_progress(every=9)
    prefect_progress.start_stage("tiles", 2)
    prefect_progress.advance(2)
    prefect_progress.finish()
    assert "update_progress could not be shown in Prefect" in caplog.text


@pytest.mark.parametrize(
    ("state_type", "minutes", "alive"),
    [("RUNNING", 600, True), ("PENDING", 1, True), ("PENDING", 3, False)],
)
def test_a_run_that_stays_pending_is_not_alive(state_type, minutes, alive):
    now = dt.datetime(2024, 6, 1, tzinfo=dt.UTC)
    state = concurrency.State(type=state_type, timestamp=now - dt.timedelta(minutes=minutes))
    assert concurrency.is_alive(state, now) is alive
    assert not concurrency.is_alive(None, now)
