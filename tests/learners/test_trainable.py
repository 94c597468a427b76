"""Which parameters are trained, and how adapters start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from raise_mdit.config import FullConfig, LoraConfig, TopLayersConfig
from raise_mdit.errors import ModelError
from raise_mdit.learners.batches import collate
from raise_mdit.learners.trainable import TrainablePart, make_trainable

Make = Callable[..., Any]

FULL = FullConfig(kind="full")
LORA = LoraConfig(kind="lora", rank=3)
NUM_LAYERS = 4  # of the small random model
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def top(layers: int) -> TopLayersConfig:
    return TopLayersConfig(kind="top_layers", layers=layers)


def lora_on(layers: int) -> LoraConfig:
    return LoraConfig(kind="lora", rank=3, layers=layers)


def trainable(model: Any, config: Any, *, seed: int = 0) -> TrainablePart:
    return make_trainable(model, config, precision="float32", seed=seed)


def names_with_gradients(model: Any) -> set[str]:
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


def logits(part: TrainablePart, rows: Any) -> torch.Tensor:
    batch = collate(rows, device=part.forward.device)
    final_BTH = part.forward.final(part.forward.embed(batch), from_split=False)
    return part.forward.logits(final_BTH.flatten(0, 1)[batch.scored_R])


@pytest.fixture(params=[True, False], ids=["frozen", "unfrozen"])
def model(request: pytest.FixtureRequest, random_llama: Make) -> Any:
    """A small Llama with random weights, its parameters frozen or not."""
    return random_llama().requires_grad_(not request.param)


@pytest.mark.parametrize("tied", [True, False])
def test_full_trains_every_parameter_once(tied: bool, random_llama: Make) -> None:
    model = random_llama(tied=tied)

    part = trainable(model, FULL)

    assert names_with_gradients(model) == {name for name, _ in model.named_parameters()}
    assert {id(weight) for weight in part.parameters} == {id(w) for w in model.parameters()}
    assert len(part.parameters) == len({id(weight) for weight in part.parameters})
    assert part.forward.split == 0


@pytest.mark.parametrize("layers", range(1, NUM_LAYERS + 1))
def test_top_layers_trains_the_last_layers_alone(layers: int, model: Any) -> None:
    part = trainable(model, top(layers))

    trained = tuple(f"model.layers.{i}." for i in range(NUM_LAYERS - layers, NUM_LAYERS))
    expected = {name for name, _ in model.named_parameters() if name.startswith(trained)}
    assert names_with_gradients(model) == expected
    assert len(part.parameters) == len(expected)
    assert part.forward.split == NUM_LAYERS - layers


@pytest.mark.parametrize("config", [top(5), LoraConfig(kind="lora", layers=5)])
def test_more_top_layers_than_there_are_is_the_users_mistake(
    config: Any, random_llama: Make
) -> None:
    with pytest.raises(ModelError, match=r"^learner.trainable.layers: 5 .* has 4; give at most"):
        trainable(random_llama(), config)


def test_lora_trains_two_matrices_for_every_linear_layer_and_nothing_else(model: Any) -> None:
    shapes = {
        name: weight.shape
        for name, weight in model.named_parameters()
        if name.split(".")[-2] in LINEAR
    }

    part = trainable(model, LORA)

    assert len(shapes) == NUM_LAYERS * len(LINEAR)
    assert names_with_gradients(model) == {
        name.replace("weight", f"lora_{matrix}.default.weight")
        for name in shapes
        for matrix in "AB"
    }
    added = sum(weight.numel() for weight in part.parameters)
    assert added == sum(LORA.rank * (a + b) for a, b in shapes.values())
    assert part.forward.split == 0


@pytest.mark.parametrize("layers", range(1, NUM_LAYERS + 1))
def test_lora_on_top_adds_adapters_to_the_last_layers_alone(layers: int, model: Any) -> None:
    part = trainable(model, lora_on(layers))

    names = names_with_gradients(model)
    trained = {f"model.layers.{i}." for i in range(NUM_LAYERS - layers, NUM_LAYERS)}
    assert {name.split("self_attn")[0].split("mlp")[0] for name in names} == trained
    assert len(part.parameters) == len(names) == 2 * layers * len(LINEAR)
    assert all("lora_" in name for name in names)
    assert part.forward.split == NUM_LAYERS - layers


@pytest.mark.parametrize("layers", range(1, NUM_LAYERS + 1))
def test_lora_on_top_equals_lora_without_the_adapters_below(
    layers: int, random_llama: Make, random_rows: Make
) -> None:
    rows = random_rows(4)
    on_top, everywhere = random_llama(), random_llama()
    part, reference = trainable(on_top, lora_on(layers)), trainable(everywhere, LORA)
    with torch.no_grad():
        for index, weight in enumerate(part.parameters):
            weight.copy_(0.1 * torch.sin(torch.arange(weight.numel()) + index).view_as(weight))
    names = names_with_gradients(on_top)
    shared = {name: weight for name, weight in on_top.named_parameters() if name in names}
    everywhere.load_state_dict(shared, strict=False)  # below, B is zero: as if there were none

    expected, found = logits(reference, rows), logits(part, rows)

    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    theirs = dict(everywhere.named_parameters())
    for name, weight in shared.items():
        torch.testing.assert_close(weight.grad, theirs[name].grad, rtol=1e-4, atol=1e-5)


def test_under_bfloat16_what_is_frozen_is_kept_in_it_and_what_is_trained_is_not(
    random_llama: Make,
) -> None:
    model = random_llama()

    part = make_trainable(model, lora_on(2), precision="bfloat16", seed=0)

    assert {weight.dtype for weight in part.parameters} == {torch.float32}
    kept = {name for name, weight in model.named_parameters() if weight.dtype == torch.bfloat16}
    assert len(kept) == NUM_LAYERS * len(LINEAR) + 1  # and the head


def test_lora_finds_the_linear_layers_of_gpt2_with_random_weights() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=107, n_embd=32, n_layer=2, n_head=4))

    trainable(model, LORA)

    names = names_with_gradients(model)
    layers = {name.rsplit(".lora_", 1)[0].split(".", 3)[-1] for name in names}
    assert all("lora_" in name for name in names)
    assert layers == {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}


def test_adapters_start_as_the_untuned_model(random_llama: Make, random_rows: Make) -> None:
    rows = random_rows(4)
    expected = logits(trainable(random_llama(), top(1)), rows)

    found = logits(trainable(random_llama(), LORA), rows)

    torch.testing.assert_close(found, expected)


def test_the_same_seed_starts_the_same_adapters(random_llama: Make) -> None:
    first, second = (trainable(random_llama(), LORA, seed=5).parameters for _ in range(2))

    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_another_seed_starts_other_adapters(random_llama: Make) -> None:
    first, second = (trainable(random_llama(), LORA, seed=seed).parameters for seed in (5, 6))

    same = [torch.equal(a, b) for a, b in zip(first, second, strict=True)]
    assert same == [False, True] * NUM_LAYERS * len(LINEAR)  # B starts at zero


@pytest.mark.parametrize("config", [FULL, LORA, top(2)], ids=lambda config: config.kind)
def test_the_global_generator_is_left_alone(config: Any, random_llama: Make) -> None:
    model, before = random_llama(), torch.get_rng_state()

    trainable(model, config)

    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_of_adapters_is_on_in_training_alone(random_llama: Make, random_rows: Make) -> None:
    rows = random_rows(4)
    part = trainable(random_llama(), LoraConfig(kind="lora", rank=3, dropout=0.5))
    with torch.no_grad():
        for weight in part.parameters:
            weight.fill_(0.1)
    part.forward.set_training(False)
    expected = logits(part, rows)

    part.forward.set_training(True)
    with torch.random.fork_rng(devices=[]):
        dropped, again = (logits(part, rows) for _ in range(2))
    part.forward.set_training(False)

    assert not torch.allclose(dropped, expected)
    assert not torch.allclose(dropped, again)
    assert torch.equal(logits(part, rows), expected)


def test_without_dropout_training_gives_the_same_as_evaluation(
    random_llama: Make, random_rows: Make
) -> None:
    rows, part = random_rows(4), trainable(random_llama(), LORA)
    expected = logits(part, rows)

    part.forward.set_training(True)

    assert torch.equal(logits(part, rows), expected)
