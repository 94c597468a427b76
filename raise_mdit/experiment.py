"""An experiment from its file to its report: the composition root.

An arm is written when it finishes, so that a run that was stopped can be resumed and what it
finished is usable. :mod:`raise_mdit.run_directory` says what is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raise_mdit.arm_processes import run_side_by_side
from raise_mdit.arm_running import findings_of, prepare_arms, run_arms, tracker_of
from raise_mdit.arms import Arm
from raise_mdit.comparison import PolicySummary, summarise
from raise_mdit.config import ExperimentConfig
from raise_mdit.early_stops import early_stop_sentences
from raise_mdit.errors import ConfigError, RunError
from raise_mdit.experiment_file import read_config, resolved_yaml
from raise_mdit.folders import PREPARATION_FILE
from raise_mdit.open_comparisons import power_sentences
from raise_mdit.progress import Progress
from raise_mdit.remaining_time import RemainingTime, about
from raise_mdit.report import write_report
from raise_mdit.report_sentences import metric_agreement_of
from raise_mdit.results import ArmResult, read_results, to_json, total
from raise_mdit.run_arms import all_arms, expected_arms, finished_folders, num_arms
from raise_mdit.run_directory import (
    check_place,
    choosing_notes,
    ledger_of,
    preparation_notes,
    read_arm,
    recipe_of,
    unfinished_notes,
    versions,
    write_preparation,
)
from raise_mdit.run_lock import alone_in
from raise_mdit.runs import keep_metrics, read_json, write_json, write_text
from raise_mdit.schedule import Pick, write_schedule
from raise_mdit.tracking import Tracker
from raise_mdit.trial_sentences import trial_sentences


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run gave."""

    directory: Path
    summaries: tuple[PolicySummary, ...]
    notes: tuple[str, ...] = ()
    """What else to know at first sight, in sentences."""


def run(config: ExperimentConfig, directory: Path, progress: Progress, *, jobs: int = 1) -> Outcome:
    """Run an experiment, or go on with one that was stopped.

    Args:
        config: The experiment.
        directory: An empty folder, or that of a run of the same experiment that is unfinished or
            has fewer policies or seeds.
        progress: Told of long work.
        jobs: Arms at a time. More than one are run in processes of their own, which share the
            cores; the last digits of their sums can depend on how many cores each has.

    Raises:
        UserError: Of any kind. What was finished before is in the directory, reported as
            interrupted; so it is after Ctrl-C.
    """
    if config.sweep is not None:
        raise ConfigError(
            "sweep: is run by `raise-mdit sweep FILE`; --set sweep=null runs the rest"
        )
    _make_directory(config, directory)
    with alone_in(directory):
        return _run(config, directory, progress, jobs)


def rebuild_report(directory: Path) -> Path:
    """Write `report.html` again from what the run directory holds.

    Raises:
        RunError: The directory holds no run.
    """
    config = read_config(directory)
    arms = read_results(directory / "results.json")
    _write_report(config, directory, arms, summarise(arms))
    return directory / "report.html"


def conclude(directory: Path) -> tuple[PolicySummary, ...]:
    """Compare again what has finished in a run directory, and write results and report.

    Raises:
        RunError: The directory holds no run.
    """
    config = read_config(directory)
    finished = {key: read_arm(folder) for key, folder in finished_folders(config, directory)}
    return _conclude(config, directory, finished)


def _run(config: ExperimentConfig, directory: Path, progress: Progress, jobs: int) -> Outcome:
    """The run, in a directory that nobody else writes to."""
    write_text(directory / "config.yaml", resolved_yaml(config))
    write_json(directory / "versions.json", versions())
    finished = {key: read_arm(folder) for key, folder in finished_folders(config, directory)}
    keep_metrics(directory / "metrics.jsonl", set(finished))
    summaries: tuple[PolicySummary, ...] = ()
    tracker = tracker_of(config, directory)
    try:
        if len(finished) < num_arms(config):
            _run_arms(config, directory, finished, jobs=jobs, progress=progress, tracker=tracker)
    finally:
        if finished:
            summaries = _conclude(config, directory, finished)
    tracker.conclude()
    arms = [arm.result for arm in finished.values()]
    return Outcome(directory, summaries, notes_on(directory, arms, summaries))


