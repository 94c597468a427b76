"""Losses in chunks of positions against dense soft labels over all logits at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from raise_mdit.config import FullConfig, TopLayersConfig
from raise_mdit.core import EncodedRow
from raise_mdit.encoding import mixed_row
from raise_mdit.learners import losses
from raise_mdit.learners.batches import Batch, collate
from raise_mdit.learners.forward import LayeredForward
from raise_mdit.learners.trainable import make_trainable

Make = Callable[..., Any]
CPU = torch.device("cpu")

VOCABULARY = 107
FULL = FullConfig(kind="full")
TOP = TopLayersConfig(kind="top_layers", layers=2)
GEMMA2: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "final_logit_softcapping": 0.5,
}


@pytest.fixture(params=["llama", "llama-untied", "gemma2"])
def model(request: pytest.FixtureRequest, random_llama: Make) -> Any:
    """Random weights; Gemma 2 caps its logits behind the head."""
    if request.param != "gemma2":
        return random_llama(tied=request.param == "llama")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Gemma2ForCausalLM(Gemma2Config(**GEMMA2)).requires_grad_(False).eval()


@pytest.fixture
def rows(random_rows: Make, random_text: Make) -> list[EncodedRow]:
    """Plain rows and interpolated ones."""
    rng = np.random.default_rng(1)
    mixed = [
        mixed_row(f"mixed-{w}", random_text(rng, 3, 4), random_text(rng, 9, 8), weight=w, pad=0)
        for w in (0.3, 0.8)
    ]
    return [*random_rows(3), *mixed]


def dense_losses(model: Any, forward: LayeredForward, batch: Batch) -> torch.Tensor:
    """[R] by the model's own forward pass and a label for every word of the vocabulary."""
    logits_RV: torch.Tensor = model(inputs_embeds=forward.embed(batch)).logits.flatten(0, 1)[
        batch.scored_R
    ]
    label_RV = torch.zeros_like(logits_RV)
    for parent in (0, 1):
        label_RV.scatter_add_(
            1, batch.targets_R2[:, [parent]], batch.weights_R2[:, [parent]].to(label_RV.dtype)
        )
    dense_R: torch.Tensor = -(label_RV * logits_RV.log_softmax(-1)).sum(-1)
    return dense_R


def final(forward: LayeredForward, batch: Batch) -> torch.Tensor:
    return forward.final(forward.embed(batch), from_split=False)


