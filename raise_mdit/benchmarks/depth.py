"""The command ``python -m raise_mdit.benchmarks.depth``: what more trained layers give and take."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from raise_mdit.benchmarks.apart import Call, call_apart
from raise_mdit.benchmarks.benchmark import describe_machine
from raise_mdit.benchmarks.command import run_command, show
from raise_mdit.benchmarks.depth_training import NAMES, Depth, Plan, measure_depth
from raise_mdit.benchmarks.learners import Trained
from raise_mdit.benchmarks.options import (
    add_place_and_data,
    add_sizes,
    asked_setting,
    chosen_sizes,
    count,
    new_parser,
)
from raise_mdit.benchmarks.setting import Setting, Sizes
from raise_mdit.benchmarks.tables import TextTable, duration
from raise_mdit.errors import DataError
from raise_mdit.progress import Progress
from raise_mdit.runs import write_json
from raise_mdit.statistics import student_interval

LAYERS = (2, 4, 8)
RATES: dict[Trained, Sequence[float]] = {
    "lora": (2e-4, 5e-4, 1e-3, 2e-3),
    "top_layers": (1e-5, 3e-5, 1e-4),
}
"""Whole layers get worse at rates that suit adapters: see "depth: a first look" in the log."""
NUM_UPDATES = 30
NUM_SEEDS = 3
USUAL = Sizes(pool=240, validation=32, window=8)
"""Enough for batches that never repeat a row, and two halves of held-out rows."""
QUICK = Sizes(pool=16, validation=4, batch_size=2, window=2, max_length=96)
QUICK_LAYERS, QUICK_UPDATES, QUICK_SEEDS = (2,), 2, 2
AT_AN_END = "*"
DESCRIPTION = """\
Compare how fast and how far training goes with more or fewer of the top layers trained, by LoRA or
whole.

Each is trained from the untuned model at several learning rates on the same batches. The rate is
chosen by one half of the held-out rows; the fall of the loss is told of the other half, over
several seeds of batches. No batch of a training repeats a row.
"""
EPILOG = """\
examples:
  python -m raise_mdit.benchmarks.depth --quick
  python -m raise_mdit.benchmarks.depth --data alpaca.json --layers 2 4 8 --markdown

Writes OUT/depth.json. Nothing else should run on the machine meanwhile. Exit codes: 0 done, 2 a
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
        call: Where each number of layers is trained.
        out: Where the table goes; None is standard output.
        err: Where progress goes; None is standard error.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(arguments)
    return run_command(
        lambda shown, progress: _benchmark(options, call, shown, progress), out=out, err=err
    )


def _benchmark(options: argparse.Namespace, call: Call, out: Console, progress: Progress) -> None:
    sizes = chosen_sizes(options, QUICK if options.quick else USUAL)
    plans = _plans(options, sizes)
    folder: Path = options.out
    folder.mkdir(parents=True, exist_ok=True)
    depths = []
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        setting = asked_setting(options, sizes, scratch=Path(scratch), progress=progress)
        for layers in options.layers or (QUICK_LAYERS if options.quick else LAYERS):
            for trained, plan in plans.items():
                progress.start(f"{NAMES[trained]}, {layers} layers", None)
                depths.append(call(measure_depth, setting, trained, layers, plan))
    progress.finish()
    write_json(folder / "depth.json", _figures(depths, setting, plans))
    show(depth_table(depths, plans["lora"], sizes), out, markdown=options.markdown)
    out.print(f"figures {folder / 'depth.json'}", markup=False, highlight=False)


