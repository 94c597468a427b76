"""A sweep in W&B: its page, and one run a point with the loss that is minimised.

Points are chosen and run by us, online as offline, so that both give the same points in the same
order; W&B is told of the sweep and shows it, its own scheduler hands out nothing.
"""

from __future__ import annotations

import io
import math
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import wandb

from raise_mdit.candidates import content_hash
from raise_mdit.config import ExperimentConfig, SweepConfig, SweepParameterConfig, WandbConfig
from raise_mdit.sweep_results import PointResult
from raise_mdit.tracking import SWEEP_LOSS, SWEEP_LOSS_HIGH, SWEEP_LOSS_LOW
from raise_mdit.wandb_mirror.service import (
    SERVICE_FAULTS,
    RunLabels,
    log_in,
    open_run,
    reason,
    warn,
)


class SweepBoard:
    """Shows a sweep in W&B. A fault of the service is one warning, and the sweep goes on."""

    def __init__(
        self, config: WandbConfig, sweep: SweepConfig, *, experiment: str, directory: Path
    ) -> None:
        """Connect to nothing yet.

        Args:
            config: Project and entity.
            sweep: What is searched.
            experiment: Its name, which is the name of the sweep and the group of its runs.
            directory: Of the sweep.
        """
        self._config = config
        self._sweep = sweep
        self._experiment = experiment
        self._directory = directory
        self._id: str | None = None

    def start(self, config: ExperimentConfig) -> None:
        """Make the sweep."""
        described = description(self._sweep, config.name)
        try:
            log_in()
            with redirect_stdout(io.StringIO()):  # it prints its address
                self._id = wandb.sweep(
                    described, entity=self._config.entity, project=self._config.project
                )
        except SERVICE_FAULTS as fault:
            self._give_up(fault)

    def add(self, result: PointResult) -> None:
        """Add a run that is one point."""
        if self._id is None:
            return
        labels = RunLabels(
            name=result.name,
            group=self._experiment,
            job_type="sweep",
            tags=["sweep"],
            config=dict(result.setting),
            sweep=self._id,
        )
        run_id = f"sweep-{content_hash([self._id, result.name])[:16]}"
        try:
            run = open_run(
                self._config, labels, directory=self._directory, mode="online", run_id=run_id
            )
            run.summary.update(_summary(result))
            run.finish()
        except SERVICE_FAULTS as fault:
            self._give_up(fault)

    def _give_up(self, fault: BaseException) -> None:
        self._id = None
        warn(f"W&B does not show this sweep from here on: {reason(fault)}")


def description(sweep: SweepConfig, experiment: str) -> dict[str, Any]:
    """A sweep as W&B writes it.

    Args:
        sweep: Section of the experiment file.
        experiment: Its name.
    """
    return {
        "name": experiment,
        "method": sweep.method,
        "metric": {"name": SWEEP_LOSS, "goal": "minimize"},
        "parameters": {key: _parameter(each) for key, each in sweep.parameters.items()},
        **({} if sweep.num_runs is None else {"run_cap": sweep.num_runs}),
    }


def _parameter(parameter: SweepParameterConfig) -> dict[str, Any]:
    if parameter.values is not None:
        return {"values": list(parameter.values)}
    assert parameter.min is not None, "checked where it was read"
    assert parameter.max is not None, "checked where it was read"
    low, high = parameter.min, parameter.max
    if parameter.distribution == "int_uniform":  # for which W&B takes whole ends alone
        low, high = math.ceil(low), math.floor(high)
    return {"distribution": parameter.distribution, "min": low, "max": high}


def _summary(result: PointResult) -> dict[str, float]:
    ends = {
        SWEEP_LOSS: result.loss.mean,
        SWEEP_LOSS_LOW: result.loss.low,
        SWEEP_LOSS_HIGH: result.loss.high,
    }
    return {name: end for name, end in ends.items() if end is not None}
