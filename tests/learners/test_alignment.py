"""Alignment against gradients of single rows by autograd, and torch's own FLOP counter."""

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
    mean_loss_of,
    moved_part,
    weights_of,
)
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from raise_mdit.config import FullConfig, LoraConfig, TopLayersConfig
from raise_mdit.core import EncodedRow
from raise_mdit.learners import alignment, losses
from raise_mdit.learners.alignment import GradientAlignment, Subspace, alignment_signal
from raise_mdit.learners.flops import flops_model, part_flops
from raise_mdit.learners.forward import LayeredForward
from raise_mdit.learners.trainable import TrainablePart
from raise_mdit.learners.trunk_cache import TrunkCache

Make = Callable[..., Any]

FULL = FullConfig(kind="full")
TOP = TopLayersConfig(kind="top_layers", layers=2)
TRAINABLE = [
    pytest.param(FULL, id="full"),
    pytest.param(LoraConfig(kind="lora", rank=4), id="lora"),
    pytest.param(LoraConfig(kind="lora", rank=4, layers=2, dropout=0.3), id="lora-top"),
    pytest.param(TOP, id="top_layers"),
]


def measured(
    model: Any,
    part: TrainablePart,
    candidates: Sequence[EncodedRow],
    validation: Sequence[EncodedRow],
    subspace: Subspace = "last_layer",
) -> NDArray[np.float32]:
    flops = part_flops(model, part.forward)
    aligned = GradientAlignment(part, None, flops=flops, subspace=subspace)
    return aligned.measure(candidates, validation)[0]


def explicit(
    weights: list[torch.nn.Parameter],
    loss: Callable[[EncodedRow], torch.Tensor],
    candidates: Sequence[EncodedRow],
    validation: Sequence[EncodedRow],
) -> NDArray[np.float32]:
    """The definition: one gradient for each row, by autograd."""
    required = [weight.requires_grad for weight in weights]
    for weight in weights:
        weight.requires_grad_(True)
    masses = torch.tensor([float(row.target_weights.sum()) for row in validation])
    total = (torch.stack([loss(row) for row in validation]) * masses).sum() / masses.sum()
    along = torch.autograd.grad(total, weights)
    products = [
        sum(
            (one * other).sum()
            for one, other in zip(torch.autograd.grad(loss(row), weights), along, strict=True)
        )
        for row in candidates
    ]
    for weight, was in zip(weights, required, strict=True):
        weight.requires_grad_(was)
    return np.array([float(product) for product in products], np.float32)


@pytest.mark.parametrize("subspace", SUBSPACES)
@pytest.mark.parametrize("trainable", TRAINABLE)
@pytest.mark.parametrize("name", WEIGHTS)
def test_products_are_those_of_explicit_gradients(
    name: str,
    trainable: Any,
    subspace: Subspace,
    make: Make,
    candidates: list[EncodedRow],
    validation: Sequence[EncodedRow],
) -> None:
    model = make(name)
    part = moved_part(model, trainable)

    found = measured(model, part, candidates, validation, subspace)

    weights = weights_of(model, part.forward.layers[-1], subspace)
    expected = explicit(weights, lambda row: mean_loss(model, row), candidates, validation)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).mean())


def test_cached_states_stand_for_the_layers_below(
    make: Make, candidates: list[EncodedRow], validation: Sequence[EncodedRow]
) -> None:
    model = make("llama")
    whole = flops_model(model, LayeredForward(model, split=0, precision="float32").layers)
    part = moved_part(model, TOP)
    cache = TrunkCache(part.forward, whole, store=None)
    flops = part_flops(model, part.forward)

    found, _ = GradientAlignment(part, cache, flops=flops).measure(candidates, validation)

    def loss(row: EncodedRow) -> torch.Tensor:
        final_1TH = part.forward.final(cache.states([row])[0], from_split=True)
        return mean_loss_of(model.lm_head(final_1TH)[0], row)

    weights = weights_of(model, part.forward.layers[-1], "last_linear")
    expected = explicit(weights, loss, candidates, validation)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).mean())


@pytest.mark.parametrize("trainable", TRAINABLE)
def test_half_precision_is_near_single_precision(
    trainable: Any, make: Make, candidates: list[EncodedRow], validation: Sequence[EncodedRow]
) -> None:
    model, other = make("llama"), make("llama")
    single, half = moved_part(model, trainable), moved_part(other, trainable, "bfloat16")

    found = measured(other, half, candidates, validation)

    expected = measured(model, single, candidates, validation)
    np.testing.assert_allclose(found, expected, rtol=0.05, atol=0.05 * np.abs(expected).mean())


def test_neither_padding_nor_the_cut_into_batches_and_chunks_matters(
    make: Make,
    candidates: list[EncodedRow],
    validation: Sequence[EncodedRow],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make("llama")
    part = moved_part(model, TOP)
    together = measured(model, part, candidates, validation)

    monkeypatch.setattr(alignment, "EVALUATION_TOKENS", 1)
    monkeypatch.setattr(losses, "CHUNK_LOGITS", 2 * 107)

    alone = measured(model, part, candidates, validation)
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-4 * np.abs(together).mean())