@pytest.mark.parametrize("positions", [1, 3, 1000])
def test_losses_are_those_of_dense_soft_labels_at_any_chunk_size(
    positions: int, model: Any, rows: list[EncodedRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = LayeredForward(model, split=0, precision="float32")
    batch = collate(rows, device=CPU)
    expected = dense_losses(model, forward, batch)
    monkeypatch.setattr(losses, "CHUNK_LOGITS", positions * VOCABULARY)

    found = losses.score(forward, final(forward, batch), batch)

    torch.testing.assert_close(found.losses_R, expected, rtol=1e-5, atol=1e-6)
    likeliest = model(inputs_embeds=forward.embed(batch)).logits.argmax(-1).flatten()
    assert torch.equal(found.exact_R, likeliest[batch.scored_R] == batch.targets_R2[:, 0])


@pytest.mark.parametrize("positions", [1, 3, 1000])
@pytest.mark.parametrize("part", [FULL, TOP], ids=lambda part: part.kind)
def test_gradients_are_those_of_dense_soft_labels_at_any_chunk_size(
    positions: int, part: Any, model: Any, rows: list[EncodedRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = make_trainable(model, part, precision="float32", seed=0)
    forward, batch = trained.forward, collate(rows, device=CPU)
    expected = dense_losses(model, forward, batch).sum() / 3.0
    gradients = torch.autograd.grad(expected, trained.parameters)
    monkeypatch.setattr(losses, "CHUNK_LOGITS", positions * VOCABULARY)

    found = losses.backward(forward, final(forward, batch), batch, label_mass=3.0)

    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for weight, gradient in zip(trained.parameters, gradients, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("most", [1, VOCABULARY, 3 * VOCABULARY, 4 * VOCABULARY - 1])
def test_no_more_logits_stand_in_memory_than_a_chunk(
    most: int, random_llama: Make, rows: list[EncodedRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = LayeredForward(random_llama(), split=0, precision="float32")
    batch = collate(rows, device=CPU)
    handed_out: list[int] = []
    logits = LayeredForward.logits

    def note(self: LayeredForward, hidden_RH: torch.Tensor) -> torch.Tensor:
        given = logits(self, hidden_RH)
        handed_out.append(given.numel())
        return given

    monkeypatch.setattr(LayeredForward, "logits", note)
    monkeypatch.setattr(losses, "CHUNK_LOGITS", most)

    losses.score(forward, final(forward, batch), batch)
    scored = list(handed_out)
    leaf = final(forward, batch).requires_grad_()
    losses.backward(forward, leaf, batch, label_mass=1.0)

    assert max(handed_out) <= max(most, VOCABULARY)  # one position is the least
    assert scored == handed_out[len(scored) :]
    assert sum(scored) == len(batch.scored_R) * VOCABULARY


def row_losses(model: Any, rows: Sequence[EncodedRow]) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses of scored positions, and the gradient [B, T, H] of their sum by the embeddings."""
    forward = LayeredForward(model, split=0, precision="float32")
    batch = collate(rows, device=CPU)
    embeds_BTH = forward.embed(batch).requires_grad_()
    final_BTH = forward.final(embeds_BTH, from_split=False)
    losses.backward(forward, final_BTH, batch, label_mass=1.0)
    assert embeds_BTH.grad is not None
    return losses.score(forward, final_BTH, batch).losses_R, embeds_BTH.grad


@pytest.mark.parametrize("changed", range(5))
def test_changing_one_row_leaves_the_losses_and_gradients_of_all_others(
    changed: int, random_llama: Make, rows: list[EncodedRow]
) -> None:
    rng = np.random.default_rng(changed)
    others = list(rows)
    others[changed] = EncodedRow(
        key="changed",
        ids=rng.integers(7, VOCABULARY, rows[changed].num_tokens),
        scored=rows[changed].scored,
        targets=rows[changed].targets,
        target_weights=rows[changed].target_weights,
    )
    own_R = collate(rows, device=CPU).row_R == changed

    losses_R, gradient_BTH = row_losses(random_llama(), rows)
    other_losses_R, other_gradient_BTH = row_losses(random_llama(), others)

    torch.testing.assert_close(other_losses_R[~own_R], losses_R[~own_R], rtol=1e-6, atol=0)
    assert not torch.allclose(other_losses_R[own_R], losses_R[own_R])
    for index in range(len(rows)):
        same = torch.allclose(other_gradient_BTH[index], gradient_BTH[index], rtol=1e-5, atol=1e-7)
        assert same == (index != changed)


def test_a_batchs_gradient_is_the_sum_of_its_rows_own(
    random_llama: Make, rows: list[EncodedRow]
) -> None:
    part = make_trainable(random_llama(), TOP, precision="float32", seed=0)

    def gradient(some: Sequence[EncodedRow]) -> torch.Tensor:
        batch = collate(some, device=CPU)
        losses.backward(part.forward, final(part.forward, batch), batch, label_mass=7.0)
        flat = torch.cat(
            [weight.grad.flatten() for weight in part.parameters if weight.grad is not None]
        )
        for weight in part.parameters:
            weight.grad = None
        return flat

    together = gradient(rows)

    alone = torch.stack([gradient([row]) for row in rows]).sum(0)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)


def test_rows_are_told_apart_by_hand(random_rows: Make) -> None:
    rows = random_rows(3)
    batch = collate(rows, device=CPU)
    first, second, _ = (row.num_scored for row in rows)
    losses_R = torch.arange(len(batch.row_R), dtype=torch.float32)
    exact_R = torch.ones(len(batch.row_R), dtype=torch.bool)
    exact_R[first] = False  # the first position of the second row

    sums = losses.row_sums(losses_R, batch, 3)

    numbers = list(range(len(batch.row_R)))
    parts = (numbers[:first], numbers[first : first + second], numbers[first + second :])
    assert sums.tolist() == [sum(part) for part in parts]
    assert losses.rows_exact(exact_R, batch, 3).tolist() == [True, False, True]
