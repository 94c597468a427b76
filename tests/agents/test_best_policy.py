"""The weights that did best come back, whatever updates made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import Env, spaces
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback, CallbackList

from raise_mdit.agents.best_policy import BestPolicy

RETURNS = [0.1, 0.4, 0.9, 0.5, 0.2, 0.7]
"""Of episodes in pairs: the second pair is the best, the last episode is not the best of all."""


class Told(Env[Any, Any]):
    """Episodes of two steps whose gains are told beforehand."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, returns: list[float]) -> None:
        self._returns = iter(returns)
        self._left = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self._left = 2
        self._gain = next(self._returns, 0.0) / 2
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._left -= 1
        return np.zeros(1, np.float32), self._gain, False, self._left == 0, {"gain": self._gain}


class Weights(BaseCallback):
    """What the policy was when each rollout began."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def _on_rollout_start(self) -> None:
        self.seen.append(torch.cat([p.detach().flatten() for p in self.model.policy.parameters()]))

    def _on_step(self) -> bool:
        return True


@pytest.mark.parametrize("num_before", [0, 5])
def test_the_weights_that_collected_the_best_episodes_come_back(num_before: int) -> None:
    algorithm = A2C("MlpPolicy", Told(RETURNS), n_steps=4, seed=0, device="cpu")
    best, weights = BestPolicy(num_before=num_before), Weights()

    algorithm.learn(4 * 3, callback=CallbackList([best, weights]))
    last = torch.cat([p.detach().flatten() for p in algorithm.policy.parameters()])
    best.take_best()

    now = torch.cat([p.detach().flatten() for p in algorithm.policy.parameters()])
    assert best.best_return == np.mean(RETURNS[2:4])
    assert best.num_episodes == num_before + 2
    assert best.num_updates == 1
    assert torch.equal(now, weights.seen[1])
    assert not torch.equal(now, last)


def test_without_an_episode_nothing_changes() -> None:
    algorithm = A2C("MlpPolicy", Told(RETURNS), n_steps=1, seed=0, device="cpu")
    best = BestPolicy()

    algorithm.learn(1, callback=best)
    before = torch.cat([p.detach().flatten() for p in algorithm.policy.parameters()])
    best.take_best()

    after = torch.cat([p.detach().flatten() for p in algorithm.policy.parameters()])
    assert torch.equal(before, after)
