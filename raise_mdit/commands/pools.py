"""The command that looks at pools."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from raise_mdit.commands.console import ExperimentFile, Overrides, err, out
from raise_mdit.errors import DataError, UserError
from raise_mdit.experiment_file import load_experiment
from raise_mdit.runs import cache_directory

if TYPE_CHECKING:  # torch and the rest come only where a command needs them
    from raise_mdit.config import ExperimentConfig
    from raise_mdit.core import Kind
    from raise_mdit.pool_building import BuiltPool
    from raise_mdit.progress import Progress


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(pool)


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
    from raise_mdit.progress_bars import progress_for

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


def _print_pool(config: ExperimentConfig, built: BuiltPool, seconds: float) -> None:
    """The table of a pool, what was read and made for it, and what it took."""
    import numpy as np
    from rich.filesize import decimal

    from raise_mdit.pool_report import mosaic_savings, pool_report, renewal_note
    from raise_mdit.pool_views import pool_table

    pool, notes = built.candidates.pool, [*built.inputs.corpus.notes, *built.candidates.notes]
    if not len(pool):
        raise DataError("\n".join(["the pools hold no candidate at all:", *notes]))
    batch_size, max_length = config.environment.batch_size, config.model.max_length
    counts = {each.example.id: len(each.text.ids) for each in built.inputs.corpus.splits["pool"]}
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
    from raise_mdit.pool_views import candidate_text

    pool, pretrained = built.candidates.pool, built.inputs.pretrained
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
