"""The command ``raise-mdit``: run, check, look at pools, report, explain, export.

Exit codes: 0 done, 2 the user's mistake, 1 a fault of ours, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from raise_mdit import __version__
from raise_mdit.errors import ConfigError, DataError, RunError, UserError
from raise_mdit.experiment_file import load_experiment
from raise_mdit.runs import cache_directory, new_run_directory

if TYPE_CHECKING:  # torch and the rest come only where a command needs them
    from raise_mdit.config import ExperimentConfig
    from raise_mdit.core import Kind
    from raise_mdit.pool_building import BuiltPool
    from raise_mdit.progress import Progress

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Learn which instructions to train a language model on next, and compare policies.",
    epilog="Begin with `raise-mdit run experiments/quickstart.yaml`. An experiment is one YAML "
    "file; docs/configuration.md lists its keys. Exit codes: 0 done, 2 a mistake in what was "
    "asked, 1 a fault of ours, 130 Ctrl-C.",
)
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
"""Why a place takes no files."""

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)

ExperimentFile = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="Experiment YAML, such as experiments/quickstart.yaml."),
]
RunDirectory = Annotated[
    Path, typer.Argument(metavar="RUN_DIR", help="A run directory, such as runs/quickstart/….")
]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set a key of the file, as often as needed: `--set data.root=../data "
        "--set 'seeds=[0, 1]' --set policies.ppo.episodes=24`.",
    ),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"raise-mdit {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass  # the option has done its work


@app.command()
def run(
    file: ExperimentFile,
    set_: Overrides = [],  # noqa: B006  # Typer reads the default and never changes it
    out_: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Run directory. Default: `runs/NAME/STAMP`. A directory of an unfinished run of "
            "the same experiment is resumed: finished policies and seeds are kept.",
        ),
    ] = None,
) -> None:
    """Run an experiment: every policy with every seed, then the comparison.

    Writes the run directory (metrics, ledger, schedules, results, report) and ends with one table.
    """
    config = load_experiment(file, set_)
    directory = out_ or new_run_directory(Path("runs"), config.name, now=datetime.now())
    from raise_mdit import experiment  # torch and the rest, only now that the file is sound
    from raise_mdit.terminal import progress_for, results_table

    err.print(f"Run directory: {escape(str(directory))}")
    progress = progress_for(err)
    outcome, before = None, _written(directory / "results.json")
    try:
        outcome = experiment.run(config, directory, progress)
    finally:
        progress.finish()
        if outcome is None and _written(directory / "results.json") != before:
            err.print(f"Stopped. Finished arms are in {escape(str(directory))}; resume with --out.")
    out.print(results_table(outcome.summaries))
    for note in outcome.notes:
        out.print(escape(note), highlight=False)
    out.print(f"report    {escape(str(directory / 'report.html'))}")
    out.print(f"schedules {escape(str(directory / 'schedule.jsonl'))}")


@app.command()
def check(file: ExperimentFile, set_: Overrides = []) -> None:  # noqa: B006
    """Check an experiment file without loading a model or data, in under a second.

    Reports faults with their line, their key, what is allowed and the nearest name: first all that
    are misspelt or of a wrong type, then all that do not fit each other, then those of your own
    classes.
    Reads a wording file of your own, makes candidate sources of your own, and imports policies of
    your own and those of other runs, too.
    """
    config = load_experiment(file, set_)
    _check_own_parts(config)
    arms = len(config.policies) * len(config.seeds)
    out.print(f"{escape(str(file))}: sound; {len(config.policies)} policies x "
              f"{len(config.seeds)} seeds = {arms} arms")  # fmt: skip


@app.command()
def pool(
    file: ExperimentFile,
    set_: Overrides = [],  # noqa: B006  # as above
    show: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Show N random candidates of each kind."),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(help="With --show: only `original`, `mosaic`, `mdit` or `custom` ones."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="With --show: seed of the draw. Default: 0.")
    ] = None,
    out_: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Write the candidates as chat data, `.parquet` or `.jsonl`: rows of `id`, `kind`, "
            "`source`, `messages`, `num_tokens` and `num_response_tokens`. Interpolations, which "
            "text cannot hold, are left out and counted.",
        ),
    ] = None,
) -> None:
    """Build an experiment's pools, and tell what is in them; nothing is trained.

    Prints, for each kind of candidates, what one epoch over them takes: samples, steps and tokens,
    with and without padding. Of an interpolation `--show` shows both parents, and what its mixed
    embeddings come nearest to in the vocabulary.

    Example: `raise-mdit pool experiments/quickstart.yaml --set pools.mosaic.passes=4 --show 2
    --kind mosaic`. Any trainer takes what `--out pool.parquet` writes:
    `datasets.load_dataset("parquet", data_files="pool.parquet")`.
    """
    config = load_experiment(file, set_)
    from raise_mdit import pool_inspection
    from raise_mdit.pool_building import build_pool
    from raise_mdit.terminal import progress_for

    if show is None and (kind, seed) != (None, None):
        raise UserError("--kind and --seed say what --show shows; give --show N beside them")
    wanted = None if kind is None else pool_inspection.check_kind(kind, config)
    if out_ is not None:
        pool_inspection.check_text_file(out_)
    progress = progress_for(err)
    try:
        started = time.perf_counter()
        built = build_pool(config, policies=(), cache=cache_directory(), progress=progress)
        seconds = time.perf_counter() - started
        progress.finish()
        _print_pool(config, built, seconds)
        if show is not None:
            _print_candidates(built, show, wanted, seed or 0)
        if out_ is not None:
            _write_candidates(built, out_, progress)
    finally:
        progress.finish()


@app.command()
def report(directory: RunDirectory) -> None:
    """Write a run's report.html again, and show its table."""
    from raise_mdit import experiment
    from raise_mdit.comparison import arms_from_json, summarise
    from raise_mdit.terminal import results_table

    path = experiment.rebuild_report(directory)
    arms = arms_from_json((directory / "results.json").read_text("utf-8"))
    out.print(results_table(summarise(arms)))
    for note in experiment.choosing_notes(directory, arms):
        out.print(escape(note), highlight=False)
    out.print(f"report    {escape(str(path))}")


