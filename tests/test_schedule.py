"""Schedules: what is read is what was trained on, in that order."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raise_mdit.core import KINDS
from raise_mdit.errors import RunError
from raise_mdit.schedule import Pick, order_digest, read_schedule, write_schedule

PICK = Pick("ppo", 3, 0, 0, "a" * 32, "original", "mine", "sums")
PICKS = (
    PICK,
    replace(PICK, slot=1, id="b" * 32, kind="mosaic", source="mine+other"),
    replace(PICK, step=1, id="c" * 32, task=None),
)

any_picks = st.lists(
    st.builds(
        Pick,
        policy=st.text(),
        seed=st.integers(0),
        step=st.integers(0),
        slot=st.integers(0),
        id=st.text(),
        kind=st.sampled_from(KINDS),
        source=st.text(),
        task=st.none() | st.text(),
    ),
    max_size=4,
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A folder with a schedule."""
    write_schedule(tmp_path, PICKS, {"model": "small"})
    return tmp_path


def change_manifest(directory: Path, **changes: Any) -> None:
    path = directory / "schedule.manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@settings(deadline=None)
@given(any_picks)
def test_a_schedule_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, picks: list[Pick]
) -> None:
    directory = tmp_path_factory.mktemp("schedule")

    write_schedule(directory, picks, {})

    assert read_schedule(directory) == tuple(picks)


def test_separators_of_lines_inside_a_task_do_not_cut_a_pick(tmp_path: Path) -> None:
    picks = (replace(PICK, task="a\u2028b\u0085c\r\nd"),)

    write_schedule(tmp_path, picks, {})

    assert read_schedule(tmp_path) == picks


def test_the_schedule_is_one_pick_a_line_in_the_order_of_training(directory: Path) -> None:
    lines = (directory / "schedule.jsonl").read_text().splitlines()

    assert [json.loads(line)["id"][0] for line in lines] == ["a", "b", "c"]
    assert json.loads(lines[0]) == {
        "policy": "ppo",
        "seed": 3,
        "step": 0,
        "slot": 0,
        "id": "a" * 32,
        "kind": "original",
        "source": "mine",
        "task": "sums",
    }


def test_the_manifest_says_what_the_schedule_belongs_to(directory: Path) -> None:
    assert json.loads((directory / "schedule.manifest.json").read_text()) == {
        "format": "raise-mdit/schedule",
        "format_version": 1,
        "num_picks": 3,
        "order_digest": order_digest(PICKS),
        "recipe": {"model": "small"},
    }


@pytest.mark.parametrize(
    "other",
    [
        pytest.param((PICKS[1], PICKS[0], PICKS[2]), id="order"),
        pytest.param(PICKS[:2], id="number"),
        pytest.param((*PICKS[:2], replace(PICKS[2], id="d" * 32)), id="candidate"),
        pytest.param((*PICKS[:2], replace(PICKS[2], step=2)), id="step"),
        pytest.param((*PICKS[:2], replace(PICKS[2], slot=1)), id="slot"),
        pytest.param((*PICKS[:2], replace(PICKS[2], seed=4)), id="seed"),
        pytest.param((*PICKS[:2], replace(PICKS[2], policy="random")), id="policy"),
    ],
)
def test_the_digest_changes_with(other: tuple[Pick, ...]) -> None:
    assert order_digest(other) != order_digest(PICKS)


def test_two_lines_exchanged_are_noticed(directory: Path) -> None:
    path = directory / "schedule.jsonl"
    first, second, third = path.read_text().splitlines(keepends=True)
    path.write_text(second + first + third)

    with pytest.raises(RunError, match=r"schedule\.jsonl: altered since it was written"):
        read_schedule(directory)


def test_a_line_left_out_is_noticed(directory: Path) -> None:
    path = directory / "schedule.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))

    with pytest.raises(RunError, match="altered since it was written"):
        read_schedule(directory)


@pytest.mark.parametrize(
    "content",
    [b'{"policy": "pp', b'{"policy": "ppo"}\n', b"[1, 2]\n", b'{"\xff": 1}\n'],
    ids=["half a line", "fields missing", "a list", "not UTF-8"],
)
def test_a_damaged_file_is_not_a_schedule(directory: Path, content: bytes) -> None:
    (directory / "schedule.jsonl").write_bytes(content)

    with pytest.raises(RunError, match=r"schedule\.jsonl: not a schedule"):
        read_schedule(directory)


@pytest.mark.parametrize("changes", [{"format": "other/schedule"}, {"format_version": 2}])
def test_another_format_is_refused_by_name(directory: Path, changes: dict[str, object]) -> None:
    change_manifest(directory, **changes)

    (given_value,) = changes.values()
    with pytest.raises(RunError, match=rf"{given_value!r}.*reads 'raise-mdit/schedule' 1"):
        read_schedule(directory)


@pytest.mark.parametrize("name", ["schedule.jsonl", "schedule.manifest.json"])
def test_a_missing_file_is_named(directory: Path, name: str) -> None:
    (directory / name).unlink()

    with pytest.raises(RunError, match=name.replace(".", r"\.")):
        read_schedule(directory)
