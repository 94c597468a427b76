"""The environments in which an arm learns its policy and then uses it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raise_mdit.agents.static import random_policy
from raise_mdit.core import KINDS, Budget, OnlinePolicy, SelectionPolicy
from raise_mdit.envs import InstructionSelectionEnv, TrainingPool
from raise_mdit.envs.episode import Signal
from raise_mdit.envs.vectorised import InstructionSelectionVecEnv
from raise_mdit.learners.alignment import alignment_signal
from raise_mdit.learners.causal_lm import CausalLmLearner
from raise_mdit.ledger import MONITORING, Ledger, Purpose
from raise_mdit.policy_config import (
    CandidateScoringSection,
    FullDataConfig,
    GradientAlignmentConfig,
    PolicyConfig,
    ScorerSection,
    TrainedByGradients,
)
from raise_mdit.preparation import Preparation
from raise_mdit.renewal import num_learning_episodes
from raise_mdit.rewards import mean_by_step

CURVE_POINTS = 50
"""Measurements of reward-validation that a curve is drawn by at least, where it has the steps."""


@dataclass(frozen=True, eq=False)
class ArmEnvironments:
    """Makes the environments of one arm; all charge its ledger."""

    preparation: Preparation
    policy: PolicyConfig
    ledger: Ledger
    prior: NDArray[np.float32] | None = None
    """[N] normal scores of the ranking that the policy begins as."""
    features: NDArray[np.float32] | None = None
    """[N, F] what the policy was taught to see of the pool; None is what all see."""

    @cached_property
    def pool(self) -> TrainingPool:
        """The experiment's, with the ranking that the policy begins as for a last column."""
        training = self.preparation.training
        if self.features is not None:
            training = replace(training, features=self.features)
        if self.prior is None:
            return training
        features = np.column_stack([training.features, self.prior])
        return replace(training, features=features)

    @property
    def prior_column(self) -> int | None:
        """Where features have it."""
        return None if self.prior is None else self.pool.features.shape[1] - 1

    @property
    def num_columns(self) -> int:
        """What the environment shows of a candidate: the pool's own, a ranking, a signal."""
        return int(self.pool.features.shape[1]) + self.has_signal

    @property
    def window(self) -> int | None:
        """Candidates offered to the policy; None offers the pool."""
        window = self.preparation.config.environment.window
        if isinstance(self.policy, CandidateScoringSection) and self.policy.window is not None:
            window = self.policy.window
        return None if self.policy.offer == "pool" or window == "pool" else window

    @property
    def final_budget(self) -> Budget:
        """The experiment's budget; whole epochs for the full data. A last batch is filled up."""
        if not isinstance(self.policy, FullDataConfig):
            return self.preparation.budget
        originals = int((self.preparation.pool.kinds == KINDS.index("original")).sum())
        batch_size = self.preparation.config.environment.batch_size
        return Budget(steps=-(-originals * self.policy.epochs // batch_size))

    def learning(
        self, *, control: NDArray[np.float32] | None, first_episode: int = 0
    ) -> InstructionSelectionEnv | InstructionSelectionVecEnv:
        """Where the policy learns: one fine-tuning, or several that step together.

        Args:
            control: See :meth:`random_gains`.
            first_episode: Number of the first, by which candidates are renewed.
        """
        together = 1
        if isinstance(self.policy, ScorerSection):
            together = self.policy.parallel_episodes
        if together == 1:
            every = self.preparation.config.reward.every
            return self.alone(reward_every=every, control=control, first_episode=first_episode)
        learners = self.preparation.tuning.stacked(together)
        learners.open_account()
        return InstructionSelectionVecEnv(
            learners=learners,
            pool=self.pool,
            reward_validation=self.preparation.reward_items,
            targets=self.preparation.reward_targets,
            batch_size=self.preparation.config.environment.batch_size,
            budget=self.preparation.budget,
            window=self.window,
            ledger=self.ledger,
            reward_every=self.preparation.config.reward.every,
            early_stopping=self._stops_early,
            control=control,
            first_episode=first_episode,
        )

    def alone(
        self,
        *,
        reward_every: int,
        control: NDArray[np.float32] | None = None,
        first_episode: int = 0,
    ) -> InstructionSelectionEnv:
        """Where the policy learns from one fine-tuning after another.

        Args:
            reward_every: Steps between two measurements; the last step has one in any case.
            control: See :meth:`random_gains`.
            first_episode: Number of the first, by which candidates are renewed.
        """
        learner = self.preparation.tuning.policy_learner
        return self._environment(
            learner,
            self.preparation.budget,
            self.window,
            reward_every=reward_every,
            early_stopping=self._stops_early,
            control=control,
            signal=self._signal(learner),
            first_episode=first_episode,
        )

    def trying(self, *, first_episode: int = 0) -> InstructionSelectionEnv:
        """Where schedules are tried as a whole: reward-validation is read before and after.

        Where fine-tunings stop early it is read on the way, too, as often as in the final one.

        Args:
            first_episode: Number of the first, by which candidates are renewed.
        """
        every = self.preparation.steps_per_episode
        if self._stops_early:
            every = self._drawn_every()
        return self.alone(reward_every=every, first_episode=first_episode)

    def random_gains(
        self, *, seeds: list[int], rng: np.random.Generator, advance: Callable[[float], None]
    ) -> NDArray[np.float32]:
        """[T] mean improvement of each step under random picks, which look at no signal.

        Args:
            seeds: One an episode, of its windows.
            rng: Of the picks.
            advance: Told the return of each episode.
        """
        learner = self.preparation.tuning.policy_learner
        every = self.preparation.config.reward.every
        env = self._environment(
            learner,
            self.preparation.budget,
            self.window,
            reward_every=every,
            early_stopping=self._stops_early,
        )
        policy = random_policy(rng, num_picks=self.preparation.config.environment.batch_size)
        gains = []
        for seed in seeds:
            played = play(env, policy, seed)
            gains.append(played.gains)
            advance(played.total)
        return mean_by_step(gains)

    def final(self, *, settled: bool = False) -> InstructionSelectionEnv:
        """Where the policy fine-tunes the model for good; candidates renewed are fresh to it.

        Args:
            settled: Whether all that it picks is known before: it looks at nothing, and may take
                any candidate.
        """
        learner = self.preparation.tuning.learner
        is_seen = self.policy.sees_stage and not settled
        stops = self._stops_early and self.policy.picks and not settled
        return self._environment(
            learner,
            self.final_budget,
            None if settled else self.window,
            reward_every=self._seen_every() if is_seen else self._drawn_every(),
            early_stopping=stops,
            training="final_training",
            evaluation="reward_evaluation" if is_seen or stops else MONITORING,
            signal=self._signal(learner),
            first_episode=num_learning_episodes(self.preparation.config),
        )

    def probe(self, window: int, *, with_signal: bool) -> InstructionSelectionEnv:
        """Where the model is trained for one step.

        Args:
            window: Candidates offered.
            with_signal: Whether they are measured, if the policy looks at that.
        """
        learner = self.preparation.tuning.learner
        return self._environment(
            learner,
            Budget(steps=1),
            window,
            reward_every=1,
            signal=self._signal(learner) if with_signal else None,
            first_episode=num_learning_episodes(self.preparation.config),
        )

    @property
    def has_signal(self) -> bool:
        """Whether the policy looks at how gradients of its windows agree with validation's."""
        by_tier = self.preparation.config.features.tier == "gradient"
        return by_tier and self.policy.sees_alignment

    @property
    def _stops_early(self) -> bool:
        """Whether fine-tunings end with the weights of their lowest loss on reward-validation."""
        return self.preparation.config.environment.early_stopping

    def _seen_every(self) -> int:
        """Steps between measurements of the final fine-tuning that a policy may act on.

        One that learns step by step needs each; one that was trained sees what it saw before.
        """
        if isinstance(self.policy, TrainedByGradients):
            return self.preparation.config.reward.every
        return 1

    def _drawn_every(self) -> int:
        """Steps between measurements that only draw a curve."""
        steps = self.final_budget.steps
        return 1 if steps is None else max(1, steps // CURVE_POINTS)

    def _environment(
        self,
        learner: CausalLmLearner,
        budget: Budget,
        window: int | None,
        *,
        reward_every: int,
        early_stopping: bool = False,
        training: Purpose = "policy_training",
        evaluation: Purpose = "reward_evaluation",
        control: NDArray[np.float32] | None = None,
        signal: Signal | None = None,
        first_episode: int = 0,
    ) -> InstructionSelectionEnv:
        tuning, config = self.preparation.tuning, self.preparation.config
        learner.restore(tuning.base if learner is tuning.learner else tuning.policy_base)
        return InstructionSelectionEnv(
            learner=learner,
            pool=self.pool,
            reward_validation=self.preparation.reward_items,
            targets=self.preparation.reward_targets,
            batch_size=config.environment.batch_size,
            budget=budget,
            window=window,
            ledger=self.ledger,
            training_purpose=training,
            evaluation_purpose=evaluation,
            reward_every=reward_every,
            early_stopping=early_stopping,
            control=control,
            signal=signal,
            first_episode=first_episode,
        )

    def _signal(self, learner: CausalLmLearner) -> Signal | None:
        """What is measured of each window, where the policy looks at it."""
        if not (self.has_signal or isinstance(self.policy, GradientAlignmentConfig)):
            return None
        return alignment_signal(learner, self.preparation.reward_items)


class Played(NamedTuple):
    """An episode that is over."""

    gains: list[float]
    """Improvement at each step."""
    batches: list[NDArray[np.int64]]
    """[k] pool rows of each step that counts: those beyond an early stop are left out."""
    validation_loss: float
    """Of what it ended with."""

    @property
    def total(self) -> float:
        """Improvement over the episode."""
        return sum(self.gains)


def play(
    env: InstructionSelectionEnv,
    policy: SelectionPolicy,
    seed: int,
    *,
    online: OnlinePolicy | None = None,
    deterministic: bool = False,
) -> Played:
    """One episode under a policy.

    Args:
        env: Of the arm.
        policy: Whose draws, if any, are made.
        seed: Of the windows.
        online: Told what each step gave.
        deterministic: Whether it takes its best picks, and draws none.
    """
    observation, _ = env.reset(seed=seed)
    gains: list[float] = []
    batches: list[NDArray[np.int64]] = []
    done = False
    while not done:
        action, _ = policy.predict(observation, deterministic=deterministic)
        observation, _, terminated, truncated, info = env.step(action)
        gains.append(info["gain"])
        batches.append(info["rows"])
        if online is not None:
            online.learn(info["rows"], info["gain"])
        done = terminated or truncated
    return Played(gains, batches[: info["kept_steps"]], info["kept_loss"])
