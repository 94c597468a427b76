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
from raise_mdit.errors import DataError
from raise_mdit.ledger import MONITORING, Purpose
from raise_mdit.progress import Progress
from raise_mdit.rewards import Targets, stratified_items, subset_error
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
    targets: NDArray[np.int64] | None = None
    """[I] target of each item, from 0, where targets count alike; None counts tokens alike."""

    @property
    def rows(self) -> list[EncodedRow]:
        """The items that are measured."""
        return [self.all_items[index] for index in self.chosen]

    @property
    def tasks(self) -> NDArray[np.int64]:
        """Stratum of each item that is measured, as a number from 0."""
        names = np.asarray(self.strata)[self.chosen]
        return np.asarray(np.unique(names, return_inverse=True)[1], np.int64)

    @property
    def chosen_targets(self) -> NDArray[np.int64] | None:
        """Target of each item that is measured, where targets count alike."""
        return None if self.targets is None else self.targets[self.chosen]

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


def episode_budget(config: ExperimentConfig) -> Budget:
    """How much an episode may train."""
    budget = config.environment.budget
    return Budget(steps=budget.steps, tokens=budget.tokens)


def choose_reward_items(
    config: ExperimentConfig,
    items: Sequence[EncodedRow],
    strata: Sequence[str],
    *,
    targets: NDArray[np.int64] | None = None,
) -> RewardItems:
    """As many items as `reward.items` asks for, drawn once by strata.

    Args:
        config: The experiment.
        items: Reward-validation.
        strata: Task, or source, of each item.
        targets: [I] target of each item, from 0, where targets count alike: each stratum is then
            divided by them.

    Raises:
        DataError: So few are asked for that a target has none.
    """
    if targets is not None:
        strata = [f"{target} {name}" for target, name in zip(targets, strata, strict=True)]
    asked = config.reward.items
    if asked is None or asked >= len(items):
        return RewardItems(items, strata, np.arange(len(items)), targets)
    rng = purpose_rng(config, "reward items")
    chosen = stratified_items(strata, asked, rng)
    if targets is not None and set(targets[chosen]) != set(targets):
        raise DataError(
            f"reward.items: {asked} of {len(items)} items leave a target of reward-validation "
            "without any, and `reward.balance: targets` needs each; raise it"
        )
    return RewardItems(items, strata, chosen, targets)


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
    targets = _targets(items)
    found = 1.0 - targets.ratio(after, before)
    error = subset_error(_influences(before, after, targets), items.strata, len(items.chosen))
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
    budget = episode_budget(config)
    cost, steps = Cost(), 0
    while (spent := budget.share_spent(steps=steps, tokens=cost.tokens)) < 1.0:
        offered = training.offered(training.generation(episode=0, step=steps))
        rows = rng.choice(offered, environment.batch_size, replace=False)
        stats = learner.update([training.rows[row] for row in rows], progress=spent)
        cost, steps = cost.plus(stats.cost), steps + 1
    return cost


def _targets(items: RewardItems) -> Targets:
    """Those that count alike; all items are one where tokens do."""
    one = np.zeros(len(items.all_items), np.int64)
    return Targets.of(items.all_items, one if items.targets is None else items.targets)


def _influences(before: Evaluation, after: Evaluation, targets: Targets) -> NDArray[np.float64]:
    """[I] what each item adds to the return, to first order.

    A return is one minus a ratio of two sums over items, of losses after and before the episode, or
    the mean of such ratios over targets; a ratio of samples errs as the mean of these does (Cochran
    1977, section 6.4).
    """
    before_I, after_I = targets.scored * before.item_losses, targets.scored * after.item_losses
    before_G = np.bincount(targets.numbers, weights=before_I)
    ratio_G = np.bincount(targets.numbers, weights=after_I) / before_G
    errors_I = ratio_G[targets.numbers] * before_I - after_I
    shares_I = len(before_I) / len(before_G) / before_G[targets.numbers]
    influences_I: NDArray[np.float64] = shares_I * errors_I
    return influences_I