@app.command()
def explain(
    directory: RunDirectory,
    policy: Annotated[
        str | None,
        typer.Option(help="Learned policy to explain. Default: the file's first that can be."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed. Default: the policy's first.")] = None,
    step: Annotated[
        int | None,
        typer.Option(
            metavar="T", help="Show picks of this step only, from 0 as in schedule.jsonl."
        ),
    ] = None,
    top: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Show the N picks whose scores stood highest above their windows' means.",
        ),
    ] = 10,
) -> None:
    """Tell why a learned policy picked what it picked, and write RUN_DIR/explanation.html.

    Divides each pick's score above its window's mean among groups of features (`stage`,
    `difficulty`, `semantic`, `kind`, `availability`, and a `gradient` or `prior` where the policy
    sees one) by exact Shapley values: they sum to it, and a group without effect gets 0. Then shows
    how attributions, and shares of picks by source, kind and cluster, move over training.

    Reads policies that score candidates, such as `ppo`; needs no language model.

    Example: `raise-mdit explain runs/quickstart/… --policy ppo --seed 1 --step 5`.
    """
    from raise_mdit import explanation
    from raise_mdit.explanation_page import headline, write_page
    from raise_mdit.explanation_tables import attributions_table, picks_table, shares_table
    from raise_mdit.terminal import progress_for

    progress = progress_for(err)
    try:
        explained = explanation.explain(
            directory, progress=progress, policy=policy, seed=seed, step=step
        )
    finally:
        progress.finish()
    path = directory / "explanation.html"
    write_page(path, explained, top=top)
    out.print(f"{explained.result.policy} s{explained.result.seed}: {headline(explained)}",
              markup=False, highlight=False)  # fmt: skip
    tables = (picks_table(explained, top=top), attributions_table(explained))
    for table in (*tables, shares_table(explained)):
        out.print(table)
        out.print()
    for note in explained.notes:
        out.print(note, markup=False, highlight=False)
    out.print(f"page      {escape(str(path))}")


@app.command()
def export(
    directory: RunDirectory,
    policy: Annotated[
        str | None, typer.Option(help="Policy whose schedule to export. Default: the best learned.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed. Default: the policy's first.")] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to. Default: `RUN_DIR/export`.")
    ] = None,
) -> None:
    """Write a policy's schedule as chat data in training order, for any trainer.

    Gives `sft.jsonl` (messages), `schedule.jsonl`, a manifest and a README for its reader.
    """
    from raise_mdit.export import export_schedule

    written = export_schedule(directory, policy=policy, seed=seed, to=to)
    out.print(f"{written.num_rows} rows of {written.policy} s{written.seed} in "
              f"{escape(str(written.directory))}")  # fmt: skip


