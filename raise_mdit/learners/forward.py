"""A causal language model's own forward pass, entered at a layer and read where it is scored.

The model's code is never copied: hooks stop it at a layer, feed it that layer's input again, and
hand its head only the positions that carry loss. Everything between (masks, rotations, soft caps)
is the model's own, for any architecture whose layers take the hidden states first and return them.

Shapes: ``B`` rows, ``T`` tokens, ``H`` hidden size, ``R`` scored positions, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from raise_mdit.errors import ModelError
from raise_mdit.learners.batches import Batch

Precision = Literal["float32", "bfloat16"]

# What torch calls a processor's instructions that multiply bfloat16: Intel's tiles, and AVX-512's
# dot products (Zen 4 and later, Cooper Lake and later).
_PROCESSOR_UNITS = ("amx_bf16", "avx512_bf16")


def resolve_precision(asked: Precision | Literal["auto"], device: torch.device) -> Precision:
    """The arithmetic to use; ``auto`` takes bfloat16 where the device multiplies it in hardware."""
    if asked != "auto":
        return asked
    if device.type == "cuda":
        supported = torch.cuda.is_bf16_supported()
    else:
        capabilities = torch.cpu.get_capabilities()
        supported = any(capabilities.get(units) for units in _PROCESSOR_UNITS)
    return "bfloat16" if supported else "float32"


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

    @property
    def vocabulary_size(self) -> int:
        """V, the tokens that the head scores."""
        return int(self._head.weight.shape[0])

    @property
    def embedding_size(self) -> int:
        """Width of the input embeddings."""
        return self._model.get_input_embeddings().get_parameter("weight").shape[1]

    def set_training(self, training: bool) -> None:
        """Turn dropout on or off; what lies below ``split``, embeddings too, never has it."""
        self._model.train(training and self.split == 0)
        self.layers[self.split :].train(training)

    def embed(self, batch: Batch) -> torch.Tensor:
        """Input embeddings [B, T, H]; interpolated where a row has two parents, and then noised."""
        table = self._model.get_input_embeddings()
        embeds: torch.Tensor = table(batch.ids_BT)
        if batch.partner_ids_BT is not None:
            mix = batch.mix_B[:, None, None].to(embeds.dtype)
            embeds = mix * embeds + (1 - mix) * table(batch.partner_ids_BT)
        if batch.noise_BTH is not None:
            embeds = embeds + batch.noise_BTH.to(embeds.dtype)
        return embeds

    @torch.no_grad()
    def trunk(self, embeds_BTH: torch.Tensor) -> torch.Tensor:
        """Hidden states [B, T, H] that enter layer ``split``; the layers above do not run."""
        return self._run_until(self.layers[self.split], embeds_BTH)

    def final(self, hidden_BTH: torch.Tensor, *, from_split: bool) -> torch.Tensor:
        """Hidden states [B, T, H] that the head is given; the head does not run.

        Args:
            hidden_BTH: Embeddings, or the output of :meth:`trunk` when ``from_split``.
            from_split: Whether to enter at layer ``split`` rather than at the first.
        """
        entry = self._entered_at_split(hidden_BTH) if from_split else nullcontext()
        with entry:
            return self._run_until(self._head, hidden_BTH)

    def logits(self, hidden_RH: torch.Tensor) -> torch.Tensor:
        """Logits [R, V], float32, of hidden states that :meth:`final` gave.

        The model runs with one position and no layers, and its head is given ``hidden_RH``: what
        it does behind the head, such as soft caps and scales, is done.
        """
        one_position = hidden_RH.new_zeros(1, 1, hidden_RH.shape[-1])

        def give(_module: nn.Module, _args: tuple[Any, ...]) -> tuple[torch.Tensor]:
            return (hidden_RH[None],)

        with (
            self._layers_replaced(nn.ModuleList()),
            _hooked(self._head.register_forward_pre_hook, give),
            self._autocast(),
        ):
            logits_1RV: torch.Tensor = self._model(
                inputs_embeds=one_position, use_cache=False
            ).logits
        return logits_1RV[0].float()

    def keep_frozen_weights_in_bfloat16(self) -> None:
        """Store frozen linear weights as autocast would convert them at every pass.

        The products are the same and the conversions are saved. A head that is tied to the
        embeddings gets weights of its own: embeddings are looked up, not multiplied.
        """
        for module in self._model.modules():
            if isinstance(module, nn.Linear | Conv1D) and not module.weight.requires_grad:
                converted = module.weight.detach().bfloat16()
                module.weight = nn.Parameter(converted, requires_grad=False)

    @property
    def _head(self) -> nn.Linear:
        head: nn.Linear = self._model.get_output_embeddings()
        return head

    def _run_until(self, module: nn.Module, embeds_BTH: torch.Tensor) -> torch.Tensor:
        """What ``module`` is given when the model reads embeddings; nothing behind it runs."""
        reached: list[torch.Tensor] = []

        def stop(_module: nn.Module, args: tuple[Any, ...]) -> None:
            reached.append(args[0])
            raise _Reached

        with _hooked(module.register_forward_pre_hook, stop), self._autocast():
            try:
                self._model(inputs_embeds=embeds_BTH, use_cache=False)
            except _Reached:
                return reached[0]
        raise AssertionError("the model ran without entering the module")

    def _autocast(self) -> AbstractContextManager[object]:
        if self._precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    @contextmanager
    def _entered_at_split(self, hidden_BTH: torch.Tensor) -> Iterator[None]:
        """The lower layers pass through, and layer ``split`` is given its input."""

        def enter(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (hidden_BTH, *args[1:])

        layers = self.layers
        above = list(layers)[self.split :]
        shortened = nn.ModuleList([*(_PassThrough() for _ in range(self.split)), *above])
        entry = _hooked(layers[self.split].register_forward_pre_hook, enter)
        with self._layers_replaced(shortened), entry:
            yield

    @contextmanager
    def _layers_replaced(self, layers: nn.ModuleList) -> Iterator[None]:
        own = self.layers
        setattr(self._owner, self._name, layers)
        try:
            yield
        finally:
            setattr(self._owner, self._name, own)


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
