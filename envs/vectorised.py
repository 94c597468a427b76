"""The environment for many learners that step together, as Stable-Baselines3 takes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from raise_mdit.core import (
    Budget,
    Cost,
    EncodedRow,
    Evaluation,
    Observation,
    StackedLearners,
    UpdateStats,
)
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

Indices = int | Iterable[int] | None
"""Which learners; None for all."""

LearnerSignal = Callable[[Sequence[EncodedRow], int], tuple[NDArray[np.float32], Cost]]
"""A signal under the present state of the learner of that index."""


class InstructionSelectionVecEnv(VecEnv):
    """E copies of :class:`raise_mdit.envs.InstructionSelectionEnv`, one a learner.

    Spaces, rewards, information and arguments are as there, and the episodes are those of
    Stable-Baselines3's ``DummyVecEnv`` over E of them with the same seeds, with these differences:

    - One call updates all learners, and one call evaluates those that are to be measured.
    - All learners start from the same base model, which is measured once, at the first reset.
    - Episodes are numbered in the order in which they begin, over all learners.
    - One bad action refuses the step of all, before any learner is touched.

    A learner whose episode ends starts anew within the same step: its last observation and how it
    ended are in ``info`` (``terminal_observation``, ``TimeLimit.truncated``), and what its reset
    gave is in ``reset_infos``. Budgets in tokens and failures end episodes at different steps.

    ## Arguments
    - ``learners``: at their common base model.
    - ``signal``: is also given the index of the learner that it is asked about.
    - All others: as in the environment of one learner.
    """

    render_mode: str | None = None  # read while Stable-Baselines3's constructor runs

    def __init__(
        self,
        *,
        learners: StackedLearners,
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
        signal: LearnerSignal | None = None,
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
        super().__init__(
            learners.num_learners,
            self._rules.observation_space(with_signal=signal is not None),
            self._rules.action_space(),
        )
        self._learners = learners
        self._starts = [learners.snapshot(index) for index in range(self.num_envs)]
        self._reward_validation = reward_validation
        self._signals = [_of_learner(signal, index) for index in range(self.num_envs)]
        self._next_episode = first_episode
        self._rngs: list[np.random.Generator | None] = [None] * self.num_envs
        self._base: Evaluation | None = None
        self._episodes: list[Episode] = []

    def reset(self) -> dict[str, NDArray[Any]]:
        """Return all learners to the base model and offer first windows."""
        for options in self._options:
            refuse_options(options)
        for index, start in enumerate(self._starts):
            self._learners.restore(index, start)
        if self._base is None:
            (self._base,) = self._learners.evaluate(self._reward_validation, learners=[0])
            self._rules.ledger.charge(self._rules.evaluation_purpose, self._base.cost)
        self._episodes = [self._begin(index, seed) for index, seed in enumerate(self._seeds)]
        self._reset_seeds()
        self._reset_options()
        return _stacked([episode.observe() for episode in self._episodes])

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Take the actions, [E, k]."""
        self._actions = actions

    def step_wait(
        self,
    ) -> tuple[
        dict[str, NDArray[Any]], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]
    ]:
        """Train every learner on its picks and measure the improvements.

        Raises:
            ValueError: An action repeats a slot, names a masked one, or is not of the space.
            RuntimeError: There was no reset.
        """
        steps = self._train_and_measure(self._actions)
        observations, infos = [], []
        for index, (observation, _, terminated, truncated, info) in enumerate(steps):
            info["TimeLimit.truncated"] = truncated and not terminated
            if terminated or truncated:
                info["terminal_observation"] = observation
                self._learners.restore(index, self._starts[index])
                self._episodes[index] = self._begin(index, None)
                observation = self._episodes[index].observe()
            observations.append(observation)
            infos.append(info)
        rewards = np.array([step[1] for step in steps], np.float32)
        dones = np.array([step[2] or step[3] for step in steps], np.bool_)
        return _stacked(observations), rewards, dones, infos

    def close(self) -> None:
        """Nothing to close."""

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """An attribute of this environment, which all learners share, for each of some learners."""
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Refused: no learner has an environment of its own."""
        raise NotImplementedError(f"cannot set {attr_name}: the learners share one environment")

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Refused: no learner has an environment of its own."""
        raise NotImplementedError(f"cannot call {method_name}: the learners share one environment")

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: Indices = None
    ) -> list[bool]:
        """False for each of some learners: there is nothing to wrap."""
        return [False for _ in self._get_indices(indices)]

    def _train_and_measure(self, actions: NDArray[np.int64]) -> list[Step]:
        if not self._episodes:
            raise RuntimeError("no episode has begun; call reset() before step()")
        rows = [
            episode.picked_rows(action)
            for episode, action in zip(self._episodes, actions, strict=True)
        ]
        updates = self._update(rows)
        due = [
            index
            for index, episode in enumerate(self._episodes)
            if episode.record_update(rows[index], updates[index])
        ]
        evaluations = self._evaluate(due)
        return [
            episode.finish_step(rows[index], updates[index], evaluations.get(index))
            for index, episode in enumerate(self._episodes)
        ]

    def _update(self, rows: Sequence[NDArray[np.int64]]) -> list[UpdateStats]:
        batches = [self._episodes[index].batch(picked) for index, picked in enumerate(rows)]
        progress = [episode.share_spent for episode in self._episodes]
        updates = self._learners.update(batches, progress=progress)
        stepped = [stats for stats in updates if stats is not None]
        assert len(stepped) == self.num_envs, "every learner was given a batch"
        return stepped

    def _evaluate(self, learners: Sequence[int]) -> dict[int, Evaluation]:
        if not learners:
            return {}
        evaluations = self._learners.evaluate(self._reward_validation, learners=learners)
        return dict(zip(learners, evaluations, strict=True))

    def _begin(self, index: int, seed: int | None) -> Episode:
        """A first window for a learner that is back at the base model."""
        rng = self._rngs[index]
        if seed is not None or rng is None:
            rng, _ = seeding.np_random(seed)
            self._rngs[index] = rng
        assert self._base is not None, "the first reset measures it"
        self.reset_infos[index] = {"validation_loss": self._base.loss}
        number = self._next_episode
        self._next_episode += 1
        return Episode(
            self._rules,
            number=number,
            base=self._base,
            rng=rng,
            signal=self._signals[index],
        )


def _of_learner(signal: LearnerSignal | None, index: int) -> Signal | None:
    return None if signal is None else lambda rows: signal(rows, index)


def _stacked(observations: Sequence[Observation]) -> dict[str, NDArray[Any]]:
    """[E, ...] of every part."""
    return {
        key: np.stack([observation[key] for observation in observations]) for key in observations[0]
    }
