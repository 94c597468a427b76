"""Scores the windows of a fine-tuning again, and divides the scores of what was picked.

Shapes: ``k`` picks of a batch, ``W`` slots, ``F`` columns of a candidate, ``G`` context, ``P``
groups of columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raise_mdit.agents.attribution import (
    Group,
    group_attributions,
    pick_log_probs,
    window_scores,
)
from raise_mdit.agents.scoring_policy import CandidateScorer
from raise_mdit.decisions import Decisions, window_columns
from raise_mdit.errors import RunError
from raise_mdit.feature_groups import column_group
from raise_mdit.features import FeatureTable


@dataclass(frozen=True, slots=True, eq=False)
class RescoredStep:
    """The picks of a step, as the policy saw them."""

    features_kF: NDArray[np.float32]
    """What it saw of each pick."""
    window_means_F: NDArray[np.float64]
    """The same, mean over the window."""
    scores_k: NDArray[np.float64]
    mean_score: float
    """Over the window."""
    log_probs_k: NDArray[np.float64]
    """Of drawing each pick, given those before it in the batch."""
    attributions_kP: NDArray[np.float64]


class Rescorer:
    """Scores the windows of one fine-tuning, step by step."""

    columns: tuple[str, ...]
    """F names of what the policy sees of a candidate."""
    column_groups: tuple[str, ...]
    """F names of the group that each column belongs to."""
    groups: dict[str, Group]
    """P groups that have a column, and the stage."""

    def __init__(self, scorer: CandidateScorer, table: FeatureTable, decisions: Decisions) -> None:
        """Take what the run left.

        Args:
            scorer: Of the trained policy.
            table: Features of the pool.
            decisions: Of the fine-tuning.

        Raises:
            RunError: They do not belong together.
        """
        self._scorer = scorer
        self._table = table
        self._decisions = decisions
        extra = decisions.extra_names
        self.columns = (*table.names, *extra, "times_picked")
        self.column_groups = (*map(column_group, table.names), *extra, "availability")
        order = ("stage", "difficulty", "semantic", "kind", *extra, "availability")
        members = {name: self._members(name) for name in order}
        self.groups = {name: columns for name, columns in members.items() if columns}
        self._check_shapes()

    def step(self, at: int) -> RescoredStep:
        """The picks of a step."""
        decisions = self._decisions
        mask_W = decisions.windows[at] >= 0
        candidates_WF = window_columns(self._table, self._decisions, at)
        context_G, picks_k = decisions.context[at], decisions.picks[at].astype(np.int64)
        scores_W = window_scores(
            self._scorer, candidates_WF=candidates_WF, context_G=context_G, mask_W=mask_W
        )
        attributions_WP = group_attributions(
            self._scorer,
            candidates_WF=candidates_WF,
            context_G=context_G,
            mask_W=mask_W,
            groups=self.groups,
            baseline_G=decisions.context[0],
        )
        return RescoredStep(
            features_kF=candidates_WF[picks_k],
            window_means_F=candidates_WF[mask_W].mean(axis=0, dtype=np.float64),
            scores_k=scores_W[picks_k],
            mean_score=float(scores_W[mask_W].mean()),
            log_probs_k=pick_log_probs(scores_W, picks_k),
            attributions_kP=attributions_WP[picks_k],
        )

    def _members(self, group: str) -> Group:
        if group == "stage":
            return "context"
        return [at for at, name in enumerate(self.column_groups) if name == group]

    def _check_shapes(self) -> None:
        """Files may have been moved from another run."""
        num_features = self._scorer.linear.in_features
        num_context = self._scorer.get_parameter("encoder.0.weight").shape[1] - num_features
        seen = (len(self.columns), self._decisions.context.shape[1])
        if seen != (num_features, num_context):
            raise RunError(
                f"the policy's weights are for {num_features} features and {num_context} numbers "
                f"of the stage, but its decisions hold {seen[0]} and {seen[1]}: files of two runs?"
            )
