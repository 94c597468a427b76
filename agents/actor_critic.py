"""A2C and REINFORCE over sets of candidates: one gradient step an update.

They share scorer and likelihood with :mod:`raise_mdit.agents.ppo`, and its optimizer: the paper of
A2C has RMSProp (Mnih et al. 2016, arXiv 1602.01783, section 5), but what is to differ between
learners is the objective alone. Advantages are not normalised, as in the papers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from stable_baselines3 import A2C
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from raise_mdit.agents.finite_horizon import SelectionEnv, rollouts_of, with_finite_horizon
from raise_mdit.agents.scoring_policy import SetScoringPolicy
from raise_mdit.policy_config import A2cConfig, ReinforceConfig

VALUE_COEFFICIENT = 0.5  # Mnih et al. 2016, and PPO's here


def build_a2c(
    env: SelectionEnv | VecEnv,
    config: A2cConfig,
    *,
    steps_per_episode: int,
    seed: int,
    features: NDArray[np.float32] | None = None,
) -> A2C:
    """A learner of selection policies on ``env`` by advantage actor-critic.

    Args:
        env: One fine-tuning an episode; or several that step together, as many as divide the
            episodes of an update.
        config: Hyper-parameters.
        steps_per_episode: Length of an episode, or the best guess where tokens limit it.
        seed: Of the policy's start and its draws. The library seeds the global generators with it.
        features: [N, features] of the pool, the first columns of `candidates`. With it a rollout
            stores rows of the pool instead of features; what is learned is the same.
    """
    return _build(
        env,
        config,
        steps_per_episode=steps_per_episode,
        seed=seed,
        features=features,
        gae_lambda=config.gae_lambda,
        value_coefficient=VALUE_COEFFICIENT,
    )


def build_reinforce(
    env: SelectionEnv | VecEnv,
    config: ReinforceConfig,
    *,
    steps_per_episode: int,
    seed: int,
    features: NDArray[np.float32] | None = None,
) -> A2C:
    """A learner of selection policies on ``env`` by REINFORCE (Williams 1992).

    It is A2C with a value of exactly 0 and lambda 1, so that the advantage is the discounted return
    to go. The value stays 0: nothing is learned from its loss.

    Args:
        env: As of :func:`build_a2c`, like all that follow.
        config: Hyper-parameters.
        steps_per_episode: Length of an episode.
        seed: Of the policy's start and its draws.
        features: [N, features] of the pool.
    """
    learner = _build(
        env,
        config,
        steps_per_episode=steps_per_episode,
        seed=seed,
        features=features,
        gae_lambda=1.0,
        value_coefficient=0.0,
    )
    assert isinstance(learner.policy, SetScoringPolicy)
    for parameter in learner.policy.scorer.value[-1].parameters():
        nn.init.zeros_(parameter)
    return learner


def _build(
    env: SelectionEnv | VecEnv,
    config: A2cConfig | ReinforceConfig,
    *,
    steps_per_episode: int,
    seed: int,
    features: NDArray[np.float32] | None,
    gae_lambda: float,
    value_coefficient: float,
) -> A2C:
    vec_env = with_finite_horizon(env)
    assert config.episodes_per_update % vec_env.num_envs == 0, "each one runs as many episodes"
    return A2C(
        SetScoringPolicy,
        vec_env,
        learning_rate=config.learning_rate,
        n_steps=config.episodes_per_update * steps_per_episode // vec_env.num_envs,
        gamma=config.gamma,
        gae_lambda=gae_lambda,
        ent_coef=config.entropy_coefficient,
        vf_coef=value_coefficient,
        use_rms_prop=False,
        **rollouts_of(features),
        policy_kwargs={"hidden_size": config.hidden_size},
        seed=seed,
        device="cpu",
    )
