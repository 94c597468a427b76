"""Candidates: ids are hashes of content, and a pool gives back what was put into it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raise_mdit.candidates import (
    ID_LENGTH,
    Candidate,
    Mdit,
    Mosaic,
    Original,
    Pool,
    Recipe,
    Strategy,
    kind_of,
    make_example,
    parents_of,
)
from raise_mdit.core import KINDS, Message

A, B, C = "a" * ID_LENGTH, "b" * ID_LENGTH, "c" * ID_LENGTH
TURNS = (Message("user", "Grüße?"), Message("assistant", "Hallo"))
MOSAIC = Mosaic((A, B), "format", {"tag": "(1)", "marks": None, "order": [1, 0]})

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
recipes = st.one_of(
    st.builds(Original, st.text()),
    st.builds(
        Mosaic,
        st.lists(st.text(), min_size=1, max_size=5).map(tuple),
        st.sampled_from(get_args(Strategy)),
        st.dictionaries(st.text(), json_values, max_size=3),
    ),
    st.builds(Mdit, st.text(), st.text(), st.floats(0, 1)),
)


def candidate(recipe: Recipe, *, source: str = "mine", tokens: int = 9) -> Candidate:
    return Candidate(recipe, source, tokens, tokens // 3)


# The texts are written by hand; ids of published schedules hang on them.
@pytest.mark.parametrize(
    ("recipe", "text", "golden"),
    [
        pytest.param(
            Original(A),
            f'["original",{{"example":"{A}"}}]',
            "7ac51d823a836a94479b70a9192ddb4f",
            id="original",
        ),
        pytest.param(
            MOSAIC,
            f'["mosaic",{{"choices":{{"marks":null,"order":[1,0],"tag":"(1)"}},'
            f'"examples":["{A}","{B}"],"strategy":"format"}}]',
            "f2d7116a497b485a8c77f5ad1c541b95",
            id="mosaic",
        ),
        pytest.param(
            Mdit(A, B, 0.25),
            f'["mdit",{{"first":"{A}","second":"{B}","weight":0.25}}]',
            "22b8aceb44db1f38577e02f510ae2586",
            id="mdit",
        ),
    ],
)
def test_an_id_is_the_hash_of_kind_and_recipe(recipe: Recipe, text: str, golden: str) -> None:
    assert candidate(recipe).id == golden
    assert golden == hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]


def test_an_examples_id_is_the_hash_of_its_messages() -> None:
    text = '[["user","Grüße?"],["assistant","Hallo"]]'

    found = make_example("mine", TURNS, task="greeting")

    assert found.id == "1a79253530dc871f2ac5ac425ab69413"
    assert found.id == hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]


def test_an_examples_id_does_not_depend_on_its_source_or_task() -> None:
    ids = {make_example(source, TURNS, task=task).id for source in "ab" for task in (None, "c")}
    assert len(ids) == 1


def test_a_candidates_id_does_not_depend_on_source_or_length() -> None:
    assert candidate(MOSAIC).id == candidate(MOSAIC, source="other", tokens=5).id


def test_different_recipes_have_different_ids() -> None:
    different: list[Recipe] = [
        Original(A),
        Original(B),
        MOSAIC,
        Mosaic((B, A), "format", MOSAIC.choices),
        Mosaic((A, B), "permute", MOSAIC.choices),
        Mosaic((A, B), "format", {**MOSAIC.choices, "order": [0, 1]}),
        Mdit(A, B, 0.25),
        Mdit(B, A, 0.25),
        Mdit(A, B, 0.5),
    ]
    assert len({candidate(recipe).id for recipe in different}) == len(different)


@settings(deadline=None)
@given(st.dictionaries(st.text(), json_values, min_size=2, max_size=5))
def test_the_order_of_keys_does_not_change_an_id(choices: dict[str, object]) -> None:
    backwards = dict(reversed(choices.items()))

    forth, back = (Mosaic((A, B), "format", each) for each in (choices, backwards))

    assert candidate(forth).id == candidate(back).id


def test_the_kind_of_a_recipe_is_told_by_its_type() -> None:
    of_each_kind: list[Recipe] = [Original(A), MOSAIC, Mdit(A, B, 0.5)]
    assert tuple(map(kind_of, of_each_kind)) == KINDS


def test_parents_are_named_with_their_shares() -> None:
    assert parents_of(Original(A)) == ((A, 1.0),)
    assert parents_of(Mosaic((A, B, C, A), "primary", {})) == (
        (A, 0.25),
        (B, 0.25),
        (C, 0.25),
        (A, 0.25),
    )
    assert parents_of(Mdit(A, B, 0.25)) == ((A, 0.25), (B, 0.75))


@settings(deadline=None)
@given(recipes)
def test_shares_of_parents_sum_to_one(recipe: Recipe) -> None:
    assert sum(share for _, share in parents_of(recipe)) == pytest.approx(1.0, abs=1e-12)


@settings(deadline=None)
@given(st.lists(recipes, max_size=5))
def test_a_pool_gives_back_the_recipes_of_its_candidates(given_recipes: list[Recipe]) -> None:
    expected = list({candidate(recipe).id: recipe for recipe in given_recipes}.values())

    pool = Pool.of([candidate(recipe) for recipe in given_recipes])

    assert [pool.recipe(row) for row in range(len(pool))] == expected


def test_the_columns_of_a_pool_are_those_of_its_candidates() -> None:
    rows = [
        Candidate(Mdit(A, B, 0.5), "x+y", 12, 5),
        Candidate(Original(A), "x", 7, 3),
        Candidate(MOSAIC, "x", 30, 11),
    ]

    pool = Pool.of(rows)

    assert len(pool) == 3
    assert pool.ids == [row.id for row in rows]
    assert pool.sources == ["x+y", "x", "x"]
    assert [KINDS[kind] for kind in pool.kinds] == ["mdit", "original", "mosaic"]
    np.testing.assert_array_equal(pool.num_tokens, [12, 7, 30])
    np.testing.assert_array_equal(pool.num_response_tokens, [5, 3, 11])


def test_of_equal_candidates_the_first_stays_in_its_place() -> None:
    pool = Pool.of(
        [
            candidate(Original(A), source="first"),
            candidate(Original(B)),
            candidate(Original(A), source="second"),
        ]
    )

    assert [pool.recipe(row) for row in range(len(pool))] == [Original(A), Original(B)]
    assert pool.sources == ["first", "mine"]


def test_a_pool_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [candidate(recipe) for recipe in (Original("ü\u2028\0"), MOSAIC, Mdit(A, B, 1 / 3))]
    written = Pool.of(rows)

    written.write(tmp_path / "pool.parquet")

    read = Pool.read(tmp_path / "pool.parquet")
    assert read.table.equals(written.table)
    assert [read.recipe(row) for row in range(3)] == [row.recipe for row in rows]


def test_a_pool_of_nothing_is_empty(tmp_path: Path) -> None:
    Pool.of([]).write(tmp_path / "pool.parquet")

    read = Pool.read(tmp_path / "pool.parquet")

    assert len(read) == len(read.ids) == len(read.kinds) == 0


def test_another_table_is_no_pool() -> None:
    with pytest.raises(AssertionError, match="not a pool"):
        Pool(pa.table({"id": ["a"]}))
