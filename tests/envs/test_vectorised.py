"""Many learners at once, against Stable-Baselines3's loop over environments of one learner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from raise_mdit.agents.scoring_policy import SetScoringPolicy
from raise_mdit.core import Budget, Cost, EncodedRow, Evaluation, UpdateStats
from raise_mdit.envs import InstructionSelectionEnv, TrainingPool
from raise_mdit.envs.episode import FAILURE_REWARD, Signal
from raise_mdit.envs.vectorised import InstructionSelectionVecEnv
from raise_mdit.ledger import Ledger

START_LOSS = 8.0
BATCH_SIZE = 2
VALIDATION_COST = Cost(tokens=7, padded_tokens=9, flops=64.0, seconds=0.25)
KEYS = ("good", "bad", "good", "neutral", "bad", "neutral")
FRAGILE_KEYS = (*KEYS, "no training", "no validation", *KEYS)
EFFECTS = {"good": -1.0, "bad": 0.5, "neutral": 0.0, "no training": 0.0, "no validation": math.nan}
"""What training on a row of each key adds to the loss; all numbers are exact in binary."""


class FakeLearner:
    """Its loss is 8 nats plus the effect of every row that it was trained on."""

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.progress: list[float] = []

    @property
    def loss(self) -> float:
        return START_LOSS + sum(EFFECTS[key] for key in self.trained)

    def update(self, batch: Sequence[EncodedRow], *, progress: float) -> UpdateStats:
        loss = math.nan if "no training" in {row.key for row in batch} else self.loss
        self.trained += [row.key for row in batch]
        self.progress.append(progress)
        tokens = sum(row.num_tokens for row in batch)
        return UpdateStats(loss, Cost(tokens=tokens, flops=32.0 * tokens, seconds=0.5))

    def evaluate(self, items: Sequence[EncodedRow]) -> Evaluation:
        losses = np.linspace(self.loss, self.loss**2, len(items))  # a target of its own pace each
        return Evaluation(self.loss, losses, np.zeros(len(items), np.bool_), VALIDATION_COST)

    def snapshot(self) -> object:
        return list(self.trained)

    def restore(self, snapshot: object) -> None:
        assert isinstance(snapshot, list)
        self.trained = list(snapshot)


class FakeStack:
    """Fake learners that share nothing."""

    def __init__(self, num_learners: int) -> None:
        self.learners = [FakeLearner() for _ in range(num_learners)]
        self.evaluated: list[list[int]] = []

    @property
    def num_learners(self) -> int:
        return len(self.learners)

    def update(
        self, batches: Sequence[Sequence[EncodedRow] | None], *, progress: Sequence[float]
    ) -> list[UpdateStats | None]:
        return [
            None if batch is None else learner.update(batch, progress=share)
            for learner, batch, share in zip(self.learners, batches, progress, strict=True)
        ]

    def evaluate(self, items: Sequence[EncodedRow], *, learners: Sequence[int]) -> list[Evaluation]:
        self.evaluated.append(list(learners))
        return [self.learners[index].evaluate(items) for index in learners]

    def snapshot(self, index: int) -> object:
        return self.learners[index].snapshot()

    def restore(self, index: int, snapshot: object) -> None:
        self.learners[index].restore(snapshot)


def fake_row(key: str, num_tokens: int) -> EncodedRow:
    ids = np.arange(num_tokens)
    weights = np.tile(np.array([1.0, 0.0], np.float32), (num_tokens - 1, 1))
    return EncodedRow(key, ids, ids[:-1], np.stack([ids[1:]] * 2, axis=1), weights)


def fake_pool(keys: Sequence[str]) -> TrainingPool:
    """Row i has i + 2 tokens and the features (i, 10 i)."""
    numbers = np.arange(len(keys))
    return TrainingPool(
        ids=[f"id-{i}" for i in numbers],
        rows=[fake_row(key, i + 2) for i, key in enumerate(keys)],
        kinds=numbers % 3,
        features=np.stack([numbers, 10 * numbers], axis=1).astype(np.float32),
        strata=numbers % 3,
    )


def by_learner(learner: FakeLearner, rows: Sequence[EncodedRow]) -> NDArray[np.float32]:
    """A signal that changes as a learner is trained: each row's length in turns of its length."""
    turns = len(learner.trained) + 2
    return np.array([row.num_tokens % turns for row in rows], np.float32)


def arguments(ledger: Ledger, keys: Sequence[str], settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "pool": fake_pool(keys),
        "reward_validation": [fake_row("validation", 7), fake_row("validation", 4)],
        "batch_size": BATCH_SIZE,
        "ledger": ledger,
        "budget": Budget(steps=3),
        **settings,
    }


