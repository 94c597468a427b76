"""A search for settings of one policy: the experiment once for each point, and the best named.

Points are compared by the loss on model-selection data. The test stays sealed: chosen on it, the
winner would be flattered by its own luck. `raise-mdit evaluate` opens it for the winner alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from raise_mdit import experiment
from raise_mdit.bootstrap import bootstrap_interval
from raise_mdit.errors import RunError
from raise_mdit.folders import SWEEP_FILE
from raise_mdit.progress import Progress
from raise_mdit.results import read_results
from raise_mdit.runs import write_json
from raise_mdit.sweep_plan import Point, changes
from raise_mdit.sweep_results import Board, PointResult

SWEEP_FORMAT = "raise-mdit/sweep/1"


def run_sweep(
    points: Sequence[Point],
    directory: Path,
    *,
    policy: str,
    progress: Progress,
    board: Board,
    jobs: int = 1,
) -> tuple[PointResult, ...]:
    """Run every point, or go on with a sweep that was stopped.

    Args:
        points: What :func:`plan` gave.
        directory: Of the sweep; each point has a run directory in it.
        policy: Whose loss is minimised.
        progress: Told of long work.
        board: Told of every point.
        jobs: Arms of a point at a time.

    Returns:
        The points from the lowest loss to the highest; one whose loss is not finite stands last.

    Raises:
        UserError: Of any kind; finished points are in the directory.
    """
    is_sweep = (directory / points[0].name).is_dir()
    if directory.is_dir() and any(directory.iterdir()) and not is_sweep:
        raise RunError(f"{directory}: not empty and no sweep; give another --out")
    results: list[PointResult] = []
    board.start(points[0].config)
    for point in points:
        progress.note(f"{point.name} of {len(points)}: {' '.join(changes(point.setting))}")
        outcome = experiment.run(point.config, directory / point.name, progress, jobs=jobs)
        results.append(_result(point, outcome.directory))
        board.add(results[-1])
        results.sort(key=lambda each: _rank(each.loss.mean))
        _write(directory / SWEEP_FILE, policy, results)
    return tuple(results)


def _result(point: Point, directory: Path) -> PointResult:
    losses = [
        arm.model_selection.loss
        for arm in read_results(directory / "results.json")
        if arm.model_selection is not None
    ]
    return PointResult(
        name=point.name, setting=dict(point.setting), loss=bootstrap_interval(losses)
    )


def _rank(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


def _write(path: Path, policy: str, results: Sequence[PointResult]) -> None:
    points = [
        {**asdict(each), "loss": {**asdict(each.loss), "mean": _plain(each.loss.mean)}}
        for each in results
    ]
    document = {"format": SWEEP_FORMAT, "policy": policy, "points": points, "best": points[0]}
    write_json(path, document)


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
