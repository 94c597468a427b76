"""The layered forward pass against each architecture's own, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from raise_mdit.config import LoraConfig
from raise_mdit.core import EncodedRow
from raise_mdit.encoding import mixed_row
from raise_mdit.errors import ModelError
from raise_mdit.learners import losses
from raise_mdit.learners.batches import Batch, collate
from raise_mdit.learners.flops import flops_model
from raise_mdit.learners.forward import LayeredForward, Precision, resolve_precision
from raise_mdit.learners.trainable import make_trainable
from raise_mdit.learners.trunk_cache import TrunkCache

Make = Callable[..., Any]
CPU = torch.device("cpu")

NUM_LAYERS = 4
SIZES: dict[str, Any] = {
    "vocab_size": 107,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
WINDOWED = {**SIZES, "head_dim": 8, "sliding_window": 4}
GPT2_SIZES: dict[str, Any] = {
    "vocab_size": 107,
    "n_embd": 32,
    "n_layer": NUM_LAYERS,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ARCHITECTURES = [
    pytest.param(LlamaConfig, SIZES, id="llama-random-weights"),
    pytest.param(Qwen2Config, SIZES, id="qwen2-random-weights"),
    pytest.param(Qwen3Config, {**SIZES, "head_dim": 8}, id="qwen3-random-weights"),
    pytest.param(Gemma2Config, WINDOWED, id="gemma2-random-weights"),
    pytest.param(Gemma3TextConfig, WINDOWED, id="gemma3-random-weights"),
    pytest.param(MistralConfig, {**SIZES, "sliding_window": 4}, id="mistral-random-weights"),
    pytest.param(GPT2Config, GPT2_SIZES, id="gpt2-random-weights"),
]
# Errors of the loss and of the gradient, by norm, when states are rounded to bfloat16. Three times
# the largest of the architectures above: 1.4e-5 and 0.0030 in float32, 7.5e-5 and 0.0096 under
# autocast (CPU).
CACHED_ERRORS: dict[Precision, tuple[float, float]] = {
    "float32": (5e-5, 0.009),
    "bfloat16": (2.3e-4, 0.029),  # a cosine of 0.9995 and more
}

each_architecture = pytest.mark.parametrize(("kind", "sizes"), ARCHITECTURES)


def random_model(kind: Any, sizes: dict[str, Any], *, tied: bool = True) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(kind(**sizes, tie_word_embeddings=tied))
    return model.requires_grad_(False).eval()


@pytest.fixture
def rows(random_rows: Make, random_text: Make) -> list[EncodedRow]:
    """Plain rows and, last, an interpolated one."""
    rng = np.random.default_rng(1)
    mixed = mixed_row("mixed", random_text(rng, 3, 4), random_text(rng, 9, 8), weight=0.3, pad=0)
    return [*random_rows(4), mixed]


def split_logits(forward: LayeredForward, batch: Batch) -> torch.Tensor:
    """Of the scored positions, entered at the split."""
    final_BTH = forward.final(forward.trunk(forward.embed(batch)), from_split=True)
    return forward.logits(final_BTH.flatten(0, 1)[batch.scored_R])


def num_hooks(model: nn.Module) -> int:
    return sum(
        len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()
    )


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@each_architecture
def test_entered_at_any_split_it_equals_the_models_own_forward(
    kind: Any, sizes: Any, tied: bool, rows: list[EncodedRow]
) -> None:
    model = random_model(kind, sizes, tied=tied)
    own = [model(input_ids=torch.tensor(row.ids)[None]).logits[0][row.scored] for row in rows[:-1]]
    batch = collate(rows[:-1], device=CPU)

    for split in range(NUM_LAYERS):
        logits = split_logits(LayeredForward(model, split=split, precision="float32"), batch)

        torch.testing.assert_close(logits, torch.cat(own), rtol=1e-4, atol=1e-5)


@each_architecture
def test_the_head_gives_the_models_own_logits_of_any_positions(
    kind: Any, sizes: Any, rows: list[EncodedRow]
) -> None:
    model, batch = random_model(kind, sizes), collate(rows[:-1], device=CPU)
    own = model(input_ids=batch.ids_BT).logits.flatten(0, 1)
    forward = LayeredForward(model, split=2, precision="float32")

    hidden = forward.final(forward.embed(batch), from_split=False).flatten(0, 1)

    for positions in ([5], [7, 0, 7], list(range(len(hidden)))):
        torch.testing.assert_close(forward.logits(hidden[positions]), own[positions])


@each_architecture
def test_an_interpolated_row_equals_the_models_own_forward_of_mixed_embeddings(
    kind: Any, sizes: Any, rows: list[EncodedRow]
) -> None:
    model, row = random_model(kind, sizes), rows[-1]
    assert row.partner_ids is not None
    table = model.get_input_embeddings()
    first, second = table(torch.tensor(row.ids)), table(torch.tensor(row.partner_ids))
    own = model(inputs_embeds=(row.mix * first + (1 - row.mix) * second)[None]).logits[0]
    batch = collate([row], device=CPU)

    for split in range(NUM_LAYERS):
        logits = split_logits(LayeredForward(model, split=split, precision="float32"), batch)

        torch.testing.assert_close(logits, own[row.scored], rtol=1e-4, atol=1e-5)


@each_architecture
def test_trunk_and_final_give_the_models_own_hidden_states(
    kind: Any, sizes: Any, rows: list[EncodedRow]
) -> None:
    model = random_model(kind, sizes)
    batch = collate(rows[:-1], device=CPU)
    own = model(input_ids=batch.ids_BT, output_hidden_states=True).hidden_states
    forward = LayeredForward(model, split=0, precision="float32")

    for split in range(NUM_LAYERS):
        forward.split = split
        states = forward.trunk(forward.embed(batch))
        final = forward.final(states, from_split=True)
        torch.testing.assert_close(states, own[split], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(final, own[-1], rtol=1e-4, atol=1e-5)


@each_architecture
def test_the_model_is_unchanged_afterwards(kind: Any, sizes: Any, rows: list[EncodedRow]) -> None:
    model = random_model(kind, sizes)
    forward = LayeredForward(model, split=2, precision="float32")
    batch = collate(rows, device=CPU)
    before = model(input_ids=batch.ids_BT).logits
    layers, members, hooks = forward.layers, list(forward.layers), num_hooks(model)

    split_logits(forward, batch)

    assert forward.layers is layers
    assert list(layers) == members
    assert num_hooks(model) == hooks
    assert torch.equal(model(input_ids=batch.ids_BT).logits, before)


@each_architecture
def test_the_model_is_unchanged_after_a_layer_fails(
    kind: Any, sizes: Any, rows: list[EncodedRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(kind, sizes)
    forward = LayeredForward(model, split=2, precision="float32")
    batch = collate(rows, device=CPU)
    states = forward.trunk(forward.embed(batch))
    layers, members, hooks = forward.layers, list(forward.layers), num_hooks(model)

    def fail(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("out of memory")

    for layer in (layers[1], layers[3]):
        monkeypatch.setattr(layer, "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        forward.final(states, from_split=True)
    with pytest.raises(RuntimeError, match="out of memory"):
        forward.trunk(forward.embed(batch))

    assert forward.layers is layers
    assert list(layers) == members
    assert num_hooks(model) == hooks


def test_the_layers_above_the_split_do_not_run_in_the_trunk(
    random_llama: Make, random_rows: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_llama()
    forward = LayeredForward(model, split=2, precision="float32")
    for module in (*forward.layers[2:], model.lm_head):
        monkeypatch.setattr(module, "forward", lambda *_args, **_kwargs: pytest.fail("it ran"))

    forward.trunk(forward.embed(collate(random_rows(2), device=CPU)))


def test_neither_layers_below_the_split_nor_the_head_run_from_the_split(
    random_llama: Make, random_rows: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_llama()
    forward = LayeredForward(model, split=2, precision="float32")
    states = forward.trunk(forward.embed(collate(random_rows(2), device=CPU)))
    for module in (*forward.layers[:2], model.lm_head):
        monkeypatch.setattr(module, "forward", lambda *_args, **_kwargs: pytest.fail("it ran"))

    forward.final(states, from_split=True)


def test_no_layer_runs_for_logits(random_llama: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = LayeredForward(random_llama(), split=2, precision="float32")
    for module in forward.layers:
        monkeypatch.setattr(module, "forward", lambda *_args, **_kwargs: pytest.fail("it ran"))

    assert forward.logits(torch.ones(5, 32)).shape == (5, forward.vocabulary_size)


def test_dropout_below_the_split_stays_off_in_training(random_rows: Make) -> None:
    dropout = {"embd_pdrop": 0.5, "resid_pdrop": 0.5, "attn_pdrop": 0.5}
    forward = LayeredForward(
        random_model(GPT2Config, {**GPT2_SIZES, **dropout}), split=2, precision="float32"
    )
    batch = collate(random_rows(3), device=CPU)
    expected = forward.trunk(forward.embed(batch))

    forward.set_training(True)

    assert torch.equal(forward.trunk(forward.embed(batch)), expected)


def test_dropout_above_the_split_is_on_in_training_alone(random_rows: Make) -> None:
    forward = LayeredForward(
        random_model(GPT2Config, {**GPT2_SIZES, "resid_pdrop": 0.5}), split=2, precision="float32"
    )
    batch = collate(random_rows(3), device=CPU)
    expected = split_logits(forward, batch)

    forward.set_training(True)
    with torch.random.fork_rng(devices=[]):
        dropped = split_logits(forward, batch)
    forward.set_training(False)

    assert not torch.allclose(dropped, expected)
    assert torch.equal(split_logits(forward, batch), expected)


def test_bfloat16_is_close_to_float32_and_gives_float32(
    random_llama: Make, random_rows: Make
) -> None:
    model, batch = random_llama(), collate(random_rows(3), device=CPU)
    exact = split_logits(LayeredForward(model, split=2, precision="float32"), batch)

    rounded = split_logits(LayeredForward(model, split=2, precision="bfloat16"), batch)

    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.02)


def autocast_logits(model: Any, batch: Batch) -> torch.Tensor:
    return split_logits(LayeredForward(model, split=2, precision="bfloat16"), batch)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@each_architecture
def test_frozen_weights_kept_in_bfloat16_leave_every_bit_of_the_logits(
    kind: Any, sizes: Any, tied: bool, rows: list[EncodedRow]
) -> None:
    model, batch = random_model(kind, sizes, tied=tied), collate(rows, device=CPU)
    expected = autocast_logits(model, batch)

    LayeredForward(model, split=2, precision="bfloat16").keep_frozen_weights_in_bfloat16()

    assert torch.equal(autocast_logits(model, batch), expected)


@each_architecture
def test_embeddings_and_trained_weights_stay_in_float32(kind: Any, sizes: Any) -> None:
    model = random_model(kind, sizes)
    forward = LayeredForward(model, split=2, precision="bfloat16")
    trained = list(forward.layers[2:].requires_grad_(True).parameters())
    table = model.get_input_embeddings().weight.clone()

    forward.keep_frozen_weights_in_bfloat16()

    assert torch.equal(model.get_input_embeddings().weight, table)
    assert {weight.dtype for weight in trained} == {torch.float32}
    assert model.get_output_embeddings().weight.dtype == torch.bfloat16
    frozen = {w.dtype for w in forward.layers[0].parameters() if w.dim() == 2}
    assert frozen == {torch.bfloat16}


@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
def test_a_precision_that_is_asked_for_is_taken(asked: Precision) -> None:
    assert resolve_precision(asked, CPU) == asked


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ({"amx_bf16": True, "avx512_bf16": False}, "bfloat16"),
        ({"amx_bf16": False, "avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": False, "avx512_bf16": False}, "float32"),
        ({}, "float32"),  # not such a processor at all
    ],
)
def test_auto_takes_bfloat16_where_the_processor_has_units_for_it(
    units: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)

    assert resolve_precision("auto", CPU) == expected


@pytest.mark.parametrize(("has_units", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_takes_bfloat16_where_the_gpu_has_units_for_it(
    has_units: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_units)

    assert resolve_precision("auto", torch.device("cuda")) == expected


# --- Exactness: what is learned from kept states is what the whole model learns.


class Step(NamedTuple):
    """What one batch says: the loss and the gradient of the top layers, flat."""

    loss: float
    gradient: torch.Tensor


def step(
    forward: LayeredForward, batch: Batch, hidden_BTH: torch.Tensor, *, from_split: bool
) -> Step:
    top = list(forward.layers[forward.split :].requires_grad_(True).parameters())
    final_BTH = forward.final(hidden_BTH, from_split=from_split)
    loss = losses.backward(forward, final_BTH, batch, label_mass=float(batch.weights_R2.sum()))
    gradients = [weight.grad for weight in top]
    flat = torch.cat([each.flatten() for each in gradients if each is not None])
    for weight in top:
        weight.grad = None
    return Step(loss.item(), flat)


def distance(found: Step, expected: Step) -> tuple[float, float]:
    """Relative error of the loss, and of the gradient by its norm."""
    error = (found.gradient - expected.gradient).norm() / expected.gradient.norm()
    return abs(found.loss / expected.loss - 1), float(error)


@each_architecture
def test_losses_and_gradients_from_float32_states_are_exact(
    kind: Any, sizes: Any, rows: list[EncodedRow]
) -> None:
    forward = LayeredForward(random_model(kind, sizes), split=2, precision="float32")
    batch = collate(rows, device=CPU)
    whole = step(forward, batch, forward.embed(batch), from_split=False)

    found = step(forward, batch, forward.trunk(forward.embed(batch)), from_split=True)

    assert distance(found, whole) == pytest.approx((0, 0), abs=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@each_architecture
def test_losses_and_gradients_from_cached_states_are_exact_to_bfloat16(
    kind: Any, sizes: Any, precision: Precision, rows: list[EncodedRow]
) -> None:
    model = random_model(kind, sizes)
    forward = LayeredForward(model, split=2, precision=precision)
    batch = collate(rows, device=CPU)
    whole = step(forward, batch, forward.embed(batch), from_split=False)

    states, _ = TrunkCache(forward, flops_model(model, forward.layers), store=None).states(rows)
    found = step(forward, batch, states, from_split=True)

    loss_error, gradient_error = distance(found, whole)
    most_of_loss, most_of_gradient = CACHED_ERRORS[precision]
    assert loss_error < most_of_loss
    assert 0 < gradient_error < most_of_gradient


class NoLayerList(PreTrainedModel):
    """A model whose layers are not in one list."""

    config_class = PretrainedConfig

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.first = nn.Linear(4, 4)
        self.others = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])


def test_an_unknown_architecture_is_the_users_mistake() -> None:
    config = PretrainedConfig.from_dict({"num_hidden_layers": 3})
    model = NoLayerList(config)

    with pytest.raises(ModelError, match=r"^model.name: no list of 3 layers found in NoLayerList"):
        LayeredForward(model, split=0, precision="float32")


def test_adapters_do_not_hide_the_layers(random_llama: Make) -> None:
    model = random_llama()
    members = list(model.model.layers)

    part = make_trainable(model, LoraConfig(kind="lora", rank=2), precision="float32", seed=0)

    assert list(part.forward.layers) == members
    assert list(LayeredForward(model, split=1, precision="float32").layers) == members
