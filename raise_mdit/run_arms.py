"""Which arms a run has: those that its experiment asks for, and those that have finished."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from raise_mdit.config import ExperimentConfig
from raise_mdit.policy_config import PolicyConfig
from raise_mdit.runs import arm_folder


def all_arms(config: ExperimentConfig) -> Iterator[tuple[PolicyConfig, int]]:
    """Seed by seed, so that an interrupted run has compared every policy on what it finished."""
    for seed in config.seeds:
        for policy in config.policies:
            yield policy, seed


def num_arms(config: ExperimentConfig) -> int:
    """Policies times seeds."""
    return len(config.policies) * len(config.seeds)


def expected_arms(config: ExperimentConfig) -> list[tuple[str, int]]:
    """Label and seed of every arm that the experiment asks for."""
    return [(policy.label, seed) for policy, seed in all_arms(config)]


def missing_arms(
    config: ExperimentConfig, finished: Collection[tuple[str, int]]
) -> dict[str, list[int]]:
    """Seeds that a run still owes, by label of the policy.

    Args:
        config: Of the run.
        finished: Label and seed of the arms that it has.
    """
    missing: dict[str, list[int]] = {}
    for label, seed in expected_arms(config):
        if (label, seed) not in finished:
            missing.setdefault(label, []).append(seed)
    return missing


def finished_folders(
    config: ExperimentConfig, directory: Path
) -> Iterator[tuple[tuple[str, int], Path]]:
    """Label, seed and folder of each arm that has finished, in the order in which they run."""
    for policy, seed in all_arms(config):
        folder = arm_folder(directory, policy.label, seed)
        if (folder / "result.json").is_file():
            yield (policy.label, seed), folder
