"""What a policy decided, from observations to the file and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from raise_mdit.core import Observation
from raise_mdit.decisions import (
    MASKED_ROW,
    DecisionLog,
    Decisions,
    read_decisions,
    read_features,
    write_decisions,
    write_features,
)
from raise_mdit.envs.observation import CONTEXT, Picks, Stage, observe
from raise_mdit.errors import RunError
from raise_mdit.features import FeatureTable

FEATURES = np.arange(30, dtype=np.float32).reshape(10, 3)
TABLE = FeatureTable(("length", "semantic_0", "is_mdit"), FEATURES, np.arange(10) % 3)


def observation(window: list[int], picks: Picks, *, num_slots: int = 4) -> Observation:
    rows = np.array(window)
    signal = rows.astype(np.float32) / np.float32(10)
    stage = Stage(loss_ratio=0.5)
    return observe(
        rows, num_slots=num_slots, features=FEATURES, picks=picks, stage=stage, signal=signal
    )


def two_steps() -> Decisions:
    picks = Picks(np.zeros(10, np.int64))
    log = DecisionLog(num_features=3, extra_names=("gradient",))
    log.add(observation([7, 2, 5], picks), np.array([2, 0]))
    picks.add(np.array([5, 7]))
    log.add(observation([5, 1, 9, 3], picks), np.array([1, 3]))
    return log.decisions


def same(one: Decisions, other: Decisions) -> bool:
    return one.extra_names == other.extra_names and all(
        np.array_equal(a, b) and a.dtype == b.dtype
        for a, b in zip(one, other, strict=True)
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
    )


def test_a_log_keeps_what_was_offered_and_taken() -> None:
    decisions = two_steps()

    assert decisions.windows.tolist() == [[7, 2, 5, MASKED_ROW], [5, 1, 9, 3]]
    assert decisions.picks.tolist() == [[2, 0], [1, 3]]
    assert decisions.selected[1].tolist() == [1, 0, 0, 0]
    assert decisions.context.shape == (2, len(CONTEXT))
    assert decisions.context[1, 0] == 0.5


def test_only_columns_behind_the_pools_own_are_kept() -> None:
    decisions = two_steps()

    assert decisions.extra_names == ("gradient",)
    assert decisions.extra[..., 0] == pytest.approx(
        np.array([[0.7, 0.2, 0.5, 0.0], [0.5, 0.1, 0.9, 0.3]])
    )


def test_without_extra_columns_there_are_none() -> None:
    log = DecisionLog(num_features=4)
    log.add(observation([1, 2], Picks(np.zeros(10, np.int64))), np.array([0]))

    assert log.decisions.extra.shape == (1, 4, 0)


def test_a_log_is_a_copy() -> None:
    given, action = observation([7, 2, 5], Picks(np.zeros(10, np.int64))), np.array([2, 0])
    log = DecisionLog(num_features=3, extra_names=("gradient",))
    log.add(given, action)
    before = log.decisions
    for part in (*given.values(), action):
        part[...] = 1

    assert same(log.decisions, before)


def test_an_unnamed_column_is_our_own_fault() -> None:
    log = DecisionLog(num_features=3)
    with pytest.raises(AssertionError, match="extra columns"):
        log.add(observation([1, 2], Picks(np.zeros(10, np.int64))), np.array([0]))


def test_decisions_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "decisions.safetensors"
    write_decisions(path, two_steps())

    assert same(read_decisions(path), two_steps())


def test_a_view_of_an_array_comes_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "features.safetensors"
    turned = FeatureTable(tuple("abcdefghij"), FEATURES.T, np.arange(6)[::2])
    write_features(path, turned)

    assert np.array_equal(read_features(path).values, FEATURES.T)
    assert read_features(path).strata.tolist() == [0, 2, 4]


def test_features_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "features.safetensors"
    write_features(path, TABLE)
    read = read_features(path)

    assert read.names == TABLE.names
    assert np.array_equal(read.values, TABLE.values)
    assert np.array_equal(read.strata, TABLE.strata)
    assert (read.values.dtype, read.strata.dtype) == (TABLE.values.dtype, TABLE.strata.dtype)


def test_windows_of_a_whole_pool_take_eight_bytes_a_slot(tmp_path: Path) -> None:
    path, num_steps, num_slots = tmp_path / "decisions.safetensors", 5, 8_000
    shape = (num_steps, num_slots)
    write_decisions(
        path,
        Decisions(
            windows=np.zeros(shape, np.int32),
            selected=np.zeros(shape, np.float32),
            context=np.zeros((num_steps, len(CONTEXT)), np.float32),
            extra=np.zeros((*shape, 0), np.float32),
            extra_names=(),
            picks=np.zeros((num_steps, 2), np.int32),
        ),
    )

    assert path.stat().st_size < 8 * num_steps * num_slots + 2_000


def test_a_missing_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"none.safetensors: no such file.*run again"):
        read_decisions(tmp_path / "none.safetensors")


def test_half_a_file_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "decisions.safetensors"
    write_decisions(path, two_steps())
    path.write_bytes(path.read_bytes()[:-9])

    with pytest.raises(RunError, match=r"decisions.safetensors: damaged"):
        read_decisions(path)


def test_a_file_of_another_kind_is_told_apart(tmp_path: Path) -> None:
    write_features(tmp_path / "features.safetensors", TABLE)
    save_file({"weight": FEATURES}, tmp_path / "policy.safetensors")

    for name in ("features.safetensors", "policy.safetensors"):
        with pytest.raises(RunError, match="this program reads 'raise-mdit/decisions/1'"):
            read_decisions(tmp_path / name)


@pytest.mark.parametrize(
    "altered",
    [
        {"selected": np.zeros((2, 3), np.float32)},
        {"extra_names": ("gradient", "prior")},
        {"context": np.zeros((1, 7), np.float32)},
        {"picks": np.full((2, 2), 4, np.int32)},
        {"picks": np.full((2, 2), -1, np.int32)},
    ],
    ids=["slots", "names", "steps", "slot beyond the window", "negative slot"],
)
def test_arrays_that_do_not_fit_together_are_refused(
    altered: dict[str, object], tmp_path: Path
) -> None:
    path = tmp_path / "decisions.safetensors"
    write_decisions(path, two_steps()._replace(**altered))  # type: ignore[arg-type]  # on purpose

    with pytest.raises(RunError, match="do not fit together"):
        read_decisions(path)


def test_features_without_a_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "features.safetensors"
    write_features(path, TABLE._replace(names=("one",)))

    with pytest.raises(RunError, match="do not fit together"):
        read_features(path)
