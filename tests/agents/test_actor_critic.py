"""A2C and REINFORCE as we configure them: gradients and returns by hand, and whether they learn."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import reference_ppo as reference
from numpy.typing import NDArray
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.vec_env import DummyVecEnv

from raise_mdit.agents.actor_critic import build_a2c, build_reinforce
from raise_mdit.agents.rollout_buffer import PoolRolloutBuffer
from raise_mdit.policy_config import A2cConfig, ReinforceConfig

STEPS = 3
GAMMA = 0.5
FEATURES = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)

Build = Callable[..., A2C]


class Watch(BaseCallback):
    """Keeps the returns of episodes, and the last rollout before it is learned from."""

    def __init__(self) -> None:
        super().__init__()
        self.returns: list[float] = [0.0]

    def _on_step(self) -> bool:
        self.returns[-1] += float(self.locals["rewards"][0])
        if self.locals["dones"][0]:
            self.returns.append(0.0)
        return True

    def _on_rollout_end(self) -> None:
        assert isinstance(self.model, A2C)
        buffer: Any = self.model.rollout_buffer
        self.rewards = buffer.rewards[:, 0].copy()
        self.values = buffer.values[:, 0].copy()
        self.advantages = buffer.advantages[:, 0].copy()
        self.actions = buffer.actions[:, 0].copy()
        self.seen = {key: part[:, 0].copy() for key, part in buffer.observations.items()}


def task(*, num_slots: int = 6, num_picks: int = 2) -> Any:
    return reference.SelectionTask(
        FEATURES, num_slots=num_slots, num_picks=num_picks, steps=STEPS, masked=1
    )


def a2c(*, seed: int = 0, given: dict[str, Any] | None = None, **settings: Any) -> A2C:
    config = A2cConfig(
        kind="a2c", **{"hidden_size": 8, "gamma": GAMMA, "episodes_per_update": 2, **settings}
    )
    return build_a2c(task(), config, steps_per_episode=STEPS, seed=seed, **(given or {}))


def reinforce(*, seed: int = 0, given: dict[str, Any] | None = None, **settings: Any) -> A2C:
    config = ReinforceConfig(
        kind="reinforce", **{"hidden_size": 8, "gamma": GAMMA, "episodes_per_update": 2, **settings}
    )
    return build_reinforce(task(), config, steps_per_episode=STEPS, seed=seed, **(given or {}))


def after(learner: A2C, *, episodes: int) -> A2C:
    return learner.learn(episodes * STEPS, callback=CallbackList([]))


def watched(learner: A2C, *, episodes: int) -> Watch:
    watch = Watch()
    learner.learn(episodes * STEPS, callback=watch)
    return watch


def to_go(rewards: NDArray[np.float32]) -> list[float]:
    """Discounted return from each step to the end of its episode."""
    ends = [(step // STEPS + 1) * STEPS for step in range(len(rewards))]
    return [
        float(sum(GAMMA ** (later - step) * rewards[later] for later in range(step, end)))
        for step, end in enumerate(ends)
    ]


def same_weights(first: A2C, second: A2C) -> bool:
    weights = second.policy.state_dict()
    return all(torch.equal(part, weights[key]) for key, part in first.policy.state_dict().items())


both = pytest.mark.parametrize("build", [a2c, reinforce])


@both
def test_settings_reach_the_algorithm(build: Build) -> None:
    learner = build(
        learning_rate=2e-3, episodes_per_update=5, entropy_coefficient=0.02, hidden_size=24
    )

    assert (learner.n_steps, learner.gamma, learner.ent_coef) == (5 * STEPS, GAMMA, 0.02)
    assert learner.policy.optimizer.param_groups[0]["lr"] == 2e-3
    assert isinstance(learner.policy.optimizer, torch.optim.Adam)
    assert learner.policy.get_parameter("scorer.score.0.weight").shape == (24, 2 * 24)


@both
def test_one_update_follows_so_many_episodes(build: Build) -> None:
    learner = after(build(episodes_per_update=2), episodes=6)

    assert learner.num_timesteps == 6 * STEPS
    assert learner._n_updates == 3


def test_lambda_is_the_configured_one_for_a2c_and_one_for_reinforce() -> None:
    assert a2c(gae_lambda=0.3).gae_lambda == 0.3
    assert reinforce().gae_lambda == 1.0


def test_the_advantage_of_reinforce_is_the_return_to_go() -> None:
    watch = watched(reinforce(learning_rate=0.1), episodes=8)

    assert watch.advantages.tolist() == pytest.approx(to_go(watch.rewards), abs=1e-7)
    assert np.abs(watch.rewards).sum() > 0


def test_the_value_of_reinforce_is_exactly_zero_also_after_learning() -> None:
    learner = reinforce(learning_rate=0.1, entropy_coefficient=0.1)
    start = learner.policy.get_parameter("scorer.linear.weight").clone()

    watch = watched(learner, episodes=8)

    assert not torch.equal(learner.policy.get_parameter("scorer.linear.weight"), start)
    assert watch.values.tolist() == [0.0] * 2 * STEPS
    assert not any(
        part.any()
        for name, part in learner.policy.named_parameters()
        if name.startswith("scorer.value.2")
    )


def test_the_critic_of_a2c_is_learned() -> None:
    learner = a2c()
    start = learner.policy.get_parameter("scorer.value.2.weight").clone()

    after(learner, episodes=2)

    assert not torch.equal(learner.policy.get_parameter("scorer.value.2.weight"), start)


def test_the_gradient_of_reinforce_is_that_by_hand() -> None:
    """All scores are 0 at the start, so every candidate that is left is equally likely.

    The gradient of the log-probability by the linear weights is, for each pick, its features less
    the mean of what was left; the loss's is minus its mean over steps, weighted by the returns.
    """
    learner = reinforce()
    learner.max_grad_norm = math.inf  # the gradient as it is

    watch = watched(learner, episodes=2)

    expected = np.zeros(FEATURES.shape[1] + 1)
    for step, return_to_go in enumerate(to_go(watch.rewards)):
        seen = {key: part[step] for key, part in watch.seen.items()}
        known = np.column_stack([seen["candidates"], np.log1p(seen["selected"])])
        left = np.flatnonzero(seen["mask"]).tolist()
        for pick in watch.actions[step].tolist():
            expected -= return_to_go * (known[pick] - known[left].mean(axis=0))
            left.remove(pick)
    gradient = learner.policy.get_parameter("scorer.linear.weight").grad
    assert gradient is not None
    assert gradient[0].tolist() == pytest.approx((expected / (2 * STEPS)).tolist(), abs=1e-6)
    assert np.abs(expected).max() > 0.1


def test_the_update_of_a2c_is_that_of_ppo_where_ratios_are_one() -> None:
    """Its gradient is that of PPO's first pass, with the advantages as they are."""
    learner = a2c(entropy_coefficient=0.02)
    learner.max_grad_norm = math.inf
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in learner.policy.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    weights = {name: part.detach().clone() for name, part in learner.policy.named_parameters()}

    watch = watched(learner, episodes=2)

    leaves = {name: part.double().requires_grad_() for name, part in weights.items()}
    loss = torch.zeros((), dtype=torch.float64)
    for step, advantage in enumerate(watch.advantages.tolist()):
        seen = {key: part[step] for key, part in watch.seen.items()}
        scores, value = reference.scores_and_value(leaves, seen)
        log_prob, entropy = reference.plackett_luce(scores, watch.actions[step].tolist())
        error = advantage + float(watch.values[step]) - value
        loss = loss - advantage * log_prob - 0.02 * entropy + 0.5 * error**2
    loss = loss / len(watch.advantages)
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    for (name, part), expected in zip(learner.policy.named_parameters(), gradients, strict=True):
        assert part.grad is not None, name
        torch.testing.assert_close(part.grad.double(), expected, rtol=0, atol=1e-6)


