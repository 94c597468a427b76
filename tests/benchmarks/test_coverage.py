"""The benchmark of intervals: what it counts, and what its command prints and writes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from raise_mdit.benchmarks.coverage import LAWS, Law, coverage_table, main, measure_coverage
from raise_mdit.bootstrap import bootstrap_interval, widening
from raise_mdit.progress import Silent
from raise_mdit.statistics import student_interval


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_each_law_has_the_mean_that_intervals_are_to_hold(law: Law) -> None:
    samples = law.draw(np.random.default_rng(0), 200_000)

    assert samples.mean() == pytest.approx(law.mean, abs=5 * samples.std() / np.sqrt(200_000))
    assert len(law.draw(np.random.default_rng(0), 3)) == 3


def test_it_counts_the_intervals_that_hold_the_mean() -> None:
    """Drawn are 0, 1 and 2 moved by ever more, until no interval holds 0."""
    shifts = np.linspace(-1.0, 10.0, 40)
    drawn = iter(shifts)
    law = Law("moved", 0.0, lambda rng, size: np.arange(size) + next(drawn))
    samples = [(np.arange(3) + shift).tolist() for shift in shifts]

    found = measure_coverage(law, 3, experiments=40, seed=0, progress=Silent())

    factor = widening(3, 0.95)
    widened = [bootstrap_interval(each) for each in samples]
    student = [student_interval(each) for each in samples]
    ends = [
        (each.mean, (each.low or 0.0) - each.mean, (each.high or 0.0) - each.mean)
        for each in widened
    ]
    assert found.widened == np.mean([mean + low <= 0 <= mean + high for mean, low, high in ends])
    assert found.plain == np.mean(
        [mean + low / factor <= 0 <= mean + high / factor for mean, low, high in ends]
    )
    assert found.student == np.mean(
        [not (each.is_below_zero or each.is_above_zero) for each in student]
    )
    assert 0 < found.plain < found.widened < 1


def test_draws_depend_on_the_seed_alone() -> None:
    first, again, other = (
        measure_coverage(LAWS[0], 5, experiments=30, seed=seed, progress=Silent())
        for seed in (1, 1, 2)
    )

    assert first == again != other


def test_the_standard_error_is_that_of_a_share() -> None:
    found = measure_coverage(LAWS[0], 5, experiments=50, seed=1, progress=Silent())

    (row,) = coverage_table([found._replace(widened=0.9)]).rows

    assert row[:3] == ["normal", "5", "90.0 ± 4.2"]  # sqrt(0.9 * 0.1 / 50)


def test_the_command_prints_the_table_and_writes_the_figures(tmp_path: Path) -> None:
    out, err = (Console(file=io.StringIO(), width=200) for _ in range(2))

    code = main(
        ["--experiments", "4", "--markdown", "--out", str(tmp_path / "new")], out=out, err=err
    )

    assert code == 0
    assert isinstance(out.file, io.StringIO)
    assert isinstance(err.file, io.StringIO)
    figures = json.loads((tmp_path / "new" / "coverage.json").read_text())["coverage"]
    rows = [line for line in out.file.getvalue().splitlines() if "±" in line and "|" in line]
    assert len(rows) == len(figures) == 24
    assert [row.split("|")[1].strip() for row in rows] == [each["law"] for each in figures]
    assert err.file.getvalue().splitlines() == [f"{law.name} samples" for law in LAWS]
