"""The tables of a report, as texts with what their columns are sorted by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raise_mdit.comparison import PolicySummary, references_among, target_names
from raise_mdit.effects import Effect, Role, what_it_takes
from raise_mdit.equal_budgets import Spent
from raise_mdit.report_words import (
    DIFFERENCE,
    LOSS,
    SHARE,
    UNKNOWN,
    ended_at,
    estimate,
    metric_words,
    p_text,
    split_words,
    tflop,
)
from raise_mdit.statistics import Interval

_AGAINST: dict[Role, str] = {
    "random": "",
    "best_static": " (best static)",
    "base": " (untrained)",
    "full": " (all data)",
    "named": "",
}


REFERENCE = "reference"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A number of a policy."""

    mean: str
    range: str = ""
    verdict: str = ""
    p_value: str = ""
    """Behind the verdict."""
    to_settle: str = ""
    """Below it, what it would take."""
    sort: str = ""
    """By which rows are sorted; empty stands last in either order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A policy."""

    policy: str
    colour: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Policies by columns; the first column, their names, is not among the headings."""

    headings: tuple[str, ...]
    rows: tuple[Row, ...]


def main_table(summaries: Sequence[PolicySummary], colours: Mapping[str, str]) -> Table:
    """What each policy reached, how it differs from random, and what it cost."""
    columns: dict[str, list[Cell]] = {
        f"{split_words(summaries).heading} (nats)": [_loss(each.loss) for each in summaries]
    }
    if target_names(summaries):
        columns["Loss over base's"] = [_loss(each.loss_ratio) for each in summaries]
    metric = metric_words(summaries)
    if metric is not None:
        columns[metric] = [_interval(each.metric_value, SHARE) for each in summaries]
    columns |= _effect_columns(summaries, ["random"])
    columns["Compute (TFLOP)"] = [
        Cell(mean=tflop(each.compute), sort=_sort(each.compute.flops)) for each in summaries
    ]
    columns["Steps"] = [_count(each.steps) for each in summaries]
    columns["Tokens"] = [_count(each.tokens) for each in summaries]
    return _table(columns, summaries, colours)


def references_table(
    summaries: Sequence[PolicySummary], colours: Mapping[str, str]
) -> Table | None:
    """How each policy differs from every reference but random, and its loss at equal budgets.

    Returns:
        None where there is neither.
    """
    columns = _effect_columns(summaries, [role for role in _AGAINST if role != "random"])
    for heading, cells in (
        (
            "Validation loss at equal tokens",
            [_at(s, s.at_equal_tokens, "tokens") for s in summaries],
        ),
        (
            "Validation loss at equal compute",
            [_at(s, s.at_equal_compute, "flops") for s in summaries],
        ),
    ):
        if any(cell != Cell(mean=UNKNOWN) for cell in cells):
            columns[heading] = cells
    return _table(columns, summaries, colours) if columns else None


def targets_table(summaries: Sequence[PolicySummary], colours: Mapping[str, str]) -> Table | None:
    """Loss on each target, where there are several."""
    targets = target_names(summaries)
    columns = {
        f"{target} (nats)": [_loss(each.target_losses[target]) for each in summaries]
        for target in targets
    }
    return _table(columns, summaries, colours) if targets else None


def _table(
    columns: Mapping[str, Sequence[Cell]],
    summaries: Sequence[PolicySummary],
    colours: Mapping[str, str],
) -> Table:
    rows = [
        Row(policy=each.policy, colour=colours[each.policy], cells=cells)
        for each, cells in zip(summaries, zip(*columns.values(), strict=True), strict=True)
    ]
    return Table(headings=tuple(columns), rows=tuple(rows))


def _effect_columns(
    summaries: Sequence[PolicySummary], roles: Sequence[Role]
) -> dict[str, list[Cell]]:
    return {
        f"Against {reference.policy}{_AGAINST[reference.role]}": [
            _effect(each.effect_against(reference), is_reference=each.policy == reference.policy)
            for each in summaries
        ]
        for role in roles
        for reference in references_among(summaries)
        if reference.role == role
    }


def _effect(effect: Effect | None, *, is_reference: bool) -> Cell:
    if effect is None:
        return Cell(mean=REFERENCE if is_reference else UNKNOWN)
    difference = estimate(effect.difference, DIFFERENCE)
    return Cell(
        mean=difference.mean,
        range=difference.range,
        verdict=effect.verdict,
        p_value="" if effect.adjusted_p is None else p_text(effect.adjusted_p),
        to_settle=what_it_takes(effect),
        sort=_sort(effect.difference.mean),
    )


def _at(summary: PolicySummary, loss: Interval | None, spent: Spent) -> Cell:
    """Loss at an equal budget, or where the policy ended before."""
    ended = ended_at(summary, spent)
    return Cell(mean=ended) if ended else _loss(loss)


def _loss(interval: Interval | None) -> Cell:
    return _interval(interval, LOSS)


def _interval(interval: Interval | None, form: str) -> Cell:
    texts = estimate(interval, form)
    sort = "" if interval is None else _sort(interval.mean)
    return Cell(mean=texts.mean, range=texts.range, sort=sort)


def _count(value: float) -> Cell:
    text = f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}"
    return Cell(mean=text, sort=_sort(value))


def _sort(value: float) -> str:
    return repr(float(value)) if math.isfinite(value) else ""
