"""PPO as we configure it: advantages by hand, seeds, files, and whether it learns."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.vec_env import DummyVecEnv

from raise_mdit.agents.ppo import build_ppo, learn, load_policy, save_policy
from raise_mdit.agents.rollout_buffer import PoolRolloutBuffer
from raise_mdit.core import Budget, Cost, EncodedRow, Evaluation, UpdateStats
from raise_mdit.envs import InstructionSelectionEnv, TrainingPool
from raise_mdit.errors import RunError
from raise_mdit.policy_config import PpoConfig

START_LOSS = 16.0


class FakeLearner:
    """Its loss falls by one nat for each row of key `good`; a row of key `breaks` breaks it."""

    def __init__(self) -> None:
        self._trained: list[str] = []

    def update(self, batch: Sequence[EncodedRow], *, progress: float) -> UpdateStats:
        self._trained += [row.key for row in batch]
        loss = np.nan if "breaks" in self._trained else self._loss
        return UpdateStats(loss, Cost(tokens=sum(row.num_tokens for row in batch)))

    def evaluate(self, items: Sequence[EncodedRow]) -> Evaluation:
        return Evaluation(self._loss, np.zeros(0), np.zeros(0, np.bool_), Cost())

    def snapshot(self) -> object:
        return list(self._trained)

    def restore(self, snapshot: object) -> None:
        assert isinstance(snapshot, list)
        self._trained = list(snapshot)

    @property
    def _loss(self) -> float:
        return START_LOSS - self._trained.count("good")


class Rollout(NamedTuple):
    """What one rollout held, [steps] each."""

    rewards: list[float]
    values: list[float]
    advantages: list[float]
    returns: list[float]
    starts: list[float]


class Watch(BaseCallback):
    """Keeps the returns of episodes and the numbers of rollouts, of one environment."""

    def __init__(self, *, index: int = 0) -> None:
        super().__init__()
        self._index = index
        self.episode_returns: list[float] = []
        self.rollouts: list[Rollout] = []
        self.ratios: list[torch.Tensor] = []
        self._return = 0.0

    def _on_step(self) -> bool:
        self._return += float(self.locals["rewards"][self._index])
        if self.locals["dones"][self._index]:
            self.episode_returns.append(self._return)
            self._return = 0.0
        return True

    def _on_rollout_end(self) -> None:
        assert isinstance(self.model, PPO)
        buffer = self.model.rollout_buffer
        parts = (buffer.rewards, buffer.values, buffer.advantages, buffer.returns)
        numbers = [part[:, self._index].tolist() for part in (*parts, buffer.episode_starts)]
        self.rollouts.append(Rollout(*numbers))
        self.ratios.append(first_ratios(self.model))


@torch.no_grad()
def first_ratios(ppo: PPO) -> torch.Tensor:
    """New over old probability of each collected action, before any update."""
    buffer = ppo.rollout_buffer
    observations = {
        key: torch.as_tensor(part[:, 0]) for key, part in vars(buffer)["observations"].items()
    }
    actions = torch.as_tensor(buffer.actions[:, 0])
    _, log_probs, _ = ppo.policy.evaluate_actions(observations, actions)
    return (log_probs - torch.as_tensor(buffer.log_probs[:, 0])).exp()


def row(key: str) -> EncodedRow:
    ids = np.arange(4)
    weights = np.tile(np.array([1.0, 0.0], np.float32), (3, 1))
    return EncodedRow(key, ids, ids[:3], np.stack([ids[1:]] * 2, axis=1), weights)


def environment(
    keys: Sequence[str], *, steps: int, batch_size: int = 1, window: int | None = None
) -> InstructionSelectionEnv:
    """Candidates of the given keys; the second feature tells which are good."""
    pool = TrainingPool(
        ids=[f"{key}-{i}" for i, key in enumerate(keys)],
        rows=[row(key) for key in keys],
        kinds=np.zeros(len(keys), np.int64),
        features=features_of(keys),
        strata=np.zeros(len(keys), np.int64),
    )
    return InstructionSelectionEnv(
        learner=FakeLearner(),
        pool=pool,
        reward_validation=[row("validation")],
        batch_size=batch_size,
        budget=Budget(steps=steps),
        window=window,
    )


def config(**settings: Any) -> PpoConfig:
    return PpoConfig(kind="ppo", **{"hidden_size": 8, **settings})


def mixed_environment(*, window: int | None = 8) -> InstructionSelectionEnv:
    return environment(["good", "bad"] * 12, steps=4, batch_size=2, window=window)


def mixed_ppo(*, seed: int = 0, window: int = 8, **settings: Any) -> PPO:
    env = mixed_environment(window=window)
    settings = {"learning_rate": 2e-2, "episodes_per_update": 4, **settings}
    return build_ppo(env, config(**settings), steps_per_episode=4, seed=seed)


def side_by_side(*envs: InstructionSelectionEnv) -> DummyVecEnv:
    """Environments that step together."""
    return DummyVecEnv([lambda env=env: env for env in envs])  # type: ignore[misc]  # bound now


def features_of(keys: Sequence[str]) -> NDArray[np.float32]:
    """[N, 2] what :func:`environment` gives its pool."""
    good = np.array([key == "good" for key in keys], np.float32)
    noise = np.random.default_rng(0).normal(size=len(keys)).astype(np.float32)
    return np.stack([noise, good], axis=1)


def same_weights(first: PPO, second: PPO) -> bool:
    weights = second.policy.state_dict()
    return all(torch.equal(part, weights[key]) for key, part in first.policy.state_dict().items())


def trained(*, episodes: int = 8, **settings: Any) -> tuple[PPO, Watch]:
    ppo, watch = mixed_ppo(**settings), Watch()
    learn(ppo, episodes=episodes, steps_per_episode=4, callback=watch)
    return ppo, watch


def after_learning(
    env: InstructionSelectionEnv | DummyVecEnv, *, minibatches: int = 1, **given: Any
) -> PPO:
    """Built and trained in one go: both draw from the generators that building seeds."""
    settings = config(learning_rate=2e-2, episodes_per_update=4, epochs=4, minibatches=minibatches)
    ppo = build_ppo(env, settings, steps_per_episode=4, seed=0, **given)
    learn(ppo, episodes=8, steps_per_episode=4, callback=CallbackList([]))
    return ppo


def rollout_with_constant_value(
    env: InstructionSelectionEnv | DummyVecEnv,
    steps: int,
    value: float,
    *,
    index: int = 0,
    **settings: Any,
) -> Rollout:
    """The first rollout of a policy that gives every state the same value."""
    ppo = build_ppo(env, config(minibatches=1, **settings), steps_per_episode=steps, seed=0)
    head = ppo.policy.get_submodule("scorer.value.2")
    assert isinstance(head, torch.nn.Linear)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.constant_(head.bias, value)
    watch = Watch(index=index)
    episodes = settings["episodes_per_update"]
    learn(ppo, episodes=episodes, steps_per_episode=steps, callback=watch)
    return watch.rollouts[0]


def test_advantages_of_episodes_are_those_by_hand() -> None:
    """Reward 1/16 a step, value 1/4, gamma 1/2, lambda 1/2, two episodes of three steps.

    Last step:   delta = 1/16 - 1/4             = -3/16   A = -3/16
    Second step: delta = 1/16 + 1/2 1/4 - 1/4   = -1/16   A = -1/16 + 1/4 (-3/16)  = -7/64
    First step:  delta =                          -1/16   A = -1/16 + 1/4 (-7/64)  = -23/256
    """
    env = environment(["good"] * 4, steps=3)

    found = rollout_with_constant_value(
        env, 3, 0.25, episodes_per_update=2, gamma=0.5, gae_lambda=0.5
    )

    expected = np.array([-23 / 256, -7 / 64, -3 / 16] * 2)
    assert found.rewards == [1 / 16] * 6
    assert found.values == [0.25] * 6
    assert found.starts == [1, 0, 0] * 2
    assert found.advantages == pytest.approx(expected.tolist(), abs=1e-7)
    assert found.returns == pytest.approx((expected + 0.25).tolist(), abs=1e-7)


def test_undiscounted_returns_are_the_improvement_that_is_left() -> None:
    """No value is added beyond the end of the budget, whatever the critic thinks of it."""
    env = environment(["good"] * 4, steps=4)

    found = rollout_with_constant_value(
        env, 4, 5.0, episodes_per_update=2, gamma=1.0, gae_lambda=1.0
    )

    assert found.returns == pytest.approx([4 / 16, 3 / 16, 2 / 16, 1 / 16] * 2, abs=1e-6)


def test_a_broken_model_ends_the_episode_with_its_reward_alone() -> None:
    env = environment(["breaks"], steps=4)

    found = rollout_with_constant_value(
        env, 4, 0.25, episodes_per_update=1, gamma=0.5, gae_lambda=0.5
    )

    assert found.rewards == [-1.0] * 4
    assert found.starts == [1] * 4
    assert found.advantages == pytest.approx([-1.25] * 4)


@pytest.mark.parametrize(
    ("index", "expected"), [(0, [-23 / 256, -7 / 64, -3 / 16]), (1, [-11 / 64, -3 / 16, -1 / 4])]
)
def test_advantages_of_parallel_episodes_are_those_by_hand(
    index: int, expected: list[float]
) -> None:
    """As above; the second environment has no reward, and its advantages are, from the last step,

    -1/4,   -1/8 + 1/4 (-1/4) = -3/16   and   -1/8 + 1/4 (-3/16) = -11/64.
    """
    envs = side_by_side(environment(["good"] * 4, steps=3), environment(["bad"] * 4, steps=3))

    found = rollout_with_constant_value(
        envs, 3, 0.25, index=index, episodes_per_update=4, gamma=0.5, gae_lambda=0.5
    )

    assert found.starts == [1, 0, 0] * 2
    assert found.rewards == [[1 / 16, 0][index]] * 6
    assert found.advantages == pytest.approx(expected * 2, abs=1e-7)


def test_ratios_are_one_before_the_first_update_of_every_rollout() -> None:
    _, watch = trained(episodes=12)

    assert len(watch.ratios) == 3
    for ratios in watch.ratios:
        torch.testing.assert_close(ratios, torch.ones(16), rtol=0, atol=1e-5)


def test_settings_reach_the_algorithm() -> None:
    settings = config(
        learning_rate=3e-3,
        episodes_per_update=3,
        epochs=5,
        minibatches=2,
        clip_range=0.15,
        gamma=0.9,
        gae_lambda=0.8,
        entropy_coefficient=0.01,
        target_kl=0.2,
        hidden_size=24,
    )

    ppo = build_ppo(mixed_environment(), settings, steps_per_episode=4, seed=0)

    assert (ppo.n_steps, ppo.batch_size, ppo.n_epochs) == (12, 6, 5)
    assert (ppo.gamma, ppo.gae_lambda, ppo.ent_coef, ppo.target_kl) == (0.9, 0.8, 0.01, 0.2)
    assert ppo.clip_range(1.0) == 0.15  # type: ignore[operator]  # the library wraps the number
    assert ppo.policy.optimizer.param_groups[0]["lr"] == 3e-3
    assert ppo.policy.get_parameter("scorer.score.0.weight").shape == (24, 2 * 24)


def test_parallel_environments_share_an_update() -> None:
    envs = side_by_side(*[mixed_environment() for _ in range(3)])

    ppo = build_ppo(envs, config(episodes_per_update=6, minibatches=2), steps_per_episode=4, seed=0)

    assert (ppo.n_envs, ppo.n_steps, ppo.batch_size) == (3, 8, 12)
    assert ppo.rollout_buffer.rewards.shape == (8, 3)


def test_parallel_environments_that_do_not_divide_an_update_are_refused() -> None:
    envs = side_by_side(mixed_environment(), mixed_environment())

    with pytest.raises(AssertionError, match="as many episodes"):
        build_ppo(envs, config(episodes_per_update=3), steps_per_episode=4, seed=0)


def test_parallel_environments_take_as_many_episodes_as_asked() -> None:
    envs = side_by_side(mixed_environment(), mixed_environment())
    ppo = build_ppo(envs, config(episodes_per_update=4), steps_per_episode=4, seed=0)
    watch = Watch(index=1)

    learn(ppo, episodes=8, steps_per_episode=4, callback=watch)

    assert len(watch.episode_returns) == 4
    assert ppo.num_timesteps == 8 * 4


def test_one_environment_in_a_vector_trains_as_it_does_alone() -> None:
    alone = after_learning(mixed_environment())

    in_vector = after_learning(side_by_side(mixed_environment()))

    assert same_weights(alone, in_vector)


@pytest.mark.parametrize("num_envs", [1, 2])
@pytest.mark.parametrize("window", [8, 30, None])
def test_a_rollout_without_features_trains_the_same_policy_to_the_bit(
    window: int | None, num_envs: int
) -> None:
    """Of 24 candidates: a part, all with slots left over, and all in their order."""
    made = [
        after_learning(
            side_by_side(*[mixed_environment(window=window) for _ in range(num_envs)]),
            minibatches=2,
            features=features,
        )
        for features in (None, features_of(["good", "bad"] * 12))
    ]

    buffers = [ppo.rollout_buffer for ppo in made]
    assert [isinstance(each, PoolRolloutBuffer) for each in buffers] == [False, True]
    assert same_weights(*made)
    assert not same_weights(made[0], mixed_ppo())


def test_learning_takes_as_many_episodes_as_asked() -> None:
    _, watch = trained(episodes=8)

    assert len(watch.episode_returns) == 8


def test_the_same_seed_trains_the_same_policy() -> None:
    first, first_watch = trained(seed=3)
    second, second_watch = trained(seed=3)

    assert first_watch.episode_returns == second_watch.episode_returns
    assert same_weights(first, second)


def test_another_seed_trains_another_policy() -> None:
    (_, first), (_, second) = trained(seed=3), trained(seed=4)

    assert first.rollouts[0].rewards != second.rollouts[0].rewards


@pytest.mark.parametrize("seed", [0, 1])
def test_the_policy_learns_which_candidates_help(seed: int) -> None:
    """Half of the candidates help: chance gives 4 of 8 picks, at best 8 of 8, each 1/16."""
    _, watch = trained(episodes=80, seed=seed)

    first, last = np.mean(watch.episode_returns[:8]), np.mean(watch.episode_returns[-16:])
    assert first < 6 / 16
    assert last > 7 / 16


def test_a_trained_policy_picks_what_helps() -> None:
    ppo, _ = trained(episodes=80)
    env = mixed_environment()
    observation, _ = env.reset(seed=99)

    action, _ = ppo.policy.predict(observation, deterministic=True)

    _, reward, _, _, _ = env.step(action)
    assert reward == 2 / 16


def test_a_saved_policy_acts_as_before_when_it_is_read(tmp_path: Path) -> None:
    ppo, _ = trained()
    save_policy(ppo, tmp_path / "policy.safetensors")
    fresh = mixed_ppo(seed=7)

    load_policy(fresh, tmp_path / "policy.safetensors")

    assert same_weights(fresh, ppo)
    observation, _ = mixed_environment().reset(seed=5)
    expected, _ = ppo.predict(observation, deterministic=True)
    assert fresh.predict(observation, deterministic=True)[0].tolist() == expected.tolist()


def test_a_saved_policy_is_safetensors_and_nothing_else(tmp_path: Path) -> None:
    ppo = mixed_ppo()
    save_policy(ppo, tmp_path / "policy.safetensors")

    content = (tmp_path / "policy.safetensors").read_bytes()

    header_size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + header_size])
    num_bytes = sum(part.nbytes for part in ppo.policy.state_dict().values())
    assert set(header) - {"__metadata__"} == set(ppo.policy.state_dict())
    assert len(content) == 8 + header_size + num_bytes


def test_a_policy_moves_to_another_window_size(tmp_path: Path) -> None:
    ppo, _ = trained(episodes=80)
    save_policy(ppo, tmp_path / "policy.safetensors")
    whole_pool = mixed_environment(window=None)
    wider = build_ppo(whole_pool, config(), steps_per_episode=4, seed=0)

    load_policy(wider, tmp_path / "policy.safetensors")

    observation, _ = whole_pool.reset(seed=0)
    action, _ = wider.predict(observation, deterministic=True)
    assert whole_pool.step(action)[1] == 2 / 16


def test_a_missing_policy_is_named(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"

    with pytest.raises(RunError, match=re.escape(str(path))):
        load_policy(mixed_ppo(), path)


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_a_damaged_policy_is_the_users_mistake(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "policy.safetensors"
    save_policy(mixed_ppo(), path)
    path.write_bytes(path.read_bytes()[:keep])

    with pytest.raises(RunError, match=re.escape(f"{path}: not a policy for these features")):
        load_policy(mixed_ppo(), path)


def test_a_policy_of_another_shape_is_the_users_mistake(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    save_policy(mixed_ppo(hidden_size=24), path)

    with pytest.raises(RunError, match="size mismatch"):
        load_policy(mixed_ppo(), path)
