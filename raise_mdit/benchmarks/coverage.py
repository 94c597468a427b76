"""The command ``python -m raise_mdit.benchmarks.coverage``: how often intervals hold the truth.

Samples are drawn from distributions whose mean is known, as many as an experiment has seeds, and it
is counted how many of the intervals that reports show (:mod:`raise_mdit.bootstrap`) hold that mean.
Beside them stand BCa without its widening and Student's interval.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from raise_mdit.benchmarks.command import run_command, show
from raise_mdit.benchmarks.options import count, new_parser
from raise_mdit.benchmarks.tables import TextTable
from raise_mdit.bootstrap import MeanBootstrap, widening
from raise_mdit.progress import Progress
from raise_mdit.runs import write_json
from raise_mdit.statistics import CONFIDENCE, student_interval

NUM_EXPERIMENTS = 2000
NUMBERS_OF_SEEDS = (2, 3, 5, 8, 12, 20)
DESCRIPTION = """\
Count how many 95 % intervals hold the true mean, over simulated experiments.

An experiment is a handful of samples, one a seed, of a distribution whose mean is known. Compared
are the interval of the reports (BCa, widened for few samples), plain BCa and Student's.
"""
EPILOG = """\
examples:
  python -m raise_mdit.benchmarks.coverage --experiments 200
  python -m raise_mdit.benchmarks.coverage --markdown

Takes about a minute and a half with 2,000 experiments. Writes OUT/coverage.json. Exit codes: 0
done, 2 a mistake in what was asked.
"""


class Law(NamedTuple):
    """What samples are drawn from."""

    name: str
    mean: float
    draw: Callable[[np.random.Generator, int], NDArray[np.float64]]
    """[n] samples, given n."""


LAWS = (
    Law("normal", 0.0, lambda rng, size: rng.normal(size=size)),
    Law("uniform", 0.5, lambda rng, size: rng.random(size)),
    Law("Student-t(3)", 0.0, lambda rng, size: rng.standard_t(3, size)),
    Law("exponential", 1.0, lambda rng, size: rng.exponential(size=size)),
)


class Coverage(NamedTuple):
    """Shares of intervals that hold the true mean, of one law and number of seeds."""

    law: str
    num_seeds: int
    experiments: int
    widened: float
    """Of the intervals that reports show."""
    plain: float
    """Of BCa as Efron gave it."""
    student: float

    @property
    def by_interval(self) -> tuple[float, float, float]:
        """The three shares."""
        return self.widened, self.plain, self.student


def main(
    arguments: Sequence[str] | None = None,
    *,
    out: Console | None = None,
    err: Console | None = None,
) -> int:
    """Run the command.

    Args:
        arguments: Without the program's name; None reads the command line.
        out: Where the table goes; None is standard output.
        err: Where progress goes; None is standard error.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(arguments)
    return run_command(
        lambda shown, progress: _benchmark(options, shown, progress), out=out, err=err
    )


def measure_coverage(
    law: Law, num_seeds: int, *, experiments: int, seed: int, progress: Progress
) -> Coverage:
    """Draw experiments, and count the intervals that hold the law's mean.

    Args:
        law: What samples are drawn from.
        num_seeds: Samples of an experiment, at least two.
        experiments: How many.
        seed: Of the draws.
        progress: Told of every experiment.
    """
    rng = np.random.default_rng([seed, num_seeds, *law.name.encode()])
    held = np.zeros(3, np.int64)
    for _ in range(experiments):
        samples = law.draw(rng, num_seeds)
        held += [low <= law.mean <= high for low, high in _intervals(samples)]
        progress.advance()
    return Coverage(law.name, num_seeds, experiments, *(held / experiments).tolist())


def coverage_table(found: Sequence[Coverage]) -> TextTable:
    """A line for each law and number of seeds, as they were measured."""
    experiments = found[0].experiments
    rows = [
        [each.law, str(each.num_seeds), *(_share(share, experiments) for share in each.by_interval)]
        for each in found
    ]
    return TextTable(
        f"Intervals of {CONFIDENCE:.0%} that hold the true mean, in per cent",
        ["samples", "seeds", "BCa, widened", "BCa", "Student"],
        rows,
        [f"Over {experiments:,} simulated experiments each, ± the standard error of that."],
    )


def _benchmark(options: argparse.Namespace, out: Console, progress: Progress) -> None:
    folder: Path = options.out
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for law in LAWS:
        progress.start(f"{law.name} samples", len(NUMBERS_OF_SEEDS) * options.experiments)
        for num_seeds in NUMBERS_OF_SEEDS:
            coverage = measure_coverage(
                law,
                num_seeds,
                experiments=options.experiments,
                seed=options.seed,
                progress=progress,
            )
            found.append(coverage)
    progress.finish()
    write_json(folder / "coverage.json", {"coverage": [each._asdict() for each in found]})
    show(coverage_table(found), out, markdown=options.markdown)
    out.print(f"figures {folder / 'coverage.json'}", markup=False, highlight=False)


def _intervals(samples: NDArray[np.float64]) -> list[tuple[float, float]]:
    """Widened, plain and Student's."""
    values = samples.tolist()
    mean, factor = float(samples.mean()), widening(len(values), CONFIDENCE)
    low, high = MeanBootstrap(values).interval()
    student = student_interval(values)
    assert student.low is not None, "samples are finite"
    assert student.high is not None, "samples are finite"
    plain = (mean + (low - mean) / factor, mean + (high - mean) / factor)
    return [(low, high), plain, (student.low, student.high)]


def _share(share: float, experiments: int) -> str:
    error = math.sqrt(share * (1 - share) / experiments)
    return f"{100 * share:.1f} ± {100 * error:.1f}"


def _parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "python -m raise_mdit.benchmarks.coverage", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument(
        "--experiments",
        type=count,
        default=NUM_EXPERIMENTS,
        metavar="N",
        help=f"of each distribution and number of seeds; default {NUM_EXPERIMENTS}",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws; default 0")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="default: runs/bench")
    parser.add_argument("--markdown", action="store_true", help="the table as Markdown")
    return parser


if __name__ == "__main__":
    sys.exit(main())
