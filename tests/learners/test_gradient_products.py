"""Products of all candidates' gradients against gradients of single rows by autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel

from raise_mdit.config import LearnerConfig, LoraConfig, TopLayersConfig
from raise_mdit.core import EncodedRow
from raise_mdit.encoding import mixed_row
from raise_mdit.learners import alignment
from raise_mdit.learners.alignment import GradientAlignment, Subspace, gradient_products
from raise_mdit.learners.causal_lm import CausalLmLearner, build_learner
from raise_mdit.learners.flops import part_flops
from raise_mdit.learners.forward import Precision
from raise_mdit.learners.trainable import TrainablePart, make_trainable

Make = Callable[..., Any]
Measured = tuple[NDArray[np.float32], NDArray[np.float32]]

TOP = TopLayersConfig(kind="top_layers", layers=2)
TRAINABLE = [
    pytest.param(LoraConfig(kind="lora", rank=4, layers=2, dropout=0.3), id="lora"),
    pytest.param(TOP, id="top_layers"),
]
SUBSPACES: tuple[Subspace, ...] = ("last_layer", "last_linear")
WEIGHTS = {
    "llama": [
        *(f"self_attn.{name}_proj" for name in "qkvo"),
        *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    ],
    "gpt2": ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"],
}


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
    rows: Sequence[EncodedRow] = random_rows(3, seed=7)
    return rows


def aligned(
    model: Any, trainable: Any, *, subspace: Subspace, precision: Precision = "float32"
) -> tuple[GradientAlignment, TrainablePart]:
    """Products of a part that has moved away from its start, where adapters are zero."""
    part = make_trainable(model, trainable, precision=precision, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in part.parameters:
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    flops = part_flops(model, part.forward)
    return GradientAlignment(part, None, flops=flops, subspace=subspace), part


def pairs(
    asked: GradientAlignment, candidates: Sequence[EncodedRow], validation: Sequence[EncodedRow]
) -> Measured:
    products, gram, _ = asked.measure_pairs(candidates, validation)
    return products, gram


def mean_loss(model: Any, row: EncodedRow) -> torch.Tensor:
    """A row alone through the model's own forward pass, all logits."""
    table = model.get_input_embeddings().weight
    partner_ids = row.ids if row.partner_ids is None else row.partner_ids
    embeds = row.mix * table[row.ids] + (1 - row.mix) * table[partner_ids]
    logits: torch.Tensor = model(inputs_embeds=embeds[None]).logits[0]
    log_probs = logits.log_softmax(-1)
    weights = torch.tensor(row.target_weights)
    scored = log_probs[torch.tensor(row.scored)].gather(1, torch.tensor(row.targets))
    return -(weights * scored).sum() / weights.sum()


def explicit(
    model: Any, part: TrainablePart, subspace: Subspace, rows: Sequence[EncodedRow]
) -> torch.Tensor:
    """Gradients of each row by autograd, flat, one below another."""
    names = WEIGHTS[model.config.model_type]
    modules: list[Any] = [
        part.forward.layers[-1].get_submodule(name)
        for name in (names if subspace == "last_layer" else names[-1:])
    ]
    weights = [getattr(module, "base_layer", module).weight for module in modules]
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


def learner(model: Any) -> CausalLmLearner:
    config = LearnerConfig(trainable=TOP, learning_rate=1e-2)
    return build_learner(model, config, precision="float32", seed=0)


def test_cost_names_every_row_once_and_owes_frozen_layers_once(
    make: Make, candidates: list[EncodedRow], validation: Sequence[EncodedRow]
) -> None:
    tuned = learner(make("llama"))
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
    never, asked = learner(make("llama")), learner(make("llama"))
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
    tuned = learner(make("llama"))
    measure = gradient_products(tuned, validation)
    _, start, _ = measure(candidates)
    saved = tuned.snapshot()
    tuned.update(candidates, progress=0.0)

    _, moved, _ = measure(candidates)

    assert not np.allclose(moved, start, rtol=1e-2)
    tuned.restore(saved)
    np.testing.assert_array_equal(measure(candidates)[1], start)
