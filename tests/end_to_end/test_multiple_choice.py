"""CommonsenseQA and the embedded SmolLM2-135M: what it knows before any training."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from raise_mdit.config import DatasetSource, LearnerConfig
from raise_mdit.core import Example
from raise_mdit.encoding import ChatEncoder
from raise_mdit.learners.causal_lm import build_learner
from raise_mdit.learners.pretrained import EMBEDDED, load_pretrained
from raise_mdit.option_likelihood import encode_options
from raise_mdit.sources.records import read_source

pytestmark = [pytest.mark.model, pytest.mark.shared]

NUM_QUESTIONS = 16
CHANCE = 1 / 5


@pytest.fixture
def questions(shared_data: Path) -> list[Example]:
    """The first of CommonsenseQA's validation, of five options each."""
    source = DatasetSource(
        name="commonsense",
        kind="dataset",
        file="commonsense_qa/validation.jsonl",
        format="multiple_choice",
    )
    rows = read_source(source, root=str(shared_data), on_bad_row="skip").examples
    return list(rows[:NUM_QUESTIONS])


def test_the_untuned_model_answers_above_chance_minus_noise(
    questions: list[Example], model_cache: Path
) -> None:
    pretrained = load_pretrained(EMBEDDED, cache=model_cache)
    learner = build_learner(pretrained.model, LearnerConfig(), precision="float32", seed=0)
    encoder = ChatEncoder(pretrained.tokenizer)
    options = encode_options(questions, encoder, max_length=128, split="test")
    assert len(options.rows) >= 4 * NUM_QUESTIONS  # an option that is listed twice is one

    accuracy = options.accuracy(learner.evaluate(options.rows).item_losses)

    noise = math.sqrt(CHANCE * (1 - CHANCE) / NUM_QUESTIONS)
    assert CHANCE - noise < accuracy < 1


def test_the_first_question_reads_as_it_was_published(questions: list[Example]) -> None:
    first = questions[0]

    assert first.prompt.endswith(
        "at a what?\nA. bank\nB. library\nC. department store\nD. mall\nE. new york"
    )
    assert first.response == "bank"
    assert first.choices == ("bank", "library", "department store", "mall", "new york")