def _make_directory(config: ExperimentConfig, directory: Path) -> None:
    check_place(config, directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise RunError(
            f"{directory}: cannot be made a run directory ({error.strerror}); give another --out"
        ) from error


def more_seeds(config: ExperimentConfig, count: int) -> ExperimentConfig:
    """The same experiment with so many seeds more, counted on from the largest."""
    first = max(config.seeds) + 1
    return config.model_copy(update={"seeds": (*config.seeds, *range(first, first + count))})


def _run_arms(
    config: ExperimentConfig,
    directory: Path,
    finished: dict[tuple[str, int], Arm],
    *,
    jobs: int,
    progress: Progress,
    tracker: Tracker,
) -> None:
    """Run what has not finished, and add it to what has."""
    preparation = prepare_arms(config, progress=progress)
    write_preparation(directory, preparation)
    missing = [each for each in expected_arms(config) if each not in finished]
    if min(jobs, len(missing)) == 1:
        arms = run_arms(preparation, missing, directory, tracker=tracker, progress=progress)
    else:
        findings = findings_of(preparation)
        del preparation  # its model takes memory that the processes need
        arms = run_side_by_side(missing, directory, jobs=jobs, findings=findings, progress=progress)
    remaining = RemainingTime(arm.result for arm in finished.values())
    for arm in arms:
        finished[arm.result.policy, arm.result.seed] = arm
        remaining.add(arm.result)
        ahead = [label for label, seed in expected_arms(config) if (label, seed) not in finished]
        to_go = remaining.seconds(ahead) if ahead else None
        progress.note(_finished_sentence(arm.result, len(finished), num_arms(config), to_go))


def _finished_sentence(arm: ArmResult, number: int, of: int, to_go: float | None) -> str:
    """What a log without bars shows of an arm."""
    losses, minutes = arm.reward_validation_losses, total(arm.costs).seconds / 60
    return (
        f"{number} of {of} arms: {arm.policy} s{arm.seed}, loss on reward-validation "
        f"{losses[0]:.3f} to {losses[-1]:.3f}, {minutes:.1f} min as if alone"
        + ("" if to_go is None else f"; {about(to_go)} to go")
    )


def _conclude(
    config: ExperimentConfig,
    directory: Path,
    finished: dict[tuple[str, int], Arm],
) -> tuple[PolicySummary, ...]:
    """Write what belongs to the run as a whole, from the arms that finished."""
    arms = [finished[p.label, s] for p, s in all_arms(config) if (p.label, s) in finished]
    results = [arm.result for arm in arms]
    summaries = summarise(results)
    picks: list[Pick] = [pick for arm in arms for pick in arm.picks]
    digest = None
    if (directory / PREPARATION_FILE).is_file():
        digest = read_json(directory / PREPARATION_FILE)["model_digest"]
    write_schedule(directory, picks, recipe_of(config, digest))
    write_json(directory / "ledger.json", ledger_of(results))
    write_text(directory / "results.json", to_json(results, summaries))
    _write_report(config, directory, results, summaries)
    return summaries


def _write_report(
    config: ExperimentConfig,
    directory: Path,
    results: list[ArmResult] | tuple[ArmResult, ...],
    summaries: tuple[PolicySummary, ...],
) -> None:
    notes = preparation_notes(directory)
    write_report(
        directory,
        config=config,
        arms=results,
        summaries=summaries,
        status="complete" if len(results) == num_arms(config) else "interrupted",
        versions=read_json(directory / "versions.json"),
        notes=[
            *unfinished_notes(directory, results),
            *choosing_notes(directory, results),
            *notes,
        ],
    )


def notes_on(
    directory: Path, arms: Sequence[ArmResult], summaries: Sequence[PolicySummary]
) -> tuple[str, ...]:
    """What to know at first sight of a run besides its tables, in sentences.

    Args:
        directory: Of the run.
        arms: Finished ones.
        summaries: The same by policy.
    """
    agreement = metric_agreement_of(arms, summaries)
    warnings = (agreement.sentence,) if agreement is not None and agreement.warns else ()
    return (
        *unfinished_notes(directory, arms),
        *trial_sentences(arms),
        *early_stop_sentences(arms),
        *choosing_notes(directory, arms),
        *power_sentences(summaries),
        *warnings,
    )
