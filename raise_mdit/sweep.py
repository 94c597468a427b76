"""A search for settings of one policy: the experiment once for each point, and the best named.

Points are compared by the loss on model-selection data. The test stays sealed: chosen on it, the
winner would be flattered by its own luck. `raise-mdit evaluate` opens it for the winner alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from raise_mdit import experiment
from raise_mdit.bootstrap import bootstrap_interval
from raise_mdit.config import ExperimentConfig, SweepConfig, SweepParameterConfig, SweepValue
from raise_mdit.errors import ConfigError, RunError, nearest
from raise_mdit.experiment_file import load_experiment
from raise_mdit.folders import POINT, SWEEP_FILE
from raise_mdit.progress import Progress
from raise_mdit.results import read_results
from raise_mdit.runs import write_json
from raise_mdit.sweep_results import Board, PointResult, Setting

OF_A_POINT = ("sweep=null", "evaluation.open_test=evaluate")
"""What every point has in common, as behind `--set`."""
SWEEP_FORMAT = "raise-mdit/sweep/1"


class Point(NamedTuple):
    """One setting, and the experiment with it."""

    number: int
    """From 1."""
    setting: Setting
    config: ExperimentConfig

    @property
    def name(self) -> str:
        """Of its run directory, below that of the sweep."""
        return f"{POINT}{self.number}"


def plan(file: Path, overrides: Sequence[str] = ()) -> tuple[Point, ...]:
    """The points of a sweep, each a sound experiment.

    Args:
        file: Experiment YAML with a `sweep` section.
        overrides: As of `--set`, for every point.

    Raises:
        ConfigError: There is no such section, it names no policy of the file, there are no
            model-selection data to choose by, or an experiment of a point is not sound.
    """
    sweep = _sweep_of(load_experiment(file, overrides), file)
    points = []
    for number, setting in enumerate(settings(sweep), start=1):
        config = load_experiment(file, [*overrides, *changes(setting), *OF_A_POINT])
        chosen = tuple(each for each in config.policies if each.label == sweep.policy)
        points.append(Point(number, setting, config.model_copy(update={"policies": chosen})))
    return tuple(points)


def settings(sweep: SweepConfig) -> list[Setting]:
    """The settings of a sweep: every combination, or as many as asked for, none twice.

    Args:
        sweep: Its section.
    """
    if sweep.method == "grid" or _is_finite(sweep):
        values = [each.values or () for each in sweep.parameters.values()]
        every: list[Setting] = [
            dict(zip(sweep.parameters, point, strict=True)) for point in product(*values)
        ]
        if sweep.method == "grid":
            return every[: sweep.num_runs]
        drawn = np.random.default_rng(sweep.seed).permutation(len(every))
        return [every[at] for at in drawn[: sweep.num_runs]]
    rng = np.random.default_rng(sweep.seed)
    return [
        {key: _drawn(parameter, rng) for key, parameter in sweep.parameters.items()}
        for _ in range(sweep.num_runs or 0)
    ]


def run_sweep(
    points: Sequence[Point], directory: Path, *, policy: str, progress: Progress, board: Board
) -> tuple[PointResult, ...]:
    """Run every point, or go on with a sweep that was stopped.

    Args:
        points: What :func:`plan` gave.
        directory: Of the sweep; each point has a run directory in it.
        policy: Whose loss is minimised.
        progress: Told of long work.
        board: Told of every point.

    Returns:
        The points from the lowest loss to the highest; one whose loss is not finite stands last.

    Raises:
        UserError: Of any kind; finished points are in the directory.
    """
    is_sweep = (directory / points[0].name).is_dir()
    if directory.is_dir() and any(directory.iterdir()) and not is_sweep:
        raise RunError(f"{directory}: not empty and no sweep; give another --out")
    results: list[PointResult] = []
    board.start(points[0].config)
    for point in points:
        progress.note(f"{point.name} of {len(points)}: {' '.join(changes(point.setting))}")
        outcome = experiment.run(point.config, directory / point.name, progress)
        results.append(_result(point, outcome.directory))
        board.add(results[-1])
        results.sort(key=lambda each: _rank(each.loss.mean))
        _write(directory / SWEEP_FILE, policy, results)
    return tuple(results)


def changes(setting: Setting) -> list[str]:
    """A setting as one would write it behind `--set`, key by key."""
    return [f"{key}={json.dumps(value)}" for key, value in setting.items()]


def _sweep_of(config: ExperimentConfig, file: Path) -> SweepConfig:
    sweep = config.sweep
    if sweep is None:
        raise ConfigError(f"{file}: has no `sweep` section; docs/wandb.md shows one")
    labels = [each.label for each in config.policies]
    if sweep.policy not in labels:
        raise ConfigError(
            f"{file}: sweep.policy: {sweep.policy!r} is no policy of the file, which has "
            f"{', '.join(labels)}.{nearest(sweep.policy, labels)}"
        )
    if not config.data.model_selection:
        raise ConfigError(
            f"{file}: sweep: needs data to choose by that are neither the test's nor seen by a "
            "policy; add `data.model_selection`"
        )
    return sweep


def _is_finite(sweep: SweepConfig) -> bool:
    return all(each.values is not None for each in sweep.parameters.values())


def _drawn(parameter: SweepParameterConfig, rng: np.random.Generator) -> SweepValue:
    if parameter.values is not None:
        return parameter.values[int(rng.integers(len(parameter.values)))]
    assert parameter.min is not None, "checked where it was read"
    assert parameter.max is not None, "checked where it was read"
    if parameter.distribution == "int_uniform":
        return int(rng.integers(math.ceil(parameter.min), math.floor(parameter.max) + 1))
    if parameter.distribution == "log_uniform_values":
        return math.exp(rng.uniform(math.log(parameter.min), math.log(parameter.max)))
    return float(rng.uniform(parameter.min, parameter.max))


def _result(point: Point, directory: Path) -> PointResult:
    losses = [
        arm.model_selection.loss
        for arm in read_results(directory / "results.json")
        if arm.model_selection is not None
    ]
    return PointResult(
        name=point.name, setting=dict(point.setting), loss=bootstrap_interval(losses)
    )


def _rank(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


def _write(path: Path, policy: str, results: Sequence[PointResult]) -> None:
    points = [
        {**asdict(each), "loss": {**asdict(each.loss), "mean": _plain(each.loss.mean)}}
        for each in results
    ]
    document = {"format": SWEEP_FORMAT, "policy": policy, "points": points, "best": points[0]}
    write_json(path, document)


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
