"""Runs that were kept on disk reach the server, and what does not is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import wandb
from helpers.tracked_runs import config as config_of
from helpers.tracked_runs import due_rows, shown_rows, track, write_shared
from helpers.wandb_server import StandIn

from raise_mdit.errors import RunError
from raise_mdit.progress import Silent
from raise_mdit.wandb_mirror import service
from raise_mdit.wandb_mirror import sync as sync_module
from raise_mdit.wandb_mirror.sync import Synced, sync


def test_a_moved_offline_run_arrives_whole_and_only_once(server: StandIn, tmp_path: Path) -> None:
    track(tmp_path / "before", "offline", "random", "ppo")
    directory = tmp_path / "after"
    shutil.move(tmp_path / "before", directory)

    first = sync(directory, progress=Silent())
    num_artifacts = len(server.artifacts)
    second = sync(directory, progress=Silent())

    assert first == Synced("lab/study", num_runs=2, num_rows=16, num_artifacts=5, num_sent=2)
    assert second == first._replace(num_sent=0)
    assert len(server.artifacts) == num_artifacts
    for policy in ("random", "ppo"):
        assert shown_rows(server.named(f"{policy}/s0").rows) == due_rows(directory, policy)
        assert server.named(f"{policy}/s0").config["policy_name"] == policy
        assert server.named(f"{policy}/s0").axes["tuning/loss"] == "tuning/step"
        assert "picks" in server.named(f"{policy}/s0").summary
    (pool,) = server.committed("pool")
    assert pool.files["pool.parquet"] == (directory / "pool.parquet").read_bytes()
    assert "comparison" in server.named("comparison").summary


def test_an_artifact_that_never_arrived_is_sent_again(server: StandIn, tmp_path: Path) -> None:
    track(tmp_path / "run", "online", "ppo")
    (policy,) = server.committed("policy")
    policy.state = "PENDING"

    synced = sync(tmp_path / "run", progress=Silent())

    (again,) = server.committed("policy")
    assert synced.num_sent == 1
    assert again.files == policy.files


def test_what_has_not_arrived_is_named(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    track(tmp_path / "run", "offline", "ppo")
    monkeypatch.setattr(sync_module, "ARRIVAL_SECONDS", 0.0)
    monkeypatch.setattr(sync_module, "_replay", lambda directory, arms: None)

    with pytest.raises(RunError) as told:
        sync(tmp_path / "run", progress=Silent())

    message = str(told.value)
    assert "8 of 8 rows of ppo-s0" in message
    assert "policy which-policy-ppo-s0-policy:sha256-" in message
    assert "table 'picks' of ppo-s0" in message


def test_a_run_whose_log_was_deleted_is_named(server: StandIn, tmp_path: Path) -> None:
    track(tmp_path / "run", "offline", "random")
    shutil.rmtree(tmp_path / "run" / "tracking")
    with pytest.raises(RunError, match=r"offline-run-.*no such folder"):
        sync(tmp_path / "run", progress=Silent())


def test_a_run_that_was_not_tracked_is_refused(server: StandIn, tmp_path: Path) -> None:
    write_shared(tmp_path, config_of("offline"))
    with pytest.raises(RunError, match="no finished policy of it was tracked"):
        sync(tmp_path, progress=Silent())


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run directory"):
        sync(tmp_path, progress=Silent())


def test_a_service_that_is_down_is_the_users_to_know(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise wandb.Error("no server")

    track(tmp_path / "run", "offline", "random")
    monkeypatch.setattr(service, "log_in", fail)
    with pytest.raises(RunError, match="Weights & Biases: no server"):
        sync(tmp_path / "run", progress=Silent())
