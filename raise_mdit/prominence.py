"""Which policies a reader looks for first: what is named and coloured where room is short."""

from __future__ import annotations

import math
from collections.abc import Sequence

from raise_mdit.comparison import PolicySummary, references
from raise_mdit.results import ArmResult

UNBUDGETED = ("base", "full")
"""Kinds that do not spend the budget; they are compared with, but do not win."""

# Okabe & Ito 2008, "Color universal design"; black is left out and yellow is darkened, so that all
# are seen on white and on near-black.
POLICY_COLOURS = (
    "#7f8c9b",
    "#e69f00",
    "#0072b2",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#56b4e9",
    "#b8a500",
)
PALE = "rgba(140, 150, 162, 0.5)"
"""Of policies beyond the colours that can be told apart; it pales towards either ground."""


def level(summary: PolicySummary) -> float:
    """What policies are ranked by, the lower the better; infinite where it is not known."""
    compared = summary.compared
    return compared.mean if compared is not None and math.isfinite(compared.mean) else math.inf


def rivals(summaries: Sequence[PolicySummary]) -> list[PolicySummary]:
    """The policies that could win: on the budget, measured, and not the reference."""
    return [
        summary
        for summary in summaries
        if summary.verdict != "reference"
        and summary.kind not in UNBUDGETED
        and math.isfinite(level(summary))
    ]


def winner(summaries: Sequence[PolicySummary]) -> PolicySummary | None:
    """The lowest of those that are better than random; where none is, the lowest."""
    able = rivals(summaries)
    better = [summary for summary in able if summary.verdict == "better"]
    return min(better or able, key=level, default=None)


def by_prominence(
    arms: Sequence[ArmResult], summaries: Sequence[PolicySummary]
) -> list[PolicySummary]:
    """The winner, policies that learned, references, and the others; each group by its loss."""
    best = winner(summaries)
    learned = {arm.policy for arm in arms if arm.has_rewards}
    compared_with = set(references(arms).values())

    def rank(summary: PolicySummary) -> tuple[int, float]:
        if summary is best:
            return 0, 0.0
        if summary.policy in learned:
            return 1, level(summary)
        return (2 if summary.policy in compared_with else 3), level(summary)

    return sorted(summaries, key=rank)


def policy_colours(arms: Sequence[ArmResult], summaries: Sequence[PolicySummary]) -> dict[str, str]:
    """A colour for each policy: its own for some, :data:`PALE` for the others.

    The winner and what policies are compared with have one, then others by prominence. Colours
    follow the order of the experiment, so that a comparison keeps them as arms finish.
    """
    best, compared_with = winner(summaries), set(references(arms).values())
    ranked = sorted(
        by_prominence(arms, summaries),
        key=lambda each: each is not best and each.policy not in compared_with,
    )
    prominent = {each.policy for each in ranked[: len(POLICY_COLOURS)]}
    named = [summary.policy for summary in summaries if summary.policy in prominent]
    own = dict(zip(named, POLICY_COLOURS, strict=False))
    return {summary.policy: own.get(summary.policy, PALE) for summary in summaries}
