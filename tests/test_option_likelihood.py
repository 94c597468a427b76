"""Options by their likelihood: against log-likelihoods of whole sequences, and by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from raise_mdit.candidates import make_example
from raise_mdit.config import LearnerConfig, TopLayersConfig
from raise_mdit.core import Example, Message
from raise_mdit.encoding import ChatEncoder
from raise_mdit.errors import DataError
from raise_mdit.learners.causal_lm import CausalLmLearner, build_learner
from raise_mdit.option_likelihood import OptionRows, encode_options

Make = Callable[..., Any]


def question(prompt: str, right: str, *choices: str) -> Example:
    turns = [Message("user", prompt), Message("assistant", right)]
    return make_example("mine", turns, choices=choices)


QUESTIONS = [
    question("w1 w2", "w3 w4", "w5", "w3 w4", "w6 w7 w8"),
    question("w9", "w10", "w11 w12", "w10"),
    question("w13 w14 w15", "w16 w17", "w18", "w19", "w20 w21", "w16 w17"),
]


def encoded(*examples: Example, tokenizer: Any, max_length: int = 64) -> OptionRows:
    return encode_options(examples, ChatEncoder(tokenizer), max_length=max_length, split="test")


@pytest.fixture
def learner(random_llama: Make) -> CausalLmLearner:
    part = TopLayersConfig(kind="top_layers", layers=4)
    config = LearnerConfig(trainable=part)
    return build_learner(random_llama(), config, precision="float32", seed=0)


def mean_loss(model: Any, tokenizer: Any, prompt: str, option: str) -> float:
    """Minus the mean log-likelihood of an option's tokens and its end, one after the other."""
    context = tokenizer(f"<user> {prompt} <assistant>", add_special_tokens=False).input_ids
    option_ids = tokenizer(f"{option} </s>", add_special_tokens=False).input_ids
    total = 0.0
    for token in option_ids:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([context])).logits[0, -1]
        total -= float(torch.log_softmax(logits.double(), dim=0)[token])
        context = [*context, token]
    return total / len(option_ids)


def test_losses_are_those_of_each_option_after_the_same_prompt(
    learner: CausalLmLearner, random_llama: Make, tokenizer: Any
) -> None:
    model = random_llama()
    expected = [
        mean_loss(model, tokenizer, each.prompt, option)
        for each in QUESTIONS
        for option in each.choices or ()
    ]

    options = encoded(*QUESTIONS, tokenizer=tokenizer)

    assert learner.evaluate(options.rows).item_losses == pytest.approx(expected, rel=1e-5)


def test_the_answer_is_the_option_with_the_least_loss(
    learner: CausalLmLearner, random_llama: Make, tokenizer: Any
) -> None:
    """Each question in turn has each of its options for the right one."""
    model = random_llama()
    for each in QUESTIONS:
        choices = each.choices or ()
        losses = [mean_loss(model, tokenizer, each.prompt, option) for option in choices]
        found = []
        for right in choices:
            options = encoded(question(each.prompt, right, *choices), tokenizer=tokenizer)
            found.append(options.accuracy(learner.evaluate(options.rows).item_losses))
        assert found == [float(loss == min(losses)) for loss in losses]


def test_accuracy_is_the_share_of_right_answers_and_ties_go_to_the_first(tokenizer: Any) -> None:
    options = encoded(*QUESTIONS, tokenizer=tokenizer)

    # Wrong by a tie that the first wins, right by such a tie, right alone.
    losses = np.array([1.0, 1.0, 2.0, 3.0, 3.0, 5.0, 4.0, 4.0, 0.5])
    assert options.right.tolist() == [1, 4, 8]
    assert options.items_right(losses).tolist() == [False, False, True]
    assert options.accuracy(losses) == 1 / 3
    losses[[0, 4]] = 1.5, 2.5
    assert options.accuracy(losses) == 1.0


def test_an_option_that_is_listed_twice_is_one(tokenizer: Any) -> None:
    options = encoded(question("w1", "w2", "w3", "w2", "w2"), tokenizer=tokenizer)

    assert len({row.key for row in options.rows}) == len(options.rows) == 2
    assert options.accuracy(np.array([2.0, 1.0])) == 1.0


def test_the_right_option_is_the_row_that_is_trained_and_tested_on(tokenizer: Any) -> None:
    options = encoded(*QUESTIONS, tokenizer=tokenizer)

    for right, each in zip(options.right, QUESTIONS, strict=True):
        (text,) = ChatEncoder(tokenizer).encode([each.messages])
        assert options.rows[right].key == each.id
        assert options.rows[right].ids.tolist() == text.ids.tolist()


def test_examples_without_options_are_the_users_error(tokenizer: Any) -> None:
    plain = make_example("notes", [Message("user", "w1\nw2"), Message("assistant", "w3")])

    with pytest.raises(DataError) as caught:
        encoded(QUESTIONS[0], plain, tokenizer=tokenizer)

    assert str(caught.value).startswith(
        "data.test: 1 of 2 examples have no options to choose from (source 'notes': 'w1 w2'...)"
    )


def test_an_option_that_does_not_fit_is_the_users_error(tokenizer: Any) -> None:
    encoded(*QUESTIONS, tokenizer=tokenizer, max_length=8)
    with pytest.raises(DataError, match=r"data\.test: 3 of 9 options are longer .* longest has 8"):
        encoded(*QUESTIONS, tokenizer=tokenizer, max_length=7)
