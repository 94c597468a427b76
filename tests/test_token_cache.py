"""Token ids from the cache are those of the encoder, whatever becomes of the files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raise_mdit.candidates import make_example
from raise_mdit.core import Example, Message
from raise_mdit.encoding import ChatEncoder, TextRow
from raise_mdit.token_cache import encode_examples


def example(*contents: str) -> Example:
    roles: Any = ("user", "assistant") * 3
    return make_example("mine", [Message(*turn) for turn in zip(roles, contents, strict=False)])


EXAMPLES = [example("w1 w2", "w3"), example("w4", "w5 w6", "w7", "w8"), example("w9", "w10")]


@pytest.fixture
def encoder(tokenizer: Any) -> ChatEncoder:
    return ChatEncoder(tokenizer)


@pytest.fixture
def num_encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many conversations each call of the encoder was given."""
    calls: list[int] = []
    encode = ChatEncoder.encode

    def counted(self: ChatEncoder, conversations: Sequence[Any]) -> list[TextRow]:
        calls.append(len(conversations))
        return encode(self, conversations)

    monkeypatch.setattr(ChatEncoder, "encode", counted)
    return calls


def assert_right(found: list[TextRow], encoder: ChatEncoder, examples: list[Example]) -> None:
    expected = encoder.encode([each.messages for each in examples])
    assert len(found) == len(expected)
    for row, right in zip(found, expected, strict=True):
        np.testing.assert_array_equal(row.ids, right.ids)
        np.testing.assert_array_equal(row.in_response, right.in_response)
        assert (row.ids.dtype, row.in_response.dtype) == (right.ids.dtype, right.in_response.dtype)


def test_ids_are_the_encoders_at_first_and_from_the_cache(
    encoder: ChatEncoder, tmp_path: Path, num_encoded: list[int]
) -> None:
    first = encode_examples(encoder, EXAMPLES, cache=tmp_path)
    assert num_encoded == [3]
    second = encode_examples(encoder, EXAMPLES, cache=tmp_path)
    assert num_encoded == [3]

    assert_right(first, encoder, EXAMPLES)
    assert_right(second, encoder, EXAMPLES)


def test_other_examples_or_another_order_are_another_entry(
    encoder: ChatEncoder, tmp_path: Path
) -> None:
    for examples in (EXAMPLES, EXAMPLES[::-1], EXAMPLES[:1]):
        assert_right(encode_examples(encoder, examples, cache=tmp_path), encoder, examples)


def test_another_system_prompt_or_template_is_another_entry(
    encoder: ChatEncoder, tokenizer: Any, tmp_path: Path
) -> None:
    encode_examples(encoder, EXAMPLES, cache=tmp_path)
    instructed = ChatEncoder(tokenizer, system_prompt="w50")

    assert_right(encode_examples(instructed, EXAMPLES, cache=tmp_path), instructed, EXAMPLES)
    assert len({each.fingerprint for each in (encoder, instructed)}) == 2


@pytest.mark.parametrize("position", [0, 40, -1])
def test_an_altered_entry_is_made_again(
    encoder: ChatEncoder, tmp_path: Path, position: int, num_encoded: list[int]
) -> None:
    encode_examples(encoder, EXAMPLES, cache=tmp_path)
    (file,) = (tmp_path / "tokens").iterdir()
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)

    found = encode_examples(encoder, EXAMPLES, cache=tmp_path)

    assert num_encoded == [3, 3]
    assert_right(found, encoder, EXAMPLES)


def test_a_half_written_entry_is_made_again(encoder: ChatEncoder, tmp_path: Path) -> None:
    encode_examples(encoder, EXAMPLES, cache=tmp_path)
    (file,) = (tmp_path / "tokens").iterdir()
    file.write_bytes(file.read_bytes()[:-7])

    assert_right(encode_examples(encoder, EXAMPLES, cache=tmp_path), encoder, EXAMPLES)


def test_a_tokenizer_that_cannot_be_written_down_is_not_cached(
    encoder: ChatEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChatEncoder, "fingerprint", None)

    assert_right(encode_examples(encoder, EXAMPLES, cache=tmp_path), encoder, EXAMPLES)

    assert not list(tmp_path.iterdir())


def test_nothing_is_encoded_as_nothing(encoder: ChatEncoder, tmp_path: Path) -> None:
    assert encode_examples(encoder, [], cache=tmp_path) == []
