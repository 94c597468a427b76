"""What a report shows of picks: for the policies that matter most, where and when they picked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from raise_mdit.comparison import PolicySummary
from raise_mdit.decisions import FEATURES_FILE
from raise_mdit.errors import RunError
from raise_mdit.example_texts import EXAMPLES_FILE
from raise_mdit.pick_figures import (
    BACKGROUND,
    MAP_CANDIDATES,
    MAP_PICKS,
    Shares,
    drawn_evenly,
    groups_legend,
    largest_groups,
    map_places,
    picks_map,
    semantic_columns,
    shares_by_step,
)
from raise_mdit.plots import embedded, json_element
from raise_mdit.prominence import UNBUDGETED, by_prominence
from raise_mdit.results import ArmResult
from raise_mdit.run_candidates import POOL_FILE, RunCandidates
from raise_mdit.schedule import Pick, read_schedule

MOST_POLICIES = 6
"""Policies whose picks are drawn; the others are told by name."""
TEXT_LENGTH = 80
"""Characters of a candidate's text that a map shows."""
_NEEDED = (POOL_FILE, FEATURES_FILE, EXAMPLES_FILE, "schedule.jsonl")


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyPicks:
    """The plots of one policy."""

    policy: str
    groups: Markup
    map: Markup | None = None
    clusters: Markup | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PicksSection:
    """The plots of all policies that are drawn, with their legends and words."""

    policies: tuple[PolicyPicks, ...]
    groups: Mapping[str, str]
    """Colour by group."""
    clusters: Mapping[str, str]
    """Colour by cluster."""
    caption: tuple[str, ...]
    """Sentences."""
    background: str = BACKGROUND
    """Colour of what maps show as not picked."""
    texts: Markup | None = None
    """What maps show of candidates, once for all of them."""


@dataclass(frozen=True, slots=True)
class _Taken:
    """What one fine-tuning picked."""

    steps: NDArray[np.int64]
    """[P] step of each pick, from 1."""
    rows: NDArray[np.int64]
    """[P] its row of the pool."""


def picks_section(
    directory: Path, arms: Sequence[ArmResult], summaries: Sequence[PolicySummary]
) -> PicksSection | None:
    """What was picked, or nothing where no policy of the run picks.

    Args:
        directory: Of the run; without pool, features, texts and schedule in it, as older versions
            left it, there are shares of groups alone.
        arms: Finished arms.
        summaries: The same by policy.

    Raises:
        RunError: A file is damaged or does not belong to the others.
    """
    picking = {arm.policy for arm in arms if arm.picks and arm.kind not in UNBUDGETED}
    policies = [s.policy for s in by_prominence(arms, summaries) if s.policy in picking]
    if not policies:
        return None
    drawn = policies[:MOST_POLICIES]
    series = {
        policy: [arm.picks for arm in arms if arm.policy == policy and arm.picks]
        for policy in drawn
    }
    groups = _all_groups(series)
    maps = _maps_or_why_not(directory, drawn)
    return PicksSection(
        policies=tuple(
            PolicyPicks(
                policy=policy,
                groups=embedded(shares_by_step(series[policy], groups), f"groups-{index}"),
                map=maps.maps.get(policy),
                clusters=maps.clusters.get(policy),
            )
            for index, policy in enumerate(drawn)
        ),
        groups=groups_legend([steps for each in series.values() for steps in each], groups),
        clusters=maps.legend,
        caption=(*maps.caption, *_left_out(policies[MOST_POLICIES:])),
        texts=maps.texts,
    )


@dataclass(frozen=True, slots=True)
class _Maps:
    """What is made of pool and schedule."""

    maps: Mapping[str, Markup]
    clusters: Mapping[str, Markup]
    legend: Mapping[str, str]
    caption: tuple[str, ...]
    texts: Markup | None = None


def _maps_or_why_not(directory: Path, policies: Sequence[str]) -> _Maps:
    missing = [name for name in _NEEDED if not (directory / name).is_file()]
    if missing:
        return _Maps({}, {}, {}, (f"No map of picks: the run has no {', '.join(missing)}.",))
    candidates = RunCandidates(directory)
    if len(candidates.table.names) < 2:
        told = "No map of picks: no policy of this run looks at features, so none were made."
        return _Maps({}, {}, {}, (told,))
    return _maps(candidates, _taken_by_policy(directory, policies), directory)


