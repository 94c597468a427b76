import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import wandb

from raise_mdit.config import WandbConfig
from raise_mdit.tracking import (
    METRICS,
    STEP_AXES,
    TEST_LOSS,
    TUNING_LOSS,
    TUNING_STEP,
    NullTracker,
    TrackedRun,
    Tracker,
    WandbTracker,
)

DEAD_SERVER = "http://127.0.0.1:9"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where runs go, on a machine without credentials and with a W&B service that is new."""
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_DIR", "WANDB_ENTITY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "home" / "wandb"))
    wandb.teardown()
    yield tmp_path / "tracking"
    wandb.teardown()


def tracker(directory: Path, mode: Literal["offline", "online"]) -> WandbTracker:
    return WandbTracker(
        WandbConfig(mode=mode, project="study", entity=None),
        experiment="which-policy",
        directory=directory,
        versions={"python": "3.11"},
    )


def arm(seed: int) -> TrackedRun:
    return TrackedRun(policy="ppo-wide", kind="ppo", seed=seed, config={"name": "which-policy"})


def track(tracker: Tracker, seed: int) -> None:
    tracker.start(arm(seed))
    tracker.log({TUNING_STEP: 1, TUNING_LOSS: 2.5})
    tracker.finish({TEST_LOSS: 1.5})


def written(directory: Path) -> list[bytes]:
    wandb.teardown()  # finishing a run returns a moment before the service has written it
    return [path.read_bytes() for path in directory.glob("wandb/offline-run-*/run-*.wandb")]


def test_offline_run_is_written_below_the_directory(directory: Path) -> None:
    track(tracker(directory, "offline"), seed=3)
    (content,) = written(directory)
    for text in ("study", "which-policy", "arm", "ppo-wide/s3", "policy_name", "policy_kind"):
        assert text.encode() in content
    for text in (TUNING_STEP, TUNING_LOSS, TEST_LOSS, "versions"):
        assert text.encode() in content


def test_each_seed_is_a_run_of_its_own(directory: Path) -> None:
    mirror = tracker(directory, "offline")
    track(mirror, seed=0)
    track(mirror, seed=1)
    names = [
        name
        for name in (b"ppo-wide/s0", b"ppo-wide/s1")
        for run in written(directory)
        if name in run
    ]
    assert names == [b"ppo-wide/s0", b"ppo-wide/s1"]


def test_offline_says_nothing(
    directory: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    track(tracker(directory, "offline"), seed=0)
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.name.startswith("raise_mdit")] == []


def test_missing_key_falls_back_to_offline_with_one_line(
    directory: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    mirror = tracker(directory, "online")
    with caplog.at_level(logging.INFO, logger="raise_mdit"):
        track(mirror, seed=0)
        track(mirror, seed=1)
    lines = [record for record in caplog.records if record.name == "raise_mdit.tracking"]
    assert [line.levelname for line in lines] == ["WARNING"]
    assert "WANDB_API_KEY" in lines[0].getMessage()
    assert "\n" not in lines[0].getMessage()
    assert capfd.readouterr() == ("", "")
    assert len(written(directory)) == 2


def test_dead_server_falls_back_to_offline_with_one_line(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", DEAD_SERVER)
    mirror = tracker(directory, "online")
    began = time.monotonic()
    track(mirror, seed=0)
    track(mirror, seed=1)
    assert time.monotonic() - began < 20
    (line,) = [record for record in caplog.records if record.name == "raise_mdit.tracking"]
    assert DEAD_SERVER in line.getMessage()
    assert capfd.readouterr() == ("", "")
    assert len(written(directory)) == 2
    assert list(directory.glob("wandb/run-*")) == [], "a half-made online run stayed"


def test_a_run_is_started_after_the_one_before_is_finished(directory: Path) -> None:
    mirror = tracker(directory, "offline")
    mirror.start(arm(0))
    with pytest.raises(AssertionError, match="not finished"):
        mirror.start(arm(1))
    mirror.finish({})


def test_null_tracker_is_a_tracker_that_writes_nothing(directory: Path) -> None:
    track(NullTracker(), seed=0)
    assert not directory.exists()


def test_every_axis_and_every_metric_with_an_axis_is_a_metric() -> None:
    assert set(STEP_AXES) | set(STEP_AXES.values()) <= set(METRICS)


def test_metric_names_are_group_and_name() -> None:
    assert all(name.count("/") == 1 for name in METRICS)
