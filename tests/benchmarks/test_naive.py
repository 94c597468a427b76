"""The yardstick computes what the project's own learner computes, only otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from raise_mdit.benchmarks.learners import learner_config
from raise_mdit.benchmarks.naive import NaiveLearner
from raise_mdit.core import EncodedRow
from raise_mdit.learners.causal_lm import CausalLmLearner, build_learner

Rows = Callable[..., Sequence[EncodedRow]]


@pytest.fixture
def naive(random_llama: Callable[..., Any]) -> NaiveLearner:
    return NaiveLearner(
        random_llama(), rank=4, alpha=8.0, learning_rate=1e-2, precision="float32", seed=0
    )


@pytest.fixture
def ours(random_llama: Callable[..., Any]) -> CausalLmLearner:
    return build_learner(random_llama(), learner_config("lora", 2), precision="float32", seed=0)


def test_untrained_losses_are_those_of_our_learner(
    naive: NaiveLearner, ours: CausalLmLearner, random_rows: Rows
) -> None:
    rows = random_rows(11)  # more than one validation batch
    assert naive.evaluate(rows).loss == pytest.approx(ours.evaluate(rows).loss, rel=1e-3)
    losses = [learner.update(rows[:4], progress=0.0).loss for learner in (naive, ours)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_it_learns(naive: NaiveLearner, random_rows: Rows) -> None:
    rows = random_rows(4)
    before = naive.evaluate(rows).loss
    for _ in range(10):
        naive.update(rows, progress=0.0)
    assert naive.evaluate(rows).loss < before


def test_restoring_undoes_every_update(naive: NaiveLearner, random_rows: Rows) -> None:
    rows = random_rows(4)
    naive.update(rows, progress=0.0)
    start, loss = naive.snapshot(), naive.evaluate(rows).loss
    first = [naive.update(rows, progress=0.0).loss for _ in range(3)]
    naive.restore(start)
    assert naive.evaluate(rows).loss == loss
    assert [naive.update(rows, progress=0.0).loss for _ in range(3)] == first


def test_costs_count_padding_and_every_position(naive: NaiveLearner, random_rows: Rows) -> None:
    rows = random_rows(3)
    longest = max(row.num_tokens for row in rows)
    cost = naive.evaluate(rows).cost
    hidden, mlp, heads, vocabulary, layers, rank = 32, 64, 32 + 16 + 16 + 32, 107, 4, 4
    per_layer = hidden * heads + 3 * hidden * mlp
    adapters = rank * (2 * 64 + 2 * 48 + 3 * 96)  # q and o, k and v, gate, up and down
    attention = 4 * hidden * longest
    per_token = layers * (2 * (per_layer + adapters) + attention) + 2 * hidden * vocabulary
    assert cost.tokens == sum(row.num_tokens for row in rows)
    assert cost.padded_tokens == 3 * longest
    assert cost.flops == per_token * 3 * longest


def test_bfloat16_stays_near_float32(
    naive: NaiveLearner, random_llama: Callable[..., Any], random_rows: Rows
) -> None:
    half = NaiveLearner(
        random_llama(), rank=4, alpha=8.0, learning_rate=1e-2, precision="bfloat16", seed=0
    )
    rows = random_rows(4)
    loss = naive.evaluate(rows).loss
    assert half.evaluate(rows).loss == pytest.approx(loss, rel=2e-2)
