"""The environments in which an arm learns its policy and then uses it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raise_mdit.agents.static import random_policy
from raise_mdit.config import FullDataConfig, GradientAlignmentConfig, PolicyConfig, PpoConfig
from raise_mdit.core import KINDS, Budget, SelectionPolicy
from raise_mdit.envs import InstructionSelectionEnv
from raise_mdit.envs.episode import Signal
from raise_mdit.envs.vectorised import InstructionSelectionVecEnv
from raise_mdit.learners.alignment import alignment_signal
from raise_mdit.learners.causal_lm import CausalLmLearner
from raise_mdit.ledger import MONITORING, Ledger, Purpose
from raise_mdit.preparation import Preparation
from raise_mdit.renewal import num_learning_episodes
from raise_mdit.rewards import mean_by_step


@dataclass(frozen=True, slots=True)
class ArmEnvironments:
    """Makes the environments of one arm; all charge its ledger."""

    preparation: Preparation
    policy: PolicyConfig
    ledger: Ledger

    @property
    def window(self) -> int | None:
        """Candidates offered to a policy that looks at them; None offers the pool."""
        window = self.preparation.config.environment.window
        return None if window == "pool" else window

    @property
    def budget(self) -> Budget:
        """The experiment's."""
        budget = self.preparation.config.environment.budget
        return Budget(steps=budget.steps, tokens=budget.tokens)

    @property
    def final_budget(self) -> Budget:
        """The experiment's budget; one epoch for the full data. A last batch is filled up."""
        if not isinstance(self.policy, FullDataConfig):
            return self.budget
        originals = int((self.preparation.pool.kinds == KINDS.index("original")).sum())
        return Budget(steps=-(-originals // self.preparation.config.environment.batch_size))

    @property
    def steps_per_episode(self) -> int:
        """Exact for a budget in steps; by the pool's mean length for one in tokens."""
        if self.budget.steps is not None:
            return self.budget.steps
        assert self.budget.tokens is not None, "a budget has a limit"
        batch_size = self.preparation.config.environment.batch_size
        mean_tokens = float(self.preparation.pool.num_tokens.mean())
        return max(1, round(self.budget.tokens / mean_tokens / batch_size))

    def learning(
        self, policy: PpoConfig, *, control: NDArray[np.float32] | None
    ) -> InstructionSelectionEnv | InstructionSelectionVecEnv:
        """Where the policy learns: one fine-tuning, or several that step together.

        Args:
            policy: The arm's.
            control: See :meth:`random_gains`.
        """
        tuning, together = self.preparation.tuning, policy.parallel_episodes
        if together == 1:
            learner = tuning.policy_learner
            return self._environment(
                learner, self.budget, self.window, control=control, signal=self._signal(learner)
            )
        learners = tuning.stacked(together)
        learners.open_account()
        return InstructionSelectionVecEnv(
            learners=learners,
            pool=self.preparation.training,
            reward_validation=self.preparation.reward_items,
            batch_size=self.preparation.config.environment.batch_size,
            budget=self.budget,
            window=self.window,
            ledger=self.ledger,
            reward_every=self.preparation.config.reward.every,
            control=control,
        )

    def random_gains(
        self, *, seeds: list[int], rng: np.random.Generator, advance: Callable[[float], None]
    ) -> NDArray[np.float32]:
        """[T] mean improvement of each step under random picks, which look at no signal.

        Args:
            seeds: One an episode, of its windows.
            rng: Of the picks.
            advance: Told the return of each episode.
        """
        env = self._environment(self.preparation.tuning.policy_learner, self.budget, self.window)
        policy = random_policy(rng, num_picks=self.preparation.config.environment.batch_size)
        gains = []
        for seed in seeds:
            gains.append(_gains(env, policy, seed))
            advance(sum(gains[-1]))
        return mean_by_step(gains)

    def final(self, *, window: int | None) -> InstructionSelectionEnv:
        """Where the policy fine-tunes the model for good; candidates renewed are fresh to it."""
        learner = self.preparation.tuning.learner
        return self._environment(
            learner,
            self.final_budget,
            window,
            training="final_training",
            evaluation="reward_evaluation" if self._learned else MONITORING,
            signal=self._signal(learner),
            first_episode=num_learning_episodes(self.preparation.config),
        )

    @property
    def _learned(self) -> bool:
        return isinstance(self.policy, PpoConfig)

    def _environment(
        self,
        learner: CausalLmLearner,
        budget: Budget,
        window: int | None,
        *,
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
            pool=self.preparation.training,
            reward_validation=self.preparation.reward_items,
            batch_size=config.environment.batch_size,
            budget=budget,
            window=window,
            ledger=self.ledger,
            training_purpose=training,
            evaluation_purpose=evaluation,
            reward_every=config.reward.every if self._learned else 1,
            control=control,
            signal=signal,
            first_episode=first_episode,
        )

    def _signal(self, learner: CausalLmLearner) -> Signal | None:
        """What is measured of each window, where the policy looks at it."""
        looks = self._learned and self.preparation.config.features.tier == "gradient"
        if not (looks or isinstance(self.policy, GradientAlignmentConfig)):
            return None
        return alignment_signal(learner, self.preparation.reward_items)


def _gains(env: InstructionSelectionEnv, policy: SelectionPolicy, seed: int) -> list[float]:
    """The improvement at each step of an episode."""
    observation, _ = env.reset(seed=seed)
    gains: list[float] = []
    done = False
    while not done:
        action, _ = policy.predict(observation)
        observation, _, terminated, truncated, info = env.step(action)
        gains.append(info["gain"])
        done = terminated or truncated
    return gains
