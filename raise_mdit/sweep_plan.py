"""The points of a search for settings of one policy, each a sound experiment."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from raise_mdit.config import ExperimentConfig, SweepConfig, SweepParameterConfig, SweepValue
from raise_mdit.errors import ConfigError, nearest
from raise_mdit.experiment_file import load_experiment
from raise_mdit.folders import POINT
from raise_mdit.sweep_results import Setting

OF_A_POINT = ("sweep=null", "evaluation.open_test=evaluate")
"""What every point has in common, as behind `--set`."""


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