def _maps(
    candidates: RunCandidates, taken: Mapping[str, Sequence[tuple[Pick, ...]]], directory: Path
) -> _Maps:
    by_policy = {
        policy: [_located(candidates, picks, directory) for picks in seeds]
        for policy, seeds in taken.items()
    }
    series = {
        policy: [_clusters_by_step(candidates, each) for each in seeds]
        for policy, seeds in by_policy.items()
    }
    names = _all_groups(series)
    numbering = _Texts(candidates)
    places = map_places(candidates.table)
    background = drawn_evenly(len(candidates.pool), MAP_CANDIDATES)
    maps, shares = {}, {}
    for index, (policy, seeds) in enumerate(by_policy.items()):
        first = seeds[0]
        shown = drawn_evenly(len(first.rows), MAP_PICKS)
        rows, others = first.rows[shown], np.setdiff1d(background, first.rows)
        figure = picks_map(
            places[others],
            numbering.of(others),
            places[rows],
            numbering.of(rows),
            first.steps[shown],
            num_steps=int(first.steps[-1]),
        )
        maps[policy] = embedded(figure, f"map-{index}")
        shares[policy] = embedded(shares_by_step(series[policy], names), f"clusters-{index}")
    return _Maps(
        maps=maps,
        clusters=shares,
        legend=groups_legend([steps for each in series.values() for steps in each], names),
        caption=_caption(
            candidates, len(background), max(len(s[0].rows) for s in by_policy.values())
        ),
        texts=numbering.element(),
    )


class _Texts:
    """Texts of candidates, each numbered when it is first asked for."""

    def __init__(self, candidates: RunCandidates) -> None:
        self._candidates = candidates
        self._numbers: dict[int, int] = {}

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """[n] numbers of the texts of rows."""
        numbers = self._numbers
        return np.array([numbers.setdefault(int(row), len(numbers)) for row in rows], np.int64)

    def element(self) -> Markup:
        """All texts by number, for the script of the page."""
        texts = [self._text(row) for row in self._numbers]
        return json_element(json.dumps(texts, ensure_ascii=False), "candidates")

    def _text(self, row: int) -> str:
        """Plotly reads markup in it, so all is escaped but the break between its lines."""
        source = self._candidates.pool.sources[row]
        lines = (
            f"{self._candidates.kind(row)} of {source}",
            self._candidates.prompt(row, TEXT_LENGTH),
        )
        return "<br>".join(map(escape, lines))


def _taken_by_policy(directory: Path, policies: Sequence[str]) -> dict[str, list[tuple[Pick, ...]]]:
    """The picks of each policy's seeds, in the order of training."""
    arms: dict[tuple[str, int], list[Pick]] = {}
    for pick in read_schedule(directory):
        arms.setdefault((pick.policy, pick.seed), []).append(pick)
    found = {
        policy: [tuple(picks) for (owner, _), picks in arms.items() if owner == policy]
        for policy in policies
    }
    absent = [policy for policy, seeds in found.items() if not seeds]
    if absent:
        raise RunError(f"{directory / 'schedule.jsonl'}: has no picks of {', '.join(absent)}")
    return found


def _located(candidates: RunCandidates, picks: Sequence[Pick], directory: Path) -> _Taken:
    try:
        rows = candidates.pool.rows_of([pick.id for pick in picks])
    except KeyError as error:
        raise RunError(
            f"{directory / 'schedule.jsonl'}: picks {error}, which {POOL_FILE} does not hold"
        ) from error
    return _Taken(np.array([pick.step + 1 for pick in picks], np.int64), rows)


def _clusters_by_step(candidates: RunCandidates, taken: _Taken) -> list[dict[str, int]]:
    counts: list[Counter[str]] = [Counter() for _ in range(int(taken.steps[-1]))]
    for step, cluster in zip(taken.steps, candidates.clusters(taken.rows), strict=True):
        counts[step - 1][cluster] += 1
    return [dict(count) for count in counts]


def _all_groups(series: Mapping[str, Shares]) -> tuple[str, ...]:
    """The groups that are drawn by name, the same for all policies."""
    return largest_groups([steps for each in series.values() for steps in each])


def _caption(candidates: RunCandidates, num_drawn: int, num_picks: int) -> tuple[str, ...]:
    axes = "the first two principal axes of the candidates' embeddings"
    if len(semantic_columns(candidates.table)) < 2:
        axes = "the first two principal axes of all features, as no embedding was kept"
    drawn = f"{num_drawn:,} of the pool's {len(candidates.pool):,} candidates, drawn evenly"
    if num_drawn == len(candidates.pool):
        drawn = f"all {num_drawn:,} candidates of the pool"
    picks = "with all picks of the first seed"
    if num_picks > MAP_PICKS:
        picks = f"with {MAP_PICKS:,} picks of the first seed at most, evenly over its steps"
    return (
        f"Maps: {drawn}, {picks}, along {axes}.",
        "Clusters are those that windows are drawn from, numbered within their kind.",
    )


def _left_out(policies: Sequence[str]) -> tuple[str, ...]:
    if not policies:
        return ()
    return (f"Not drawn: {len(policies)} more policies ({', '.join(policies)}).",)
