"""Commands of Weights & Biases and of sweeps: sync, dashboard push, sweep."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from raise_mdit.commands.console import Jobs, RunDirectory, err, out
from raise_mdit.errors import ConfigError
from raise_mdit.experiment_file import load_experiment
from raise_mdit.runs import new_run_directory

if TYPE_CHECKING:  # torch, wandb and the rest come only where a command needs them
    from raise_mdit.config import ExperimentConfig, SweepConfig
    from raise_mdit.sweep_results import Board, PointResult

dashboard = typer.Typer(
    no_args_is_help=True, help="Show an experiment in Weights & Biases as its report does."
)


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(sweep)
    app.command()(sync)
    app.add_typer(dashboard, name="dashboard")


def sweep(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Experiment YAML with a `sweep` section.")
    ],
    set_: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Set a key of the file at every point, as for `run`."
        ),
    ] = [],  # noqa: B006  # Typer reads the default and never changes it
    out_: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Directory of the sweep. Default: `runs/NAME/STAMP`. That of a sweep that was "
            "stopped is gone on with.",
        ),
    ] = None,
    jobs: Jobs = 1,
) -> None:
    """Search for settings of one policy: run it at each point of the file's `sweep` section.

    Each point is a run directory `sweep-K` below that of the sweep. Ends with a table of points by
    their loss on `data.model_selection`, which the file must have, and names the best. The test
    stays sealed; `raise-mdit evaluate` opens it for the best alone. With `tracking: {wandb: {mode:
    online}}` it is a sweep in Weights & Biases, too.

    Example: `raise-mdit sweep my.yaml`, where my.yaml has `sweep: {policy: ppo, parameters:
    {learner.learning_rate: {values: [1.0e-4, 3.0e-4]}}}`.
    """
    config = load_experiment(file, set_)
    section = config.sweep
    if section is None:
        raise ConfigError(f"{file}: has no `sweep` section; `raise-mdit sweep --help` shows one")
    from raise_mdit.progress_bars import progress_for
    from raise_mdit.sweep import run_sweep
    from raise_mdit.sweep_plan import plan

    points = plan(file, set_)
    directory = out_ or new_run_directory(Path("runs"), config.name, now=datetime.now())
    err.print(f"Sweep directory: {escape(str(directory))}; {len(points)} points")
    progress = progress_for(err)
    try:
        results = run_sweep(
            points,
            directory,
            policy=section.policy,
            progress=progress,
            board=_board(config, section, directory),
            jobs=jobs,
        )
    finally:
        progress.finish()
    _print_found(file, directory, results)


def sync(directory: RunDirectory) -> None:
    """Send to Weights & Biases what it has not got of a run, and check that all of it arrived.

    For runs that were tracked offline, and for those that lost the server. Asks the service for
    every row and every artifact, and fails with a list of what is missing. The run directory may
    have been moved. Needs WANDB_API_KEY or `wandb login`.
    """
    from raise_mdit.progress_bars import progress_for
    from raise_mdit.wandb_mirror.sync import sync as send

    progress = progress_for(err)
    try:
        synced = send(directory, progress=progress)
    finally:
        progress.finish()
    out.print(
        f"{synced.project} has all of it: {synced.num_runs} runs with {synced.num_rows:,} rows and "
        f"{synced.num_artifacts} artifacts; {synced.num_sent} runs were not complete before",
        markup=False,
        highlight=False,
    )


@dashboard.command()
def push(
    experiment: Annotated[
        Path,
        typer.Argument(
            metavar="EXPERIMENT",
            help="A run directory, such as runs/quickstart/…, for its runs alone, or an experiment "
            "YAML, for all runs of the experiment.",
        ),
    ],
) -> None:
    """Create or update a workspace and a report in Weights & Biases with the report's panels.

    Both are named after the experiment; pushing again updates them. They show the runs of a run
    directory, and the report has its comparison in words, or all runs of an experiment file, which
    needs no run here. Run `raise-mdit sync RUN_DIR` before, if a run was offline.
    """
    from raise_mdit.wandb_mirror.dashboard import push as send

    pushed = send(experiment)
    out.print(f"workspace {pushed.workspace}", markup=False, highlight=False)
    out.print(f"report    {pushed.report}", markup=False, highlight=False)


def _print_found(file: Path, directory: Path, results: Sequence[PointResult]) -> None:
    """The points, the best of them, and what to do with it."""
    from raise_mdit.sweep_plan import changes

    out.print(_table(results))
    best = results[0]
    settings = " ".join(f"--set {each}" for each in changes(best.setting))
    tied = [each.name for each in results[1:] if each.loss.mean == best.loss.mean]
    also = f" (as low: {', '.join(tied)})" if tied else ""
    out.print(f"best      {best.name}{also}, that is:", markup=False, highlight=False)
    out.print(f"          raise-mdit run {file} --set sweep=null {settings}",
              markup=False, highlight=False)  # fmt: skip
    out.print(f"its test  raise-mdit evaluate {directory / best.name}",
              markup=False, highlight=False)  # fmt: skip


def _table(results: Sequence[PointResult]) -> Table:
    """Points from the lowest loss to the highest."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.add_column("point", no_wrap=True)
    for key in results[0].setting:
        table.add_column(escape(key), justify="right", no_wrap=True)
    table.add_column("loss on model-selection", justify="right", no_wrap=True)
    for result in results:
        loss = result.loss
        reach = ""
        if loss.low is not None and loss.high is not None:
            reach = f" [{loss.low:.4f}, {loss.high:.4f}]"
        values = (escape(str(value)) for value in result.setting.values())
        table.add_row(result.name, *values, escape(f"{loss.mean:.4f}{reach}"))
    return table


def _board(config: ExperimentConfig, section: SweepConfig, directory: Path) -> Board:
    wandb = config.tracking.wandb
    if wandb is None or wandb.mode == "offline":
        from raise_mdit.sweep_results import NoBoard

        return NoBoard()
    from raise_mdit.wandb_mirror.sweep_board import SweepBoard

    return SweepBoard(wandb, section, experiment=config.name, directory=directory)
