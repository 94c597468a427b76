"""Rows of a pool are encoded when they are asked for, and are what their recipes say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from raise_mdit import candidate_encoding
from raise_mdit.candidate_encoding import CandidateEncoder, CandidateRows
from raise_mdit.candidates import Candidate, Custom, Mdit, Mosaic, Original, Recipe, make_example
from raise_mdit.core import EncodedRow, Message
from raise_mdit.encoding import ChatEncoder, mixed_row, plain_row
from raise_mdit.pool import Pool
from raise_mdit.sources.mosaic_wording import load_wording

EXAMPLES = {
    example.id: example
    for example in (
        make_example("left", [Message("user", "w1 w2"), Message("assistant", "w3")]),
        make_example("right", [Message("user", "w4"), Message("assistant", "w5 w6 w7")]),
    )
}
LEFT, RIGHT = EXAMPLES
TURNS = (Message("user", "w8"), Message("assistant", "w9 w9"))
RECIPES: list[Recipe] = [
    Original(RIGHT),
    Mosaic((LEFT, RIGHT), "primary", {}),
    Mdit(LEFT, RIGHT, 0.25),
    Custom((LEFT,), TURNS),
]


class Counted(CandidateEncoder):
    """Counts what it encodes."""

    num_encoded = 0

    def row(self, key: str, recipe: Recipe) -> EncodedRow:
        self.num_encoded += 1
        return super().row(key, recipe)


@pytest.fixture
def chat(tokenizer: Any) -> ChatEncoder:
    return ChatEncoder(tokenizer)


@pytest.fixture
def encoder(chat: ChatEncoder) -> Counted:
    texts = chat.encode([example.messages for example in EXAMPLES.values()])
    return Counted(
        EXAMPLES,
        dict(zip(EXAMPLES, texts, strict=True)),
        encoder=chat,
        wording=load_wording(),
        pad=0,
    )


def pool_of(encoder: CandidateEncoder, recipes: list[Recipe], *, extra: int = 0) -> Pool:
    rows = [encoder.row("", recipe) for recipe in recipes]
    pairs = zip(recipes, rows, strict=True)
    return Pool.of(
        Candidate(recipe, "mine", row.num_tokens + extra, row.num_scored) for recipe, row in pairs
    )


def assert_equal(found: EncodedRow, expected: EncodedRow) -> None:
    assert (found.key, found.mix) == (expected.key, expected.mix)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.scored, expected.scored)
    np.testing.assert_array_equal(found.targets, expected.targets)
    np.testing.assert_array_equal(found.target_weights, expected.target_weights)
    if expected.partner_ids is None:
        assert found.partner_ids is None
    else:
        np.testing.assert_array_equal(found.partner_ids, expected.partner_ids)


def test_each_kind_is_encoded_by_its_recipe(encoder: Counted, chat: ChatEncoder) -> None:
    left, right = chat.encode([example.messages for example in EXAMPLES.values()])
    (both,) = chat.encode(
        [(Message("user", "w1 w2\n\nw4"), Message("assistant", "w3\n\nw5 w6 w7"))]
    )
    (custom,) = chat.encode([TURNS])
    pool = pool_of(encoder, RECIPES)

    rows = CandidateRows(pool, encoder)

    assert len(rows) == 4
    assert_equal(rows[0], plain_row(pool.ids[0], right))
    assert_equal(rows[1], plain_row(pool.ids[1], both))
    assert_equal(rows[2], mixed_row(pool.ids[2], left, right, weight=0.25, pad=0))
    assert_equal(rows[3], plain_row(pool.ids[3], custom))


def test_a_conversation_is_given_for_all_that_is_text(encoder: Counted) -> None:
    assert encoder.messages(Original(RIGHT)) == EXAMPLES[RIGHT].messages
    assert encoder.messages(Custom((LEFT,), TURNS)) == TURNS
    assert encoder.messages(Mosaic((LEFT, RIGHT), "primary", {}))[0].content == "w1 w2\n\nw4"


def test_a_row_is_encoded_when_it_is_asked_for_and_then_kept(encoder: Counted) -> None:
    pool = pool_of(encoder, RECIPES)
    encoder.num_encoded = 0

    rows = CandidateRows(pool, encoder)
    assert encoder.num_encoded == 0
    first = rows[1]
    assert rows[1] is first
    assert rows[-3] is first
    assert encoder.num_encoded == 1


def test_no_more_rows_are_kept_than_there_is_room_for(
    encoder: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidate_encoding, "KEPT_ROWS", 2)
    rows = CandidateRows(pool_of(encoder, RECIPES), encoder)
    encoder.num_encoded = 0

    for row in (0, 1, 2, 0):  # 0 had to make room for 2
        rows[row]

    assert encoder.num_encoded == 4


def test_rows_are_a_sequence(encoder: Counted) -> None:
    rows = CandidateRows(pool_of(encoder, RECIPES), encoder)

    assert [row.key for row in rows] == [row.key for row in rows[:]]
    assert [row.key for row in rows[1:3]] == [rows[1].key, rows[2].key]
    with pytest.raises(IndexError):
        rows[4]


def test_a_length_that_was_counted_otherwise_is_a_fault_of_ours(encoder: Counted) -> None:
    rows = CandidateRows(pool_of(encoder, RECIPES, extra=1), encoder)
    with pytest.raises(AssertionError, match="row 1: "):
        rows[1]
