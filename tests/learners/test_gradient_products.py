"""Products of all candidates' gradients against gradients of single rows by autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from helpers.row_gradients import (
    SUBSPACES,
    WEIGHTS,
    learner_of,
    mean_loss,
    moved_part,
    weights_of,
)
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from raise_mdit.config import LoraConfig, TopLayersConfig
from raise_mdit.core import EncodedRow
from raise_mdit.learners import alignment
from raise_mdit.learners.alignment import GradientAlignment, Subspace, gradient_products
from raise_mdit.learners.flops import part_flops
from raise_mdit.learners.forward import Precision
from raise_mdit.learners.trainable import TrainablePart

Make = Callable[..., Any]
Measured = tuple[NDArray[np.float32], NDArray[np.float32]]

TOP = TopLayersConfig(kind="top_layers", layers=2)
TRAINABLE = [
    pytest.param(LoraConfig(kind="lora", rank=4, layers=2, dropout=0.3), id="lora"),
    pytest.param(TOP, id="top_layers"),
]


def aligned(
    model: Any, trainable: Any, *, subspace: Subspace, precision: Precision = "float32"
) -> tuple[GradientAlignment, TrainablePart]:
    """Products of a part that has moved away from its start, where adapters are zero."""
    part = moved_part(model, trainable, precision)
    flops = part_flops(model, part.forward)
    return GradientAlignment(part, None, flops=flops, subspace=subspace), part


def pairs(
    asked: GradientAlignment, candidates: Sequence[EncodedRow], validation: Sequence[EncodedRow]
) -> Measured:
    products, gram, _ = asked.measure_pairs(candidates, validation)
    return products, gram


def explicit(
    model: Any, part: TrainablePart, subspace: Subspace, rows: Sequence[EncodedRow]
) -> torch.Tensor:
    """Gradients of each row by autograd, flat, one below another."""
    weights = weights_of(model, part.forward.layers[-1], subspace)
    for weight in weights:
        weight.requires_grad_(True)
    gradients = [torch.autograd.grad(mean_loss(model, row), weights) for row in rows]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in gradients])


def assert_near(found: NDArray[np.float32], expected: NDArray[np.float32], rtol: float) -> None:
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * np.abs(expected).mean())


@pytest.mark.parametrize("subspace", SUBSPACES)
@pytest.mark.parametrize("trainable", TRAINABLE)
@pytest.mark.parametrize("name", WEIGHTS)
def test_pairs_are_products_of_explicit_gradients(
    name: str,
    trainable: Any,
    subspace: Subspace,
    make: Make,
    candidates: list[EncodedRow],
    validation: Sequence[EncodedRow],
) -> None:
    model = make(name)
    asked, part = aligned(model, trainable, subspace=subspace)

    _, gram = pairs(asked, candidates, validation)

    gradients = explicit(model, part, subspace, candidates)
    assert gram.dtype == np.float32
    assert_near(gram, (gradients @ gradients.T).numpy(), 1e-4)


@pytest.mark.parametrize("subspace", SUBSPACES)
def test_products_with_the_validation_gradient_are_those_measured_alone(
    subspace: Subspace,
    make: Make,
    candidates: list[EncodedRow],
    validation: Sequence[EncodedRow],
) -> None:
    asked, _ = aligned(make("llama"), TOP, subspace=subspace)

    products, _ = pairs(asked, candidates, validation)

    np.testing.assert_array_equal(products, asked.measure(candidates, validation)[0])


@pytest.mark.parametrize("subspace", SUBSPACES)
@pytest.mark.parametrize("tokens", [1, 7])
def test_the_size_of_blocks_does_not_matter(
    tokens: int,
    subspace: Subspace,
    make: Make,
    candidates: list[EncodedRow],
    validation: Sequence[EncodedRow],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, _ = aligned(make("llama"), TOP, subspace=subspace)
    _, whole = pairs(asked, candidates, validation)

    monkeypatch.setattr(alignment, "GRAM_TOKENS", tokens)
    _, in_blocks = pairs(asked, candidates, validation)

    assert_near(in_blocks, whole, 1e-5)


@pytest.mark.parametrize("subspace", SUBSPACES)
def test_neither_padding_nor_the_cut_into_batches_matters(
    subspace: Subspace,
    make: Make,
    candidates: list[EncodedRow],
    validation: Sequence[EncodedRow],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, _ = aligned(make("llama"), TOP, subspace=subspace)
    _, together = pairs(asked, candidates, validation)

    monkeypatch.setattr(alignment, "EVALUATION_TOKENS", 1)
    _, alone = pairs(asked, candidates, validation)

    assert_near(alone, together, 1e-4)


def test_a_pair_does_not_depend_on_the_other_candidates(
    make: Make, candidates: list[EncodedRow], validation: Sequence[EncodedRow]
) -> None:
    asked, _ = aligned(make("llama"), TOP, subspace="last_linear")
    _, whole = pairs(asked, candidates, validation)

    _, some = pairs(asked, [candidates[4], candidates[1]], validation)

    assert_near(some, whole[np.ix_([4, 1], [4, 1])], 1e-4)


def test_half_precision_is_near_single_precision(
    make: Make, candidates: list[EncodedRow], validation: Sequence[EncodedRow]
) -> None:
    single, _ = aligned(make("llama"), TOP, subspace="last_layer")
    half, _ = aligned(make("llama"), TOP, subspace="last_layer", precision="bfloat16")

    _, found = pairs(half, candidates, validation)

    assert_near(found, pairs(single, candidates, validation)[1], 0.05)


@pytest.mark.parametrize("subspace", SUBSPACES)
@pytest.mark.parametrize("name", WEIGHTS)
def test_operations_counted_for_pairs_agree_with_the_counter_of_torch(
    name: str,
    subspace: Subspace,
    make: Make,
    candidates: list[EncodedRow],
    validation: Sequence[EncodedRow],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(alignment, "GRAM_TOKENS", 16)
    model = make(name)
    model.set_attn_implementation("eager")  # torch counts no fused kernel of a CPU
    asked, _ = aligned(model, TOP, subspace=subspace)

    def counted(measure: Callable[..., Any]) -> tuple[float, float]:
        with FlopCounterMode(display=False) as counter:
            cost = measure(candidates, validation)[-1]
        return cost.flops, counter.get_total_flops()

    without, without_by_torch = counted(asked.measure)
    both, both_by_torch = counted(asked.measure_pairs)

    assert both - without == pytest.approx(both_by_torch - without_by_torch, rel=0.05)


def test_cost_names_every_row_once_and_owes_frozen_layers_once(
    make: Make, candidates: list[EncodedRow], validation: Sequence[EncodedRow]
) -> None:
    tuned = learner_of(make("llama"), TOP)
    measure = gradient_products(tuned, validation)

    _, _, first = measure(candidates)
    _, _, second = measure(candidates)

    assert first.tokens == sum(row.num_tokens for row in [*candidates, *validation])
    assert first.padded_tokens >= first.tokens == second.tokens
    assert tuned.trunk_cache is not None
    tuned.open_account()
    owed = tuned.trunk_cache.charge([*candidates, *validation])
    assert first.flops - second.flops == pytest.approx(owed.flops)


def test_a_learner_that_was_measured_goes_on_as_if_it_had_not(
    make: Make, candidates: list[EncodedRow], validation: Sequence[EncodedRow]
) -> None:
    never, asked = learner_of(make("llama"), TOP), learner_of(make("llama"), TOP)
    measure = gradient_products(asked, validation)
    before = torch.get_rng_state()
    never.evaluate([*candidates, *validation])  # fills the same batches of frozen layers
    asked.evaluate([*candidates, *validation])
    expected = [never.update(candidates, progress=0.0).loss for _ in range(3)]

    found = []
    for _ in range(3):
        measure(candidates)
        found.append(asked.update(candidates, progress=0.0).loss)

    assert found == expected
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in asked.part.parameters)


def test_products_follow_the_learner(
    make: Make, candidates: list[EncodedRow], validation: Sequence[EncodedRow]
) -> None:
    tuned = learner_of(make("llama"), TOP)
    measure = gradient_products(tuned, validation)
    _, start, _ = measure(candidates)
    saved = tuned.snapshot()
    tuned.update(candidates, progress=0.0)

    _, moved, _ = measure(candidates)

    assert not np.allclose(moved, start, rtol=1e-2)
    tuned.restore(saved)
    np.testing.assert_array_equal(measure(candidates)[1], start)
