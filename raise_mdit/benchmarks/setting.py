"""What all measurements have in common: the same model, rows and sizes, chosen once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from raise_mdit.config import (
    BudgetConfig,
    DataConfig,
    DatasetSource,
    EnvironmentConfig,
    ExperimentConfig,
    ModelConfig,
    MosaicConfig,
    PlaygroundSource,
    PoolsConfig,
    PoolShareConfig,
    ShareConfig,
)
from raise_mdit.core import Budget, EncodedRow, Learner
from raise_mdit.envs import InstructionSelectionEnv, TrainingPool
from raise_mdit.errors import DataError
from raise_mdit.learners.forward import Precision
from raise_mdit.learners.pretrained import Device
from raise_mdit.ledger import Ledger
from raise_mdit.policy_config import PpoConfig
from raise_mdit.preparation import prepare
from raise_mdit.progress import Progress

Item = TypeVar("Item")

NUM_FAMILIES = 28
"""Families of the embedded playground."""

EXAMPLES_PER_MOSAIC = 6
"""Playground rows that a mosaic of 256 tokens takes, rounded up: 5 on average."""

MARGIN = 1.1
"""Rows read of a file for each one needed: a few lose their response to the length limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured; the same for everything in one benchmark."""

    pool: int = 200
    """Candidates."""
    validation: int = 16
    """Rows of reward-validation."""
    batch_size: int = 8
    """Rows of an update."""
    window: int = 96
    """Candidates offered at each step."""
    steps: int = 6
    """Of an episode."""
    episodes: int = 24
    """Of a policy's training."""
    top_layers: int = 4
    """That are trained; by `naive` all are."""
    repeats: int = 3
    """Measurements of each figure, of which the median is taken."""
    max_length: int = 256
    """Longest row in tokens."""
    seed: int = 0
    """Of draws, adapters and policies."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Setting:
    """Everything that a measurement needs, as a process of its own can be given it."""

    model: str
    """As :func:`raise_mdit.learners.pretrained.load_pretrained` takes it."""
    device: Device
    precision: Precision
    pool: TrainingPool
    validation: tuple[EncodedRow, ...]
    sizes: Sizes
    models: Path
    """Where converted models are."""
    scratch: Path
    """An existing folder for states of frozen layers, which are removed after a measurement."""


def prepare_setting(
    sizes: Sizes,
    *,
    model: str,
    data: Path | None,
    device: Device,
    precision: Precision,
    models: Path,
    scratch: Path,
    progress: Progress,
) -> Setting:
    """Candidates with `cheap` features, and rows to validate on that are none of them.

    Args:
        sizes: How many, and how long.
        model: As :func:`raise_mdit.learners.pretrained.load_pretrained` takes it.
        data: File of instruction data; None composes the embedded playground by Mosaic-IT.
        device: For the setting; nothing is computed on it here.
        precision: For the setting.
        models: Where converted models are.
        scratch: An existing folder.
        progress: Told of the stages.

    Raises:
        UserError: The model or the data cannot be had, or there is too little of it.
    """
    config = _experiment(sizes, model, data)
    training = prepare(config, cache=models, progress=progress).training
    needed = sizes.pool + sizes.validation
    if len(training) < needed:
        raise DataError(
            f"--pool {sizes.pool} and --validation {sizes.validation} need {needed} rows of at "
            f"most --max-length {sizes.max_length} tokens, and the data gives {len(training)}"
        )
    order = np.random.default_rng(sizes.seed).permutation(len(training))
    held_out = order[sizes.pool : needed]
    return Setting(
        model=model,
        device=device,
        precision=precision,
        pool=_subset(training, np.sort(order[: sizes.pool])),
        validation=tuple(training.rows[row] for row in held_out),
        sizes=sizes,
        models=models,
        scratch=scratch,
    )


def batches(setting: Setting, count: int) -> list[list[EncodedRow]]:
    """Batches to train on, the same for every measurement of a setting."""
    rng = np.random.default_rng(setting.sizes.seed)
    draws = [
        rng.choice(len(setting.pool), setting.sizes.batch_size, replace=False) for _ in range(count)
    ]
    return [[setting.pool.rows[row] for row in draw] for draw in draws]


def fresh_batches(setting: Setting, count: int, *, seed: int) -> list[list[EncodedRow]]:
    """Batches of which no two share a row.

    Args:
        setting: Rows, and how many a batch takes.
        count: Batches; the pool has that many times a batch's rows, or more.
        seed: Of the draw, besides the setting's own.
    """
    size = setting.sizes.batch_size
    assert count * size <= len(setting.pool), "the pool is too small for batches without repetition"
    rng = np.random.default_rng((setting.sizes.seed, seed))
    draw = rng.choice(len(setting.pool), (count, size), replace=False)
    return [[setting.pool.rows[row] for row in batch] for batch in draw]


def environment(
    learner: Learner, setting: Setting, *, ledger: Ledger, reward_every: int
) -> InstructionSelectionEnv:
    """The environment of a setting, with a learner at its base model."""
    return InstructionSelectionEnv(
        learner=learner,
        pool=setting.pool,
        reward_validation=setting.validation,
        batch_size=setting.sizes.batch_size,
        budget=Budget(steps=setting.sizes.steps),
        window=setting.sizes.window,
        ledger=ledger,
        reward_every=reward_every,
    )


def _experiment(sizes: Sizes, model: str, data: Path | None) -> ExperimentConfig:
    """One whose preparation gives the candidates; its splits but the pool are not used."""
    needed = sizes.pool + sizes.validation
    source: PlaygroundSource | DatasetSource
    if data is None:
        per_family = -(-needed * EXAMPLES_PER_MOSAIC // NUM_FAMILIES)
        source = PlaygroundSource(
            name="data", kind="playground", seed=sizes.seed, rows_per_family=per_family + 1
        )
        pools, rows = PoolsConfig(original=False, mosaic=MosaicConfig()), per_family * NUM_FAMILIES
    else:
        source = DatasetSource(name="data", kind="dataset", file=data.name)
        pools, rows = PoolsConfig(), round(needed * MARGIN)
    return ExperimentConfig(
        name="bench",
        model=ModelConfig(
            name=model, device="cpu", precision="float32", max_length=sizes.max_length
        ),
        data=DataConfig(
            root=None if data is None else str(data.parent),
            seed=sizes.seed,
            sources=(source,),
            pool=(PoolShareConfig(source="data", rows=rows),),
            reward_validation=(ShareConfig(source="data", rows=2),),
            test=(ShareConfig(source="data", rows=2),),
            on_bad_row="skip",
            on_long_row="truncate",
            decontaminate=False,  # nothing is learned here that could be compared
        ),
        pools=pools,
        environment=EnvironmentConfig(
            window=sizes.window,
            batch_size=sizes.batch_size,
            budget=BudgetConfig(steps=sizes.steps),
        ),
        policies=(PpoConfig(kind="ppo"),),
    )


def _subset(pool: TrainingPool, rows: NDArray[np.int64]) -> TrainingPool:
    return replace(
        pool,
        ids=_at(pool.ids, rows),
        rows=_at(pool.rows, rows),
        kinds=pool.kinds[rows],
        features=pool.features[rows],
        strata=pool.strata[rows],
    )


def _at(values: Sequence[Item], rows: NDArray[np.int64]) -> list[Item]:
    return [values[row] for row in rows]
