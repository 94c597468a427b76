"""Environments as Stable-Baselines3 learns from them here: an episode ends with nothing beyond."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from raise_mdit.agents.rollout_buffer import PoolRolloutBuffer
from raise_mdit.core import Observation

SelectionEnv = gymnasium.Env[Observation, NDArray[np.int64]]


class FiniteHorizon(VecEnvWrapper):
    """Ends an episode where its budget ends, with nothing beyond.

    Stable-Baselines3 adds the value of the last observation to a truncated episode's last reward,
    as if training went on. Here the observation says how much of the budget is left, and the return
    is the improvement at its end (time-awareness, Pardo et al. 2018, arXiv 1712.00378).
    """

    def reset(self) -> VecEnvObs:
        """First observations."""
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """What the last actions gave, no end of an episode called a time limit."""
        observations, rewards, dones, infos = self.venv.step_wait()
        finite = [{**info, "TimeLimit.truncated": False} for info in infos]
        return observations, rewards, dones, finite


def with_finite_horizon(env: SelectionEnv | VecEnv) -> FiniteHorizon:
    """One fine-tuning an episode, or several that step together."""
    return FiniteHorizon(env if isinstance(env, VecEnv) else DummyVecEnv([lambda: env]))


def rollouts_of(features: NDArray[np.float32] | None) -> dict[str, Any]:
    """How an algorithm keeps its rollouts, as keyword arguments of Stable-Baselines3's.

    Args:
        features: [N, features] of the pool, of which rollouts then store rows; None stores every
            observation as it is.
    """
    if features is None:
        return {}
    return {
        "rollout_buffer_class": PoolRolloutBuffer,
        "rollout_buffer_kwargs": {"features": features},
    }
