"""Stable-Baselines3's PPO, unforked, over sets of candidates.

One episode is one fine-tuning, so rollouts are counted in episodes: the library's default of 2,048
steps would be 2,048 model updates.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from raise_mdit.agents.finite_horizon import SelectionEnv, rollouts_of, with_finite_horizon
from raise_mdit.agents.scoring_policy import SetScoringPolicy
from raise_mdit.errors import RunError
from raise_mdit.policy_config import PpoConfig
from raise_mdit.runs import write_bytes


def build_ppo(
    env: SelectionEnv | VecEnv,
    config: PpoConfig,
    *,
    steps_per_episode: int,
    seed: int,
    features: NDArray[np.float32] | None = None,
    first_weights: NDArray[np.float32] | None = None,
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
        first_weights: [features + 1] what `config.prior` comes to, availability last; see
            :mod:`raise_mdit.agents.first_weights`.
    """
    prior = config.prior
    assert (prior is None) == (first_weights is None), "a prior is what the policy begins as"
    vec_env = with_finite_horizon(env)
    assert config.episodes_per_update % vec_env.num_envs == 0, "each one runs as many episodes"
    steps = config.episodes_per_update * steps_per_episode
    return PPO(
        SetScoringPolicy,
        vec_env,
        learning_rate=config.learning_rate,
        n_steps=steps // vec_env.num_envs,
        batch_size=-(-steps // config.minibatches),
        n_epochs=config.epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip_range,
        ent_coef=config.entropy_coefficient if prior is None else prior.kl_coefficient,
        **rollouts_of(features),
        target_kl=config.target_kl,
        policy_kwargs={"hidden_size": config.hidden_size, "first_weights": first_weights},
        seed=seed,
        device="cpu",
    )


def learn(
    algorithm: OnPolicyAlgorithm, *, episodes: int, steps_per_episode: int, callback: BaseCallback
) -> None:
    """Train for a number of episodes.

    What the last update gave stays in the algorithm's logger: the library writes before it updates.

    Args:
        algorithm: As built for an environment.
        episodes: Fine-tunings to learn from.
        steps_per_episode: As given when it was built.
        callback: Told of every step.
    """
    algorithm.learn(episodes * steps_per_episode, callback=callback, log_interval=1)


def save_policy(algorithm: OnPolicyAlgorithm, path: Path) -> None:
    """Write the policy's weights as safetensors, which run no code when they are read."""
    weights = {key: value.contiguous() for key, value in algorithm.policy.state_dict().items()}
    write_bytes(path, save(weights))


def load_policy(algorithm: OnPolicyAlgorithm, path: Path) -> None:
    """Read weights that :func:`save_policy` wrote into a policy of the same shape.

    Raises:
        RunError: The file is missing or damaged, or its policy saw other features.
    """
    try:
        algorithm.policy.load_state_dict(load_file(path))
    except (FileNotFoundError, RuntimeError, SafetensorError) as error:
        raise RunError(f"{path}: not a policy for these features ({error})") from error
