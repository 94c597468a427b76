"""A pool gives back what was put into it, as columns, from memory and from its file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raise_mdit import pool as pool_module
from raise_mdit.candidates import (
    ID_LENGTH,
    Candidate,
    Custom,
    Mdit,
    Mosaic,
    Original,
    Recipe,
    Strategy,
    candidate_id,
    parents_of,
)
from raise_mdit.core import KINDS, Message
from raise_mdit.errors import RunError
from raise_mdit.pool import Pool

A, B, C = "a" * ID_LENGTH, "b" * ID_LENGTH, "c" * ID_LENGTH
MOSAIC = Mosaic((A, B), "format", {"tag": "(1)", "marks": None, "order": [1, 0]})
CUSTOM = Custom((B, C), (Message("user", "Grüße?\n"), Message("assistant", "Hallo")))
ONE_OF_EACH: list[Recipe] = [Original("ü\u2028\0"), MOSAIC, Mdit(A, B, 1 / 3), CUSTOM]

messages = st.builds(Message, st.sampled_from(["user", "assistant"]), st.text())
recipes: st.SearchStrategy[Recipe] = st.one_of(
    st.builds(Original, st.text()),
    st.builds(
        Mosaic,
        st.lists(st.text(), min_size=1, max_size=5).map(tuple),
        st.sampled_from(get_args(Strategy)),
        st.dictionaries(st.text(), st.integers() | st.text() | st.none(), max_size=3),
    ),
    st.builds(Mdit, st.text(), st.text(), st.floats(0, 1)),
    st.builds(
        Custom,
        st.lists(st.text(), min_size=1, max_size=3).map(tuple),
        st.lists(messages, min_size=1, max_size=3).map(tuple),
    ),
)


def candidate(recipe: Recipe, *, source: str = "mine", generation: int = 0) -> Candidate:
    return Candidate(recipe, source, 9, 3, generation)


def recipes_of(pool: Pool) -> list[Recipe]:
    return [pool.recipe(row) for row in range(len(pool))]


@settings(deadline=None)
@given(st.lists(recipes, max_size=6))
def test_a_pool_gives_back_the_recipes_of_its_candidates(given_recipes: list[Recipe]) -> None:
    expected = {candidate_id(recipe): recipe for recipe in given_recipes}

    pool = Pool.of(map(candidate, given_recipes))

    assert recipes_of(pool) == list(expected.values())
    assert list(pool.ids) == list(expected)


@settings(deadline=None)
@given(st.lists(recipes, max_size=6))
def test_parents_are_those_of_the_recipes(given_recipes: list[Recipe]) -> None:
    pool = Pool.of(map(candidate, given_recipes))

    found = pool.parents

    for row, recipe in enumerate(recipes_of(pool)):
        here = slice(found.starts[row], found.starts[row + 1])
        ids = [found.example_ids[code] for code in found.examples[here]]
        assert list(zip(ids, found.shares[here], strict=True)) == list(parents_of(recipe))
    assert found.starts[-1] == len(found.examples)


def test_the_columns_of_a_pool_are_those_of_its_candidates() -> None:
    rows = [
        Candidate(Mdit(A, B, 0.5), "x+y", 12, 5),
        Candidate(Original(A), "x", 7, 3),
        Candidate(MOSAIC, "x", 30, 11, 1),
        Candidate(CUSTOM, "own", 9, 2, 2),
    ]

    pool = Pool.of(rows)

    assert len(pool) == 4
    assert list(pool.ids) == pool.ids[:] == [row.id for row in rows]
    assert list(pool.sources) == ["x+y", "x", "x", "own"]
    assert [KINDS[kind] for kind in pool.kinds] == ["mdit", "original", "mosaic", "custom"]
    np.testing.assert_array_equal(pool.num_tokens, [12, 7, 30, 9])
    np.testing.assert_array_equal(pool.num_response_tokens, [5, 3, 11, 2])
    np.testing.assert_array_equal(pool.generations, [0, 0, 1, 2])


def test_of_equal_candidates_the_first_stays_in_its_place() -> None:
    pool = Pool.of(
        [
            candidate(Original(B), source="first"),
            candidate(Original(A)),
            candidate(Original(B), source="second"),
        ]
    )

    assert recipes_of(pool) == [Original(B), Original(A)]
    assert list(pool.sources) == ["first", "mine"]


def test_rows_are_found_by_id() -> None:
    pool = Pool.of(map(candidate, ONE_OF_EACH))

    assert pool.rows_of([candidate_id(ONE_OF_EACH[2]), candidate_id(ONE_OF_EACH[0])]).tolist() == [
        2,
        0,
    ]
    with pytest.raises(KeyError, match="nobody"):
        pool.rows_of([pool.ids[0], "nobody"])


def test_a_pool_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = Pool.of([candidate(recipe, generation=i) for i, recipe in enumerate(ONE_OF_EACH)])

    written.write(tmp_path / "pool.parquet")

    read = Pool.read(tmp_path / "pool.parquet")
    assert recipes_of(read) == ONE_OF_EACH
    assert list(read.ids) == list(written.ids)
    assert list(read.sources) == list(written.sources)
    np.testing.assert_array_equal(read.kinds, written.kinds)
    np.testing.assert_array_equal(read.generations, [0, 1, 2, 3])
    np.testing.assert_array_equal(read.parents.shares, written.parents.shares)


def test_any_reader_of_parquet_finds_example_ids_spelt_out(tmp_path: Path) -> None:
    Pool.of([candidate(MOSAIC)]).write(tmp_path / "pool.parquet")

    (row,) = pq.read_table(tmp_path / "pool.parquet").to_pylist()

    assert row["examples"] == [A, B]
    assert (row["kind"], row["strategy"], row["weight"]) == ("mosaic", "format", None)


def test_a_pool_of_nothing_is_empty(tmp_path: Path) -> None:
    Pool.of([]).write(tmp_path / "pool.parquet")

    read = Pool.read(tmp_path / "pool.parquet")

    assert len(read) == len(read.ids) == len(read.kinds) == len(read.parents.examples) == 0


def test_candidates_are_taken_in_blocks_and_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "BLOCK", 4)
    given_recipes: list[Recipe] = [Original(f"{i:032}") for i in range(11)] + ONE_OF_EACH

    pool = Pool.of(map(candidate, given_recipes))

    assert recipes_of(pool) == given_recipes


def test_candidates_are_drawn_from_their_maker_one_by_one() -> None:
    drawn = 0

    def made() -> Iterator[Candidate]:
        nonlocal drawn
        for i in range(3):
            drawn += 1
            yield candidate(Original(f"{i:032}"))

    source = made()
    assert drawn == 0
    assert len(Pool.of(source)) == drawn == 3


def test_a_file_that_is_no_pool_is_refused_by_name(tmp_path: Path) -> None:
    other, broken = tmp_path / "other.parquet", tmp_path / "broken.parquet"
    pq.write_table(pa.table({"id": ["a"]}), other)
    broken.write_bytes(b"PAR1")

    with pytest.raises(RunError, match=r"other\.parquet: its columns are id; a pool has id, kind"):
        Pool.read(other)
    with pytest.raises(RunError, match=r"broken\.parquet: not a Parquet file, or cut short"):
        Pool.read(broken)
    with pytest.raises(RunError, match=r"missing\.parquet: no such file"):
        Pool.read(tmp_path / "missing.parquet")


def test_another_table_is_no_pool() -> None:
    with pytest.raises(AssertionError, match="not a pool"):
        Pool(pa.table({"id": ["a"]}), [])
