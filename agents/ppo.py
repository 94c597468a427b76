"""Stable-Baselines3's PPO, unforked, over sets of candidates.

One episode is one fine-tuning, so rollouts are counted in episodes: the library's default of 2,048
steps would be 2,048 model updates.
"""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from raise_mdit.agents.rollout_buffer import PoolRolloutBuffer
from raise_mdit.agents.scoring_policy import SetScoringPolicy
from raise_mdit.config import PpoConfig
from raise_mdit.core import Observation
from raise_mdit.errors import RunError
from raise_mdit.runs import write_bytes


def build_ppo(
    env: gymnasium.Env[Observation, NDArray[np.int64]] | VecEnv,
    config: PpoConfig,
    *,
    steps_per_episode: int,
    seed: int,
    features: NDArray[np.float32] | None = None,
) -> PPO:
    """A learner of selection policies on ``env``.

    Args:
        env: One fine-tuning an episode; or several that step together, as many as divide the
            episodes of an update.
        config: Hyper-parameters.
        steps_per_episode: Length of an episode, or the best guess where tokens limit it.
        seed: Of the policy's start and its draws. The library seeds the global generators with it.
        features: [N, features] of the pool, the first columns of `candidates`. With it a rollout
            stores rows of the pool instead of features; what is learned is the same.
    """
    vec_env = env if isinstance(env, VecEnv) else DummyVecEnv([lambda: env])
    assert config.episodes_per_update % vec_env.num_envs == 0, "each one runs as many episodes"
    steps = config.episodes_per_update * steps_per_episode
    return PPO(
        SetScoringPolicy,
        _FiniteHorizon(vec_env),
        learning_rate=config.learning_rate,
        n_steps=steps // vec_env.num_envs,
        batch_size=-(-steps // config.minibatches),
        n_epochs=config.epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip_range,
        ent_coef=config.entropy_coefficient,
        rollout_buffer_class=None if features is None else PoolRolloutBuffer,
        rollout_buffer_kwargs=None if features is None else {"features": features},
        target_kl=config.target_kl,
        policy_kwargs={"hidden_size": config.hidden_size},
        seed=seed,
        device="cpu",
    )


def learn(ppo: PPO, *, episodes: int, steps_per_episode: int, callback: BaseCallback) -> None:
    """Train for a number of episodes.

    Args:
        ppo: From :func:`build_ppo`.
        episodes: Fine-tunings to learn from.
        steps_per_episode: As given to :func:`build_ppo`.
        callback: Told of every step.
    """
    ppo.learn(episodes * steps_per_episode, callback=callback)


def save_policy(ppo: PPO, path: Path) -> None:
    """Write the policy's weights as safetensors, which run no code when they are read."""
    weights = {key: value.contiguous() for key, value in ppo.policy.state_dict().items()}
    write_bytes(path, save(weights))


def load_policy(ppo: PPO, path: Path) -> None:
    """Read weights that :func:`save_policy` wrote into a policy of the same shape.

    Raises:
        RunError: The file is missing or damaged, or its policy saw other features.
    """
    try:
        ppo.policy.load_state_dict(load_file(path))
    except (FileNotFoundError, RuntimeError, SafetensorError) as error:
        raise RunError(f"{path}: not a policy for these features ({error})") from error


class _FiniteHorizon(VecEnvWrapper):
    """Ends an episode where its budget ends, with nothing beyond.

    Stable-Baselines3 adds the value of the last observation to a truncated episode's last reward,
    as if training went on. Here the observation says how much of the budget is left, and the return
    is the improvement at its end (time-awareness, Pardo et al. 2018, arXiv 1712.00378).
    """

    def reset(self) -> VecEnvObs:
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        finite = [{**info, "TimeLimit.truncated": False} for info in infos]
        return observations, rewards, dones, finite
