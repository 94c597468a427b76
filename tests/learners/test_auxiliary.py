"""The auxiliary model's numbers against plain transformers, by its own tokenizer."""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raise_mdit.candidates import make_example
from raise_mdit.core import Example, Message
from raise_mdit.errors import ModelError
from raise_mdit.features import ExampleFeatures
from raise_mdit.learners import auxiliary, pretrained
from raise_mdit.learners.auxiliary import measure_by_auxiliary

Make = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path, random_llama: Make, tokenizer: Any) -> Path:
    """A model with a context of 128 tokens and its tokenizer."""
    random_llama(seed=5).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def measured(folder: Path, tmp_path: Path) -> Callable[..., ExampleFeatures]:
    """Measures by the model in the folder."""
    return functools.partial(
        measure_by_auxiliary,
        str(folder),
        system_prompt=None,
        max_length=128,
        device="cpu",
        precision="float32",
        cache=tmp_path,
        advance=lambda _done: None,
    )


def example(prompt: str, response: str) -> Example:
    return make_example("mine", [Message("user", prompt), Message("assistant", response)])


def log_prob(model: Any, tokenizer: Any, prompt: str, response: str) -> float:
    """Mean over the response's tokens, the end token included."""
    before, behind = (tokenizer(text)["input_ids"] for text in (prompt, response))
    ids = torch.tensor(before + behind)[None]
    log_probs = model(input_ids=ids).logits[0].log_softmax(-1)
    each = [log_probs[len(before) - 1 + i, token].item() for i, token in enumerate(behind)]
    return float(np.mean(each))


def test_the_auxiliary_model_reads_by_its_own_tokenizer(
    measured: Make, random_llama: Make, tokenizer: Any
) -> None:
    found = measured([example("w1 w2", "w3 w4 w5"), example("w6", "w7")])

    expected = [
        log_prob(random_llama(seed=5), tokenizer, "<user> w1 w2 <assistant>", "w3 w4 w5 </s>"),
        log_prob(random_llama(seed=5), tokenizer, "<user> w6 <assistant>", "w7 </s>"),
    ]
    assert found.names == ("conditional_log_prob", "response_log_prob")
    np.testing.assert_allclose(found.columns[:, 0], expected, rtol=1e-5)


def test_the_system_prompt_is_read_too(measured: Make, random_llama: Make, tokenizer: Any) -> None:
    found = measured([example("w1", "w2")], system_prompt="w9")

    prompt = "<system> w9 <user> w1 <assistant>"
    expected = log_prob(random_llama(seed=5), tokenizer, prompt, "w2 </s>")
    assert found.columns[0, 0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("max_length", "tokens"),
    [pytest.param(16, 16, id="by the limit"), pytest.param(500, 128, id="by the context")],
)
def test_a_long_row_is_cut(measured: Make, max_length: int, tokens: int) -> None:
    long = example("w1", " ".join(["w2"] * 300))

    found = measured([long], max_length=max_length)

    # Of the first pass and of the second: a start token, and no "<user> w1 <assistant>".
    assert found.cost.tokens == tokens + (1 + tokens - 3)


def test_a_prompt_that_leaves_no_room_is_cut_on_its_left(
    measured: Make, random_llama: Make, tokenizer: Any
) -> None:
    words = [f"w{i}" for i in range(40)]

    found = measured([example(" ".join(words), "w50")], max_length=16)

    prompt = " ".join([*words[-13:], "<assistant>"])  # and the response's two tokens
    expected = log_prob(random_llama(seed=5), tokenizer, prompt, "w50 </s>")
    assert found.columns[0, 0] == pytest.approx(expected, rel=1e-5)


def test_the_model_is_gone_afterwards(measured: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    models: list[weakref.ref[Any]] = []

    def remembered(*args: Any, **kwargs: Any) -> Any:
        loaded = pretrained.load_pretrained(*args, **kwargs)
        models.append(weakref.ref(loaded.model))
        return loaded

    monkeypatch.setattr(auxiliary, "load_pretrained", remembered)
    measured([example("w1", "w2")])

    gc.collect()
    assert [model() for model in models] == [None]


def test_a_missing_model_is_named_by_its_key(measured: Make, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^features.auxiliary_model: .*nothing.gguf"):
        measure_by_auxiliary(
            str(tmp_path / "nothing.gguf"),
            [example("w1", "w2")],
            **{**measured.keywords, "max_length": 16},  # type: ignore[attr-defined]
        )
