"""Candidates: ids are hashes of content."""

from __future__ import annotations

import hashlib
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raise_mdit.candidates import (
    ID_LENGTH,
    Candidate,
    Custom,
    Mdit,
    Mosaic,
    Original,
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
        pytest.param(
            Custom((A,), TURNS),
            f'["custom",{{"examples":["{A}"],'
            '"messages":[["user","Grüße?"],["assistant","Hallo"]]}]',
            "34f5e10118abae9382b54285a5eec1b9",
            id="custom",
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


def test_the_options_of_a_question_are_part_of_its_prompt_and_not_hashed_again() -> None:
    """An export checks texts by their ids, and holds messages alone."""
    question = make_example("mine", TURNS, choices=("Hallo", "Servus"))

    assert question.choices == ("Hallo", "Servus")
    assert question.id == make_example("mine", TURNS).id


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
        Custom((A,), TURNS),
        Custom((B,), TURNS),
    ]
    assert len({candidate(recipe).id for recipe in different}) == len(different)


@settings(deadline=None)
@given(st.dictionaries(st.text(), json_values, min_size=2, max_size=5))
def test_the_order_of_keys_does_not_change_an_id(choices: dict[str, object]) -> None:
    backwards = dict(reversed(choices.items()))

    forth, back = (Mosaic((A, B), "format", each) for each in (choices, backwards))

    assert candidate(forth).id == candidate(back).id


def test_the_kind_of_a_recipe_is_told_by_its_type() -> None:
    of_each_kind: list[Recipe] = [Original(A), MOSAIC, Mdit(A, B, 0.5), Custom((A,), TURNS)]
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
    assert parents_of(Custom((A, B), TURNS)) == ((A, 0.5), (B, 0.5))


@settings(deadline=None)
@given(recipes)
def test_shares_of_parents_sum_to_one(recipe: Recipe) -> None:
    assert sum(share for _, share in parents_of(recipe)) == pytest.approx(1.0, abs=1e-12)
