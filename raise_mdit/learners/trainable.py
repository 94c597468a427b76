"""Which parameters of a model are trained."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import peft
import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from raise_mdit.config import FullConfig, LoraConfig, TopLayersConfig
from raise_mdit.errors import ModelError
from raise_mdit.learners.forward import LayeredForward, Precision


@dataclass(frozen=True, slots=True)
class TrainablePart:
    """The trained parameters and how the model is entered to train them."""

    parameters: list[torch.nn.Parameter]
    forward: LayeredForward
    """Its ``split`` is the number of layers that stay frozen and are computed once for each row."""


def make_trainable(
    model: PreTrainedModel,
    config: FullConfig | LoraConfig | TopLayersConfig,
    *,
    precision: Precision,
    seed: int,
) -> TrainablePart:
    """Mark the parameters to train and no others, and add them where they are new.

    Args:
        model: Changed in place: gradients are required, adapters are added.
        config: Which part.
        precision: Arithmetic of forward passes.
        seed: Of the adapters' start.

    Raises:
        ModelError: The model has fewer layers than are to be trained.
    """
    model.requires_grad_(False)
    forward = LayeredForward(model, split=0, precision=precision)
    match config:
        case FullConfig():
            parameters = list(model.parameters())
        case LoraConfig():
            forward.split = _num_frozen(forward, config.layers)
            parameters = _add_adapters(model, config, forward, seed)
        case TopLayersConfig():
            forward.split = _num_frozen(forward, config.layers)
            parameters = list(forward.layers[forward.split :].parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
    if precision == "bfloat16":
        forward.keep_frozen_weights_in_bfloat16()
    return TrainablePart(parameters, forward)


def _num_frozen(forward: LayeredForward, num_trained: int | Literal["all"]) -> int:
    """How many layers lie below those that are trained."""
    if num_trained == "all":
        return 0
    if num_trained > len(forward.layers):
        raise ModelError(
            f"learner.trainable.layers: {num_trained} layers asked, the model has "
            f"{len(forward.layers)}; give at most that"
        )
    return len(forward.layers) - num_trained


def _add_adapters(
    model: PreTrainedModel, config: LoraConfig, forward: LayeredForward, seed: int
) -> list[torch.nn.Parameter]:
    trained = set(forward.layers[forward.split :].modules())
    targets = [
        name
        for name, module in model.named_modules()
        if module in trained and isinstance(module, torch.nn.Linear | Conv1D)
    ]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*fan_in_fan_out.*"
        )  # peft corrects GPT-2 itself
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # peft 0.21
        torch.manual_seed(seed)
        peft.get_peft_model(
            model,
            peft.LoraConfig(
                r=config.rank,
                lora_alpha=config.alpha,  # type: ignore[arg-type]  # it is only divided by r
                lora_dropout=config.dropout,
                target_modules=targets,
                task_type="CAUSAL_LM",
            ),
        )
    return [weight for name, weight in model.named_parameters() if "lora_" in name]
