"""What a report shows of picks, beside a run directory."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.arm_results import arms
from helpers.runs_on_disk import BATCH, NUM_STEPS, PLANTED, RunOnDisk, finished_arms, write_run

from raise_mdit import pick_figures
from raise_mdit.comparison import summarise
from raise_mdit.decisions import FEATURES_FILE, write_features
from raise_mdit.errors import RunError
from raise_mdit.features import FeatureTable
from raise_mdit.pick_figures import drawn_evenly, largest_groups, map_places, shares_by_step
from raise_mdit.picks_section import MOST_POLICIES, PicksSection, picks_section
from raise_mdit.run_candidates import RunCandidates
from raise_mdit.schedule import read_schedule, write_schedule


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunOnDisk:
    return write_run(tmp_path_factory.mktemp("runs") / "run", finished_arms(seeds=2))


def section_of(run: RunOnDisk) -> PicksSection:
    section = picks_section(run.directory, run.arms, summarise(run.arms))
    assert section is not None
    return section


def figure(markup: object) -> dict[str, Any]:
    """What the page's script reads of a plot."""
    (text,) = re.findall(r'<script type="application/json"[^>]*>(.*)</script>', str(markup))
    return dict(json.loads(text))


def texts(section: PicksSection) -> list[str]:
    (found,) = re.findall(r"<script[^>]*>(.*)</script>", str(section.texts))
    return list(json.loads(found))


def test_policies_come_by_prominence_without_those_that_pick_nothing(run: RunOnDisk) -> None:
    assert [each.policy for each in section_of(run).policies] == [
        "ppo",
        "dsir",
        "random",
        "longest",
    ]


def test_the_rest_of_many_policies_is_told(tmp_path: Path) -> None:
    extra = [f"p{at}" for at in range(5)]
    run = write_run(tmp_path / "run", finished_arms(seeds=1, extra=extra))
    section = section_of(run)
    assert len(section.policies) == MOST_POLICIES
    drawn = {each.policy for each in section.policies}
    (told,) = [sentence for sentence in section.caption if sentence.startswith("Not drawn")]
    left_out = {"longest", *extra} - drawn
    assert f"{len(left_out)} more policies" in told
    assert all(policy in told for policy in left_out)


def test_a_map_shows_each_pick_where_it_lies_and_when_it_was_picked(run: RunOnDisk) -> None:
    section = section_of(run)
    background, picked = figure(section.policies[0].map)["data"]
    picks = [p for p in read_schedule(run.directory) if (p.policy, p.seed) == ("ppo", 0)]
    rows = run.pool.rows_of([pick.id for pick in picks])
    column = run.table.names.index("semantic_0")
    assert picked["x"] == pytest.approx(run.table.values[rows, column].tolist(), rel=1e-3)
    assert picked["y"] == pytest.approx(run.table.values[rows, column + 1].tolist(), rel=1e-3)
    assert picked["marker"]["color"] == [pick.step + 1 for pick in picks]
    assert len(background["x"]) == len(run.pool) - len({*rows.tolist()})


def test_a_pick_is_told_by_kind_source_and_the_beginning_of_its_text(run: RunOnDisk) -> None:
    section = section_of(run)
    shown = texts(section)
    picked = figure(section.policies[0].map)["data"][1]
    picks = [p for p in read_schedule(run.directory) if (p.policy, p.seed) == ("ppo", 0)]
    for pick, number in zip(picks, picked["customdata"], strict=True):
        heading, prompt = shown[number].split("<br>")
        assert heading == f"{pick.kind} of {pick.source}"
        assert "<" not in prompt
        assert len(unescape(prompt)) <= 80
    assert len(shown) == len({*shown}) == len(run.pool)
    assert any(unescape(text).split("<br>")[1].startswith(PLANTED[:40]) for text in shown)
    assert any(re.search(r"75% of: .* \| 25% of: Explain what \d", unescape(t)) for t in shown)
    assert any(text.endswith("<br>My own question") for text in shown)


