"""An experiment from its file to its report: the composition root.

The run directory holds, when all is done::

    config.yaml             the resolved experiment
    versions.json           what it ran on
    preparation.json        what was read, left out and made
    pool.parquet            every candidate by its recipe
    features.safetensors    what policies see of every candidate
    basis.safetensors       axes of their semantic columns, for use on another pool
    examples.jsonl          the texts that recipes refer to
    mosaic_wording.yaml     what mosaics can say, where it is the user's own
    metrics.jsonl           every step and episode
    arms/<policy>-s<seed>/  result, schedule, and weights and decisions of a learned policy
    ledger.json             costs by policy, seed and purpose
    schedule.jsonl          every policy's schedule, with schedule.manifest.json
    results.json            arms and summaries
    report.html             for people
    explanation.html        what picks of a learned policy were owed to, where it was asked for

An arm is written when it finishes, so that a run that was stopped can be resumed and what it
finished is usable.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from raise_mdit import __version__
from raise_mdit.arms import Arm, run_arm, summary_of
from raise_mdit.comparison import (
    ArmResult,
    PolicySummary,
    arms_from_json,
    cost_of_choosing,
    summarise,
    to_json,
    total,
)
from raise_mdit.config import ExperimentConfig
from raise_mdit.core import Cost
from raise_mdit.decisions import BASIS_FILE, FEATURES_FILE, write_basis, write_features
from raise_mdit.errors import RunError
from raise_mdit.example_texts import EXAMPLES_FILE, write_examples
from raise_mdit.experiment_file import load_resolved, resolved_yaml
from raise_mdit.export import WORDING_FILE
from raise_mdit.policy_config import PolicyConfig
from raise_mdit.policy_source import embeddings_in_words
from raise_mdit.policy_transfer import check_transfers
from raise_mdit.preparation import Preparation, prepare
from raise_mdit.progress import Progress
from raise_mdit.recording import Recorder
from raise_mdit.report import write_report
from raise_mdit.runs import (
    MetricsFile,
    cache_directory,
    keep_metrics,
    read_json,
    write_json,
    write_text,
)
from raise_mdit.schedule import Pick, read_schedule, write_schedule
from raise_mdit.tracking import NullTracker, TrackedRun, Tracker, WandbTracker

PACKAGES = (
    "gymnasium",
    "numpy",
    "peft",
    "scikit-learn",
    "stable-baselines3",
    "tokenizers",
    "torch",
    "transformers",
)
"""Packages whose versions can change a result."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run gave."""

    directory: Path
    summaries: tuple[PolicySummary, ...]
    notes: tuple[str, ...] = ()
    """What else to know at first sight, in sentences."""


def run(config: ExperimentConfig, directory: Path, progress: Progress) -> Outcome:
    """Run an experiment, or go on with one that was stopped.

    Args:
        config: The experiment.
        directory: An empty folder, or that of an unfinished run of the same experiment.
        progress: Told of long work.

    Raises:
        UserError: Of any kind. What was finished before is in the directory, reported as
            interrupted; so it is after Ctrl-C.
    """
    _open_directory(config, directory)
    finished = {key: _read_arm(folder) for key, folder in _finished_folders(config, directory)}
    keep_metrics(directory / "metrics.jsonl", set(finished))
    summaries: tuple[PolicySummary, ...] = ()
    try:
        if len(finished) < _num_arms(config):
            preparation = prepare(config, cache=cache_directory(), progress=progress)
            preparation = check_transfers(preparation, progress=progress)
            _write_preparation(directory, preparation)
            _run_arms(preparation, directory, finished, progress)
    finally:
        if finished:
            summaries = _conclude(config, directory, finished)
    arms = [arm.result for arm in finished.values()]
    return Outcome(directory, summaries, choosing_notes(directory, arms))


