"""Small models and rows whose gradients are compared with those by autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from raise_mdit.core import EncodedRow
from raise_mdit.encoding import mixed_row

Make = Callable[..., Any]


@pytest.fixture
def make(random_llama: Make) -> Make:
    """Makes a small model of random weights; GPT-2 has dropout, and weights the other way round."""

    def gpt2() -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = GPT2LMHeadModel(
                GPT2Config(vocab_size=107, n_embd=32, n_layer=4, n_head=4, n_positions=128)
            )
        return model.requires_grad_(False)

    return lambda name: random_llama() if name == "llama" else gpt2()


@pytest.fixture
def candidates(random_rows: Make, random_text: Make) -> list[EncodedRow]:
    """Plain and interpolated rows of many lengths."""
    rng = np.random.default_rng(1)
    first, second = random_text(rng, 4, 6), random_text(rng, 9, 3)
    return [*random_rows(5), mixed_row("mixed", first, second, weight=0.3, pad=0)]


@pytest.fixture
def validation(random_rows: Make) -> Sequence[EncodedRow]:
    """Rows that candidates are compared with."""
    rows: Sequence[EncodedRow] = random_rows(3, seed=7)
    return rows
