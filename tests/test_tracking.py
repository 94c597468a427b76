"""Names of metrics, and the tracker that tracks nothing."""

from __future__ import annotations

from pathlib import Path

from raise_mdit.tracking import METRICS, STEP_AXES, TEST_LOSS, NullTracker, TrackedRun


def test_every_axis_and_every_metric_with_an_axis_is_a_metric() -> None:
    assert set(STEP_AXES) | set(STEP_AXES.values()) <= set(METRICS)


def test_metric_names_are_group_and_name() -> None:
    assert all(name.count("/") == 1 for name in METRICS)


def test_null_tracker_writes_nothing(tmp_path: Path) -> None:
    tracker = NullTracker()
    tracker.start(TrackedRun(policy="ppo", kind="ppo", seed=0, config={}, folder=tmp_path))
    tracker.log({"tuning/step": 1})
    tracker.finish({TEST_LOSS: 1.5})
    tracker.conclude()
    assert [*tmp_path.iterdir()] == []
