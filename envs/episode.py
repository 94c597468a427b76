"""One fine-tuning as an environment keeps it: windows, picks, losses, rewards and costs.

An episode knows no learner. An environment takes the rows of an action from it, lets a learner
train on them, and tells it what came of that; one learner or many, the bookkeeping is this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from raise_mdit.core import Budget, Cost, EncodedRow, Evaluation, Observation, UpdateStats
from raise_mdit.envs.observation import (
    DistinctSlots,
    Picks,
    Stage,
    WindowSampler,
    observation_space,
    observe,
)
from raise_mdit.features import standardised
from raise_mdit.ledger import Ledger, Purpose
from raise_mdit.rewards import Targets

FAILURE_REWARD = -1.0
"""Reward of a step that breaks the model: as bad as doubling the validation loss."""

KEPT_SAMPLERS = 64
"""Generations whose strata are kept; learners that step together may each be in another."""

Signal = Callable[[Sequence[EncodedRow]], tuple[NDArray[np.float32], Cost]]
"""One number for each row of a window under the present model, and what that cost."""

Step = tuple[Observation, float, bool, bool, dict[str, Any]]
"""Observation, reward, terminated, truncated and information, as Gymnasium orders them."""


@dataclass(frozen=True, slots=True, eq=False)
class Renewal:
    """Which candidates are on offer when: some always, some by generations that take turns."""

    generations: NDArray[np.int64]
    """[N] generation of each candidate, ascending; those of generation 0 are always on offer."""
    per_episode: int
    """Generations that an episode goes through."""
    steps: int | None = None
    """Steps of each; None where one lasts for an episode."""

    def __post_init__(self) -> None:
        """Refuse what :meth:`rows` could not tell apart."""
        if (np.diff(self.generations) < 0).any():
            raise ValueError("candidates stand in the order of their generations")

    def generation(self, *, episode: int, step: int) -> int:
        """Which one is on offer, besides 0: each episode begins where the last one left off.

        Args:
            episode: Number of the episode, from 0.
            step: Number of the step, from 0.
        """
        within = 0 if self.steps is None else min(step // self.steps, self.per_episode - 1)
        return 1 + (episode * self.per_episode + within) % int(self.generations[-1])

    def rows(self, generation: int) -> NDArray[np.int64]:
        """Pool rows that are on offer with a generation, ascending."""
        ends = np.searchsorted(self.generations, [1, generation, generation + 1])
        return np.concatenate([np.arange(ends[0]), np.arange(ends[1], ends[2])])

    @property
    def sizes(self) -> NDArray[np.int64]:
        """How many candidates are on offer with each generation, from 1."""
        counts = np.bincount(self.generations)
        return np.asarray(counts[0] + counts[1:], np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class TrainingPool:
    """The pool as an environment needs it: ``N`` candidates, ``F`` features."""

    ids: Sequence[str]
    """Content ids."""
    rows: Sequence[EncodedRow]
    """What the learner is given."""
    kinds: NDArray[np.int64]
    """[N] positions in :data:`raise_mdit.core.KINDS`."""
    features: NDArray[np.float32]
    """[N, F] unchanging features."""
    strata: NDArray[np.int64]
    """[N] from which windows are drawn evenly."""
    renewal: Renewal | None = None
    """None where all candidates are always on offer."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def least_offered(self) -> int:
        """The fewest candidates that are on offer at once."""
        return len(self) if self.renewal is None else int(self.renewal.sizes.min())

    @property
    def most_offered(self) -> int:
        """The most candidates that are on offer at once."""
        return len(self) if self.renewal is None else int(self.renewal.sizes.max())

    def generation(self, *, episode: int, step: int) -> int:
        """Which one is on offer at a step of an episode, both from 0; 0 if never renewed."""
        return 0 if self.renewal is None else self.renewal.generation(episode=episode, step=step)

    def offered(self, generation: int) -> NDArray[np.int64]:
        """Rows on offer with a generation."""
        return np.arange(len(self)) if self.renewal is None else self.renewal.rows(generation)