def depth_table(depths: Sequence[Depth], plan: Plan, sizes: Sizes) -> TextTable:
    """A line for each kind and number of layers, as they were measured."""
    half = sizes.validation // 2
    notes = [
        f"After {plan.updates} updates of {sizes.batch_size} rows, on {sizes.validation - half} "
        f"held-out rows; the rate was chosen by {half} others. Intervals of 95 % over {plan.seeds} "
        "seeds of batches, the one by which the rate was chosen included."
    ]
    if any(depth.is_at_an_end for depth in depths):
        notes.append(
            f"{AT_AN_END} the smallest or largest rate tried: a better one may lie beyond."
        )
    header = ["trained", "layers", "parameters", "rate", "update", "validation", "fall of the loss"]
    rows = [
        [
            NAMES[depth.trained],
            f"{depth.layers}",
            f"{depth.num_trainable / 1e6:.2f} M",
            f"{depth.rate:g}{AT_AN_END if depth.is_at_an_end else ''}",
            duration(depth.update_seconds),
            duration(depth.validation_seconds),
            _fall(depth),
        ]
        for depth in depths
    ]
    return TextTable("Layers that are trained", header, rows, notes)


def _fall(depth: Depth) -> str:
    falls = [each.report_fall for each in depth.chosen if each.report_fall is not None]
    if len(falls) < len(depth.chosen):
        return f"{len(depth.chosen) - len(falls)} of {len(depth.chosen)} seeds diverged"
    interval = student_interval(falls)
    if interval.high is None:
        return f"{interval.mean:.1%}"
    return f"{interval.mean:.1%} ± {interval.high - interval.mean:.1%}"


def _figures(
    depths: Sequence[Depth], setting: Setting, plans: dict[Trained, Plan]
) -> dict[str, object]:
    return {
        "depth": [
            depth._asdict()
            | {
                "update_seconds": depth.update_seconds,
                "validation_seconds": depth.validation_seconds,
                "tried": [each._asdict() for each in depth.tried],
                "chosen": [each._asdict() for each in depth.chosen],
            }
            for depth in depths
        ],
        "plans": {trained: plan._asdict() for trained, plan in plans.items()},
        "machine": describe_machine(setting),
        "setting": {"model": setting.model, **asdict(setting.sizes)},
    }


def _plans(options: argparse.Namespace, sizes: Sizes) -> dict[Trained, Plan]:
    updates = options.updates or (QUICK_UPDATES if options.quick else NUM_UPDATES)
    seeds = options.seeds or (QUICK_SEEDS if options.quick else NUM_SEEDS)
    needed = updates * sizes.batch_size
    if sizes.pool < needed:
        raise DataError(
            f"--pool {sizes.pool}: {updates} updates of {sizes.batch_size} rows that are all "
            f"different take {needed}; give --pool {needed} or fewer --updates"
        )
    if sizes.validation < 2:
        raise DataError("--validation 1: one half is to choose the rate by; give at least 2")
    return {
        trained: Plan(tuple(options.rates or usual), updates, seeds)
        for trained, usual in RATES.items()
    }


def _parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "python -m raise_mdit.benchmarks.depth", description=DESCRIPTION, epilog=EPILOG
    )
    add_place_and_data(parser)
    sizes = parser.add_argument_group("sizes")
    add_sizes(sizes, ("pool", "validation", "batch_size", "max_length", "seed"), USUAL)
    sizes.add_argument(
        "--updates", type=count, metavar="N", help=f"of each training; default {NUM_UPDATES}"
    )
    sizes.add_argument(
        "--seeds",
        type=count,
        metavar="N",
        help=f"trainings at the chosen rate; default {NUM_SEEDS}",
    )
    what = parser.add_argument_group("what is measured")
    what.add_argument("--quick", action="store_true", help="small sizes, for a first look")
    what.add_argument(
        "--layers",
        type=count,
        nargs="+",
        metavar="N",
        help=f"numbers of trained layers; default {' '.join(map(str, LAYERS))}",
    )
    what.add_argument(
        "--rates",
        type=_rate,
        nargs="+",
        metavar="R",
        help="learning rates to choose from, of both; default "
        + "; ".join(f"{NAMES[kind]} {' '.join(f'{r:g}' for r in RATES[kind])}" for kind in RATES),
    )
    what.add_argument("--markdown", action="store_true", help="the table as Markdown")
    return parser


def _rate(text: str) -> float:
    """A number above 0.

    Raises:
        ValueError: It is none; the parser says so.
    """
    value = float(text)
    if not value > 0:
        raise ValueError
    return value


if __name__ == "__main__":
    sys.exit(main())