def vectorised(
    learners: FakeStack,
    *,
    ledger: Ledger | None = None,
    keys: Sequence[str] = KEYS,
    with_signal: bool = False,
    **settings: Any,
) -> InstructionSelectionVecEnv:
    def signal(rows: Sequence[EncodedRow], index: int) -> tuple[NDArray[np.float32], Cost]:
        return by_learner(learners.learners[index], rows), Cost(tokens=len(rows))

    return InstructionSelectionVecEnv(
        learners=learners,
        signal=signal if with_signal else None,
        **arguments(ledger or Ledger(), keys, settings),
    )


def one_by_one(
    num_learners: int,
    *,
    ledger: Ledger,
    keys: Sequence[str],
    with_signal: bool = False,
    **settings: Any,
) -> DummyVecEnv:
    def signal_of(learner: FakeLearner) -> Signal:
        return lambda rows: (by_learner(learner, rows), Cost(tokens=len(rows)))

    def environment() -> InstructionSelectionEnv:
        learner = FakeLearner()
        return InstructionSelectionEnv(
            learner=learner,
            signal=signal_of(learner) if with_signal else None,
            **arguments(ledger, keys, settings),
        )

    return DummyVecEnv([environment] * num_learners)


def any_actions(observation: Any, rng: np.random.Generator) -> NDArray[np.int64]:
    """Distinct slots for each learner, none of them masked."""
    masks = observation["mask"]
    return np.stack([rng.permutation(int(mask.sum()))[:BATCH_SIZE] for mask in masks])


def assert_equal(one: object, other: object) -> None:
    """Equal to the last bit and of the same types, in records within records."""
    np.testing.assert_equal(one, other)
    if isinstance(one, dict):
        assert isinstance(other, dict)
        for key, part in one.items():
            assert getattr(part, "dtype", None) == getattr(other[key], "dtype", None)


SETTINGS: dict[str, dict[str, Any]] = {
    "steps": {},
    "tokens": {"budget": Budget(tokens=60)},
    "window": {"window": 4, "budget": Budget(steps=5)},
    "masked window": {"window": 30},
    "early stopping": {"early_stopping": True, "reward_every": 2, "budget": Budget(steps=5)},
    "rare rewards": {"reward_every": 3, "budget": Budget(tokens=90), "window": 5},
    "control": {"control": np.array([0.5, 0.25, 0.125], np.float32), "budget": Budget(tokens=60)},
    "signal": {"with_signal": True, "window": 5, "budget": Budget(tokens=60)},
    "targets": {"targets": np.array([1, 0]), "budget": Budget(steps=5)},
}