@dataclass(frozen=True, kw_only=True, eq=False)
class EpisodeRules:
    """What all episodes of an environment have in common; the environment says what each means."""

    pool: TrainingPool
    batch_size: int
    budget: Budget
    window: int | None
    reward_every: int
    early_stopping: bool
    control: NDArray[np.float32] | None
    targets: Targets | None = None
    ledger: Ledger
    training_purpose: Purpose
    evaluation_purpose: Purpose
    signal_purpose: Purpose

    def __post_init__(self) -> None:
        num_offered = min(self.num_slots, self.pool.least_offered)
        if self.batch_size > num_offered:
            raise ValueError(
                f"batch_size {self.batch_size} is more than the {num_offered} candidates "
                f"of a window (window {self.num_slots}, on offer {self.pool.least_offered})"
            )
        if self.reward_every < 1:
            raise ValueError(f"reward_every is at least 1 step, got {self.reward_every}")

    @cached_property
    def num_slots(self) -> int:
        """W; counting what is on offer looks at the whole pool, and every step asks for it."""
        return self.pool.most_offered if self.window is None else self.window

    def action_space(self) -> DistinctSlots:
        """The space of actions."""
        return DistinctSlots(self.num_slots, self.batch_size)

    def observation_space(self, *, with_signal: bool) -> spaces.Dict[Any]:
        """The space of observations."""
        num_features = self.pool.features.shape[1] + int(with_signal)
        return observation_space(self.num_slots, num_features, len(self.pool))

    def draw_window(
        self, rng: np.random.Generator, *, episode: int, step: int
    ) -> NDArray[np.int64]:
        """Pool rows to offer at a step of an episode, both counted from 0."""
        generation = self.pool.generation(episode=episode, step=step)
        if self.window is None:
            return self.pool.offered(generation)
        return self._sampler(generation).draw(self.window, rng)

    def level(self, evaluation: Evaluation, base: Evaluation) -> float:
        """What is to fall: the loss, or the mean over targets of theirs over the base model's."""
        if self.targets is None:
            return evaluation.loss
        return self.targets.ratio(evaluation, base)

    def control_of(self, step: int, *, is_last: bool) -> float:
        """What is subtracted from the reward of a step, counted from 1.

        Every episode subtracts the same sum, so that no policy gains by the length of its episodes:
        one that ends early subtracts the rest at its end, one that goes on subtracts nothing
        (potentials that are zero at the end, Ng et al. 1999).
        """
        if self.control is None:
            return 0.0
        rest = self.control[step - 1 :]
        return float((rest if is_last else rest[:1]).sum(dtype=np.float64))

    @cached_property
    def _sampler(self) -> Callable[[int], WindowSampler]:
        """Makes the sampler of a generation, and keeps those that learners are in now."""
        return lru_cache(maxsize=KEPT_SAMPLERS)(self._make_sampler)

    def _make_sampler(self, generation: int) -> WindowSampler:
        return WindowSampler(self.pool.strata, self.pool.offered(generation))


