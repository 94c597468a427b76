"""The command ``python -m raise_mdit.benchmarks.pools``: what candidate pools take to make."""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from raise_mdit.benchmarks.apart import Call, call_apart
from raise_mdit.benchmarks.command import run_command, show
from raise_mdit.benchmarks.options import DEFAULT_MODEL, new_parser
from raise_mdit.benchmarks.pool_making import (
    Examples,
    LargePool,
    MditSpeed,
    MosaicSpeed,
    Plan,
    measure_large_pool,
    measure_mdit,
    measure_mosaics,
)
from raise_mdit.benchmarks.tables import TextTable, duration
from raise_mdit.config import DatasetSource
from raise_mdit.encoding import ChatEncoder
from raise_mdit.learners.pretrained import load_pretrained
from raise_mdit.progress import Progress
from raise_mdit.runs import cache_directory, write_json
from raise_mdit.sources.playground import generate
from raise_mdit.sources.records import read_source

PLAYGROUND_ROWS = 100
DESCRIPTION = """\
Measure what candidate pools take to make.

Mosaics are composed three ways from the same examples: plainly, tokenising the whole text again at
every enlargement; by this project from nothing; and with the counts it then has. Then
interpolations are paired and selected, and a pool of a million candidates is built, opened in a
process of its own, and read at random.
"""
EPILOG = """\
example:
  python -m raise_mdit.benchmarks.pools --data alpaca_52k.json --markdown

Writes OUT/pools.json. Nothing else should run on the machine meanwhile. Exit codes: 0 done, 2 a
mistake in what was asked.
"""


def main(
    arguments: Sequence[str] | None = None,
    *,
    call: Call = call_apart,
    out: Console | None = None,
    err: Console | None = None,
) -> int:
    """Run the command.

    Args:
        arguments: Without the program's name; None reads the command line.
        call: Where the large pool is opened.
        out: Where tables go; None is standard output.
        err: Where progress goes; None is standard error.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(arguments)
    return run_command(
        lambda shown, progress: _benchmark(options, call, shown, progress), out=out, err=err
    )


def _benchmark(options: argparse.Namespace, call: Call, out: Console, progress: Progress) -> None:
    plan = Plan(options.passes, options.max_instructions, options.max_length, options.million)
    progress.start("reading", None)
    given = _examples(options)
    folder: Path = options.out
    folder.mkdir(parents=True, exist_ok=True)
    mosaics = measure_mosaics(given, plan, progress)
    mdit = measure_mdit(given, plan, progress)
    large = None
    if plan.million:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            large = measure_large_pool(given, plan, Path(scratch), call, progress)
    progress.finish()
    figures = {
        "num_examples": len(given.examples),
        "ratios": {
            "from_nothing": mosaics.plain / mosaics.from_nothing,
            "counts_cached": mosaics.plain / mosaics.counts_cached,
        },
        "mosaics": mosaics._asdict(),
        "mdit": mdit._asdict(),
        "large_pool": None if large is None else large._asdict(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
    write_json(folder / "pools.json", figures)
    tables = [_mosaic_table(mosaics, plan, len(given.examples)), _mdit_table(mdit)]
    for table in [*tables, *([] if large is None else [_large_table(large)])]:
        show(table, out, markdown=options.markdown)
    out.print(f"figures {folder / 'pools.json'}", markup=False, highlight=False)


def _examples(options: argparse.Namespace) -> Examples:
    if options.data is None:
        examples = tuple(generate(0, PLAYGROUND_ROWS, source="data"))
    else:
        source = DatasetSource(name="data", kind="dataset", file=options.data.name)
        root = str(options.data.parent)
        examples = read_source(source, root=root, on_bad_row="skip").examples
    pretrained = load_pretrained(options.model, cache=cache_directory(), device="cpu")
    return Examples(examples[: options.rows], pretrained, ChatEncoder(pretrained.tokenizer))


def _mosaic_table(speed: MosaicSpeed, plan: Plan, num_examples: int) -> TextTable:
    ways = (
        ("plainly", speed.plain, speed.num_plain),
        ("from nothing", speed.from_nothing, speed.num_ours),
        ("with cached counts", speed.counts_cached, speed.num_ours),
    )
    uses = num_examples * plan.passes
    rows = [
        [way, duration(took), duration(took / uses), f"{speed.plain / took:.1f}", f"{made:,}"]
        for way, took, made in ways
    ]
    return TextTable(
        f"Mosaics of {num_examples:,} examples, {plan.passes} passes",
        ["", "time", "an example and pass", "plainly / this", "mosaics"],
        rows,
        [
            f"Up to {plan.max_instructions} instructions and {plan.max_length} tokens. The plain "
            "way counts instructions and responses alone; the others count the whole conversation, "
            f"exactly: the longest has {speed.longest} tokens."
        ],
    )


def _mdit_table(speed: MditSpeed) -> TextTable:
    rows = [
        ["embeddings of tier cheap", duration(speed.embeddings)],
        ["clusters", duration(speed.tasks)],
        ["pairs and diversity selection", duration(speed.pairs_and_selection)],
    ]
    title = f"Interpolations: {speed.num_kept:,} kept of {speed.num_generated:,} pairs"
    return TextTable(title, ["", "time"], rows)


def _large_table(large: LargePool) -> TextTable:
    rows = [
        ["built", duration(large.build_seconds), _mib(large.build_peak_bytes)],
        ["written", duration(large.write_seconds), f"{_mib(large.file_bytes)} on disk"],
        ["opened", duration(large.open_seconds), _mib(large.open_peak_bytes)],
        ["a window drawn", duration(large.window_seconds), ""],
        ["a random recipe read", duration(large.read_seconds), ""],
    ]
    return TextTable(
        f"A pool of {large.candidates:,} candidates",
        ["", "time", "memory"],
        rows,
        [
            "Memory is the peak of the process, libraries included; one that has only imported "
            f"them takes {_mib(large.empty_peak_bytes)}."
        ],
    )


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB"


def _parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "python -m raise_mdit.benchmarks.pools", description=DESCRIPTION, epilog=EPILOG
    )
    usual = Plan()
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="instruction data (.json, .jsonl, .parquet); default: the embedded playground",
    )
    parser.add_argument("--rows", type=int, metavar="N", help="only the first rows; default all")
    parser.add_argument("--model", default=DEFAULT_MODEL, help=f"default {DEFAULT_MODEL}")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="default runs/bench")
    for option, default, meaning in (
        ("--passes", usual.passes, "passes over the examples"),
        ("--max-instructions", usual.max_instructions, "most instructions of a mosaic"),
        ("--max-length", usual.max_length, "longest mosaic in tokens"),
        ("--million", usual.million, "candidates of the large pool; 0 leaves it out"),
    ):
        parser.add_argument(
            option, type=int, default=default, metavar="N", help=f"{meaning}; default {default}"
        )
    parser.add_argument("--markdown", action="store_true", help="tables as Markdown")
    return parser


if __name__ == "__main__":
    sys.exit(main())
