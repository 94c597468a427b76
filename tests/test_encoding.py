"""Encoding against the tokenizer's own chat template, and the laws of interpolated rows."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from raise_mdit.core import Message, Role
from raise_mdit.encoding import (
    NOTHING_SPECIAL,
    PLAIN_TEMPLATE,
    ChatEncoder,
    SpecialTokens,
    TextRow,
    mixed_row,
    plain_row,
)
from raise_mdit.errors import ConfigError, ModelError

PAD = 0
END = "</s>"

words = st.lists(st.integers(0, 99).map("w{}".format), min_size=1, max_size=6).map(" ".join)
exchanges = st.lists(st.tuples(words, words), min_size=1, max_size=3)
weights = st.floats(0.01, 0.99)
lengths = st.tuples(st.integers(1, 9), st.integers(1, 9))


def conversation(turns: list[tuple[str, str]], system: str | None = None) -> list[Message]:
    start = [] if system is None else [Message("system", system)]
    pairs = [
        (Message("user", prompt), Message("assistant", response)) for prompt, response in turns
    ]
    return [*start, *(message for pair in pairs for message in pair)]


def own_ids(tokenizer: Any, messages: list[Message], **options: Any) -> list[int]:
    """What the tokenizer itself makes of a conversation."""
    turns = [message._asdict() for message in messages]
    return list(tokenizer.apply_chat_template(turns, tokenize=True, **options)["input_ids"])


def with_template(tokenizer: Any, template: str | None) -> Any:
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return changed


@given(turns=exchanges, system=st.none() | words)
def test_ids_are_the_tokenizers_own(
    tokenizer: Any, turns: list[tuple[str, str]], system: str | None
) -> None:
    messages = conversation(turns, system)

    (row,) = ChatEncoder(tokenizer).encode([messages])

    assert row.ids.tolist() == own_ids(tokenizer, messages)


@given(turns=exchanges, system=st.none() | words)
def test_every_assistant_turn_is_learned_with_its_end_token(
    tokenizer: Any, turns: list[tuple[str, str]], system: str | None
) -> None:
    messages = conversation(turns, system)
    expected: list[tuple[str, bool]] = []
    for role, content in messages:
        expected.append((f"<{role}>", False))
        expected += [(word, role == "assistant") for word in content.split()]
        expected += [(END, True)] if role == "assistant" else []

    (row,) = ChatEncoder(tokenizer).encode([messages])

    tokens = tokenizer.convert_ids_to_tokens(row.ids)
    assert list(zip(tokens, row.in_response.tolist(), strict=True)) == expected


@given(turns=exchanges)
def test_the_prompts_ids_are_where_generation_starts(
    tokenizer: Any, turns: list[tuple[str, str]]
) -> None:
    messages = conversation(turns)

    (row,) = ChatEncoder(tokenizer).encode([messages])

    start = own_ids(tokenizer, messages[:-1], add_generation_prompt=True)
    assert row.ids[: len(start)].tolist() == start
    assert row.in_response[len(start) :].all()


def test_conversations_encoded_together_are_as_those_encoded_alone(tokenizer: Any) -> None:
    encoder = ChatEncoder(tokenizer)
    several = [conversation([("w1", "w2 w3")]), conversation([("w4 w5", "w6"), ("w7", "w8")])]

    together = encoder.encode(several)

    for row, messages in zip(together, several, strict=True):
        (alone,) = encoder.encode([messages])
        assert row.ids.tolist() == alone.ids.tolist()
        assert row.in_response.tolist() == alone.in_response.tolist()


def test_no_conversations_are_no_rows(tokenizer: Any) -> None:
    assert ChatEncoder(tokenizer).encode([]) == []


def test_what_a_template_writes_behind_the_end_token_is_not_learned(tokenizer: Any) -> None:
    spaced = with_template(
        tokenizer,
        "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} "
        "{% if m['role'] == 'assistant' %}</s> <s> {% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<assistant> {% endif %}",
    )

    (row,) = ChatEncoder(spaced).encode([conversation([("w1", "w2"), ("w3", "w4")])])

    text = "<user> w1 <assistant> w2 </s> <s> <user> w3 <assistant> w4 </s>"
    learned = [token in ("w2", "w4", END) for token in text.split()]
    assert tokenizer.convert_ids_to_tokens(row.ids) == text.split()
    assert row.in_response.tolist() == learned


def test_a_response_that_contains_the_end_token_is_learned_to_its_last(tokenizer: Any) -> None:
    (row,) = ChatEncoder(tokenizer).encode([conversation([("w1", f"w2 {END} w3")])])

    learned = tokenizer.convert_ids_to_tokens(row.ids[row.in_response])
    assert learned == ["w2", END, "w3", END]


def test_the_system_prompt_goes_before_a_conversation(tokenizer: Any) -> None:
    messages = conversation([("w1", "w2")])

    (row,) = ChatEncoder(tokenizer, system_prompt="w9").encode([messages])

    assert row.ids.tolist() == own_ids(tokenizer, [Message("system", "w9"), *messages])


def test_a_conversations_own_system_turn_wins_over_the_system_prompt(tokenizer: Any) -> None:
    messages = conversation([("w1", "w2")], system="w7 w8")

    (row,) = ChatEncoder(tokenizer, system_prompt="w9").encode([messages])

    assert row.ids.tolist() == own_ids(tokenizer, messages)


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer: Any) -> None:
    forgetful = with_template(
        tokenizer,
        "{% for m in messages %}{% if m['role'] == 'user' or loop.last %}"
        "<{{ m['role'] }}> {{ m['content'] }} {% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<assistant> {% endif %}",
    )
    encoder = ChatEncoder(forgetful)
    encoder.encode([conversation([("w1", "w2")])])

    with pytest.raises(ModelError, match="rewrites earlier turns"):
        encoder.encode([conversation([("w1", "w2"), ("w3", "w4")])])


@pytest.mark.parametrize("roles", [("system", "user", "assistant"), ("user", "user", "assistant")])
def test_a_template_that_refuses_a_conversation_is_the_users_mistake(
    tokenizer: Any, roles: tuple[Role, ...]
) -> None:
    strict = with_template(
        tokenizer,
        "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}",
    )

    with pytest.raises(ModelError, match=rf"{', '.join(roles[:2])}.*roles must alternate"):
        ChatEncoder(strict).encode([[Message(role, "w1") for role in roles]])


def test_a_template_with_a_syntax_error_is_the_users_mistake(tokenizer: Any) -> None:
    broken = with_template(tokenizer, "{% if %}")

    with pytest.raises(ModelError, match="chat template"):
        ChatEncoder(broken).encode([conversation([("w1", "w2")])])


def test_a_tokenizer_without_a_template_gets_a_plain_one(tokenizer: Any) -> None:
    bare = with_template(tokenizer, None)
    messages = conversation([("w1 w2", "w3"), ("w4", "w5")], system="w9")

    (row,) = ChatEncoder(bare).encode([messages])

    assert row.ids.tolist() == own_ids(tokenizer, messages, chat_template=PLAIN_TEMPLATE)
    text = "<system> w9 <user> w1 w2 <assistant> w3 </s> <user> w4 <assistant> w5 </s>"
    assert tokenizer.convert_ids_to_tokens(row.ids) == text.split()
    learned = tokenizer.convert_ids_to_tokens(row.ids[row.in_response])
    assert learned == ["w3", END, "w5", END]


def test_without_an_end_token_the_response_is_learned_to_the_end(tokenizer: Any) -> None:
    endless = with_template(tokenizer, None)
    endless.eos_token = None

    (row,) = ChatEncoder(endless).encode([conversation([("w1", "w2 w3")])])

    assert tokenizer.convert_ids_to_tokens(row.ids[row.in_response]) == ["w2", "w3"]


def test_count_is_the_length_of_the_row_and_of_its_responses(tokenizer: Any) -> None:
    messages = conversation([("w1 w2", "w3"), ("w4", "w5 w6")])

    assert ChatEncoder(tokenizer).count(messages) == (12, 5)


SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
"""Of the tokenizer of these tests."""


@pytest.mark.parametrize("token", SPECIAL)
@pytest.mark.parametrize("text", ["{}", "w1 {} w2", "w1{}w2", "w1\n{}"])
def test_what_the_tokenizer_takes_for_a_special_token_is_found(
    tokenizer: Any, token: str, text: str
) -> None:
    written = text.format(token)
    assert tokenizer.convert_tokens_to_ids(token) in tokenizer(written)["input_ids"]

    assert ChatEncoder(tokenizer).special_tokens.found_in(written) == token


@pytest.mark.parametrize("text", ["", "w1 w2", "< s>", "<S>", "<user>", "</ s>", "s"])
def test_what_the_tokenizer_takes_for_text_is_not_found(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    unknown = tokenizer.unk_token_id  # of words that it does not know
    assert not {*ids} & {*tokenizer.all_special_ids} - {unknown}

    assert ChatEncoder(tokenizer).special_tokens.found_in(text) is None


def test_special_tokens_without_a_part_are_found_too(tokenizer: Any) -> None:
    added = copy.deepcopy(tokenizer)
    added.add_special_tokens({"additional_special_tokens": ["<|im_end|>", "<|im|"]})
    added.add_tokens(["<think>"])  # an ordinary word that is kept in one piece

    special = SpecialTokens.of(added)

    assert {*special.texts} == {*SPECIAL, "<|im_end|>", "<|im|"}
    assert special.found_in("w1 <|im_end|> </s>") == "<|im_end|>"
    assert special.found_in("a <think> b") is None


def test_of_two_special_tokens_that_begin_alike_the_longer_is_found() -> None:
    assert SpecialTokens(("<s>", "<s>x")).found_in("a <s>x") == "<s>x"


def test_without_a_tokenizer_nothing_is_special() -> None:
    assert NOTHING_SPECIAL.found_in("<|im_end|></s>") is None


def test_a_system_prompt_with_a_special_token_is_refused_with_its_key(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"^model\.system_prompt: holds '</s>', which the tok"):
        ChatEncoder(tokenizer, system_prompt="w1 </s><s>")


def test_truncated_keeps_the_first_tokens() -> None:
    row = TextRow(np.arange(6), np.arange(6) >= 3)

    assert row.truncated(5).ids.tolist() == [0, 1, 2, 3, 4]
    assert row.truncated(5).num_response_tokens == 2
    assert row.truncated(9).ids.tolist() == row.ids.tolist()


def test_a_plain_row_scores_where_a_response_token_comes_next() -> None:
    text = TextRow(np.array([10, 11, 12, 13, 14]), np.array([True, False, True, False, True]))

    row = plain_row("key", text)

    assert row.scored.tolist() == [1, 3]  # nothing predicts the first token
    assert row.targets.tolist() == [[12, 12], [14, 14]]
    assert row.target_weights.tolist() == [[1.0, 0.0], [1.0, 0.0]]
    assert row.num_scored == text.num_response_tokens
    assert row.is_plain
    assert row.mix == 1.0


def text_of(rng: np.random.Generator, length: tuple[int, int]) -> TextRow:
    prompt, response = length
    return TextRow(rng.integers(7, 107, prompt + response), np.arange(prompt + response) >= prompt)


def without_pad(ids: NDArray[np.int64] | None) -> list[int]:
    assert ids is not None
    return [int(token) for token in ids if token != PAD]


@given(first=lengths, second=lengths, weight=weights, seed=st.integers(0, 99))
def test_both_responses_of_a_mixed_row_start_at_the_same_position(
    first: tuple[int, int], second: tuple[int, int], weight: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    texts = text_of(rng, first), text_of(rng, second)
    start = max(first[0], second[0])

    row = mixed_row("key", *texts, weight=weight, pad=PAD)

    assert row.partner_ids is not None
    for ids, text, (prompt, response) in zip(
        (row.ids, row.partner_ids), texts, (first, second), strict=True
    ):
        assert ids[start : start + response].tolist() == text.ids[prompt:].tolist()
        assert ids[start - prompt : start].tolist() == text.ids[:prompt].tolist()
        assert without_pad(ids) == text.ids.tolist()
    assert row.num_tokens == len(row.partner_ids) == start + max(first[1], second[1])


@given(first=lengths, second=lengths, weight=weights, seed=st.integers(0, 99))
def test_a_mixed_row_scores_the_union_with_each_parents_own_share(
    first: tuple[int, int], second: tuple[int, int], weight: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    texts = text_of(rng, first), text_of(rng, second)
    start, length = max(first[0], second[0]), max(first[1], second[1])

    row = mixed_row("key", *texts, weight=weight, pad=PAD)

    assert row.mix == weight
    assert row.scored.tolist() == list(range(start - 1, start - 1 + length))
    for parent, share in enumerate((weight, 1 - weight)):
        prompt, response = (first, second)[parent]
        expected = [share] * response + [0.0] * (length - response)
        np.testing.assert_allclose(row.target_weights[:, parent], expected, rtol=1e-6)
        targets = row.targets[:response, parent].tolist()
        assert targets == texts[parent].ids[prompt:].tolist()


@given(first=lengths, second=lengths, weight=weights, seed=st.integers(0, 99))
def test_exchanging_the_parents_and_their_shares_exchanges_the_columns(
    first: tuple[int, int], second: tuple[int, int], weight: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    texts = text_of(rng, first), text_of(rng, second)

    row = mixed_row("key", *texts, weight=weight, pad=PAD)
    other = mixed_row("key", *texts[::-1], weight=1 - weight, pad=PAD)

    assert row.partner_ids is not None
    assert other.ids.tolist() == row.partner_ids.tolist()
    assert other.scored.tolist() == row.scored.tolist()
    assert other.targets[:, ::-1].tolist() == row.targets.tolist()
    np.testing.assert_allclose(other.target_weights[:, ::-1], row.target_weights, atol=1e-6)


@pytest.mark.parametrize(("weight", "parent"), [(1.0, 0), (0.0, 1)])
def test_a_mixed_row_with_an_extreme_share_is_the_plain_row(weight: float, parent: int) -> None:
    rng = np.random.default_rng(0)
    texts = text_of(rng, (3, 5)), text_of(rng, (6, 2))

    row = mixed_row("key", *texts, weight=weight, pad=PAD)

    plain = plain_row("key", texts[parent])
    assert row.is_plain
    assert row.ids.tolist() == plain.ids.tolist()
    assert row.targets.tolist() == plain.targets.tolist()
    assert row.target_weights.tolist() == plain.target_weights.tolist()


def test_a_prompt_between_two_responses_is_not_scored_for_its_parent() -> None:
    several = TextRow(np.arange(10, 16), np.array([0, 1, 0, 0, 1, 1], np.bool_))
    single = TextRow(np.arange(20, 26), np.array([0, 0, 1, 1, 1, 0], np.bool_))

    row = mixed_row("key", several, single, weight=0.25, pad=PAD)

    assert row.ids.tolist() == [PAD, 10, 11, 12, 13, 14, 15]
    assert row.partner_ids is not None
    assert row.partner_ids.tolist() == [20, 21, 22, 23, 24, 25, PAD]
    assert row.scored.tolist() == [1, 2, 3, 4, 5]
    first, second = row.target_weights.T.tolist()
    assert first == [0.25, 0.0, 0.0, 0.25, 0.25]
    assert second == [0.75, 0.75, 0.75, 0.0, 0.0]
