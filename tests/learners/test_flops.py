"""Counted FLOPs against torch's own counter around the real passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from raise_mdit.config import FullConfig, LoraConfig, TopLayersConfig
from raise_mdit.encoding import TextRow, plain_row
from raise_mdit.learners import losses
from raise_mdit.learners.batches import Batch, collate
from raise_mdit.learners.flops import flops_model, part_flops, whole_lora_flops
from raise_mdit.learners.forward import LayeredForward
from raise_mdit.learners.trainable import make_trainable

Make = Callable[..., Any]

TOLERANCE = 0.001  # we agree to the last product; some transformers rotate by a small one
VOCABULARY = 800
LENGTHS = [(40, 24), (9, 30), (50, 3)]  # prompt and answer of each row, in tokens

COMMON: dict[str, Any] = dict(
    vocab_size=VOCABULARY,
    hidden_size=96,
    intermediate_size=256,
    num_hidden_layers=4,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=128,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**COMMON, tie_word_embeddings=True)),
    "llama-untied": lambda: LlamaForCausalLM(LlamaConfig(**COMMON, tie_word_embeddings=False)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**COMMON)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**COMMON, head_dim=32, sliding_window=16)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**COMMON, head_dim=32)),
    "olmo2": lambda: Olmo2ForCausalLM(Olmo2Config(**COMMON)),  # no norm before its projections
    # The CPU's fused kernel has no dropout: with it, attention would be eager in training.
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_embd=96, n_layer=4, n_head=6, n_positions=128, attn_pdrop=0
        )
    ),
}
ATTENTION = [
    *((name, "eager") for name in MODELS),
    *((name, "sdpa") for name in ("llama", "gemma3", "gpt2")),
]
TRAINABLE: dict[str, Any] = {
    "full": FullConfig(kind="full"),
    "lora": LoraConfig(kind="lora", rank=8),
    "lora-top": LoraConfig(kind="lora", rank=8, layers=2, dropout=0.1),
    "top_layers": TopLayersConfig(kind="top_layers", layers=2),
}


def count_sdpa(query: Any, key: Any, value: Any, *_args: Any, **_kwargs: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def count_sdpa_backward(
    grad_out: Any, query: Any, key: Any, value: Any, *_args: Any, **_kwargs: Any
) -> int:
    return int(sdpa_backward_flop_count(grad_out, query, key, value))


ATEN: Any = torch.ops.aten
CPU_KERNELS = {  # torch registers its formulas for the kernels of GPUs alone
    ATEN._scaled_dot_product_flash_attention_for_cpu: count_sdpa,
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward: count_sdpa_backward,
}


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes a model with random weights; the global generator is left alone."""

    def random_model(name: str, attention: str) -> Any:
        model = MODELS[name]()
        model.set_attn_implementation(attention)
        return model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield random_model


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Rows of different lengths, so that there is padding."""
    rng = np.random.default_rng(0)
    texts = [
        TextRow(rng.integers(3, VOCABULARY, prompt + answer), np.arange(prompt + answer) >= prompt)
        for prompt, answer in LENGTHS
    ]
    rows = [plain_row(f"row-{index}", text) for index, text in enumerate(texts)]
    return collate(rows, device=torch.device("cpu"))


def sizes(batch: Batch) -> dict[str, int]:
    rows, length = batch.ids_BT.shape
    return dict(rows=rows, length=length, scored=len(batch.scored_R))


def counted(forward: LayeredForward, batch: Batch, *, training: bool) -> int:
    """What torch counts of the passes above the frozen layers."""
    embeds_BTH, entered = forward.embed(batch), forward.split > 0
    states_BTH = forward.trunk(embeds_BTH) if entered else embeds_BTH
    forward.set_training(training)
    with (
        torch.set_grad_enabled(training),
        FlopCounterMode(display=False, custom_mapping=CPU_KERNELS) as counter,
    ):
        final_BTH = forward.final(states_BTH, from_split=entered)
        if training:
            losses.backward(forward, final_BTH, batch, label_mass=1.0)
        else:
            losses.score(forward, final_BTH, batch)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("trainable", TRAINABLE)
@pytest.mark.parametrize(("name", "attention"), ATTENTION)
def test_passes_agree_with_the_counter_of_torch(
    name: str, attention: str, trainable: str, make: Make, batch: Batch
) -> None:
    model = make(name, attention)
    part = make_trainable(model, TRAINABLE[trainable], precision="float32", seed=0)

    found = part_flops(model, part.forward)

    evaluation, update = (counted(part.forward, batch, training=t) for t in (False, True))
    assert found.forward(**sizes(batch)) == pytest.approx(evaluation, rel=TOLERANCE)
    assert found.update(**sizes(batch)) == pytest.approx(update, rel=TOLERANCE)


def test_half_precision_computes_the_same_products(make: Make, batch: Batch) -> None:
    model = make("llama", "sdpa")
    part = make_trainable(model, TRAINABLE["lora-top"], precision="bfloat16", seed=0)

    found = part_flops(model, part.forward)

    update = counted(part.forward, batch, training=True)
    assert found.update(**sizes(batch)) == pytest.approx(update, rel=TOLERANCE)


@pytest.mark.parametrize("num_layers", [1, 4])
@pytest.mark.parametrize("name", MODELS)
def test_trunk_and_part_are_the_whole_model(
    name: str, num_layers: int, make: Make, batch: Batch
) -> None:
    model, (rows, length) = make(name, "eager"), batch.ids_BT.shape
    config = TopLayersConfig(kind="top_layers", layers=num_layers)
    part = make_trainable(model, config, precision="float32", seed=0)
    flops = flops_model(model, part.forward.layers)

    trunk = flops.layers(rows=rows, length=length, num_layers=part.forward.split)
    above = part_flops(model, part.forward).forward(rows=rows, length=length, scored=7)

    whole = flops.layers(rows=rows, length=length, num_layers=4) + flops.head(positions=7)
    assert trunk + above == whole


def test_counting_draws_no_random_numbers_and_leaves_no_gradient(make: Make) -> None:
    model = make("gpt2", "eager").train()  # it has dropout
    part = make_trainable(model, TRAINABLE["lora"], precision="float32", seed=0)
    before = torch.get_rng_state()

    part_flops(model, part.forward)

    assert torch.equal(torch.get_rng_state(), before)
    assert all(weight.grad is None for weight in model.parameters())


def test_counting_leaves_no_hook_behind(make: Make) -> None:
    model = make("llama", "eager")
    part = make_trainable(model, TRAINABLE["top_layers"], precision="float32", seed=0)

    part_flops(model, part.forward)

    assert not any(module._forward_pre_hooks for module in model.modules())


DEEP = 16  # layers, as real models have: the first has less to compute backwards than the others
DEEP_MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**{**COMMON, "num_hidden_layers": DEEP})),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=96, n_layer=DEEP, n_head=6, n_positions=128)
    ),
}


@pytest.mark.parametrize("name", DEEP_MODELS)
def test_lora_through_the_whole_model_is_counted_without_adding_it(name: str, batch: Batch) -> None:
    with torch.random.fork_rng(devices=[]):
        model = DEEP_MODELS[name]()
    layers = LayeredForward(model, split=0, precision="float32").layers

    counted_without = whole_lora_flops(model, layers, rank=8)

    part = make_trainable(model, TRAINABLE["lora"], precision="float32", seed=0)
    adapted = part_flops(model, part.forward)
    # Inputs of the first projections need no gradient: one product less for weights and adapters.
    queries_keys_values = 96 * (96 + 32 + 32) if name == "llama" else 96 * 3 * 96
    first_adapters = 8 * 96 * (3 if name == "llama" else 1)
    saved = queries_keys_values + first_adapters
    assert counted_without.layers.forward == adapted.layers.forward
    assert counted_without.layers.backward == adapted.layers.backward + saved
    assert counted_without.head == adapted.head
    update = adapted.update(**sizes(batch))
    assert update <= counted_without.update(**sizes(batch)) < 1.01 * update