def test_shares_of_clusters_are_those_of_the_strata_picked(run: RunOnDisk) -> None:
    section = section_of(run)
    bars = figure(section.policies[0].clusters)["data"]
    counts: dict[str, list[float]] = {}
    candidates = RunCandidates(run.directory)
    for pick in read_schedule(run.directory):
        if pick.policy == "ppo":
            (name,) = candidates.clusters(run.pool.rows_of([pick.id]))
            counts.setdefault(name, [0.0] * NUM_STEPS)[pick.step] += 1 / (2 * BATCH)
    assert {bar["name"]: bar["y"] for bar in bars if bar["name"] in counts} == {
        name: pytest.approx(share) for name, share in counts.items()
    }
    assert set(counts) <= set(section.clusters)


def test_clusters_are_numbered_within_their_kind(run: RunOnDisk) -> None:
    names = RunCandidates(run.directory).clusters(np.arange(len(run.pool)))
    assert {*names} == {"original 1", "original 2", "mdit 1", "mdit 2", "custom 1"}


def test_a_schedule_of_another_pool_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", finished_arms(seeds=1))
    picks = [*read_schedule(run.directory)]
    first = next(at for at, pick in enumerate(picks) if pick.policy == "ppo")
    fields = {name: getattr(picks[first], name) for name in type(picks[first]).__slots__}
    picks[first] = type(picks[first])(**{**fields, "id": "0" * 32})
    write_schedule(run.directory, picks, {})
    with pytest.raises(RunError, match=r"schedule.jsonl: picks '0{32}', which pool.parquet"):
        section_of(run)


def test_a_policy_that_the_schedule_lacks_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", finished_arms(seeds=1))
    kept = [pick for pick in read_schedule(run.directory) if pick.policy != "dsir"]
    write_schedule(run.directory, kept, {})
    with pytest.raises(RunError, match=r"has no picks of dsir"):
        section_of(run)


def test_a_run_in_which_nothing_picks_has_no_section(tmp_path: Path) -> None:
    given = arms("base", 1.0, picks=(), steps=0)
    assert picks_section(tmp_path, given, summarise(given)) is None


def test_a_run_without_features_has_no_map_and_says_why(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", finished_arms(seeds=1))
    table = RunCandidates(run.directory).table
    bare = FeatureTable((), np.zeros((len(table.strata), 0), np.float32), table.strata)
    write_features(run.directory / FEATURES_FILE, bare)
    section = section_of(run)
    assert all(each.map is None and each.groups for each in section.policies)
    assert section.caption == (
        "No map of picks: no policy of this run looks at features, so none were made.",
    )


def test_without_embeddings_the_axes_are_those_of_all_features(run: RunOnDisk) -> None:
    """Against singular values: the columns of U S, each up to its sign."""
    plain = run.table._replace(
        names=tuple(name.replace("semantic", "other") for name in run.table.names)
    )
    values = plain.values - plain.values.mean(axis=0)
    left, singular, _ = np.linalg.svd(values, full_matrices=False)
    places = map_places(plain)
    for axis in range(2):
        expected = left[:, axis] * singular[axis]
        assert np.abs(places[:, axis]) == pytest.approx(np.abs(expected), abs=1e-3)


@pytest.mark.parametrize(("count", "most"), [(1, 5), (5, 5), (1000, 7)])
def test_what_is_drawn_is_spread_evenly(count: int, most: int) -> None:
    places = drawn_evenly(count, most)
    assert len(places) == min(count, most)
    assert (places[0], places[-1]) == (0, count - 1)
    assert np.ptp(np.diff(places)) <= 1 if len(places) > 1 else True


def test_shares_of_picks_add_up_to_one_at_each_step() -> None:
    many = {f"task-{index:02}": index + 1 for index in range(15)}
    series = [(many, {"sort": 1})] * 2
    groups = largest_groups(series)
    drawn = shares_by_step(series, groups)
    assert len(groups) == pick_figures.MAX_GROUPS
    for step in range(2):
        assert sum(bar.y[step] for bar in drawn.data) == pytest.approx(1.0, abs=1e-5)


def test_long_runs_are_averaged_to_few_bars() -> None:
    drawn = shares_by_step([({"sort": 1},) * 1000], ("sort",))
    assert len(drawn.data[0].x) <= pick_figures.MAX_BARS
