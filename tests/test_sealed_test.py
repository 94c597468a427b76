"""What the sealed test measures, on a small model with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raise_mdit.config import DataConfig, LearnerConfig
from raise_mdit.corpus import Corpus, read_corpus
from raise_mdit.encoding import ChatEncoder
from raise_mdit.errors import DataError
from raise_mdit.learners.causal_lm import CausalLmLearner, build_learner
from raise_mdit.sealed_test import open_test, sealed_test

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
    test = sealed_test(corpus, ChatEncoder(tokenizer), metric=None, max_length=64)

    found = open_test(test, learner)

    assert list(found.target_losses) == ["notes", "exam"]
    for source, loss in found.target_losses.items():
        assert loss == pytest.approx(learner.evaluate(rows_of(corpus, source)).loss, rel=1e-6)
    assert found.loss == learner.evaluate(corpus.encoded("test")).loss
    assert found.metric is None


def test_the_likelihood_of_options_is_measured_at_its_own_cost(
    read: Callable[..., Corpus], learner: CausalLmLearner, tokenizer: Any
) -> None:
    corpus = read("exam")
    test = sealed_test(corpus, ChatEncoder(tokenizer), metric="option_likelihood", max_length=64)
    assert test.options is not None
    losses = learner.evaluate(test.options.rows).item_losses.reshape(5, 2)
    answers = [each.example.response for each in corpus.splits["test"]]
    choices = [each.example.choices or () for each in corpus.splits["test"]]

    found = open_test(test, learner)

    picked = [options[int(np.argmin(row))] for options, row in zip(choices, losses, strict=True)]
    expected = [one == other for one, other in zip(picked, answers, strict=True)]
    assert found.metric == sum(expected) / 5
    assert set(expected) == {True, False}
    read_tokens = sum(row.num_tokens for row in (*test.items, *test.options.rows))
    assert found.cost.tokens == read_tokens


def test_exact_match_is_the_learners_own(
    read: Callable[..., Corpus], learner: CausalLmLearner, tokenizer: Any
) -> None:
    test = sealed_test(read("exam"), ChatEncoder(tokenizer), metric="exact_match", max_length=64)

    assert open_test(test, learner).metric == learner.evaluate(test.items).exact_match


def test_a_test_without_options_has_no_likelihood_of_options(
    read: Callable[..., Corpus], tokenizer: Any
) -> None:
    with pytest.raises(DataError, match=r"data\.test: 5 of 10 examples have no options .*'notes'"):
        sealed_test(
            read("exam", "notes"),
            ChatEncoder(tokenizer),
            metric="option_likelihood",
            max_length=64,
        )
