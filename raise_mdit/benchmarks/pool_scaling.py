"""What the environment and the policy cost in pools of up to a million candidates.

The learner does nothing, so what is measured is windows, observations, bookkeeping and scoring.

Shapes: ``N`` candidates.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar, overload

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3 import PPO

from raise_mdit.agents.pool_scoring import score_pool
from raise_mdit.agents.ppo import build_ppo
from raise_mdit.agents.scoring_policy import SetScoringPolicy
from raise_mdit.agents.static import random_policy
from raise_mdit.benchmarks.policy_training import EPISODES_PER_UPDATE
from raise_mdit.core import KINDS, Budget, Cost, EncodedRow, Evaluation, Observation, UpdateStats
from raise_mdit.envs import InstructionSelectionEnv, TrainingPool
from raise_mdit.envs.observation import CONTEXT
from raise_mdit.policy_config import PpoConfig

POOL_SIZES = (1_000, 10_000, 100_000, 1_000_000)
NUM_FEATURES = 42
"""Of tier `cheap` with its 32 components, rounded up."""
NUM_STRATA = 24
"""Three kinds in eight clusters."""
WINDOW = 96
BATCH_SIZE = 8
STEPS = 8
NUM_TIMED_STEPS = 200
NUM_TRACED_STEPS = 20
NUM_TIMED_SCORINGS = 3

Value = TypeVar("Value")


class PoolScale(NamedTuple):
    """What a pool of one size costs."""

    candidates: int
    env_step_seconds: float
    """One step of the environment with an idle learner; median."""
    env_step_bytes: int
    """Most that a step holds at once; median."""
    buffer_bytes: int
    """A rollout buffer of four episodes."""
    scoring_seconds: float
    """Scores of all candidates by a policy; median."""


def measure_pool(num_candidates: int, seed: int) -> PoolScale:
    """Measure a pool of random features and one shared row.

    Args:
        num_candidates: N.
        seed: Of features, strata and picks.
    """
    rng = np.random.default_rng(seed)
    pool = _pool(num_candidates, rng)
    env = InstructionSelectionEnv(
        learner=IdleLearner(),
        pool=pool,
        reward_validation=[_ROW],
        batch_size=BATCH_SIZE,
        budget=Budget(steps=NUM_TIMED_STEPS + NUM_TRACED_STEPS),
        window=WINDOW,
    )
    seconds, traced = _time_steps(env, rng)
    ppo = build_ppo(
        env, PpoConfig(kind="ppo"), steps_per_episode=STEPS, seed=seed, features=pool.features
    )
    assert ppo.n_steps == EPISODES_PER_UPDATE * STEPS, "the buffer holds four episodes"
    return PoolScale(
        candidates=num_candidates,
        env_step_seconds=float(np.median(seconds)),
        env_step_bytes=int(np.median(traced)),
        buffer_bytes=_buffer_bytes(ppo),
        scoring_seconds=_scoring_seconds(ppo, pool.features),
    )


class IdleLearner:
    """Learns nothing, at no cost but tokens."""

    def update(self, batch: Sequence[EncodedRow], *, progress: float) -> UpdateStats:
        """A loss of 1."""
        return UpdateStats(1.0, Cost(tokens=len(batch)))

    def evaluate(self, items: Sequence[EncodedRow]) -> Evaluation:
        """A loss of 1."""
        return Evaluation(1.0, np.ones(len(items)), np.zeros(len(items), np.bool_), Cost())

    def snapshot(self) -> object:
        """Nothing."""
        return None

    def restore(self, snapshot: object) -> None:
        """Nothing."""


class Lazy(Sequence[Value], Generic[Value]):
    """N values that are made when they are asked for."""

    def __init__(self, size: int, value: Callable[[int], Value]) -> None:
        self._size = size
        self._value = value

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> Value: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Value]: ...

    def __getitem__(self, index: int | slice) -> Value | Sequence[Value]:
        assert not isinstance(index, slice), "the environment asks for single rows"
        return self._value(index)


_ROW = EncodedRow(
    key="row",
    ids=np.zeros(2, np.int64),
    scored=np.zeros(1, np.int64),
    targets=np.zeros((1, 2), np.int64),
    target_weights=np.array([[1, 0]], np.float32),
)


def _pool(num_candidates: int, rng: np.random.Generator) -> TrainingPool:
    strata = rng.integers(0, NUM_STRATA, num_candidates)
    return TrainingPool(
        ids=Lazy(num_candidates, str),
        rows=Lazy(num_candidates, lambda _: _ROW),
        kinds=strata % len(KINDS),
        features=rng.standard_normal((num_candidates, NUM_FEATURES), np.float32),
        strata=strata,
    )


def _time_steps(
    env: gymnasium.Env[Observation, NDArray[np.int64]], rng: np.random.Generator
) -> tuple[list[float], list[int]]:
    """Seconds of steps, and bytes of others: tracing slows a step down."""
    policy = random_policy(rng, num_picks=BATCH_SIZE)
    observation, _ = env.reset(seed=0)
    seconds: list[float] = []
    for _ in range(NUM_TIMED_STEPS):
        action, _ = policy.predict(observation)
        started = time.perf_counter()
        observation, *_ = env.step(action)
        seconds.append(time.perf_counter() - started)
    traced: list[int] = []
    tracemalloc.start()
    for _ in range(NUM_TRACED_STEPS):
        action, _ = policy.predict(observation)
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        observation, *_ = env.step(action)
        traced.append(tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    return seconds, traced


def _buffer_bytes(ppo: PPO) -> int:
    """Of every array that is allocated for steps; the pool's features are not copied."""
    fields: dict[str, Any] = vars(ppo.rollout_buffer)
    arrays = [value for name, value in fields.items() if name != "features_NS"]
    arrays += fields["observations"].values()
    return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))


def _scoring_seconds(ppo: PPO, features: NDArray[np.float32]) -> float:
    policy = ppo.policy
    assert isinstance(policy, SetScoringPolicy)
    selected = np.zeros(len(features), np.float32)
    context = np.zeros(len(CONTEXT), np.float32)
    seconds: list[float] = []
    for _ in range(NUM_TIMED_SCORINGS):
        started = time.perf_counter()
        score_pool(policy, features, selected=selected, context=context)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))
