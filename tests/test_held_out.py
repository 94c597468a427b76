"""What is measured on held-out data, on a small model with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raise_mdit.config import DataConfig, EvaluationConfig, LearnerConfig
from raise_mdit.corpus import Corpus, read_corpus
from raise_mdit.encoding import ChatEncoder
from raise_mdit.errors import DataError
from raise_mdit.held_out import held_out_data, measure
from raise_mdit.learners.causal_lm import CausalLmLearner, build_learner
from raise_mdit.task_metrics import AnswerMetric, load_answer_metric

Make = Callable[..., Any]

EXAM = [
    {"question": f"w{i} w{i + 1}", "options": [f"w{i + 2}", f"w{i + 3} w{i + 4}"], "answer": i % 2}
    for i in range(0, 60, 5)
]
NOTES = [{"prompt": f"w{i} w9", "completion": f"w1 w{i} w{i + 1}"} for i in range(6)]


@pytest.fixture
def read(tmp_path: Path, tokenizer: Any) -> Callable[..., Corpus]:
    """Makes a corpus whose test has rows of the sources that are named."""

    def make(*test: str) -> Corpus:
        for name, rows in (("exam", EXAM), ("notes", NOTES)):
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (tmp_path / f"{name}.jsonl").write_text(text)
        exam = {"name": "exam", "kind": "dataset", "file": "exam.jsonl"}
        data = DataConfig.model_validate(
            {
                "root": str(tmp_path),
                "sources": (
                    {**exam, "format": "multiple_choice"},
                    {"name": "notes", "kind": "dataset", "file": "notes.jsonl"},
                ),
                "pool": ({"source": "exam", "rows": 2},),
                "reward_validation": ({"source": "exam", "rows": 2},),
                "test": tuple({"source": source, "rows": 5} for source in test),
                "decontaminate": False,
            }
        )
        return read_corpus(data, ChatEncoder(tokenizer), max_length=64, cache=tmp_path / "cache")

    return make


@pytest.fixture
def learner(random_llama: Make) -> CausalLmLearner:
    return build_learner(random_llama(), LearnerConfig(), precision="float32", seed=0)


def rows_of(corpus: Corpus, source: str) -> Sequence[Any]:
    return [each.row for each in corpus.splits["test"] if each.example.source == source]


def test_each_target_has_the_loss_of_its_own_rows(
    read: Callable[..., Corpus], learner: CausalLmLearner, tokenizer: Any
) -> None:
    corpus = read("notes", "exam")
    test = held_out_data(corpus, ChatEncoder(tokenizer), "test", metric=None, max_length=64)

    found = measure(test, learner)

    assert list(found.held_out.target_losses) == ["notes", "exam"]
    for source, loss in found.held_out.target_losses.items():
        assert loss == pytest.approx(learner.evaluate(rows_of(corpus, source)).loss, rel=1e-6)
    assert found.held_out.loss == learner.evaluate(corpus.encoded("test")).loss
    assert found.held_out.item_losses == tuple(learner.evaluate(corpus.encoded("test")).item_losses)
    assert found.held_out.item_tokens == tuple(row.num_scored for row in corpus.encoded("test"))
    assert found.held_out.item_targets == tuple(
        ["notes", "exam"].index(each.example.source) for each in corpus.splits["test"]
    )
    assert found.held_out.metric is None
    assert found.held_out.item_metrics is None


def test_the_likelihood_of_options_is_measured_at_its_own_cost(
    read: Callable[..., Corpus], learner: CausalLmLearner, tokenizer: Any
) -> None:
    corpus = read("exam")
    test = held_out_data(
        corpus, ChatEncoder(tokenizer), "test", metric="option_likelihood", max_length=64
    )
    assert test.options is not None
    losses = learner.evaluate(test.options.rows).item_losses.reshape(5, 2)
    answers = [each.example.response for each in corpus.splits["test"]]
    choices = [each.example.choices or () for each in corpus.splits["test"]]

    found = measure(test, learner)

    picked = [options[int(np.argmin(row))] for options, row in zip(choices, losses, strict=True)]
    expected = [one == other for one, other in zip(picked, answers, strict=True)]
    assert found.held_out.metric == sum(expected) / 5
    assert found.held_out.item_metrics == tuple(map(float, expected))
    assert set(expected) == {True, False}
    read_tokens = sum(row.num_tokens for row in (*test.items, *test.options.rows))
    assert found.cost.tokens == read_tokens


def test_exact_match_is_the_learners_own(
    read: Callable[..., Corpus], learner: CausalLmLearner, tokenizer: Any
) -> None:
    test = held_out_data(
        read("exam"), ChatEncoder(tokenizer), "test", metric="exact_match", max_length=64
    )

    found = measure(test, learner)

    evaluation = learner.evaluate(test.items)
    assert found.held_out.metric == evaluation.exact_match
    assert found.held_out.item_metrics == tuple(map(float, evaluation.item_exact))
    assert found.cost.tokens == evaluation.cost.tokens


def test_a_test_without_options_has_no_likelihood_of_options(
    read: Callable[..., Corpus], tokenizer: Any
) -> None:
    with pytest.raises(DataError, match=r"data\.test: 5 of 10 examples have no options .*'notes'"):
        held_out_data(
            read("exam", "notes"),
            ChatEncoder(tokenizer),
            "test",
            metric="option_likelihood",
            max_length=64,
        )


def test_generated_responses_are_scored_at_their_own_cost(
    read: Callable[..., Corpus], learner: CausalLmLearner, random_llama: Make, tokenizer: Any
) -> None:
    given: list[tuple[str, str, str]] = []

    def score(*texts: str) -> float:
        given.append((texts[0], texts[1], texts[2]))
        return len(given) / 100

    corpus = read("notes")
    answers = AnswerMetric(score, max_new_tokens=6)
    test = held_out_data(
        corpus, ChatEncoder(tokenizer), "test", metric="own:score", max_length=64, answers=answers
    )
    examples = [each.example for each in corpus.splits["test"]]
    assert given == [(each.prompt, each.response, each.response) for each in examples]
    given.clear()

    found = measure(test, learner)

    written = [greedy(random_llama(), tokenizer, each.prompt, 6) for each in examples]
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in written]
    expected = zip(examples, texts, strict=True)
    assert given == [(each.prompt, text, each.response) for each, text in expected]
    assert found.held_out.item_metrics == (0.01, 0.02, 0.03, 0.04, 0.05)
    assert found.held_out.metric == pytest.approx(0.03)
    losses = learner.evaluate(test.items)
    prompts = [len(prompt_ids(tokenizer, each.prompt)) for each in examples]
    assert found.cost.tokens == losses.cost.tokens + sum(prompts) + sum(map(len, written))
    assert found.cost.flops > losses.cost.flops


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    ids: list[int] = tokenizer(f"<user> {prompt} <assistant>", add_special_tokens=False).input_ids
    return ids


def greedy(model: Any, tokenizer: Any, prompt: str, num_new: int) -> list[int]:
    """New tokens to the end token at most, each read anew with all before it."""
    ids = prompt_ids(tokenizer, prompt)
    new: list[int] = []
    while len(new) < num_new and tokenizer.eos_token_id not in new:
        with torch.no_grad():
            new.append(int(model(input_ids=torch.tensor([ids + new])).logits[0, -1].argmax()))
    return new


def test_a_reference_that_cannot_be_scored_is_found_before_anything_is_generated(
    read: Callable[..., Corpus], tokenizer: Any
) -> None:
    answers = load_answer_metric(EvaluationConfig(task_metric="answer_match"))

    with pytest.raises(DataError, match=r"^evaluation\.extractor: gsm8k finds no answer in the re"):
        held_out_data(
            read("notes"),
            ChatEncoder(tokenizer),
            "test",
            metric="answer_match",
            max_length=512,
            answers=answers,
        )
