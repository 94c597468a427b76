"""Stable-Baselines3's PPO, unforked, over sets of candidates.

One episode is one fine-tuning, so rollouts are counted in episodes: the library's default of 2,048
steps would be 2,048 model updates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from raise_mdit.agents.scoring_policy import SetScoringPolicy
from raise_mdit.config import PpoConfig
from raise_mdit.core import Observation
from raise_mdit.errors import RunError
from raise_mdit.runs import write_bytes


def build_ppo(
    env: gymnasium.Env[Observation, NDArray[np.int64]],
    config: PpoConfig,
    *,
    steps_per_episode: int,
    seed: int,
) -> PPO:
    """A learner of selection policies on ``env``.

    Args:
        env: One fine-tuning an episode.
        config: Hyper-parameters.
        steps_per_episode: Length of an episode, or the best guess where tokens limit it.
        seed: Of the policy's start and its draws. The library seeds the global generators with it.
    """
    steps = config.episodes_per_update * steps_per_episode
    return PPO(
        SetScoringPolicy,
        DummyVecEnv([lambda: _FiniteHorizon(env)]),
        learning_rate=config.learning_rate,
        n_steps=steps,
        batch_size=-(-steps // config.minibatches),
        n_epochs=config.epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip_range,
        ent_coef=config.entropy_coefficient,
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


class _FiniteHorizon(
    gymnasium.Wrapper[Observation, NDArray[np.int64], Observation, NDArray[np.int64]]
):
    """Ends an episode where its budget ends, with nothing beyond.

    Stable-Baselines3 adds the value of the last observation to a truncated episode's last reward,
    as if training went on. Here the observation says how much of the budget is left, and the return
    is the improvement at its end (time-awareness, Pardo et al. 2018, arXiv 1712.00378).
    """

    def step(
        self, action: NDArray[np.int64]
    ) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated or truncated, False, info