@pytest.mark.parametrize("num_learners", [1, 2, 5])
@pytest.mark.parametrize("keys", [KEYS, FRAGILE_KEYS], ids=["sound", "fragile"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_many_learners_do_what_each_would_alone(
    settings: dict[str, Any], keys: Sequence[str], num_learners: int
) -> None:
    """Together they measure the base model once, and one by one each measures it."""
    together_ledger, alone_ledger = Ledger(), Ledger()
    together: VecEnv = vectorised(
        FakeStack(num_learners), ledger=together_ledger, keys=keys, **settings
    )
    alone: VecEnv = one_by_one(num_learners, ledger=alone_ledger, keys=keys, **settings)
    rng = np.random.default_rng(0)
    for env in (together, alone):
        env.seed(7)
    observation = together.reset()
    assert_equal(observation, alone.reset())

    for _ in range(25):
        actions = any_actions(observation, rng)
        step = together.step(actions)
        for part, expected in zip(step, alone.step(actions), strict=True):
            assert_equal(part, expected)
        assert_equal(together.reset_infos, alone.reset_infos)
        observation = step[0]
    assert_equal(together.reset(), alone.reset())

    for _ in range(num_learners - 1):
        together_ledger.charge("reward_evaluation", VALIDATION_COST)
    assert together_ledger.costs == alone_ledger.costs


@pytest.mark.parametrize("attribute", ["observation_space", "action_space", "render_mode"])
def test_the_spaces_are_those_of_one_learner(attribute: str) -> None:
    together = vectorised(FakeStack(2), window=4, with_signal=True)
    alone = one_by_one(2, ledger=Ledger(), keys=KEYS, window=4, with_signal=True)

    assert getattr(together, attribute) == getattr(alone, attribute)


def slots(*rows: Sequence[int]) -> NDArray[np.int64]:
    return np.array(rows, np.int64)


def test_a_learner_that_breaks_touches_no_other() -> None:
    """Row 2 of the pool is fatal; only the first learner is trained on it."""
    stack = FakeStack(2)
    env = vectorised(stack, keys=("good", "bad", "no training", "neutral"))
    env.reset()
    env.step(slots((0, 1), (0, 3)))

    _, rewards, dones, infos = env.step(slots((2, 0), (0, 3)))

    assert rewards.tolist() == [FAILURE_REWARD, 1 / 8]
    assert dones.tolist() == [True, False]
    assert [learner.trained for learner in stack.learners] == [[], ["good", "neutral"] * 2]
    assert infos[0]["termination_reason"].endswith("is not finite at step 2")
    assert "terminal_observation" not in infos[1]


def test_an_episode_that_ends_says_how_and_the_next_begins() -> None:
    env = vectorised(FakeStack(2), budget=Budget(tokens=12))
    env.reset()

    observation, _, dones, infos = env.step(slots((0, 1), (4, 5)))  # 5 and 13 tokens

    assert isinstance(observation, dict)
    assert dones.tolist() == [False, True]
    assert [info["TimeLimit.truncated"] for info in infos] == [False, True]
    assert infos[1]["terminal_observation"]["context"][1] == 1.0
    assert observation["context"][1].tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert env.reset_infos == [{"validation_loss": START_LOSS}] * 2


def test_the_base_model_is_measured_once_for_all() -> None:
    stack = FakeStack(3)
    env = vectorised(stack, budget=Budget(steps=1))

    for _ in range(2):
        env.reset()
        env.step(slots((0, 1), (0, 1), (0, 1)))

    assert stack.evaluated == [[0], [0, 1, 2], [0, 1, 2]]


def test_only_learners_whose_turn_it_is_are_measured() -> None:
    """The third spends its budget at once and is then behind by one; the others' third is last."""
    stack = FakeStack(3)
    env = vectorised(stack, reward_every=2, budget=Budget(tokens=12))
    env.reset()

    for third in ((4, 5), (0, 1), (0, 1)):
        env.step(slots((0, 1), (0, 1), third))

    assert stack.evaluated == [[0], [2], [0, 1], [0, 1, 2]]


def test_learners_are_told_their_own_progress() -> None:
    stack = FakeStack(2)
    env = vectorised(stack, budget=Budget(tokens=40))
    env.reset()

    for _ in range(2):
        env.step(slots((0, 1), (4, 5)))

    assert [learner.progress for learner in stack.learners] == [[0, 5 / 40], [0, 13 / 40]]


def test_learners_see_windows_of_their_own() -> None:
    env = vectorised(FakeStack(4), keys=KEYS * 4, window=8)
    env.seed(0)

    windows = env.reset()["window"]

    assert len({tuple(window) for window in windows.tolist()}) == 4


# Faults of the caller.


def test_one_bad_action_refuses_the_step_of_all() -> None:
    stack = FakeStack(2)
    env = vectorised(stack)
    env.reset()

    with pytest.raises(ValueError, match="a slot is picked twice"):
        env.step(slots((0, 1), (3, 3)))

    assert [learner.trained for learner in stack.learners] == [[], []]


def test_a_step_before_reset_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"call reset\(\) before step\(\)"):
        vectorised(FakeStack(1)).step(slots((0, 1)))


def test_options_of_reset_are_refused() -> None:
    env = vectorised(FakeStack(2))
    env.set_options({"window": 3})

    with pytest.raises(ValueError, match=r"unknown options \['window'\]"):
        env.reset()


# What Stable-Baselines3 asks of it.


def test_attributes_are_shared_by_all_learners() -> None:
    env = vectorised(FakeStack(3))

    assert env.get_attr("render_mode") == [None] * 3
    assert env.get_attr("num_envs", indices=[0, 2]) == [3, 3]
    assert not env.has_attr("no such thing")


def test_no_learner_has_an_environment_of_its_own() -> None:
    env = vectorised(FakeStack(3))

    assert env.env_is_wrapped(Monitor) == [False] * 3
    assert env.env_is_wrapped(gymnasium.Wrapper, indices=1) == [False]
    with pytest.raises(NotImplementedError, match="cannot set window"):
        env.set_attr("window", 3)
    with pytest.raises(NotImplementedError, match="cannot call reset"):
        env.env_method("reset")
    env.close()


def test_ppo_learns_on_it() -> None:
    stack = FakeStack(3)
    env = vectorised(stack, keys=KEYS * 2, window=6, with_signal=True)

    ppo = PPO(SetScoringPolicy, env, n_steps=6, batch_size=9, n_epochs=1, seed=0, device="cpu")
    ppo.learn(18)

    assert ppo.num_timesteps == 18
    assert all(len(learner.progress) == 6 for learner in stack.learners)


def test_targets_change_the_rewards_of_learners_that_step_together() -> None:
    rewards = []
    for targets in (None, np.array([1, 0])):
        env = vectorised(FakeStack(2), targets=targets)
        env.seed(0)
        env.reset()
        rewards.append(env.step(np.array([[0, 1], [2, 3]]))[1].tolist())

    # The learners go from 8 to 7.5 and to 7, and the second target goes with the square.
    by_token = [1 / 16, 1 / 8]
    squared = [1 - (15 / 16) ** 2, 1 - (7 / 8) ** 2]
    assert rewards[0] == pytest.approx(by_token)
    halves = [sum(each) / 2 for each in zip(by_token, squared, strict=True)]
    assert rewards[1] == pytest.approx(halves)


def test_targets_are_one_an_item() -> None:
    with pytest.raises(ValueError, match="targets are one number from 0 for each of 2 items"):
        vectorised(FakeStack(1), targets=np.array([0]))
