"""Runs that were kept on disk reach the server, and what does not is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import wandb
from helpers.tracked_runs import (
    DEAD_SERVER,
    TrackedOnline,
    due_rows,
    lineage_of,
    shown_rows,
    write_shared,
)
from helpers.tracked_runs import config as config_of
from helpers.wandb_server import StandIn

from raise_mdit.errors import RunError
from raise_mdit.progress import Silent
from raise_mdit.wandb_mirror import service
from raise_mdit.wandb_mirror import sync as sync_module
from raise_mdit.wandb_mirror.sync import Synced, sync


def test_a_moved_offline_run_arrives_whole_and_only_once(server: StandIn, offline: Path) -> None:
    first = sync(offline, progress=Silent())
    num_artifacts = len(server.served.artifacts)
    second = sync(offline, progress=Silent())

    assert first == Synced("lab/study", num_runs=2, num_rows=16, num_artifacts=5, num_sent=2)
    assert second == first._replace(num_sent=0)
    assert len(server.served.artifacts) == num_artifacts
    for policy in ("random", "ppo"):
        run = server.served.named(f"{policy}/s0")
        assert shown_rows(run.rows) == due_rows(offline, policy)
        assert run.config["policy_name"] == policy
        assert run.axes["tuning/loss"] == "tuning/step"
        assert "picks" in run.summary
    (pool,) = server.served.committed("pool")
    assert pool.files["pool.parquet"] == (offline / "pool.parquet").read_bytes()
    assert "comparison" in server.served.named("comparison").summary
    assert lineage_of("ppo") <= server.served.lineage()


@pytest.mark.parametrize("stage", ["policy", "schedule"])
def test_an_artifact_that_never_arrived_is_sent_again(
    server: StandIn, online: TrackedOnline, tmp_path: Path, stage: str
) -> None:
    directory = shutil.copytree(online.directory, tmp_path / online.directory.name)
    server.begin(online.served)
    (lost,) = (each for each in server.served.committed(stage) if "ppo" in each.name)
    lost.state = "PENDING"

    synced = sync(directory, progress=Silent())

    (again,) = (each for each in server.served.committed(stage) if "ppo" in each.name)
    assert synced.num_sent == 1
    assert again.files == lost.files
    assert lineage_of("ppo") <= server.served.lineage()


def test_what_has_not_arrived_is_named(
    server: StandIn, offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_module, "ARRIVAL_SECONDS", 0.0)
    monkeypatch.setattr(sync_module, "_replay", lambda directory, arms: None)

    with pytest.raises(RunError) as told:
        sync(offline, progress=Silent())

    message = str(told.value)
    assert "8 of 8 rows of ppo-s0" in message
    assert "policy which-policy-ppo-s0-policy:sha256-" in message
    assert "schedule which-policy-ppo-s0-schedule:sha256-" in message
    assert "table 'picks' of ppo-s0" in message


def test_a_run_whose_log_was_deleted_is_named(server: StandIn, offline: Path) -> None:
    shutil.rmtree(offline / "tracking")
    with pytest.raises(RunError, match=r"offline-run-.*no such folder"):
        sync(offline, progress=Silent())


def test_a_run_that_was_not_tracked_is_refused(server: StandIn, tmp_path: Path) -> None:
    write_shared(tmp_path, config_of("offline"))
    with pytest.raises(RunError, match="no finished policy of it was tracked"):
        sync(tmp_path, progress=Silent())


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run directory"):
        sync(tmp_path, progress=Silent())


def test_a_service_that_fails_is_the_users_to_know(
    server: StandIn, offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*, verify: bool = True) -> None:
        raise wandb.Error("not this key")

    monkeypatch.setattr(service, "log_in", fail)
    with pytest.raises(RunError, match="Weights & Biases: not this key"):
        sync(offline, progress=Silent())


def test_a_server_that_is_not_there_is_named(offline: Path, no_server: None) -> None:
    with pytest.raises(RunError, match=rf"{DEAD_SERVER} does not answer .*WANDB_BASE_URL"):
        sync(offline, progress=Silent())
