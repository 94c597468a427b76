"""Floating-point operations of a causal language model, from its architecture.

A product of an m x n and an n x p matrix counts 2 m n p. Norms, activations and the optimizer are
left out, as in Kaplan et al. 2020 (arXiv 2001.08361, table 1); attention's two products count over
the whole context, as dense attention computes them.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class FlopsModel:
    """Counts forward and backward passes."""

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


def flops_model(model: PreTrainedModel, layers: nn.ModuleList) -> FlopsModel:
    """Counts for ``model``, read before adapters are added to it."""
    config = model.config.get_text_config()
    head_size = (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    head = model.get_output_embeddings()
    return FlopsModel(
        layer_weights=_matrix_entries(layers) // len(layers),
        head_weights=head.weight.numel(),
        attention_width=config.num_attention_heads * head_size,
    )


def _matrix_entries(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters() if weight.dim() == 2)
