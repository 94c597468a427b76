"""When which generation of synthesised candidates is on offer (`pools.renew`).

An experiment makes all generations beforehand: one for each episode that a policy learns from, or
several where they change within an episode, and fresh ones for the final fine-tuning.
"""

from __future__ import annotations

from raise_mdit.config import ExperimentConfig, RenewEvery


def generations_per_episode(config: ExperimentConfig) -> int:
    """How many an episode goes through; 0 where candidates are never renewed."""
    renew = config.pools.renew
    if not isinstance(renew, RenewEvery):
        return int(renew == "episode")
    steps = config.environment.budget.steps
    assert steps is not None, "configs are checked when read"
    return -(-steps // renew.steps)


def num_learning_episodes(config: ExperimentConfig) -> int:
    """The most episodes that a policy of the experiment learns from."""
    return max((policy.learning_episodes for policy in config.policies), default=0)


def num_generations(config: ExperimentConfig) -> int:
    """How many are made: for every learning episode and the final one; 0 if never renewed."""
    return generations_per_episode(config) * (num_learning_episodes(config) + 1)


def steps_per_generation(config: ExperimentConfig) -> int | None:
    """Steps after which the next comes on offer; None where it stays for the episode."""
    renew = config.pools.renew
    return renew.steps if isinstance(renew, RenewEvery) else None
