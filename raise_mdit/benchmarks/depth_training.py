"""How much is learned, and how fast, with more or fewer layers trained.

Every training begins at the untuned model. One seed draws the batches on which all learning rates
are tried; the rate is chosen by the first half of the held-out rows, and what is reported is
measured on the second half, which took no part in the choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from raise_mdit.benchmarks.learners import Trained, learner_config, stored_learner
from raise_mdit.benchmarks.setting import Setting, fresh_batches
from raise_mdit.config import LearnerConfig
from raise_mdit.core import EncodedRow, Evaluation
from raise_mdit.errors import ModelError
from raise_mdit.learners.causal_lm import CausalLmLearner

NAMES: dict[Trained, str] = {"lora": "LoRA", "top_layers": "whole layers"}


class Plan(NamedTuple):
    """How one number of layers is trained."""

    rates: Sequence[float]
    """Learning rates to choose from."""
    updates: int
    """Of each training."""
    seeds: int
    """Trainings at the chosen rate, each on batches of its own."""


class Halves(NamedTuple):
    """How far the loss per scored token fell on each half of the held-out rows, of its start."""

    choice: float
    """Of the half by which the rate is chosen."""
    report: float
    """Of the half that is reported."""


class Training(NamedTuple):
    """What one training came to."""

    seed: int
    """Of its batches."""
    rate: float
    choice_fall: float | None
    """Fall of the loss as a share of its start; None where the training diverged."""
    report_fall: float | None
    """The same of the reported half."""
    update_seconds: float
    """Median."""
    validation_seconds: float
    """Of one pass over both halves."""


class Depth(NamedTuple):
    """A number of trained layers, from cached states of those below."""

    trained: Trained
    layers: int
    num_trainable: int
    """Trained parameters."""
    rate: float
    """The chosen one."""
    tried: Sequence[Training]
    """One for each rate, on the batches of the first seed."""
    chosen: Sequence[Training]
    """One for each seed, at the chosen rate."""

    @property
    def update_seconds(self) -> float:
        """Median over all trainings."""
        return float(np.median([each.update_seconds for each in self._trainings]))

    @property
    def validation_seconds(self) -> float:
        """Median over all trainings."""
        return float(np.median([each.validation_seconds for each in self._trainings]))

    @property
    def is_at_an_end(self) -> bool:
        """Whether the chosen rate is the smallest or largest of several that were tried."""
        rates = [each.rate for each in self.tried]
        return len(rates) > 1 and self.rate in (min(rates), max(rates))

    @property
    def _trainings(self) -> list[Training]:
        return [*self.tried, *self.chosen[1:]]  # the first seed's is among those tried


def measure_depth(setting: Setting, trained: Trained, layers: int, plan: Plan) -> Depth:
    """Choose the rate of one number of layers, and train with it.

    Raises:
        ModelError: Every rate diverges, or the model has fewer layers.
    """
    untuned = _learner(setting, learner_config(trained, layers))
    before = untuned.evaluate(setting.validation)

    def train(rate: float, seed: int) -> Training:
        config = learner_config(trained, layers, learning_rate=rate)
        batches = fresh_batches(setting, plan.updates, seed=seed)
        return _train(_learner(setting, config), batches, setting, before, rate=rate, seed=seed)

    tried = [train(rate, 0) for rate in plan.rates]
    best = choose(tried)
    if best is None:
        rates = ", ".join(f"{rate:g}" for rate in plan.rates)
        raise ModelError(
            f"--rates: {NAMES[trained]} of {layers} layers diverge at every one of {rates}; give "
            "smaller ones"
        )
    chosen = [best, *(train(best.rate, seed) for seed in range(1, plan.seeds))]
    return Depth(trained, layers, untuned.num_trainable, best.rate, tried, chosen)


def choose(tried: Sequence[Training]) -> Training | None:
    """The training whose loss fell most on the half to choose by; None where all diverged."""
    falls = {each.choice_fall: each for each in tried if each.choice_fall is not None}
    return falls[max(falls)] if falls else None


def falls_of_halves(rows: Sequence[EncodedRow], before: Evaluation, after: Evaluation) -> Halves:
    """What each half of the held-out rows says of a training: the first, then the rest."""
    scored = np.array([row.num_scored for row in rows])
    first, second = slice(None, len(rows) // 2), slice(len(rows) // 2, None)

    def fall(half: slice) -> float:
        start, end = (float(each.item_losses[half] @ scored[half]) for each in (before, after))
        return (start - end) / start

    return Halves(fall(first), fall(second))


def _learner(setting: Setting, config: LearnerConfig) -> CausalLmLearner:
    """The untuned model, with the states that learners before it computed."""
    states = setting.scratch / "states"
    states.mkdir(exist_ok=True)
    return stored_learner(setting, config, states)


def _train(
    learner: CausalLmLearner,
    batches: Sequence[Sequence[EncodedRow]],
    setting: Setting,
    before: Evaluation,
    *,
    rate: float,
    seed: int,
) -> Training:
    if learner.trunk_cache is not None:  # times are those of cached states
        rows = [row for batch in batches for row in batch]
        learner.trunk_cache.fill(rows, advance=lambda _: None)
    taken = [learner.update(batch, progress=0.0) for batch in batches]
    after = learner.evaluate(setting.validation)
    falls = falls_of_halves(setting.validation, before, after)
    # The learner leaves out updates whose loss is not finite.
    finite = all(map(math.isfinite, [*falls, *(each.loss for each in taken)]))
    return Training(
        seed=seed,
        rate=rate,
        choice_fall=falls.choice if finite else None,
        report_fall=falls.report if finite else None,
        update_seconds=float(np.median([each.cost.seconds for each in taken])),
        validation_seconds=after.cost.seconds,
    )
