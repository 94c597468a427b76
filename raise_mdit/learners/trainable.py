"""Which parameters of a model are trained."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import peft
import torch
from transformers import PreTrainedModel

from raise_mdit.config import FullConfig, LoraConfig, TopLayersConfig
from raise_mdit.errors import ModelError
from raise_mdit.learners.forward import LayeredForward, Precision


@dataclass(frozen=True, slots=True)
class TrainablePart:
    """The trained parameters and how the model is entered to train them."""

    parameters: list[torch.nn.Parameter]
    forward: LayeredForward
    """Its ``split`` is the number of layers that stay frozen and are computed once for each row."""
    backward_ratio: float
    """FLOPs of a backward pass through the layers, as a multiple of their forward pass."""
    head_backward_ratio: float
    """The same of the output head."""
    adapter_weights: int
    """Matrix entries that were added to the model."""


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
    adapter_weights = 0
    match config:
        case FullConfig():
            parameters = list(model.parameters())
        case LoraConfig():
            parameters = _add_adapters(model, config, seed)
            adapter_weights = sum(parameter.numel() for parameter in parameters)
        case TopLayersConfig():
            forward.split = len(forward.layers) - config.layers
            if forward.split < 0:
                raise ModelError(
                    f"learner.trainable.layers: {config.layers} layers asked, the model has "
                    f"{len(forward.layers)}; give at most that"
                )
            parameters = list(forward.layers[forward.split :].parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
    # A frozen weight needs gradients of its input only, a trained one those of the weight as well.
    return TrainablePart(
        parameters,
        forward,
        backward_ratio=1.0 if isinstance(config, LoraConfig) else 2.0,
        head_backward_ratio=2.0 if isinstance(config, FullConfig) else 1.0,
        adapter_weights=adapter_weights,
    )


def _add_adapters(
    model: PreTrainedModel, config: LoraConfig, seed: int
) -> list[torch.nn.Parameter]:
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
                target_modules="all-linear",
                task_type="CAUSAL_LM",
            ),
        )
    return [weight for name, weight in model.named_parameters() if "lora_" in name]
