"""The command ``python -m raise_mdit.benchmarks``: options in, one table and two files out."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from raise_mdit.benchmarks.apart import Call, call_apart
from raise_mdit.benchmarks.benchmark import Plan, run
from raise_mdit.benchmarks.depth import DEPTHS
from raise_mdit.benchmarks.learners_at_once import LEARNERS
from raise_mdit.benchmarks.page import write_page
from raise_mdit.benchmarks.pool_scaling import POOL_SIZES
from raise_mdit.benchmarks.setting import Sizes, prepare_setting
from raise_mdit.benchmarks.tables import as_markdown, as_rich, tables
from raise_mdit.errors import ModelError, UserError
from raise_mdit.learners.forward import resolve_precision
from raise_mdit.learners.pretrained import Device
from raise_mdit.progress import Progress
from raise_mdit.runs import cache_directory, write_json
from raise_mdit.terminal import Bars

DEFAULT_MODEL = "smollm2-135m"
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
    err = err or Console(stderr=True, soft_wrap=True)
    return exit_code(lambda: _benchmark(options, call, out or Console(soft_wrap=True), err), err)


def exit_code(work: Callable[[], None], err: Console) -> int:
    """0, or what the user's mistake ends in, told in one line."""
    try:
        work()
    except UserError as error:
        err.print(f"error: {error}", style="red", markup=False, highlight=False)
        return error.exit_code
    return 0


def progress_in(console: Console) -> Progress:
    """Bars in a terminal, elsewhere a line for each stage."""
    return Bars(console) if console.is_terminal else _Lines(console)


def _benchmark(options: argparse.Namespace, call: Call, out: Console, err: Console) -> None:
    folder: Path = options.out
    folder.mkdir(parents=True, exist_ok=True)
    device = _device(options.device)
    progress = progress_in(err)
    try:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            setting = prepare_setting(
                _sizes(options),
                model=options.model,
                data=options.data,
                device=device,
                precision=resolve_precision(options.precision, torch.device(device)),
                models=cache_directory(),
                scratch=Path(scratch),
                progress=progress,
            )
            benchmark = run(setting, _plan(options, device), call=call, progress=progress)
    finally:
        progress.finish()
    write_json(folder / "bench.json", benchmark.as_json())
    write_page(folder / "bench.html", benchmark)
    for table in tables(benchmark):
        shown = as_markdown(table) if options.markdown else as_rich(table)
        out.print(shown, markup=False, highlight=False)
        out.print()
    out.print(f"figures {folder / 'bench.json'}", markup=False, highlight=False)
    out.print(f"page    {folder / 'bench.html'}", markup=False, highlight=False)


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


def _device(asked: Device) -> Device:
    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise ModelError(
            "--device cuda: torch finds no GPU here; take cpu, or `make gpu` on a machine with one"
        )
    if asked == "auto":
        return "cuda" if available else "cpu"
    return asked


def _sizes(options: argparse.Namespace) -> Sizes:
    """The options that were given, over the sizes of ``--quick`` or the usual ones."""
    given = {
        "pool": options.pool,
        "validation": options.validation,
        "batch_size": options.batch,
        "window": options.window,
        "steps": options.steps,
        "episodes": options.episodes,
        "top_layers": options.top_layers,
        "repeats": options.repeats,
        "max_length": options.max_length,
        "seed": options.seed,
    }
    usual = QUICK if options.quick else Sizes()
    return replace(usual, **{name: value for name, value in given.items() if value is not None})


def _plan(options: argparse.Namespace, device: Device) -> Plan:
    usual: Sequence[int] = LEARNERS[device]
    depths = () if options.depth is None else options.depth or DEPTHS
    return Plan(
        pool_sizes=QUICK_POOL_SIZES if options.quick else POOL_SIZES,
        learners=options.learners or (usual[:QUICK_NUM_LEARNERS] if options.quick else usual),
        depths=depths,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m raise_mdit.benchmarks",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    place = parser.add_argument_group("where")
    place.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is"
    )
    place.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="auto: bfloat16 where the device multiplies it in hardware",
    )
    place.add_argument("--out", type=Path, default=Path("runs/bench"), help="default: runs/bench")
    data = parser.add_argument_group("model and data")
    data.add_argument(
        "--model", default=DEFAULT_MODEL, help=f"folder, hub name or GGUF; default {DEFAULT_MODEL}"
    )
    data.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="instruction data (.json, .jsonl, .parquet); default: the embedded playground, "
        "several rows composed into one by Mosaic-IT",
    )
    _add_sizes(parser.add_argument_group("sizes"))
    what = parser.add_argument_group("what is measured")
    what.add_argument("--quick", action="store_true", help="small sizes, for a first look: minutes")
    what.add_argument(
        "--learners", type=_count, nargs="+", metavar="E", help="numbers of learners at once"
    )
    what.add_argument(
        "--depth",
        type=_count,
        nargs="*",
        metavar="LAYERS",
        help=f"also compare numbers of trained layers; alone, {DEPTHS}",
    )
    what.add_argument("--markdown", action="store_true", help="tables as Markdown")
    return parser


def _add_sizes(group: argparse._ArgumentGroup) -> None:
    usual = Sizes()
    for option, default, meaning in (
        ("--pool", usual.pool, "candidates"),
        ("--validation", usual.validation, "rows of the validation pass"),
        ("--batch", usual.batch_size, "rows of an update"),
        ("--window", usual.window, "candidates offered at each step"),
        ("--steps", usual.steps, "steps of an episode"),
        ("--episodes", usual.episodes, "episodes of a policy's training"),
        ("--top-layers", usual.top_layers, "layers trained; `naive` trains all"),
        ("--max-length", usual.max_length, "longest row in tokens"),
        ("--repeats", usual.repeats, "measurements of each figure"),
    ):
        group.add_argument(option, type=_count, metavar="N", help=f"{meaning}; default {default}")
    group.add_argument("--seed", type=int, metavar="N", help=f"default {usual.seed}")


def _count(text: str) -> int:
    """A whole number above 0.

    Raises:
        ValueError: It is none; the parser says so.
    """
    value = int(text)
    if value < 1:
        raise ValueError
    return value
