"""The record of when a sealed test was opened."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from raise_mdit.core import EncodedRow
from raise_mdit.errors import RunError
from raise_mdit.openings import OPENINGS_FILE, Seal, read_openings


def item(key: str) -> EncodedRow:
    return EncodedRow(
        key=key,
        ids=np.array([1, 2]),
        scored=np.array([0]),
        targets=np.array([[2, 2]]),
        target_weights=np.array([[1, 0]], np.float32),
    )


@pytest.fixture
def opened(tmp_path: Path) -> Path:
    """A run directory whose test was opened once."""
    Seal(tmp_path, [item("a"), item("b")], by="run").open("ppo", 3)
    return tmp_path


def test_a_test_that_was_never_opened_has_no_openings(tmp_path: Path) -> None:
    assert read_openings(tmp_path) == ()


def test_openings_are_kept_in_order(opened: Path) -> None:
    Seal(opened, [item("a"), item("b")], by="evaluate").open("random", 4)
    noted = [(each.policy, each.seed, each.by) for each in read_openings(opened)]
    assert noted == [("ppo", 3, "run"), ("random", 4, "evaluate")]


def test_another_test_is_not_opened(opened: Path) -> None:
    with pytest.raises(RunError, match=rf"{OPENINGS_FILE}: the test's items are not those of"):
        Seal(opened, [item("a"), item("c")], by="evaluate").open("random", 4)
    assert len(read_openings(opened)) == 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"format": "raise-mdit/sealed-test/2"},
            "format 'raise-mdit/sealed-test/2'; this program reads format "
            "'raise-mdit/sealed-test/1'",
        ),
        ({"openings": [{"policy": "ppo"}]}, "holds an opening that cannot be read"),
    ],
)
def test_a_record_that_cannot_be_read_is_named(
    opened: Path, changes: dict[str, object], told: str
) -> None:
    file = opened / OPENINGS_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(RunError, match=rf"{OPENINGS_FILE}: {told}"):
        read_openings(opened)
