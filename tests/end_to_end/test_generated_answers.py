"""SmolLM2-135M answers questions: in a batch with a cache as one after the other without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from raise_mdit.answer_prompts import encode_prompts
from raise_mdit.candidates import make_example
from raise_mdit.config import LearnerConfig
from raise_mdit.core import Message
from raise_mdit.encoding import ChatEncoder
from raise_mdit.learners.causal_lm import build_learner
from raise_mdit.learners.pretrained import EMBEDDED, load_pretrained

pytestmark = pytest.mark.model

NUM_NEW = 12
QUESTIONS = {
    "What is the capital of France? Answer with one word.": "Paris",
    "Count from one to five, in words, and write nothing else besides these words.": "one",
}


def test_the_embedded_model_answers_in_a_batch_as_one_by_one(model_cache: Path) -> None:
    pretrained = load_pretrained(EMBEDDED, cache=model_cache)
    prompts = encode_prompts(
        [
            make_example("mine", [Message("user", asked), Message("assistant", answer)])
            for asked, answer in QUESTIONS.items()
        ],
        ChatEncoder(pretrained.tokenizer),
        max_length=128,
        max_new_tokens=NUM_NEW,
        split="test",
    )
    learner = build_learner(pretrained.model, LearnerConfig(), precision="float32", seed=0)

    found = learner.generate(prompts.rows, max_new_tokens=NUM_NEW, end_ids=prompts.end_ids)

    for row, written in zip(prompts.rows, found.ids, strict=True):
        context = row.ids
        for token in written:
            ids = torch.from_numpy(context)[None]
            with torch.no_grad():
                logits = pretrained.model(input_ids=ids, use_cache=False).logits[0, -1]
            assert int(logits.argmax()) == token
            context = np.append(context, token)
        assert len(written) == NUM_NEW or written[-1] in prompts.end_ids
    assert len({row.num_tokens for row in prompts.rows}) == 2  # one is padded
    answers = prompts.answered(found.ids)
    assert "Paris" in answers[0].generated
    assert pretrained.tokenizer.eos_token not in answers[0].generated
