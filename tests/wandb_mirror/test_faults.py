"""Training is never disturbed, and nothing is lost, whatever the service does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
from helpers.tracked_runs import (
    conclude,
    config,
    due_rows,
    play,
    shown_rows,
    track,
    tracker_of,
    write_shared,
)
from helpers.wandb_server import StandIn

from raise_mdit.progress import Silent
from raise_mdit.wandb_mirror import run_tracker, service, stages
from raise_mdit.wandb_mirror.sync import sync

DEAD_SERVER = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the service up after three seconds, not a minute."""
    monkeypatch.setattr(service, "FINISH_TIMEOUT", 3.0)
    monkeypatch.setattr(service, "API_TIMEOUT", 3)
    monkeypatch.setattr(stages, "API_TIMEOUT", 3)


@pytest.fixture
def fresh_client() -> Iterator[None]:
    """A client that reads its environment again, for this test alone."""
    wandb.teardown()
    yield
    wandb.teardown()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name.startswith("raise_mdit")]


def test_errors_of_the_server_lose_no_row_and_no_artifact(
    server: StandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(service, "FINISH_TIMEOUT", 60.0)  # it tries again after seconds
    directory = tmp_path / "run"
    experiment = config("online")
    write_shared(directory, experiment)
    tracker = tracker_of(directory, experiment)
    results = [play(tracker, directory, "random")]
    server.failures["graphql"] = [502]
    server.failures["file_stream"] = [500, 429]
    server.failures["upload"] = [500, 502]
    results.append(play(tracker, directory, "ppo"))
    conclude(directory, results)
    tracker.conclude()
    assert not any(server.failures.values()), "not all faults were met"
    assert shown_rows(server.named("ppo/s0").rows) == due_rows(directory, "ppo")
    kinds = ("pool", "features", "policy", "schedule")
    assert [len(server.committed(kind)) for kind in kinds] == [1, 1, 1, 2]
    assert "comparison" in server.named("comparison").summary
    assert warnings(caplog) == []


def test_a_server_that_dies_is_one_warning_and_sync_brings_the_rest(
    server: StandIn,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    directory = tmp_path / "run"
    experiment = config("online")
    write_shared(directory, experiment)
    tracker = tracker_of(directory, experiment)
    results = [play(tracker, directory, "random")]
    server.is_down = True
    results += [play(tracker, directory, policy) for policy in ("ppo", "greats")]
    conclude(directory, results)
    tracker.conclude()
    (line,) = warnings(caplog)
    assert line.startswith("W&B is offline from here on: ")
    assert f"raise-mdit sync {directory}" in line
    assert "\n" not in line
    assert capfd.readouterr() == ("", "")

    server.is_down = False
    synced = sync(directory, progress=Silent())

    assert (synced.num_runs, synced.num_sent) == (3, 2)
    for policy in ("random", "ppo", "greats"):
        assert shown_rows(server.named(f"{policy}/s0").rows) == due_rows(directory, policy)
    assert len(server.committed("schedule")) == 3


@pytest.mark.usefixtures("fresh_client")
def test_a_missing_key_falls_back_to_offline_with_one_line(
    server: StandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    track(tmp_path / "run", "online", "random", "ppo")
    (line,) = warnings(caplog)
    assert "WANDB_API_KEY" in line
    assert capfd.readouterr() == ("", "")
    assert len([*tmp_path.glob("run/tracking/wandb/offline-run-*/*.wandb")]) == 2


@pytest.mark.usefixtures("fresh_client")
def test_a_server_that_is_not_there_falls_back_to_offline_with_one_line(
    server: StandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", DEAD_SERVER)
    track(tmp_path / "run", "online", "random", "ppo")
    (line,) = warnings(caplog)
    assert DEAD_SERVER in line
    assert capfd.readouterr() == ("", "")
    assert len([*tmp_path.glob("run/tracking/wandb/offline-run-*/*.wandb")]) == 2
    assert [*tmp_path.glob("run/tracking/wandb/run-*")] == [], "a half-made online run stayed"


def test_a_fault_of_ours_is_not_hidden(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(folder: Path) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(run_tracker, "picks_table", broken)
    with pytest.raises(KeyError, match="ours"):
        track(tmp_path / "run", "online", "random")
