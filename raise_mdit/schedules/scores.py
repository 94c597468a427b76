"""What a policy gave each pick of a fine-tuning, computed again from what its run left.

Shapes: ``W`` slots, ``F`` columns of a candidate.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raise_mdit.agents.attribution import (
    holds_scorer,
    load_scorer,
    pick_log_probs,
    window_scores,
)
from raise_mdit.decisions import (
    DECISIONS_FILE,
    FEATURES_FILE,
    POLICY_FILE,
    Decisions,
    read_decisions,
    read_features,
    window_columns,
)
from raise_mdit.errors import RunError
from raise_mdit.features import FeatureTable


class PickScore(NamedTuple):
    """What a policy gave one pick."""

    score: float
    """A log-weight: only differences within a window mean something."""
    log_probability: float
    """Of drawing it next, given the picks before it in the batch."""


def pick_scores(directory: Path, folder: Path, rows: NDArray[np.int64]) -> list[PickScore] | None:
    """Scores of all picks of an arm in the order of its schedule; None of a policy without scores.

    Args:
        directory: Of the run.
        folder: Of the arm.
        rows: Pool row of each pick by the schedule.

    Raises:
        RunError: The files of the arm are damaged or belong to another schedule.
    """
    if not (folder / DECISIONS_FILE).is_file() or not holds_scorer(folder / POLICY_FILE):
        return None
    decisions = read_decisions(folder / DECISIONS_FILE)
    taken_Tk = np.take_along_axis(decisions.windows, decisions.picks.astype(np.int64), axis=1)
    if not np.array_equal(taken_Tk.ravel(), rows):
        raise RunError(
            f"{folder / DECISIONS_FILE}: does not belong to the schedule and pool beside it"
        )
    return list(_scores(folder, read_features(directory / FEATURES_FILE), decisions))


def _scores(folder: Path, table: FeatureTable, decisions: Decisions) -> Iterator[PickScore]:
    scorer = load_scorer(folder / POLICY_FILE)
    for step, picks_k in enumerate(decisions.picks.astype(np.int64)):
        scores_W = window_scores(
            scorer,
            candidates_WF=window_columns(table, decisions, step),
            context_G=decisions.context[step],
            mask_W=decisions.windows[step] >= 0,
        )
        log_probs_k = pick_log_probs(scores_W, picks_k)
        for score, log_prob in zip(scores_W[picks_k], log_probs_k, strict=True):
            yield PickScore(float(score), float(log_prob))
