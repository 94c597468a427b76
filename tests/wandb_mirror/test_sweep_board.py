"""A sweep as W&B shows it."""

from __future__ import annotations

from pathlib import Path

import pytest
import wandb
from helpers.tracked_runs import EXPERIMENT, PROJECT, config
from helpers.wandb_server import StandIn
from ruamel.yaml import YAML

from raise_mdit.config import SweepConfig, WandbConfig
from raise_mdit.statistics import student_interval
from raise_mdit.sweep_results import PointResult
from raise_mdit.wandb_mirror import sweep_board
from raise_mdit.wandb_mirror.sweep_board import SweepBoard

# The client's own `wandb.sweep` uses what it calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Read the `app_url` setting:DeprecationWarning")

SWEEP = SweepConfig.model_validate(
    {
        "policy": "ppo",
        "method": "random",
        "num_runs": 2,
        "parameters": {
            "learner.learning_rate": {
                "min": 1e-5,
                "max": 1e-3,
                "distribution": "log_uniform_values",
            },
            "environment.window": {"values": (16, 64)},
        },
    }
)
RESULT = PointResult(
    name="sweep-1",
    setting={"learner.learning_rate": 1e-4, "environment.window": 16},
    loss=student_interval([1.0, 2.0, 1.5]),
)


def board(directory: Path) -> SweepBoard:
    mirror = WandbConfig(mode="online", project=PROJECT)
    return SweepBoard(mirror, SWEEP, experiment=EXPERIMENT, directory=directory)


def test_a_sweep_and_its_points_arrive(
    server: StandIn, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shown = board(tmp_path)
    shown.start(config("online"))
    shown.add(RESULT)

    (made,) = server.served.sweeps
    described = YAML(typ="safe").load(made["config"])
    assert described["method"] == "random"
    assert described["metric"] == {"name": "sweep/loss", "goal": "minimize"}
    assert described["parameters"]["environment.window"] == {"values": [16, 64]}
    run = server.served.named("sweep-1")
    assert (run.fields["sweep"], run.fields["jobType"]) == ("sweep1", "sweep")
    assert run.config == dict(RESULT.setting)
    assert run.summary["sweep/loss"] == 1.5
    assert run.summary["sweep/loss_low"] < 1.5 < run.summary["sweep/loss_high"]
    assert capfd.readouterr() == ("", "")


def test_a_service_that_is_down_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise wandb.Error("no server")

    monkeypatch.setattr(sweep_board, "log_in", fail)
    shown = board(tmp_path)
    shown.start(config("online"))
    shown.add(RESULT)
    (record,) = (each for each in caplog.records if each.name.startswith("raise_mdit"))
    assert record.getMessage() == "W&B does not show this sweep from here on: no server"
