"""Commands of runs: run, check, evaluate, compare, report."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from raise_mdit.commands.console import ExperimentFile, Jobs, Overrides, RunDirectory, err, out
from raise_mdit.commands.own_parts import check_own_parts
from raise_mdit.errors import ConfigError, UserError
from raise_mdit.experiment_file import load_with_places, with_only
from raise_mdit.runs import new_run_directory

if TYPE_CHECKING:  # torch and the rest come only where a command needs them
    from raise_mdit.comparison import PolicySummary
    from raise_mdit.config import ExperimentConfig


FileOrRun = Annotated[
    Path,
    typer.Argument(
        metavar="FILE|RUN_DIR",
        help="Experiment YAML, such as experiments/quickstart.yaml, or the directory of a run "
        "to go on with.",
    ),
]
PlaceOfRun = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help="Run directory. Default: `runs/NAME/STAMP`. A directory of an unfinished run of "
        "the same experiment, or of one with fewer policies or seeds, goes on, and keeps what "
        "has finished.",
    ),
]
Only = Annotated[
    str | None,
    typer.Option(
        metavar="POLICY,...",
        help="With FILE: run these policies alone, by name or kind; `base` and `random` in any "
        "case, as others are compared with them.",
    ),
]
MoreSeeds = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="With RUN_DIR: add N seeds to that run, and compare policies over all.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    for command in (run, check, evaluate, compare, report):
        app.command()(command)


def run(
    file: FileOrRun,
    set_: Overrides = [],  # noqa: B006  # Typer reads the default and never changes it
    out_: PlaceOfRun = None,
    only: Only = None,
    more_seeds: MoreSeeds = None,
    jobs: Jobs = 1,
) -> None:
    """Run an experiment: every policy with every seed, then the comparison.

    Writes the run directory (metrics, ledger, schedules, results, report) and ends with tables:
    what each policy reached and cost, how it stands against random, base, full data and the best
    policy that ranks the pool once, and how at equal tokens and at equal compute.

    Examples: `raise-mdit run experiments/quickstart.yaml`; when that asks for three more seeds,
    `raise-mdit run runs/quickstart/… --more-seeds 3`; of a file with many policies two alone,
    `raise-mdit run experiments/policies.yaml --only dsir,ppo_from_best`.
    """
    config, directory = _run_asked_for(file, set_, out_, more_seeds, only)
    from raise_mdit import experiment  # torch and the rest, only now that the file is sound
    from raise_mdit.progress_bars import progress_for
    from raise_mdit.run_directory import check_place

    check_place(config, directory)
    _print_start(config, directory)
    progress = progress_for(err)
    outcome, before = None, _written(directory / "results.json")
    try:
        outcome = experiment.run(config, directory, progress, jobs=jobs)
    finally:
        progress.finish()
        if outcome is None and _written(directory / "results.json") != before:
            err.print(f"Stopped. Finished arms are in {escape(str(directory))}; resume with "
                      f"raise-mdit run {escape(str(directory))}")  # fmt: skip
    _print_comparison(outcome.summaries, outcome.notes)
    _print_places(config, directory)


def _run_asked_for(
    file: Path, overrides: list[str], directory: Path | None, more: int | None, only: str | None
) -> tuple[ExperimentConfig, Path]:
    """The experiment, and where it runs."""
    if not file.is_dir():
        if more is not None:
            raise UserError("--more-seeds adds to a run: name its directory in place of the file")
        loaded = load_with_places(file, overrides)
        config = loaded.config
        if config.sweep is not None:
            raise ConfigError(
                f"{file}: has a `sweep` section, which raise-mdit sweep {file} runs; --set "
                "sweep=null runs the experiment without it"
            )
        check_own_parts(loaded, contracts=False)
        if only is not None:
            config = with_only(config, only.split(","))
        return config, directory or new_run_directory(Path("runs"), config.name, now=datetime.now())
    from raise_mdit.experiment import more_seeds
    from raise_mdit.experiment_file import read_config

    config = read_config(file)
    if overrides or directory is not None or only is not None:
        raise UserError(
            f"{file} is a run directory, which goes on as it began: --set, --out and --only have "
            "no place"
        )
    return (config if more is None else more_seeds(config, more)), file


def _print_start(config: ExperimentConfig, directory: Path) -> None:
    """Where a run goes on, and what it finds there."""
    from raise_mdit.run_arms import finished_folders, num_arms

    err.print(f"Run directory: {escape(str(directory))}")
    num_finished = len(list(finished_folders(config, directory)))
    if num_finished == num_arms(config):
        err.print("Every policy and seed has finished: nothing is run, all are compared again.")
    elif num_finished:
        err.print(f"{num_finished} of {num_arms(config)} arms have finished before and are kept.")


def _print_places(config: ExperimentConfig, directory: Path) -> None:
    """Where to find what a run has written."""
    out.print(f"report    {escape(str(directory / 'report.html'))}")
    out.print(f"schedules {escape(str(directory / 'schedule.jsonl'))}")
    wandb = config.tracking.wandb
    if wandb is not None and wandb.mode == "offline":
        out.print(f"W&B       kept on disk; raise-mdit sync {escape(str(directory))} sends it")


def _written(path: Path) -> int | None:
    """When a file was written, in nanoseconds, or None where there is none."""
    return path.stat().st_mtime_ns if path.is_file() else None


def check(file: ExperimentFile, set_: Overrides = []) -> None:  # noqa: B006
    """Check an experiment file without loading a model, in about a second.

    Reports faults with their line, their key, what is allowed and the nearest name: first all that
    are misspelt or of a wrong type, then all that do not fit each other, then those of what is your
    own: a wording file is read, candidate sources are made, metrics and extractors are imported,
    policies are made and tried on a made-up pool (`check_policy` of
    `raise_mdit.agents.policy_contract`), policies of other runs are looked up.

    What is asked of the embedded data is drawn from them. Other data are read only for
    `evaluation.task_metric: answer_match`, whose extractor has to find an answer in every reference
    of the held-out data. Of a file with a `sweep` section every point is checked.
    """
    loaded = load_with_places(file, set_)
    config = loaded.config
    check_own_parts(loaded, contracts=True)
    out.print(f"{escape(str(file))}: sound; {_work(file, config, set_)}")


def _work(file: Path, config: ExperimentConfig, overrides: list[str]) -> str:
    """How much there is to run."""
    num_seeds, num_policies = len(config.seeds), len(config.policies)
    if config.sweep is None:
        seeds = "1 seed" if num_seeds == 1 else f"{num_seeds} seeds"
        return f"{num_policies} policies x {seeds} = {num_policies * num_seeds} arms"
    from raise_mdit.sweep_plan import plan

    num_points = len(plan(file, overrides))
    of = f"{num_points} points of {config.sweep.policy}"
    return f"{of} x {num_seeds} seeds = {num_points * num_seeds} arms"


def evaluate(directory: RunDirectory) -> None:
    """Open the sealed test of a run that left it sealed, once, and compare policies on it.

    For experiments with `evaluation.open_test: evaluate`: while hyper-parameters are chosen, runs
    compare policies on `data.model_selection`, and the test says nothing. When everything is
    chosen, this measures the models that the run kept. `sealed_test.json` records when; a second
    time is refused.
    """
    from raise_mdit import experiment
    from raise_mdit.evaluation import evaluate as open_test
    from raise_mdit.progress_bars import progress_for
    from raise_mdit.results import read_results

    progress = progress_for(err)
    try:
        summaries = open_test(directory, progress)
    finally:
        progress.finish()
    arms = read_results(directory / "results.json")
    _print_comparison(summaries, experiment.notes_on(directory, arms, summaries))
    out.print(f"report    {escape(str(directory / 'report.html'))}")


def compare(
    directories: Annotated[
        list[Path],
        typer.Argument(metavar="RUN_DIR...", help="Run directories, such as runs/quickstart/…."),
    ],
    against: Annotated[
        list[str],
        typer.Option(
            metavar="POLICY",
            help="Hold every policy against this one, too, as the tables name it. Once for each.",
        ),
    ] = [],  # noqa: B006  # Typer reads the default and never changes it
) -> None:
    """Compare the policies of one run or of several that were measured on the same data.

    Runs that differ in nothing but policies and seeds are pooled; where they differ in more, each
    policy is named with its directory, and the differences are told. Of a run that is still going
    on it compares the arms that have finished.

    Intervals are BCa bootstrap intervals, 95 %, of differences paired by seed. A policy is *better*
    or *worse* than a reference where that holds over seeds and over held-out items, corrected by
    Holm for the number of policies; else it is *inconclusive*, and how many more seeds or items it
    would take is told. Equal tokens and equal compute read the loss on reward-validation where
    every policy had spent as much as the one that spent the least.

    References are random, base, full and the best policy that ranks the pool once, as far as the
    runs have them, and those that --against names.

    Example: `raise-mdit compare runs/quickstart/… --against ppo`.
    """
    from raise_mdit.comparison import summarise
    from raise_mdit.open_comparisons import power_sentences
    from raise_mdit.run_comparison import gather

    gathered = gather(directories)
    summaries = summarise(gathered.arms, against)
    for note in gathered.notes:  # they say why policies are called as they are in the tables
        out.print(escape(note), highlight=False)
    _print_comparison(summaries, power_sentences(summaries))


def _print_comparison(summaries: Sequence[PolicySummary], notes: Sequence[str]) -> None:
    from raise_mdit.comparison_tables import REFERENCES_NOTE, references_table, results_table

    out.print(results_table(summaries))
    against = references_table(summaries)
    if against is not None:
        out.print()
        out.print(against)
        out.print(REFERENCES_NOTE, highlight=False)
    for note in notes:
        out.print(escape(note), highlight=False)


def report(directory: RunDirectory) -> None:
    """Write a run's report.html again, and show its tables."""
    from raise_mdit import experiment
    from raise_mdit.comparison import summarise
    from raise_mdit.results import read_results

    path = experiment.rebuild_report(directory)
    arms = read_results(directory / "results.json")
    summaries = summarise(arms)
    _print_comparison(summaries, experiment.notes_on(directory, arms, summaries))
    out.print(f"report    {escape(str(path))}")
