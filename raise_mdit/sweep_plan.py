"""The points of a search for settings of one policy, each a sound experiment."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from raise_mdit.config import ExperimentConfig, SweepConfig, SweepParameterConfig, SweepValue
from raise_mdit.errors import ConfigError, nearest
from raise_mdit.experiment_file import (
    LoadedExperiment,
    load_experiment,
    load_with_places,
    set_option,
)
from raise_mdit.folders import POINT
from raise_mdit.sweep_results import Setting

OF_A_POINT = ("sweep=null", "evaluation.open_test=evaluate")
"""What every point has in common, as behind `--set`."""
_PLACE = re.compile(r".*?:\d+:\d+: ")
"""Of a fault in the file, before its key; lines of the file shown below it have none."""


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
    loaded = load_with_places(file, overrides)
    sweep = _sweep_of(loaded)
    points: list[Point] = []
    faults: dict[str, None] = {}
    for number, setting in enumerate(settings(sweep), start=1):
        try:
            config = load_experiment(file, _overrides_of(setting, overrides))
        except ConfigError as fault:
            faults |= dict.fromkeys(_faults_of(setting, fault, loaded, overrides))
            continue
        chosen = tuple(each for each in config.policies if each.label == sweep.policy)
        points.append(Point(number, setting, config.model_copy(update={"policies": chosen})))
    if faults:
        raise ConfigError("\n".join(faults))
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


def _overrides_of(setting: Setting, overrides: Sequence[str]) -> list[str]:
    return [*overrides, *changes(setting), *OF_A_POINT]


def _faults_of(
    setting: Setting, fault: ConfigError, loaded: LoadedExperiment, overrides: Sequence[str]
) -> Iterator[str]:
    """What is wrong with a point, at the lines of the values that are wrong by themselves."""
    wrong = {key: found for key in setting if (found := _alone(key, setting, loaded, overrides))}
    for key, found in wrong.items():
        where = ("sweep", "parameters", key)
        yield from (loaded.located_at(where, each) for each in _said(found, {key: setting[key]}))
    if not wrong:
        yield from (
            loaded.located_at(("sweep", "parameters"), each) for each in _said(fault, setting)
        )


def _alone(
    key: str, setting: Setting, loaded: LoadedExperiment, overrides: Sequence[str]
) -> ConfigError | None:
    """What is wrong with the experiment where only that key is set."""
    try:
        load_experiment(loaded.path, _overrides_of({key: setting[key]}, overrides))
    except ConfigError as fault:
        return fault
    return None


def _said(fault: ConfigError, setting: Setting) -> list[str]:
    """Each fault without its place in the file, which has none of these values."""
    written = changes(setting)
    heads = [_PLACE, *(re.compile(re.escape(f"{set_option(change)}: ")) for change in written)]
    lines = str(fault).splitlines()
    told = [line[head.end() :] for line in lines for each in heads if (head := each.match(line))]
    return [f"with {' '.join(written)}: {each}" for each in told or [str(fault)]]


def _sweep_of(loaded: LoadedExperiment) -> SweepConfig:
    config = loaded.config
    sweep = config.sweep
    if sweep is None:
        raise ConfigError(f"{loaded.path}: has no `sweep` section; docs/wandb.md shows one")
    faults = []
    labels = [each.label for each in config.policies]
    if sweep.policy not in labels:
        faults.append(
            f"sweep.policy: {sweep.policy!r} is no policy of the file, which has "
            f"{', '.join(labels)}.{nearest(sweep.policy, labels)}"
        )
    if not config.data.model_selection:
        faults.append(
            "sweep: needs data to choose by that are neither the test's nor seen by a policy; add "
            "`data.model_selection`"
        )
    if faults:
        raise ConfigError("\n".join(map(loaded.located, faults)))
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