@pytest.mark.parametrize("subspace", SUBSPACES)
def test_the_only_validation_row_gets_its_squared_norm(
    subspace: Subspace, make: Make, candidates: list[EncodedRow]
) -> None:
    model, row = make("llama"), candidates[0]
    part = moved_part(model, TOP)

    found = measured(model, part, [row], [row], subspace)

    weights = weights_of(model, part.forward.layers[-1], subspace)
    gradients = torch.autograd.grad(mean_loss(model, row), weights)
    squared_norm = sum(float(gradient.square().sum()) for gradient in gradients)
    assert found.tolist() == pytest.approx([squared_norm], rel=1e-4)


@pytest.mark.parametrize("trainable", TRAINABLE)
def test_a_learner_that_was_measured_goes_on_as_if_it_had_not(
    trainable: Any, make: Make, candidates: list[EncodedRow], validation: Sequence[EncodedRow]
) -> None:
    rows = candidates[:4]
    never, asked = learner_of(make("llama"), trainable), learner_of(make("llama"), trainable)
    signal = alignment_signal(asked, validation)
    before = torch.get_rng_state()
    expected = [never.update(rows, progress=0.0).loss for _ in range(3)]
    expected.append(never.evaluate(rows).loss)

    found = []
    for _ in range(3):
        signal(candidates)
        found.append(asked.update(rows, progress=0.0).loss)

    assert [*found, asked.evaluate(rows).loss] == expected
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", WEIGHTS)
def test_no_gradient_and_no_hook_is_left_behind(
    name: str, make: Make, candidates: list[EncodedRow], validation: Sequence[EncodedRow]
) -> None:
    model = make(name)
    part = moved_part(model, TOP)
    required = [weight.requires_grad for weight in model.parameters()]

    measured(model, part, candidates, validation)

    assert [weight.requires_grad for weight in model.parameters()] == required
    assert all(weight.grad is None for weight in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_pass_that_fails_leaves_the_parameters_trainable(
    make: Make,
    candidates: list[EncodedRow],
    validation: Sequence[EncodedRow],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make("llama")
    part = moved_part(model, TOP)

    def fail(*_args: object, **_kwargs: object) -> None:
        raise MemoryError

    monkeypatch.setattr(losses, "backward", fail)
    with pytest.raises(MemoryError):
        measured(model, part, candidates, validation)

    assert all(parameter.requires_grad for parameter in part.parameters)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("subspace", "last_without"),
    [("last_layer", "self_attn.v_proj"), ("last_linear", "mlp.down_proj")],
)
def test_nothing_below_the_weights_builds_a_graph(
    subspace: Subspace,
    last_without: str,
    make: Make,
    candidates: list[EncodedRow],
    validation: Sequence[EncodedRow],
) -> None:
    model = make("llama")
    part = moved_part(model, FULL)
    flops = part_flops(model, part.forward)
    projections = {name: module for name, module in model.named_modules() if name.endswith("_proj")}
    without = set()

    def note(module: Any, _args: Any, output: torch.Tensor) -> None:
        if not output.requires_grad:
            without.add(module)

    for module in projections.values():
        module.register_forward_hook(note)  # before the hook under test marks its output

    GradientAlignment(part, None, flops=flops, subspace=subspace).measure(candidates, validation)

    number = list(projections).index(f"model.layers.3.{last_without}") + 1
    assert without == set(list(projections.values())[:number])


def test_signal_follows_the_learner(
    make: Make, candidates: list[EncodedRow], validation: Sequence[EncodedRow]
) -> None:
    tuned = learner_of(make("llama"), TOP)
    signal = alignment_signal(tuned, validation)
    start = signal(candidates)[0]
    saved = tuned.snapshot()
    tuned.update(candidates, progress=0.0)

    moved, _ = signal(candidates)

    assert not np.allclose(moved, start, rtol=1e-2)
    tuned.restore(saved)
    np.testing.assert_array_equal(signal(candidates)[0], start)


@pytest.mark.parametrize("subspace", SUBSPACES)
@pytest.mark.parametrize("trainable", TRAINABLE)
@pytest.mark.parametrize("name", WEIGHTS)
def test_counted_operations_agree_with_the_counter_of_torch(
    name: str,
    trainable: Any,
    subspace: Subspace,
    make: Make,
    candidates: list[EncodedRow],
    validation: Sequence[EncodedRow],
) -> None:
    model = make(name)
    model.set_attn_implementation("eager")  # torch counts no fused kernel of a CPU
    whole = flops_model(model, LayeredForward(model, split=0, precision="float32").layers)
    part = moved_part(model, trainable)
    cache = TrunkCache(part.forward, whole, store=None) if part.forward.split else None
    flops = part_flops(model, part.forward)
    aligned = GradientAlignment(part, cache, flops=flops, subspace=subspace)
    aligned.measure(candidates, validation)  # pays for the frozen layers

    with FlopCounterMode(display=False) as counter:
        _, cost = aligned.measure(candidates, validation)

    assert cost.flops == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_cost_names_every_row_that_was_read_and_owes_frozen_layers_once(
    make: Make, candidates: list[EncodedRow], validation: Sequence[EncodedRow]
) -> None:
    tuned = learner_of(make("llama"), TOP)
    signal = alignment_signal(tuned, validation)

    _, first = signal(candidates)
    _, second = signal(candidates)

    tokens = sum(row.num_tokens for row in [*candidates, *validation])
    assert first.tokens == second.tokens == tokens
    assert first.padded_tokens >= tokens
    assert tuned.trunk_cache is not None
    tuned.open_account()
    _, owed = tuned.trunk_cache.states([*candidates, *validation])
    assert first.flops - second.flops == pytest.approx(owed.flops)
    assert second.seconds > 0