def _check_own_parts(config: ExperimentConfig) -> None:
    """Nothing, if what the file names of the user's own can be loaded.

    Raises:
        ConfigError: What a run would say of each part that cannot.
    """
    from raise_mdit.agents.custom_policy import load_policy_class
    from raise_mdit.policy_config import CustomPolicyConfig, PpoConfig
    from raise_mdit.sources.custom import load_source
    from raise_mdit.sources.mosaic_wording import wording_of

    mosaic = config.pools.mosaic
    loads: list[Callable[[], object]] = [partial(load_source, each) for each in config.pools.custom]
    own = (each for each in config.policies if isinstance(each, CustomPolicyConfig))
    loads += [partial(load_policy_class, each) for each in own]
    if any(isinstance(each, PpoConfig) and each.from_run for each in config.policies):
        from raise_mdit.policy_source import with_own_priors  # numerics, for those who ask for it

        loads.append(partial(with_own_priors, config))
    if mosaic is not None and mosaic.wording is not None:
        loads.insert(0, partial(wording_of, mosaic))
    faults = []
    for load in loads:
        try:
            load()
        except (ConfigError, RunError) as fault:
            faults.append(str(fault))
    if faults:
        raise ConfigError("\n".join(faults))


def _print_pool(config: ExperimentConfig, built: BuiltPool, seconds: float) -> None:
    """The table of a pool, what was read and made for it, and what it took."""
    import numpy as np
    from rich.filesize import decimal

    from raise_mdit.pool_report import mosaic_savings, pool_report, renewal_note
    from raise_mdit.terminal import pool_table

    pool, notes = built.candidates.pool, [*built.corpus.notes, *built.candidates.notes]
    if not len(pool):
        raise DataError("\n".join(["the pools hold no candidate at all:", *notes]))
    batch_size, max_length = config.environment.batch_size, config.model.max_length
    counts = {each.example.id: len(each.text.ids) for each in built.corpus.splits["pool"]}
    tokens = np.array([counts[example] for example in pool.parents.example_ids])
    lines = pool_report(pool, batch_size=batch_size, max_length=max_length, seed=config.data.seed)
    savings = mosaic_savings(pool, tokens, batch_size=batch_size, seed=config.data.seed)
    out.print(pool_table(lines, batch_size=batch_size, max_length=max_length))
    told = [savings.sentence if savings else None, renewal_note(pool), *notes]
    for note in filter(None, told):
        out.print(escape(note), highlight=False)
    out.print(
        f"Built in {seconds:,.1f} s, {built.synthesis_cost.seconds:,.1f} s of it for making "
        f"candidates; the pool takes {decimal(pool.num_bytes)} of memory.",
        highlight=False,
    )


def _print_candidates(built: BuiltPool, count: int, kind: Kind | None, seed: int) -> None:
    """Random candidates, readably."""
    from raise_mdit.pool_inspection import Viewer, draw_rows
    from raise_mdit.terminal import candidate_text

    pool, pretrained = built.candidates.pool, built.pretrained
    viewer = Viewer(
        pool,
        built.candidates.encoder,
        built.examples,
        embeddings=pretrained.model.get_input_embeddings()
        .get_parameter("weight")
        .numpy(force=True),
        decode=lambda token: str(pretrained.tokenizer.decode([token])),
    )
    for row in draw_rows(pool, count, kind=kind, seed=seed):
        out.print(candidate_text(viewer.view(row)), highlight=False)


def _write_candidates(built: BuiltPool, path: Path, progress: Progress) -> None:
    """All that is text, for any trainer."""
    from raise_mdit.pool_inspection import write_texts

    written = write_texts(built.candidates.pool, built.candidates.encoder, path, progress)
    progress.finish()
    out.print(f"{written.num_rows:,} conversations in {escape(str(path))}; interpolations left "
              f"out: {written.num_interpolated:,}", highlight=False)  # fmt: skip


def main() -> None:
    """Run the command; a user's mistake ends in one message, never in a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # said, so that no fork warns
    try:
        app()  # exits with 2 for a wrong command line and with 130 after Ctrl-C
    except UserError as mistake:
        _fail(str(mistake), mistake.exit_code)
    except OSError as fault:
        where = f" ({fault.filename})" if fault.filename else ""
        if fault.errno == errno.ENOSPC:
            _fail(f"the disk is full{where}; free some space and resume with --out", 2)
        if fault.errno in UNWRITABLE:
            _fail(f"cannot be written{where}: {fault.strerror}; give another place", 2)
        raise


def _written(path: Path) -> int | None:
    """When a file was written, in nanoseconds, or None where there is none."""
    return path.stat().st_mtime_ns if path.is_file() else None


def _fail(message: str, exit_code: int) -> None:
    err.print(message, markup=False, highlight=False)
    sys.exit(exit_code)
