"""What is measured before any policy learns, so that nobody pays for learning the wrong thing.

Whether a proxy learner ranks candidates as the learner does, and how much noise rewards on fewer
items have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from raise_mdit.config import ExperimentConfig
from raise_mdit.core import Budget, Cost, EncodedRow, Evaluation, Learner
from raise_mdit.envs import TrainingPool
from raise_mdit.ledger import MONITORING, Purpose
from raise_mdit.progress import Progress
from raise_mdit.rewards import stratified_items, subset_error
from raise_mdit.synthesis import purpose_rng
from raise_mdit.tuning import Tuning


@dataclass(frozen=True, slots=True)
class RewardItems:
    """What rewards are measured on."""

    all_items: Sequence[EncodedRow]
    """Reward-validation."""
    strata: Sequence[str]
    """Task, or source, of each item."""
    chosen: NDArray[np.int64]
    """Positions of those that stand for all."""

    @property
    def rows(self) -> list[EncodedRow]:
        """The items that are measured."""
        return [self.all_items[index] for index in self.chosen]

    @property
    def stand_for_others(self) -> bool:
        """Whether any item is left out."""
        return len(self.chosen) < len(self.all_items)


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What was found."""

    notes: tuple[str, ...] = ()
    costs: dict[Purpose, Cost] = field(default_factory=dict)
    """Of finding it, by purpose; every policy that learns is charged with them."""


def choose_reward_items(
    config: ExperimentConfig, items: Sequence[EncodedRow], strata: Sequence[str]
) -> RewardItems:
    """As many items as `reward.items` asks for, drawn once by strata."""
    asked = config.reward.items
    if asked is None or asked >= len(items):
        return RewardItems(items, strata, np.arange(len(items)))
    rng = purpose_rng(config, "reward items")
    return RewardItems(items, strata, stratified_items(strata, asked, rng))


def rehearse(
    config: ExperimentConfig,
    tuning: Tuning,
    training: TrainingPool,
    items: RewardItems,
    progress: Progress,
) -> Rehearsal:
    """Measure what the experiment's shortcuts ask for; each note is told as soon as it is known.

    Args:
        config: The experiment.
        tuning: Its learners, at the untuned model, to which they return.
        training: The pool.
        items: What rewards are measured on.
        progress: Told of the work and the notes.
    """
    notes: list[str] = []
    costs: dict[Purpose, Cost] = {}
    if tuning.has_proxy:
        progress.start("comparing the proxy learner with the learner", None)
        agreement = tuning.proxy_agreement(
            training.rows,
            training.strata,
            items.rows,
            batch_size=config.environment.batch_size,
            rng=purpose_rng(config, "proxy"),
        )
        notes.append(agreement.sentence)
        costs["proxy_check"] = agreement.first_cost.plus(agreement.second_cost)
    if items.stand_for_others:
        progress.start("measuring the noise of rewards on fewer items", None)
        sentence, costs[MONITORING] = _reward_noise(config, tuning, training, items)
        notes.append(sentence)
    progress.finish()
    for sentence in notes:
        progress.note(sentence)
    return Rehearsal(tuple(notes), costs)


def _reward_noise(
    config: ExperimentConfig, tuning: Tuning, training: TrainingPool, items: RewardItems
) -> tuple[str, Cost]:
    """The error of a return that fewer items leave, by one episode of random picks."""
    learner = tuning.policy_learner
    before = learner.evaluate(items.all_items)
    cost = before.cost.plus(_random_episode(config, learner, training))
    after = learner.evaluate(items.all_items)
    learner.restore(tuning.policy_base)
    found = 1.0 - after.loss / before.loss
    error = subset_error(_influences(before, after, items), items.strata, len(items.chosen))
    sentence = (
        f"Rewards are measured on {len(items.chosen)} of {len(items.all_items)} items: under "
        f"random picks an episode's return is {found:.3f}, and the items that are left out "
        f"give it a standard error of {error:.3f}."
    )
    return sentence, cost.plus(after.cost)


def _random_episode(config: ExperimentConfig, learner: Learner, training: TrainingPool) -> Cost:
    """Fine-tune on random picks to the budget, without measuring."""
    rng = purpose_rng(config, "reward noise")
    environment = config.environment
    budget = Budget(steps=environment.budget.steps, tokens=environment.budget.tokens)
    cost, steps = Cost(), 0
    while (spent := budget.share_spent(steps=steps, tokens=cost.tokens)) < 1.0:
        offered = training.offered(training.generation(episode=0, step=steps))
        rows = rng.choice(offered, environment.batch_size, replace=False)
        stats = learner.update([training.rows[row] for row in rows], progress=spent)
        cost, steps = cost.plus(stats.cost), steps + 1
    return cost


def _influences(before: Evaluation, after: Evaluation, items: RewardItems) -> NDArray[np.float64]:
    """[I] what each item adds to the return, to first order.

    A return is one minus a ratio of two sums over items, of losses after and before the episode; a
    ratio of samples errs as the mean of these does (Cochran 1977, section 6.4).
    """
    scored_I = np.array([item.num_scored for item in items.all_items])
    before_I, after_I = scored_I * before.item_losses, scored_I * after.item_losses
    ratio = after_I.sum() / before_I.sum()
    influences_I: NDArray[np.float64] = (ratio * before_I - after_I) / before_I.mean()
    return influences_I
