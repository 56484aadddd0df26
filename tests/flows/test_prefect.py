"""What is shown in Prefect is shown beside the work, which waits for nobody who is gone."""

from __future__ import annotations

import datetime as dt
import threading
import time
from uuid import uuid4

import pytest

from flows.orchestration import artifacts, concurrency


@pytest.fixture
def shown(monkeypatch):
    """Return the shares that a bar was moved to."""
    found = []
    monkeypatch.setattr(
        artifacts.prefect_artifacts, "create_progress_artifact", lambda *_, **__: uuid4()
    )
    monkeypatch.setattr(
        artifacts.prefect_artifacts,
        "update_progress_artifact",
        lambda _identity, progress: found.append(progress),
    )
    return found


def _board(*, every):
    """Return a board whose clock goes on by so many seconds with each look."""
    moments = iter(range(0, 10_000, every))
    return artifacts.PrefectProgress("product", clock=lambda: float(next(moments)))


def test_a_bar_moves_now_and_then_and_ends_where_the_work_ended(shown):
    board = _board(every=1)
    board.start_stage("tiles", 40)
    for _ in range(40):
        board.advance()
        time.sleep(0.002)
    board.finish()
    assert shown[-1] == 100.0
    assert 2 < len(shown) < 20
    assert shown == sorted(shown)


def test_other_stages_have_no_bar(shown):
    board = _board(every=9)
    board.start_stage("verify", 3)
    board.advance()
    board.finish()
    assert shown == []


def test_tiles_do_not_wait_for_a_server_that_is_away(monkeypatch, shown):
    back = threading.Event()
    monkeypatch.setattr(artifacts, "FINISH_TIMEOUT", 0.2)
    monkeypatch.setattr(
        artifacts.prefect_artifacts,
        "update_progress_artifact",
        lambda _identity, progress: (back.wait(60), shown.append(progress)),
    )
    board = _board(every=9)
    began = time.monotonic()
    board.start_stage("tiles", 40)
    for _ in range(40):
        board.advance()
    board.finish()
    assert time.monotonic() - began < 10
    assert shown == []
    back.set()


def test_what_cannot_be_shown_ends_nothing(monkeypatch, shown, caplog):
    def away(_identity, progress):
        raise ConnectionRefusedError(progress)

    monkeypatch.setattr(artifacts.prefect_artifacts, "update_progress_artifact", away)
    board = _board(every=9)
    board.start_stage("tiles", 2)
    board.advance(2)
    board.finish()
    assert "update_progress could not be shown in Prefect" in caplog.text


@pytest.mark.parametrize(
    ("kind", "minutes", "alive"),
    [("RUNNING", 600, True), ("PENDING", 1, True), ("PENDING", 3, False)],
)
def test_a_run_that_never_begins_is_not_given_way_to(kind, minutes, alive):
    now = dt.datetime(2024, 6, 1, tzinfo=dt.UTC)
    state = concurrency.State(type=kind, timestamp=now - dt.timedelta(minutes=minutes))
    assert concurrency.is_alive(state, now) is alive
    assert not concurrency.is_alive(None, now)