@both
def test_the_same_seed_trains_the_same_policy_and_another_one_another(build: Build) -> None:
    first, second, other = (after(build(seed=seed), episodes=4) for seed in (3, 3, 4))

    assert same_weights(first, second)
    assert not same_weights(first, other)


@both
def test_a_rollout_without_features_trains_the_same_policy_to_the_bit(build: Build) -> None:
    with_table = after(build(given={"features": FEATURES}), episodes=4)
    without = after(build(), episodes=4)

    assert isinstance(with_table.rollout_buffer, PoolRolloutBuffer)
    assert not isinstance(without.rollout_buffer, PoolRolloutBuffer)
    assert same_weights(with_table, without)


@pytest.mark.parametrize(
    ("build", "config"),
    [
        (build_a2c, A2cConfig(kind="a2c", episodes_per_update=4)),
        (build_reinforce, ReinforceConfig(kind="reinforce", episodes_per_update=4)),
    ],
)
def test_parallel_environments_share_an_update(build: Build, config: Any) -> None:
    learner = build(DummyVecEnv([task, task]), config, steps_per_episode=STEPS, seed=0)

    assert (learner.n_envs, learner.n_steps) == (2, 2 * STEPS)
    with pytest.raises(AssertionError, match="as many episodes"):
        build(DummyVecEnv([task] * 3), config, steps_per_episode=STEPS, seed=0)


@both
def test_they_learn_a_plain_preference(build: Build) -> None:
    """Picks by chance return 0 on average; the best a window of five gives is about 0.9."""
    learner = build(learning_rate=5e-2, episodes_per_update=4, gamma=0.9)

    returns = watched(learner, episodes=120).returns

    assert np.mean(returns[:8]) < 0.5
    assert np.mean(returns[100:120]) > 0.75
