"""Training is never disturbed, and nothing is lost, whatever the service does."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.tracked_runs import (
    DEAD_SERVER,
    TrackedOnline,
    conclude,
    config,
    due_rows,
    lineage_of,
    play,
    shown_rows,
    track,
    tracker_of,
    write_shared,
)
from helpers.wandb_server import StandIn

from raise_mdit.progress import Silent
from raise_mdit.wandb_mirror import service, stages
from raise_mdit.wandb_mirror.sync import sync


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the service up after three seconds, not a minute."""
    monkeypatch.setattr(service, "FINISH_TIMEOUT", 3.0)
    monkeypatch.setattr(service, "API_TIMEOUT", 3)
    monkeypatch.setattr(stages, "API_TIMEOUT", 3)


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
    assert shown_rows(server.served.named("ppo/s0").rows) == due_rows(directory, "ppo")
    kinds = ("pool", "features", "policy", "schedule")
    assert [len(server.served.committed(kind)) for kind in kinds] == [1, 1, 1, 2]
    assert "comparison" in server.served.named("comparison").summary
    assert lineage_of("ppo") <= server.served.lineage()
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
        assert shown_rows(server.served.named(f"{policy}/s0").rows) == due_rows(directory, policy)
    assert len(server.served.committed("schedule")) == 3
    assert lineage_of("ppo") <= server.served.lineage()


@pytest.mark.parametrize(
    ("lack", "named"), [("no_key", "WANDB_API_KEY"), ("no_server", DEAD_SERVER)]
)
def test_what_is_missing_at_the_start_is_one_line_and_runs_are_kept_on_disk(
    request: pytest.FixtureRequest,
    server: StandIn,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    lack: str,
    named: str,
) -> None:
    request.getfixturevalue(lack)
    track(tmp_path / "run", "online", "random", "ppo")
    (line,) = warnings(caplog)
    assert named in line
    assert capfd.readouterr() == ("", "")
    assert len([*tmp_path.glob("run/tracking/wandb/offline-run-*/*.wandb")]) == 2
    assert [*tmp_path.glob("run/tracking/wandb/run-*")] == [], "a half-made online run stayed"


def test_a_fault_of_ours_is_not_hidden(
    server: StandIn, online: TrackedOnline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(folder: Path) -> None:
        raise KeyError("ours")

    server.begin(online.served)
    monkeypatch.setattr(stages, "picks_table", broken)
    with pytest.raises(KeyError, match="ours"):
        track(tmp_path / "run", "online", "random")