def rebuild_report(directory: Path) -> Path:
    """Write `report.html` again from what the run directory holds.

    Raises:
        RunError: The directory holds no run.
    """
    config = read_config(directory)
    results = directory / "results.json"
    if not results.is_file():
        raise RunError(f"{directory}: no results.json; was a run ever finished or stopped here?")
    arms = arms_from_json(results.read_text("utf-8"))
    _write_report(config, directory, arms, summarise(arms))
    return directory / "report.html"


def read_config(directory: Path) -> ExperimentConfig:
    """The resolved experiment of a run directory.

    Raises:
        RunError: It is not a run directory.
    """
    file = directory / "config.yaml"
    if not file.is_file():
        raise RunError(f"{directory}: not a run directory (no config.yaml)")
    return load_resolved(file)


def _open_directory(config: ExperimentConfig, directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise RunError(
            f"{directory}: cannot be made a run directory ({error.strerror}); give another --out"
        ) from error
    file = directory / "config.yaml"
    if file.exists():
        if read_config(directory) != config:
            raise RunError(
                f"{directory}: holds a run of another experiment file; give the same file and "
                "--set values to resume it, or another --out"
            )
    elif any(directory.iterdir()):
        raise RunError(f"{directory}: not empty and not a run directory; give another --out")
    write_text(file, resolved_yaml(config))
    write_json(directory / "versions.json", versions())


def versions() -> dict[str, str]:
    """Versions of what can change a result."""
    return {
        "raise-mdit": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **{package: version(package) for package in PACKAGES},
    }


def _all_arms(config: ExperimentConfig) -> Iterator[tuple[PolicyConfig, int]]:
    """Seed by seed, so that an interrupted run has compared every policy on what it finished."""
    for seed in config.seeds:
        for policy in config.policies:
            yield policy, seed


def _num_arms(config: ExperimentConfig) -> int:
    return len(config.policies) * len(config.seeds)


def _arm_folder(directory: Path, label: str, seed: int) -> Path:
    return directory / "arms" / f"{label}-s{seed}"


def _finished_folders(
    config: ExperimentConfig, directory: Path
) -> Iterator[tuple[tuple[str, int], Path]]:
    for policy, seed in _all_arms(config):
        folder = _arm_folder(directory, policy.label, seed)
        if (folder / "result.json").is_file():
            yield (policy.label, seed), folder


def _run_arms(
    preparation: Preparation,
    directory: Path,
    finished: dict[tuple[str, int], Arm],
    progress: Progress,
) -> None:
    config = preparation.config
    metrics = MetricsFile(directory / "metrics.jsonl")
    recorder = Recorder(metrics, _tracker(config, directory))
    try:
        for policy, seed in _all_arms(config):
            if (policy.label, seed) in finished:
                continue
            folder = _arm_folder(directory, policy.label, seed)
            folder.mkdir(parents=True, exist_ok=True)
            recorder.start(_tracked(config, policy, seed))
            arm = run_arm(
                preparation, policy, seed, recorder=recorder, progress=progress, directory=folder
            )
            recorder.finish(summary_of(arm.result))
            _write_arm(preparation, folder, arm)
            finished[policy.label, seed] = arm
    finally:
        metrics.close()


def _tracker(config: ExperimentConfig, directory: Path) -> Tracker:
    wandb = config.tracking.wandb
    if wandb is None:
        return NullTracker()
    return WandbTracker(
        wandb, experiment=config.name, directory=directory / "tracking", versions=versions()
    )


def _tracked(config: ExperimentConfig, policy: PolicyConfig, seed: int) -> TrackedRun:
    return TrackedRun(
        policy=policy.label, kind=policy.kind, seed=seed, config=config.model_dump(mode="json")
    )


def _write_preparation(directory: Path, preparation: Preparation) -> None:
    corpus = preparation.corpus
    preparation.pool.write(directory / "pool.parquet")
    write_features(directory / FEATURES_FILE, preparation.table)
    if preparation.table.basis is not None:
        embeddings = embeddings_in_words(preparation.config.features, preparation.pretrained.digest)
        write_basis(directory / BASIS_FILE, preparation.table.basis, embeddings=embeddings)
    mosaic = preparation.config.pools.mosaic
    if mosaic is not None and mosaic.wording is not None:
        write_text(directory / WORDING_FILE, Path(mosaic.wording).read_text("utf-8"))
    write_examples(directory / EXAMPLES_FILE, preparation.examples.values())
    write_json(
        directory / "preparation.json",
        {
            "notes": preparation.notes,
            "model_digest": preparation.pretrained.digest,
            "num_trainable": preparation.tuning.learner.num_trainable,
            "num_candidates": len(preparation.pool),
            "full_training": preparation.full_training._asdict(),
            "bad_rows": [row._asdict() for row in corpus.bad_rows],
            "special_rows": [row._asdict() for row in corpus.special_rows],
            "removed_for_overlap": [removal._asdict() for removal in corpus.report.removals],
        },
    )


def _write_arm(preparation: Preparation, folder: Path, arm: Arm) -> None:
    write_schedule(folder, arm.picks, _recipe(preparation.config, preparation.pretrained.digest))
    write_text(folder / "result.json", to_json([arm.result], []))  # last: its presence means done


def _read_arm(folder: Path) -> Arm:
    (result,) = arms_from_json((folder / "result.json").read_text("utf-8"))
    return Arm(result, read_schedule(folder))


def _recipe(config: ExperimentConfig, model_digest: str | None) -> dict[str, object]:
    """What a trainer must do alike to replay a schedule."""
    return {
        "model": config.model.name,
        "model_digest": model_digest,
        "max_length": config.model.max_length,
        "system_prompt": config.model.system_prompt,
        "batch_size": config.environment.batch_size,
        "loss": "mean over response tokens",
        "learner": config.learner.model_dump(mode="json"),
    }


def _conclude(
    config: ExperimentConfig,
    directory: Path,
    finished: dict[tuple[str, int], Arm],
) -> tuple[PolicySummary, ...]:
    """Write what belongs to the run as a whole, from the arms that finished."""
    arms = [finished[p.label, s] for p, s in _all_arms(config) if (p.label, s) in finished]
    results = [arm.result for arm in arms]
    summaries = summarise(results)
    picks: list[Pick] = [pick for arm in arms for pick in arm.picks]
    digest = None
    if (directory / "preparation.json").is_file():
        digest = read_json(directory / "preparation.json")["model_digest"]
    write_schedule(directory, picks, _recipe(config, digest))
    write_json(directory / "ledger.json", _ledger(results))
    write_text(directory / "results.json", to_json(results, summaries))
    _write_report(config, directory, results, summaries)
    return summaries


def _write_report(
    config: ExperimentConfig,
    directory: Path,
    results: list[ArmResult] | tuple[ArmResult, ...],
    summaries: tuple[PolicySummary, ...],
) -> None:
    notes = _preparation_notes(directory)
    write_report(
        directory / "report.html",
        config=config,
        arms=results,
        summaries=summaries,
        status="complete" if len(results) == _num_arms(config) else "interrupted",
        versions=read_json(directory / "versions.json"),
        notes=[*choosing_notes(directory, results), *notes],
    )


def choosing_notes(directory: Path, arms: Sequence[ArmResult]) -> tuple[str, ...]:
    """What learning cost each policy, as a share of one full-data training.

    Args:
        directory: Of a run.
        arms: Finished ones.
    """
    file = directory / "preparation.json"
    if not file.is_file():
        return ()
    return cost_of_choosing(arms, Cost(**read_json(file)["full_training"]))


def _preparation_notes(directory: Path) -> list[str]:
    file = directory / "preparation.json"
    return list(read_json(file)["notes"]) if file.is_file() else []


def _ledger(results: list[ArmResult]) -> dict[str, object]:
    """Costs by policy and seed as if each had run alone; the total leaves out monitoring."""
    return {
        f"{result.policy}/s{result.seed}": {
            **{purpose: cost._asdict() for purpose, cost in result.costs.items()},
            "total": total(result.costs)._asdict(),
        }
        for result in results
    }