class Episode:
    """The state of one fine-tuning."""

    def __init__(
        self,
        rules: EpisodeRules,
        *,
        number: int,
        base: Evaluation,
        rng: np.random.Generator,
        signal: Signal | None,
    ) -> None:
        """Begin: nothing is picked, a first window is offered.

        Args:
            rules: Of the environment.
            number: Which episode this is, from 0: candidates are renewed by it.
            base: What the base model gives on reward-validation.
            rng: Of the windows.
            signal: Asked about each window that is picked from.
        """
        self._rules = rules
        self._number = number
        self._base = base
        self._base_level = rules.level(base, base)
        self._rng = rng
        self._signal = signal
        self._loss = self._kept_loss = base.loss
        self._level = self._kept_level = self._base_level
        self._kept_steps = 0
        self._picks = Picks(rules.pool.kinds)
        self._steps = 0
        self._tokens = 0
        self._stage = Stage()
        self._is_over = False
        self._step_cost = Cost()
        self._offer_window()

    @property
    def num_steps(self) -> int:
        """Updates so far."""
        return self._steps

    @property
    def share_spent(self) -> float:
        """The part of the budget used so far, from 0 to 1."""
        return self._rules.budget.share_spent(steps=self._steps, tokens=self._tokens)

    def observe(self) -> Observation:
        """The window on offer and the stage."""
        return observe(
            self._window,
            num_slots=self._rules.num_slots,
            features=self._rules.pool.features,
            picks=self._picks,
            stage=self._stage,
            signal=self._signal_values,
        )

    def picked_rows(self, action: NDArray[np.int64]) -> NDArray[np.int64]:
        """[k] pool rows of an action's slots; changes nothing.

        Raises:
            ValueError: The action repeats a slot, names a masked one, or is not of the space.
            RuntimeError: The episode is over.
        """
        if self._is_over:
            raise RuntimeError("the episode is over; call reset() before step()")
        num_slots, batch_size = self._rules.num_slots, self._rules.batch_size
        slots = np.asarray(action)
        if slots.dtype.kind not in "iu":
            raise ValueError(f"slots are whole numbers, got {slots.dtype}: {slots.tolist()}")
        if slots.shape != (batch_size,):
            raise ValueError(f"an action is {batch_size} slots, got shape {slots.shape}")
        if (slots < 0).any() or (slots >= num_slots).any():
            raise ValueError(f"slots are 0 to {num_slots - 1}, got {slots.tolist()}")
        if len(np.unique(slots)) != len(slots):
            raise ValueError(f"a slot is picked twice in one action: {slots.tolist()}")
        if (slots >= len(self._window)).any():
            raise ValueError(f"a masked slot is picked: {slots.tolist()}; see observation['mask']")
        return self._window[slots]

    def batch(self, rows: NDArray[np.int64]) -> list[EncodedRow]:
        """What the learner is given for some pool rows."""
        return [self._rules.pool.rows[row] for row in rows]

    def record_update(self, rows: NDArray[np.int64], stats: UpdateStats) -> bool:
        """Count an update.

        Returns:
            Whether the validation loss is to be measured now.
        """
        self._charge(self._rules.training_purpose, stats.cost)
        self._picks.add(rows)
        self._steps += 1
        self._tokens += stats.cost.tokens
        is_turn = self._steps % self._rules.reward_every == 0 or self.share_spent >= 1.0
        return is_turn and math.isfinite(stats.loss)

    def finish_step(
        self, rows: NDArray[np.int64], stats: UpdateStats, evaluation: Evaluation | None
    ) -> Step:
        """Reward the update that was counted last, and offer the next window.

        Args:
            rows: That were picked.
            stats: Of the update.
            evaluation: On reward-validation data, where :meth:`record_update` asked for it.
        """
        if evaluation is not None:
            self._charge(self._rules.evaluation_purpose, evaluation.cost)
        failure = self._failure(stats, evaluation)
        truncated = self.share_spent >= 1.0
        if failure is None:
            gain = self._gain(evaluation)
            reward = gain - self._rules.control_of(self._steps, is_last=truncated)
        else:
            gain = reward = FAILURE_REWARD
            self._loss, self._level = self._base.loss, self._base_level
            self._keep()
        self._stage = Stage(
            loss_ratio=self._level / self._base_level,
            budget_share=self.share_spent,
            last_reward=gain,
        )
        self._is_over = failure is not None or truncated
        info = {
            "ids": [self._rules.pool.ids[row] for row in rows],
            "rows": rows,
            "loss": stats.loss,
            "validation_loss": self._loss,
            "measured": failure is None and evaluation is not None,
            "kept_steps": self._kept_steps,
            "kept_loss": self._kept_loss,
            "gain": gain,
            "tokens": stats.cost.tokens,
            "flops": self._step_cost.flops,
            "seconds": self._step_cost.seconds,
            "budget_share": self.share_spent,
            "termination_reason": failure,
        }
        self._step_cost = Cost()
        self._offer_window()
        return self.observe(), reward, failure is not None, truncated, info

    def _failure(self, stats: UpdateStats, evaluation: Evaluation | None) -> str | None:
        """What broke the model."""
        if not math.isfinite(stats.loss):
            return f"the training loss or its gradient is not finite at step {self._steps}"
        if evaluation is not None and not math.isfinite(evaluation.loss):
            return f"the validation loss is not finite after step {self._steps}"
        return None

    def _gain(self, evaluation: Evaluation | None) -> float:
        """Improvement on what is kept; 0 without a new measurement."""
        if evaluation is not None:
            self._loss = evaluation.loss
            self._level = self._rules.level(evaluation, self._base)
        before = self._kept_level
        if not self._rules.early_stopping or self._level < before:
            self._keep()
        return (before - self._kept_level) / self._base_level

    def _keep(self) -> None:
        """What the model is now is what the episode would end with."""
        self._kept_steps, self._kept_loss, self._kept_level = self._steps, self._loss, self._level

    def _offer_window(self) -> None:
        """Draw a window; its signal belongs to the cost of the step that picks from it."""
        self._window = self._rules.draw_window(self._rng, episode=self._number, step=self._steps)
        self._signal_values = None if self._signal is None else self._ask(self._signal)

    def _ask(self, signal: Signal) -> NDArray[np.float32]:
        """The window's signal; zeros after the last step, where nobody acts on it."""
        if self._is_over:
            return np.zeros(len(self._window), np.float32)
        values, cost = signal(self.batch(self._window))
        assert values.shape == self._window.shape, "a signal is one number a candidate"
        assert np.isfinite(values).all(), "a signal is finite"
        self._charge(self._rules.signal_purpose, cost)
        return _comparable(values)

    def _charge(self, purpose: Purpose, cost: Cost) -> None:
        self._rules.ledger.charge(purpose, cost)
        self._step_cost = self._step_cost.plus(cost)


def refuse_options(options: Mapping[str, Any] | None) -> None:
    """Refuse all options of a reset: none are known.

    Raises:
        ValueError: There are some.
    """
    if options:
        raise ValueError(f"unknown options {sorted(options)}; this environment has none")


def _comparable(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """A signal standardised within its window, whatever its unit: gradients may be tiny."""
    largest = np.abs(values).max()
    scaled = values.astype(np.float64) / (largest if largest > 0 else 1.0)
    return standardised(scaled).astype(np.float32)
