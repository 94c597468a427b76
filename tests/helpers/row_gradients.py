"""Losses of single rows by a model's own forward pass, and weights whose gradients are asked."""

from __future__ import annotations

from typing import Any

import torch

from raise_mdit.config import LearnerConfig
from raise_mdit.core import EncodedRow
from raise_mdit.learners.alignment import Subspace
from raise_mdit.learners.causal_lm import CausalLmLearner, build_learner
from raise_mdit.learners.forward import Precision
from raise_mdit.learners.trainable import TrainablePart, make_trainable

WEIGHTS = {
    "llama": [
        *(f"self_attn.{name}_proj" for name in "qkvo"),
        *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    ],
    "gpt2": ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"],
}
"""Of a layer, in the order in which it runs them."""
SUBSPACES: tuple[Subspace, ...] = ("last_layer", "last_linear")


def moved_part(model: Any, trainable: Any, precision: Precision = "float32") -> TrainablePart:
    """A part that has moved away from its start, where adapters are zero."""
    part = make_trainable(model, trainable, precision=precision, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in part.parameters:
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return part


def learner_of(model: Any, trainable: Any) -> CausalLmLearner:
    """A learner at its start."""
    config = LearnerConfig(trainable=trainable, learning_rate=1e-2)
    return build_learner(model, config, precision="float32", seed=0)


def weights_of(model: Any, layer: Any, subspace: Subspace) -> list[torch.nn.Parameter]:
    """The weights of a layer that a subspace is made of, without adapters."""
    names = WEIGHTS[model.config.model_type]
    modules = [
        layer.get_submodule(name) for name in (names if subspace == "last_layer" else names[-1:])
    ]
    return [getattr(module, "base_layer", module).weight for module in modules]


def mean_loss(model: Any, row: EncodedRow) -> torch.Tensor:
    """A row alone through the model's own forward pass, all logits."""
    table = model.get_input_embeddings().weight
    partner_ids = row.ids if row.partner_ids is None else row.partner_ids
    embeds = row.mix * table[row.ids] + (1 - row.mix) * table[partner_ids]
    return mean_loss_of(model(inputs_embeds=embeds[None]).logits[0], row)


def mean_loss_of(logits: torch.Tensor, row: EncodedRow) -> torch.Tensor:
    """The weighted mean over a row's targets."""
    log_probs = logits.log_softmax(-1)[torch.tensor(row.scored)]
    weights = torch.tensor(row.target_weights)
    return -(weights * log_probs.gather(1, torch.tensor(row.targets))).sum() / weights.sum()
