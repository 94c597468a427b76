"""Instruction tuning as a Gymnasium environment: which candidates to train on next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from raise_mdit.core import Budget, EncodedRow, Evaluation, Learner, Observation
from raise_mdit.envs.episode import (
    Episode,
    EpisodeRules,
    Signal,
    Step,
    TrainingPool,
    refuse_options,
)
from raise_mdit.ledger import Ledger, Purpose
from raise_mdit.rewards import Targets


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
    | candidates | float32 | [W, F] | features of each slot's candidate: the pool's, then `signal` |
    | context | float32 | [7] | `raise_mdit.envs.observation.CONTEXT`: the stage |
    | selected | float32 | [W] | how often the candidate was picked in this episode |
    | mask | int8 | [W] | 1 where the slot holds a candidate |
    | window | int64 | [W] | pool row of each slot; meaningless where masked |

    W candidates are drawn anew at each step, as many from each stratum (kind and cluster) as from
    any other, so that a step costs the same whatever the size of the pool. With ``window=None``
    every candidate is offered, in pool order.

    Where the pool has a ``renewal``, synthesised candidates are on offer in their turn: the
    environment counts its episodes, and each goes on to the next generations.

    With ``signal``, the last column of `candidates` says how it rates each slot's candidate under
    the present model: mean 0 and standard deviation 1 over the window, cut off at 5. It is 0 where
    masked, and in the observation after the last step, on which no policy acts.

    ## Starting state
    The learner at the moment the environment was made, nothing selected, a fresh window.

    ## Rewards
    ``(L[t-1] - L[t]) / L[0]`` with L the reward-validation loss. Undiscounted, an episode's rewards
    telescope to ``(L[0] - L[T]) / L[0]``. A step that breaks the model gives -1.

    With ``reward_every=m`` the loss is measured at every m-th step of an episode and at its last;
    the steps between give 0, and the sum is the same. A validation loss that is not finite shows
    only where it is measured.

    With ``targets``, in place of L stands the mean over targets of the target's loss over its loss
    before training, so that no target counts for its length; the rest is as before.

    With ``control`` the reward is reduced by a number that depends on the step alone, which takes
    away noise. Steps beyond its end lose nothing, and the last step of a shorter episode loses all
    that is left: every episode loses the same, so that undiscounted the best policy stays the best
    also where a budget in tokens lets it choose how many steps there are. Only the -1 of a broken
    model stays -1. Observations never show the control: `last_reward` is the gain.

    With ``early_stopping`` an episode ends with the weights of its lowest measured L, the first of
    equals, and the reward is the improvement on the lowest so far: ``max(0, min(L[:t]) - L[t]) /
    L[0]``. Undiscounted, rewards telescope to ``(L[0] - min(L)) / L[0]``: a step that harms costs
    nothing but its share of the budget.

    ## Episode end
    Truncated by the step that spends the budget (optimizer steps, or tokens without padding); with
    ``early_stopping`` the learner then goes back to its lowest L.
    Terminated when the training or validation loss is not finite; the learner is then back at its
    base model and ``info["termination_reason"]`` says what happened.

    ## Information
    ``reset`` gives ``validation_loss``. ``step`` gives ``ids``, ``rows`` (pool rows picked),
    ``loss`` (of the batch, before the step), ``validation_loss`` (the last that was measured, the
    base model's after a failure), ``measured`` (whether it is of this step), ``kept_steps`` and
    ``kept_loss`` (steps, and validation loss, of the weights that the episode would end with),
    ``gain`` (the reward before ``control``), ``tokens`` trained on, ``flops`` and ``seconds`` of
    the step with its validation and the signal that it was chosen by, ``budget_share``, and
    ``termination_reason``.

    ## Arguments
    - ``learner``: at its base model, to which every reset returns.
    - ``pool``: the candidates.
    - ``reward_validation``: encoded items on which rewards are measured.
    - ``batch_size``: k.
    - ``budget``: when an episode ends.
    - ``window``: W, or None for the whole pool.
    - ``ledger``: charged with every update and validation pass.
    - ``training_purpose``, ``evaluation_purpose``, ``signal_purpose``: what the ledger is told they
      are for.
    - ``reward_every``: steps between two measurements of the validation loss.
    - ``early_stopping``: whether an episode ends with the weights of its lowest validation loss.
    - ``control``: [T] mean reward at each step under random picks, with the same ``reward_every``.
    - ``targets``: [I] target of each item of ``reward_validation``, numbered from 0, where targets
      count alike; None counts all scored tokens alike.
    - ``signal``: gives one number for each row of a window, unmasked ones only, and its cost.
    - ``first_episode``: number of the first episode, by which candidates are renewed.

    ## Version history
    - v0: first version. ``reward_every``, ``control``, ``targets``, ``signal``, the pool's
      ``renewal`` and ``early_stopping`` were added later; without them, every window, observation
      and reward is as before.
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
        signal_purpose: Purpose = "features",
        reward_every: int = 1,
        early_stopping: bool = False,
        control: NDArray[np.float32] | None = None,
        targets: NDArray[np.int64] | None = None,
        signal: Signal | None = None,
        first_episode: int = 0,
    ) -> None:
        self._rules = EpisodeRules(
            pool=pool,
            batch_size=batch_size,
            budget=budget,
            window=window,
            reward_every=reward_every,
            early_stopping=early_stopping,
            control=control,
            targets=None if targets is None else Targets.of(reward_validation, targets),
            ledger=ledger or Ledger(),
            training_purpose=training_purpose,
            evaluation_purpose=evaluation_purpose,
            signal_purpose=signal_purpose,
        )
        self._learner = learner
        self._start = self._kept = learner.snapshot()
        self._reward_validation = reward_validation
        self._signal = signal
        self._next_episode = first_episode
        self._base: Evaluation | None = None
        self._episode: Episode | None = None
        self.action_space = self._rules.action_space()
        self.observation_space = self._rules.observation_space(  # type: ignore[assignment]  # Dict is a Mapping
            with_signal=signal is not None
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Return the learner to its base model and offer a first window.

        Args:
            seed: Of the windows of this and later episodes.
            options: None are known.
        """
        super().reset(seed=seed)
        refuse_options(options)
        self._learner.restore(self._start)
        self._kept = self._start
        if self._base is None:  # the base model does not change, so neither does its loss
            self._base = self._learner.evaluate(self._reward_validation)
            self._rules.ledger.charge(self._rules.evaluation_purpose, self._base.cost)
        self._episode = Episode(
            self._rules,
            number=self._next_episode,
            base=self._base,
            rng=self.np_random,
            signal=self._signal,
        )
        self._next_episode += 1
        return self._episode.observe(), {"validation_loss": self._base.loss}

    def step(self, action: NDArray[np.int64]) -> Step:
        """Train on the picked candidates and measure the improvement.

        Raises:
            ValueError: The action repeats a slot, names a masked one, or is not of the space.
            RuntimeError: The episode has not begun or is over.
        """
        if self._episode is None:
            raise RuntimeError("no episode has begun; call reset() before step()")
        rows = self._episode.picked_rows(action)
        stats = self._learner.update(self._episode.batch(rows), progress=self._episode.share_spent)
        evaluation = None
        if self._episode.record_update(rows, stats):
            evaluation = self._learner.evaluate(self._reward_validation)
        step = self._episode.finish_step(rows, stats, evaluation)
        _, _, terminated, truncated, info = step
        if terminated:
            self._learner.restore(self._start)
        elif self._rules.early_stopping:
            is_lowest = info["kept_steps"] == self._episode.num_steps
            self._stop_early(is_lowest=is_lowest, is_over=truncated)
        return step

    def _stop_early(self, *, is_lowest: bool, is_over: bool) -> None:
        """Keep the weights of the lowest loss; in the end go back to them."""
        if is_lowest and not is_over:
            self._kept = self._learner.snapshot()
        if is_over and not is_lowest:
            self._learner.restore(self._kept)
