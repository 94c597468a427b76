"""A causal language model's own forward pass, entered at a layer and read where it is scored.

The model's code is never copied: hooks stop it at a layer, feed it that layer's input again, and
hand its head only the positions that carry loss. Everything between (masks, rotations, soft caps)
is the model's own, for any architecture whose layers take the hidden states first and return them.

Shapes: ``B`` rows, ``T`` tokens, ``H`` hidden size, ``R`` scored positions, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from raise_mdit.errors import ModelError
from raise_mdit.learners.batches import Batch

Precision = Literal["float32", "bfloat16"]


class Scored(NamedTuple):
    """What the head saw and gave."""

    logits_RV: torch.Tensor
    """Logits at the scored positions, float32."""
    hidden_BTH: torch.Tensor
    """Final hidden states, after the last norm."""


class LayeredForward:
    """Runs a causal language model from its embeddings or from the input of layer ``split``."""

    def __init__(self, model: PreTrainedModel, *, split: int, precision: Precision) -> None:
        self._model = model
        self._owner, self._name = _find_layers(model)
        self.split = split
        self._precision = precision

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder's layers, from the input to the output."""
        layers: nn.ModuleList = getattr(self._owner, self._name)
        return layers

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self._model.device

    def set_training(self, training: bool) -> None:
        """Turn dropout on or off; what lies below ``split``, embeddings too, never has it."""
        self._model.train(training and self.split == 0)
        self.layers[self.split :].train(training)

    def embed(self, batch: Batch) -> torch.Tensor:
        """Input embeddings [B, T, H]; interpolated where a row has two parents."""
        table = self._model.get_input_embeddings()
        first: torch.Tensor = table(batch.ids_BT)
        if batch.partner_ids_BT is None:
            return first
        mix = batch.mix_B[:, None, None].to(first.dtype)
        second: torch.Tensor = table(batch.partner_ids_BT)
        return mix * first + (1 - mix) * second

    @torch.no_grad()
    def trunk(self, embeds_BTH: torch.Tensor) -> torch.Tensor:
        """Hidden states [B, T, H] that enter layer ``split``; the layers above do not run."""
        reached: list[torch.Tensor] = []

        def stop(_module: nn.Module, args: tuple[Any, ...]) -> None:
            reached.append(args[0])
            raise _Reached

        with _hooked(self.layers[self.split].register_forward_pre_hook, stop), self._autocast():
            try:
                self._model(inputs_embeds=embeds_BTH, use_cache=False)
            except _Reached:
                return reached[0]
        raise AssertionError("the model ran without entering its layers")

    def score(self, hidden_BTH: torch.Tensor, batch: Batch, *, from_split: bool) -> Scored:
        """Logits at the scored positions.

        Args:
            hidden_BTH: Embeddings, or the output of :meth:`trunk` when ``from_split``.
            batch: Where to score.
            from_split: Whether to enter at layer ``split`` rather than at the first.
        """
        seen: list[torch.Tensor] = []

        def keep_scored(_module: nn.Module, args: tuple[Any, ...]) -> tuple[torch.Tensor]:
            seen.append(args[0])
            return (args[0].flatten(0, 1)[batch.scored_R][None],)

        head = self._model.get_output_embeddings()
        entry = self._entered_at_split(hidden_BTH) if from_split else _nothing()
        with entry, _hooked(head.register_forward_pre_hook, keep_scored), self._autocast():
            logits_1RV: torch.Tensor = self._model(inputs_embeds=hidden_BTH, use_cache=False).logits
        return Scored(logits_1RV[0].float(), seen[0])

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self._precision == "bfloat16"
        )

    @contextmanager
    def _entered_at_split(self, hidden_BTH: torch.Tensor) -> Iterator[None]:
        """The lower layers pass through, and layer ``split`` is given its input."""

        def enter(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (hidden_BTH, *args[1:])

        layers = self.layers
        above = list(layers)[self.split :]
        shortened = nn.ModuleList([*(_PassThrough() for _ in range(self.split)), *above])
        setattr(self._owner, self._name, shortened)
        try:
            with _hooked(layers[self.split].register_forward_pre_hook, enter):
                yield
        finally:
            setattr(self._owner, self._name, layers)


class _Reached(Exception):
    """The layer at which the forward pass was to stop."""


class _PassThrough(nn.Module):
    """Stands where a layer stood, and does nothing."""

    def forward(self, hidden_BTH: torch.Tensor, *_args: object, **_kwargs: object) -> torch.Tensor:
        return hidden_BTH


@contextmanager
def _hooked(register: Callable[[Any], Any], hook: Callable[..., Any]) -> Iterator[None]:
    handle = register(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _find_layers(model: PreTrainedModel) -> tuple[nn.Module, str]:
    """The module that owns the decoder's layer list, and the list's name."""
    count = model.config.get_text_config().num_hidden_layers
    for owner in model.modules():
        for name, child in owner.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == count:
                return owner, name
    raise ModelError(
        f"model.name: no list of {count} layers found in {type(model).__name__}; "
        "decoder-only models such as Llama, Qwen, Gemma, Mistral and GPT-2 are supported"
    )
