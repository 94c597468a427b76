"""Instruction tuning as a Gymnasium environment: which candidates to train on next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from raise_mdit.core import Budget, EncodedRow, Learner, Observation, UpdateStats
from raise_mdit.envs.observation import (
    DistinctSlots,
    Stage,
    WindowSampler,
    observation_space,
    observe,
)
from raise_mdit.ledger import Ledger, Purpose

FAILURE_REWARD = -1.0
"""Reward of a step that breaks the model: as bad as doubling the validation loss."""


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

    def __len__(self) -> int:
        return len(self.ids)


class InstructionSelectionEnv(gymnasium.Env[Observation, NDArray[np.int64]]):
    """Instruction tuning as a sequence of decisions about what to train on next.

    ## Description
    One episode is one fine-tuning: a learner starts from its base model, and at each step an action
    picks a batch from a window of candidates, the learner takes one optimizer step on it, and the
    reward is the improvement on reward-validation data (RAISE, arXiv 2504.07282, section 3).

    ## Action space
    ``MultiDiscrete([W] * k)``: k distinct slots of the window, the batch. The order does not matter
    to the learner. A repeated or masked slot raises ``ValueError``. Picking a candidate again in a
    later step is allowed: reuse is the policy's decision. Sampling the space gives distinct slots.

    ## Observation space
    A ``Dict``:

    | key | type | shape | meaning |
    | --- | --- | --- | --- |
    | candidates | float32 | [W, F] | unchanging features of each slot's candidate |
    | context | float32 | [6] | `raise_mdit.envs.observation.CONTEXT`: the stage |
    | selected | float32 | [W] | how often the candidate was picked in this episode |
    | mask | int8 | [W] | 1 where the slot holds a candidate |
    | window | int64 | [W] | pool row of each slot; meaningless where masked |

    W candidates are drawn anew at each step, as many from each stratum (kind and cluster) as from
    any other, so that a step costs the same whatever the size of the pool. With ``window=None``
    every candidate is offered, in pool order.

    ## Starting state
    The learner at the moment the environment was made, nothing selected, a fresh window.

    ## Rewards
    ``(L[t-1] - L[t]) / L[0]`` with L the reward-validation loss. Undiscounted, an episode's rewards
    telescope to ``(L[0] - L[T]) / L[0]``. A step that breaks the model gives -1.

    ## Episode end
    Truncated by the step that spends the budget (optimizer steps, or tokens without padding).
    Terminated when the training or validation loss is not finite; the learner is then back at its
    base model and ``info["termination_reason"]`` says what happened.

    ## Information
    ``reset`` gives ``validation_loss``. ``step`` gives ``ids``, ``rows`` (pool rows picked),
    ``loss`` (of the batch, before the step), ``validation_loss``, ``tokens``, ``flops`` and
    ``seconds`` of the step with its validation, ``budget_share``, and ``termination_reason``.

    ## Arguments
    - ``learner``: at its base model, to which every reset returns.
    - ``pool``: the candidates.
    - ``reward_validation``: encoded items on which rewards are measured.
    - ``batch_size``: k.
    - ``budget``: when an episode ends.
    - ``window``: W, or None for the whole pool.
    - ``ledger``: charged with every update and validation pass.
    - ``training_purpose``, ``evaluation_purpose``: what the ledger is told they are for.

    ## Version history
    - v0: first version.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  # Gymnasium's own declaration

    def __init__(
        self,
        *,
        learner: Learner,
        pool: TrainingPool,
        reward_validation: Sequence[EncodedRow],
        batch_size: int,
        budget: Budget,
        window: int | None = None,
        ledger: Ledger | None = None,
        training_purpose: Purpose = "policy_training",
        evaluation_purpose: Purpose = "reward_evaluation",
    ) -> None:
        num_slots = len(pool) if window is None else window
        if batch_size > min(num_slots, len(pool)):
            raise ValueError(
                f"batch_size {batch_size} is more than the {min(num_slots, len(pool))} candidates "
                f"of a window (window {num_slots}, pool {len(pool)})"
            )
        self._learner = learner
        self._start = learner.snapshot()
        self._pool = pool
        self._reward_validation = reward_validation
        self._budget = budget
        self._num_slots = num_slots
        self._batch_size = batch_size
        self._sampler = None if window is None else WindowSampler(pool.strata)
        self._ledger = ledger or Ledger()
        self._purposes = (training_purpose, evaluation_purpose)
        self._base_loss: float | None = None
        self.action_space = DistinctSlots(num_slots, batch_size)
        self.observation_space = observation_space(  # type: ignore[assignment]  # Dict is a Mapping
            num_slots, pool.features.shape[1], len(pool)
        )
        self._clear()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Return the learner to its base model and offer a first window.

        Args:
            seed: Of the windows of this and later episodes.
            options: None are known.
        """
        super().reset(seed=seed)
        if options:
            raise ValueError(f"unknown options {sorted(options)}; this environment has none")
        self._learner.restore(self._start)
        self._clear()
        if self._base_loss is None:  # the base model does not change, so neither does its loss
            self._base_loss = self._validation_loss()
        self._loss = self._base_loss
        self._over = False
        self._draw_window()
        return self._observe(), {"validation_loss": self._loss}

    def step(
        self, action: NDArray[np.int64]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Train on the picked candidates and measure the improvement.

        Raises:
            ValueError: The action repeats a slot, names a masked one, or is not of the space.
            RuntimeError: The episode has not begun or is over.
        """
        if self._over:
            raise RuntimeError("the episode is over; call reset() before step()")
        rows = self._picked_rows(action)
        before = self._ledger.total
        stats = self._update(rows)
        failure = self._failure(stats)
        reward = FAILURE_REWARD if failure else self._improvement()
        self._stage = Stage(
            loss_ratio=self._loss / self._base(),
            budget_share=self._share_spent(),
            last_reward=reward,
        )
        terminated, truncated = failure is not None, self._stage.budget_share >= 1.0
        self._over = terminated or truncated
        self._draw_window()
        spent = self._ledger.total
        info = {
            "ids": [self._pool.ids[row] for row in rows],
            "rows": rows,
            "loss": stats.loss,
            "validation_loss": self._loss,
            "tokens": stats.cost.tokens,
            "flops": spent.flops - before.flops,
            "seconds": spent.seconds - before.seconds,
            "budget_share": self._stage.budget_share,
            "termination_reason": failure,
        }
        return self._observe(), reward, terminated, truncated, info

    def _clear(self) -> None:
        self._selected = np.zeros(len(self._pool), np.int64)
        self._steps = 0
        self._tokens = 0
        self._loss = math.nan
        self._next_loss = math.nan
        self._stage = Stage()
        self._window = np.zeros(0, np.int64)
        self._over = True

    def _picked_rows(self, action: NDArray[np.int64]) -> NDArray[np.int64]:
        slots = np.asarray(action)
        if slots.dtype.kind not in "iu":
            raise ValueError(f"slots are whole numbers, got {slots.dtype}: {slots.tolist()}")
        if slots.shape != (self._batch_size,):
            raise ValueError(f"an action is {self._batch_size} slots, got shape {slots.shape}")
        if (slots < 0).any() or (slots >= self._num_slots).any():
            raise ValueError(f"slots are 0 to {self._num_slots - 1}, got {slots.tolist()}")
        if len(np.unique(slots)) != len(slots):
            raise ValueError(f"a slot is picked twice in one action: {slots.tolist()}")
        if (slots >= len(self._window)).any():
            raise ValueError(f"a masked slot is picked: {slots.tolist()}; see observation['mask']")
        return self._window[slots]

    def _update(self, rows: NDArray[np.int64]) -> UpdateStats:
        stats = self._learner.update(
            [self._pool.rows[row] for row in rows], progress=self._share_spent()
        )
        self._ledger.charge(self._purposes[0], stats.cost)
        self._selected[rows] += 1
        self._steps += 1
        self._tokens += stats.cost.tokens
        return stats

    def _failure(self, stats: UpdateStats) -> str | None:
        """What broke the model, after which it is the base model again."""
        broken = None
        if math.isfinite(stats.loss):
            self._next_loss = self._validation_loss()
        else:
            broken = f"the training loss or its gradient is not finite at step {self._steps}"
        if broken is None and not math.isfinite(self._next_loss):
            broken = f"the validation loss is not finite after step {self._steps}"
        if broken is not None:
            self._learner.restore(self._start)
            self._loss = self._base()
        return broken

    def _improvement(self) -> float:
        reward = (self._loss - self._next_loss) / self._base()
        self._loss = self._next_loss
        return reward

    def _base(self) -> float:
        assert self._base_loss is not None, "reset() comes first"
        return self._base_loss

    def _validation_loss(self) -> float:
        evaluation = self._learner.evaluate(self._reward_validation)
        self._ledger.charge(self._purposes[1], evaluation.cost)
        return evaluation.loss

    def _share_spent(self) -> float:
        return self._budget.share_spent(steps=self._steps, tokens=self._tokens)

    def _draw_window(self) -> None:
        if self._sampler is None:
            self._window = np.arange(len(self._pool))
        else:
            self._window = self._sampler.draw(self._num_slots, self.np_random)

    def _observe(self) -> Observation:
        return observe(
            self._window,
            num_slots=self._num_slots,
            features=self._pool.features,
            selected=self._selected,
            kinds=self._pool.kinds,
            stage=self._stage,
        )
