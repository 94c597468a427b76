"""Arms that are run: each is tracked, recorded and written, and is done when its result stands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raise_mdit.arms import Arm, run_arm, summary_of
from raise_mdit.config import ExperimentConfig
from raise_mdit.core import Cost
from raise_mdit.openings import Seal
from raise_mdit.policy_config import PolicyConfig
from raise_mdit.policy_transfer import check_transfers
from raise_mdit.preparation import Preparation, prepare
from raise_mdit.progress import Progress
from raise_mdit.recording import Recorder
from raise_mdit.rehearsal import Rehearsal
from raise_mdit.run_directory import versions, write_arm
from raise_mdit.runs import MetricsFile, arm_folder, cache_directory
from raise_mdit.tracking import NullTracker, TrackedRun, Tracker
from raise_mdit.unused_candidates import check_unused_suffice


@dataclass(frozen=True, slots=True)
class Findings:
    """What fine-tunings before the first arm have found; no process need repeat them."""

    rehearsal: Rehearsal
    transfer_costs: Mapping[tuple[str, int], Cost]
    transfer_features: Mapping[str, NDArray[np.float32]]


def findings_of(preparation: Preparation) -> Findings:
    """What took fine-tunings to prepare."""
    return Findings(
        preparation.rehearsal, preparation.transfer_costs, preparation.transfer_features
    )


def prepare_arms(
    config: ExperimentConfig, *, progress: Progress, findings: Findings | None = None
) -> Preparation:
    """What every arm starts from, with policies of other runs held against what is here.

    Args:
        config: The experiment.
        progress: Told of long work.
        findings: Of another process that has prepared the same; None finds them here.

    Raises:
        UserError: Of any kind, for what cannot be had or does not fit together.
    """
    cache = cache_directory()
    if findings is None:
        preparation = prepare(config, cache=cache, progress=progress)
        check_unused_suffice(preparation)
        return check_transfers(preparation, progress=progress)
    preparation = prepare(config, cache=cache, progress=progress, rehearsal=findings.rehearsal)
    return replace(
        preparation,
        transfer_costs=findings.transfer_costs,
        transfer_features=findings.transfer_features,
    )


def run_arms(
    preparation: Preparation,
    arms: Iterable[tuple[str, int]],
    directory: Path,
    *,
    tracker: Tracker,
    progress: Progress,
) -> Iterator[Arm]:
    """Run arms one after another.

    Args:
        preparation: What each starts from.
        arms: Label of the policy and seed of each.
        directory: Of the run. Records go to its `metrics.jsonl`, the rest to a folder each.
        tracker: Gets a run for each.
        progress: Told of long work.

    Yields:
        Each arm, when it is written.

    Raises:
        UserError: Of any kind; arms that were finished before are written.
    """
    metrics = MetricsFile(directory / "metrics.jsonl")
    recorder = Recorder(metrics, tracker)
    seal = Seal(directory, preparation.test.items, by="run")
    policies = {policy.label: policy for policy in preparation.config.policies}
    try:
        for label, seed in arms:
            policy = policies[label]
            folder = arm_folder(directory, label, seed)
            folder.mkdir(parents=True, exist_ok=True)
            recorder.start(_tracked(preparation.config, policy, seed, folder))
            arm = run_arm(
                preparation,
                policy,
                seed,
                recorder=recorder,
                progress=progress,
                directory=folder,
                seal=seal,
            )
            recorder.summarise(summary_of(arm.result))
            write_arm(preparation, folder, arm)
            recorder.finish()
            yield arm
    finally:
        metrics.close()


def tracker_of(config: ExperimentConfig, directory: Path) -> Tracker:
    """What mirrors a run.

    Args:
        config: The experiment.
        directory: Of the run.
    """
    wandb = config.tracking.wandb
    if wandb is None:
        return NullTracker()
    from raise_mdit.wandb_mirror.run_tracker import WandbTracker  # slow, for those who track

    return WandbTracker(wandb, experiment=config.name, directory=directory, versions=versions())


def _tracked(config: ExperimentConfig, policy: PolicyConfig, seed: int, folder: Path) -> TrackedRun:
    return TrackedRun(
        policy=policy.label,
        kind=policy.kind,
        seed=seed,
        config=config.model_dump(mode="json"),
        folder=folder,
    )
