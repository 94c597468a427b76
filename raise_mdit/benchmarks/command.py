"""The command ``python -m raise_mdit.benchmarks``: options in, one table and two files out."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from raise_mdit.benchmarks.apart import Call, call_apart
from raise_mdit.benchmarks.benchmark import Plan, run
from raise_mdit.benchmarks.learners_at_once import LEARNERS
from raise_mdit.benchmarks.options import (
    SIZE_OPTIONS,
    add_place_and_data,
    add_sizes,
    asked_setting,
    chosen_sizes,
    count,
    new_parser,
)
from raise_mdit.benchmarks.page import write_page
from raise_mdit.benchmarks.pool_scaling import POOL_SIZES
from raise_mdit.benchmarks.setting import Sizes
from raise_mdit.benchmarks.tables import TextTable, as_markdown, as_rich, tables
from raise_mdit.errors import UserError
from raise_mdit.learners.pretrained import Device
from raise_mdit.progress import Progress
from raise_mdit.progress_bars import Bars
from raise_mdit.runs import write_json

DESCRIPTION = """\
Measure what a fine-tuning costs here, and what it costs done plainly.

The same batches, seeds and validation rows are given to a plain LoRA fine-tuning and to this
project's learners. Each is measured in a process of its own, several times; medians are shown.
Besides: what a step costs apart from the learner, pools of up to a million candidates, and several
learners that step together.
"""
EPILOG = """\
examples:
  python -m raise_mdit.benchmarks --quick
  python -m raise_mdit.benchmarks --device cuda --learners 1 8 32 64
  python -m raise_mdit.benchmarks --data alpaca.json --max-length 512 --markdown

Writes OUT/bench.json (all figures) and OUT/bench.html (the same as one page). Nothing else should
run on the machine meanwhile. Exit codes: 0 done, 2 a mistake in what was asked.
"""
QUICK = Sizes(
    pool=24, validation=2, batch_size=2, window=8, steps=2, episodes=2, repeats=1, max_length=96
)
"""Enough to see that it runs, too little for figures."""
QUICK_POOL_SIZES = POOL_SIZES[:2]
QUICK_NUM_LEARNERS = 2
"""Of the numbers of learners at once, the first ones."""


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
        call: Where each measurement runs.
        out: Where tables go; None is standard output.
        err: Where progress goes; None is standard error.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(arguments)
    return run_command(
        lambda shown, progress: _benchmark(options, call, shown, progress), out=out, err=err
    )


def run_command(
    work: Callable[[Console, Progress], None], *, out: Console | None, err: Console | None
) -> int:
    """The exit code of a command: 0, or that of the user's mistake, which is told in one line.

    Args:
        work: Given where tables go, and whom it tells of its progress: bars in a terminal,
            elsewhere a line for each stage.
        out: Where tables go; None is standard output.
        err: Where progress and mistakes go; None is standard error.
    """
    err = err or Console(stderr=True, soft_wrap=True)
    progress = Bars(err) if err.is_terminal else _Lines(err)
    try:
        work(out or Console(soft_wrap=True), progress)
    except UserError as error:
        progress.finish()
        err.print(f"error: {error}", style="red", markup=False, highlight=False)
        return error.exit_code
    finally:
        progress.finish()
    return 0


def _benchmark(options: argparse.Namespace, call: Call, out: Console, progress: Progress) -> None:
    folder: Path = options.out
    folder.mkdir(parents=True, exist_ok=True)
    sizes = chosen_sizes(options, QUICK if options.quick else Sizes())
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        setting = asked_setting(options, sizes, scratch=Path(scratch), progress=progress)
        plan = _plan(options, setting.device)
        benchmark = run(setting, plan, call=call, progress=progress)
    write_json(folder / "bench.json", benchmark.as_json())
    write_page(folder / "bench.html", benchmark)
    for table in tables(benchmark):
        show(table, out, markdown=options.markdown)
    out.print(f"figures {folder / 'bench.json'}", markup=False, highlight=False)
    out.print(f"page    {folder / 'bench.html'}", markup=False, highlight=False)


def show(table: TextTable, out: Console, *, markdown: bool) -> None:
    """Print a table and an empty line."""
    out.print(as_markdown(table) if markdown else as_rich(table), markup=False, highlight=False)
    out.print()


class _Lines:
    """A line on each stage, where there is no terminal to draw bars in."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def start(self, stage: str, total: int | None) -> None:
        """Say what begins."""
        self.note(stage)

    def advance(self, amount: int = 1, **figures: float) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""

    def note(self, sentence: str) -> None:
        """Say it."""
        self._console.print(sentence, markup=False, highlight=False)


def _plan(options: argparse.Namespace, device: Device) -> Plan:
    usual: Sequence[int] = LEARNERS[device]
    return Plan(
        pool_sizes=QUICK_POOL_SIZES if options.quick else POOL_SIZES,
        learners=options.learners or (usual[:QUICK_NUM_LEARNERS] if options.quick else usual),
    )


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("python -m raise_mdit.benchmarks", description=DESCRIPTION, epilog=EPILOG)
    add_place_and_data(parser)
    add_sizes(parser.add_argument_group("sizes"), tuple(SIZE_OPTIONS), Sizes())
    what = parser.add_argument_group("what is measured")
    what.add_argument("--quick", action="store_true", help="small sizes, for a first look: minutes")
    what.add_argument(
        "--learners", type=count, nargs="+", metavar="E", help="numbers of learners at once"
    )
    what.add_argument("--markdown", action="store_true", help="tables as Markdown")
    return parser
