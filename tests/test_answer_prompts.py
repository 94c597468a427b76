"""Prompts that a model answers by itself: where they end, and where answers do."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from raise_mdit.answer_prompts import AnswerPrompts, encode_prompts
from raise_mdit.candidates import make_example
from raise_mdit.core import Example, Message, Role
from raise_mdit.encoding import ChatEncoder
from raise_mdit.errors import DataError, ModelError

CLOSING = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} "
    "{% if m['role'] == 'assistant' %}<system> w99 {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
"""Closes an assistant's turn by a special token that is not the tokenizer's end token."""


def example(*turns: str) -> Example:
    roles: tuple[Role, ...] = ("user", "assistant") * (len(turns) // 2)
    return make_example(
        "mine", [Message(role, text) for role, text in zip(roles, turns, strict=True)]
    )


def encoded(
    *examples: Example, tokenizer: Any, max_length: int = 64, max_new_tokens: int = 8
) -> AnswerPrompts:
    return encode_prompts(
        examples,
        ChatEncoder(tokenizer),
        max_length=max_length,
        max_new_tokens=max_new_tokens,
        split="test",
    )


def test_a_prompt_ends_where_the_last_response_begins(tokenizer: Any) -> None:
    several = example("w1", "w2 w3", "w4 w5", "w6")

    found = encoded(example("w1 w2", "w3"), several, tokenizer=tokenizer)

    texts = [
        "<user> w1 w2 <assistant>",
        "<user> w1 <assistant> w2 w3 </s> <user> w4 w5 <assistant>",
    ]
    expected = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    assert [row.ids.tolist() for row in found.rows] == expected
    assert [row.num_scored for row in found.rows] == [0, 0]


def test_a_prompt_is_what_the_template_opens_a_response_with(tokenizer: Any) -> None:
    several = example("w1", "w2 w3", "w4 w5", "w6")

    found = encoded(several, tokenizer=tokenizer)

    turns = [turn._asdict() for turn in several.messages[:-1]]
    opened = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    expected = tokenizer(opened, add_special_tokens=False).input_ids
    assert found.rows[0].ids.tolist() == expected


def test_a_response_ends_with_the_end_token(tokenizer: Any) -> None:
    found = encoded(example("w1", "w2"), tokenizer=tokenizer)

    assert found.end_ids == (tokenizer.eos_token_id,)


def test_a_response_ends_with_the_token_by_which_the_template_closes_a_turn(tokenizer: Any) -> None:
    closing = copy.deepcopy(tokenizer)
    closing.add_special_tokens({"additional_special_tokens": ["<system>"]})
    closing.chat_template = CLOSING

    found = encoded(example("w1", "w2"), tokenizer=closing)

    assert found.end_ids == (
        tokenizer.eos_token_id,
        tokenizer.convert_tokens_to_ids("<system>"),
    )


def test_a_tokenizer_without_any_end_is_the_users_error(tokenizer: Any) -> None:
    endless = copy.deepcopy(tokenizer)
    endless.chat_template = CLOSING.replace("<system>", "w98")
    endless.eos_token = None

    with pytest.raises(ModelError, match=r"^model\.name: the tokenizer has no end token"):
        encoded(example("w1", "w2"), tokenizer=endless)


def test_responses_are_read_without_special_tokens(tokenizer: Any) -> None:
    prompts = encoded(
        example("w1 w2", "w3 w4"), example("w5", "w6", "w7", "w8"), tokenizer=tokenizer
    )
    texts = ["w9 w10 </s>", "w11"]
    responses = [np.array(tokenizer(text, add_special_tokens=False).input_ids) for text in texts]

    found = prompts.answered(responses)

    assert [tuple(each) for each in found] == [
        ("w1 w2", "w9 w10", "w3 w4"),
        ("w5\nw6\nw7", "w11", "w8"),
    ]


def test_a_prompt_that_leaves_no_room_is_the_users_error(tokenizer: Any) -> None:
    examples = example("w1 w2", "w3"), example("w1 w2 w3", "w4")  # prompts of 4 and 5 tokens

    encoded(*examples, tokenizer=tokenizer, max_length=13)
    with pytest.raises(DataError) as caught:
        encoded(*examples, tokenizer=tokenizer, max_length=12)

    assert str(caught.value) == (
        "data.test: 1 of 2 prompts leave fewer than evaluation.max_new_tokens 8 of "
        "model.max_length 12 to the response, the longest has 5 tokens; raise model.max_length to "
        "13, or lower evaluation.max_new_tokens"
    )
