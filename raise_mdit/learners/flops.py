"""Floating-point operations of a causal language model, from its architecture.

A product of an m x n and an n x p matrix counts 2 m n p. Norms, activations, rotations, biases, the
loss and the optimizer are left out, as in Kaplan et al. 2020 (arXiv 2001.08361, table 1);
attention's two products count over the whole context, as dense attention computes them.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from raise_mdit.learners.forward import LayeredForward

FORWARD_ATTENTION_PRODUCTS = 2  # S = Q K', O = P V
EAGER_BACKWARD_ATTENTION_PRODUCTS = 4  # dP = dO V', dV = P' dO, dQ = dS K, dK = dS' Q
FUSED_BACKWARD_ATTENTION_PRODUCTS = 5  # and S again: it is not kept (arXiv 2205.14135, alg. 4)


@dataclass(frozen=True, slots=True)
class FlopsModel:
    """Counts forward passes of the model as it is."""

    layer_weights: int
    """Matrix entries of one layer."""
    head_weights: int
    """Matrix entries of the output head."""
    attention_width: int
    """Attention heads times their size."""

    def layers(self, *, rows: int, length: int, num_layers: int) -> float:
        """One forward pass of ``rows`` x ``length`` tokens through ``num_layers`` layers."""
        products = 2.0 * self.layer_weights * rows * length
        attention = 4.0 * self.attention_width * rows * length * length
        return num_layers * (products + attention)

    def head(self, *, positions: int) -> float:
        """One forward pass of the head over scored positions."""
        return 2.0 * self.head_weights * positions


@dataclass(frozen=True, slots=True)
class PartFlops:
    """Counts what each step computes: the layers above the split, adapters included, and the head.

    A linear layer y = x W is one product forward and up to two backward: dx = dy W' where x needs a
    gradient and dW = x' dy where W is trained. Attention's two products are four backward, five
    where a fused kernel computes the scores again.
    """

    layers: Linear
    """Those that read every token."""
    head: Linear
    """The output head, which reads scored positions."""
    attention_width: int
    """Attention heads times their size, summed over layers."""
    backward_attention_products: int
    """Products of each layer's attention in the backward pass."""

    def forward(self, *, rows: int, length: int, scored: int) -> float:
        """One forward pass of ``rows`` x ``length`` padded tokens with ``scored`` positions."""
        products = self.layers.forward * rows * length + self.head.forward * scored
        return 2.0 * products + self._attention(FORWARD_ATTENTION_PRODUCTS, rows, length)

    def update(self, *, rows: int, length: int, scored: int) -> float:
        """One forward and one backward pass of the same."""
        products = self.layers.backward * rows * length + self.head.backward * scored
        backward = 2.0 * products + self._attention(self.backward_attention_products, rows, length)
        return self.forward(rows=rows, length=length, scored=scored) + backward

    def _attention(self, num_products: int, rows: int, length: int) -> float:
        return 2.0 * num_products * self.attention_width * rows * length * length


class Linear(NamedTuple):
    """Matrix entries that multiply a position's vector."""

    forward: int
    """In the forward pass."""
    backward: int
    """In the backward pass; an entry counts for the input's gradient and for its own."""


def flops_model(model: PreTrainedModel, layers: nn.ModuleList) -> FlopsModel:
    """Counts for ``model``, read before adapters are added to it."""
    entries = sum(matrix.numel() for module in layers.modules() for matrix in _matrices(module))
    return FlopsModel(
        layer_weights=entries // len(layers),
        head_weights=model.get_output_embeddings().weight.numel(),
        attention_width=_attention_width(model),
    )


def part_flops(model: PreTrainedModel, forward: LayeredForward) -> PartFlops:
    """Counts for ``model``, read after its trained part is marked and adapters are added.

    Two tokens are read to see which gradients autograd needs. In the first layer, projections
    behind frozen embeddings, a frozen trunk and a frozen norm have none, and of their adapters only
    the weights have; a trained norm or trained embeddings make their inputs need one.

    Args:
        model: As it is trained.
        forward: Its layers from ``split`` on are counted; is left without dropout.
    """
    forward.set_training(False)  # dropout would advance the global generator
    trained = forward.layers[forward.split :]
    read: list[Linear] = []

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        read.extend(_linear(matrix, args[0]) for matrix in _matrices(module))

    with ExitStack() as hooks:
        for module in trained.modules():
            hooks.enter_context(module.register_forward_pre_hook(note))
        ids_12 = torch.zeros(1, 2, dtype=torch.long, device=forward.device)
        embeds_12H = model.get_input_embeddings()(ids_12)
        hidden_12H = forward.final(embeds_12H, from_split=False)
    return PartFlops(
        layers=Linear(sum(one.forward for one in read), sum(one.backward for one in read)),
        head=_linear(model.get_output_embeddings().weight, hidden_12H),
        attention_width=len(trained) * _attention_width(model),
        backward_attention_products=_backward_attention_products(model),
    )


def whole_lora_flops(model: PreTrainedModel, layers: nn.ModuleList, *, rank: int) -> PartFlops:
    """Counts for LoRA on every linear layer, without adding it to ``model``.

    As :func:`part_flops` counts the adapted model but for its first layer, whose frozen projections
    need no gradient of their input: under one per cent of a real model.

    Args:
        model: Before anything is added to it.
        layers: The decoder's layers.
        rank: Of the adapters.
    """
    matrices = [matrix for module in layers.modules() for matrix in _matrices(module)]
    entries = sum(matrix.numel() for matrix in matrices)
    adapters = sum(rank * sum(matrix.shape) for matrix in matrices)
    head = model.get_output_embeddings().weight.numel()
    return PartFlops(
        layers=Linear(entries + adapters, entries + 2 * adapters),
        head=Linear(head, head),
        attention_width=len(layers) * _attention_width(model),
        backward_attention_products=_backward_attention_products(model),
    )


def _linear(matrix: torch.Tensor, reads: torch.Tensor) -> Linear:
    num_gradients = int(reads.requires_grad) + int(matrix.requires_grad)
    return Linear(matrix.numel(), num_gradients * matrix.numel())


def _matrices(module: nn.Module) -> list[nn.Parameter]:
    """The module's own: an adapted layer also shows its inner layer's as `weight`."""
    return [weight for weight in module.parameters(recurse=False) if weight.dim() == 2]


def _attention_width(model: PreTrainedModel) -> int:
    config = model.config.get_text_config()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(config.num_attention_heads * size)


def _backward_attention_products(model: PreTrainedModel) -> int:
    """By the configured implementation, which is `sdpa` unless a model has no fused kernel.

    On a CPU with attention dropout, as GPT-2 has, torch computes `sdpa` as `eager` and we count a
    product too many: for GPT-2 small at 512 tokens 1.4 % of a full update, 2.0 % of an adapters'.
    """
    eager = model.config.get_text_config()._attn_implementation == "eager"
    return EAGER_BACKWARD_ATTENTION_PRODUCTS if eager else FUSED_BACKWARD_ATTENTION_PRODUCTS
