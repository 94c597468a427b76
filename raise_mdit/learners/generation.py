"""Greedy responses of a causal language model, in batches and with a cache of keys and values.

Prompts are padded on the left, so that every row of a batch goes on at the same position; a mask
keeps padding out of attention, and positions count from each prompt's first token. The decoding
loop is transformers' own.

Shapes: ``B`` rows, ``P`` longest prompt of a batch, ``N`` tokens that are generated after it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig, PreTrainedModel

from raise_mdit.core import Cost, EncodedRow, Learner
from raise_mdit.learners.flops import FlopsModel, flops_model
from raise_mdit.learners.forward import LayeredForward, Precision

GENERATION_TOKENS = 8192
"""Tokens of a batch, prompts and room for responses: the cache of SmolLM2-135M takes 46 kB each."""


class Generation(NamedTuple):
    """What a learner wrote after each of some prompts."""

    ids: tuple[NDArray[np.int64], ...]
    """Generated tokens of each prompt, the end token included where it was reached."""
    cost: Cost
    """Tokens are those of the prompts and those generated."""


class AnsweringLearner(Learner, Protocol):
    """A learner that can also write."""

    def generate(
        self, prompts: Sequence[EncodedRow], *, max_new_tokens: int, end_ids: Sequence[int]
    ) -> Generation:
        """Greedy responses to prompts; changes nothing.

        Args:
            prompts: Plain rows of prompt tokens alone.
            max_new_tokens: Longest response in tokens.
            end_ids: Tokens of which each ends a response; at least one.
        """
        ...


class GreedyGenerator:
    """Generates with a model as it is at that moment, whatever part of it is trained."""

    def __init__(self, model: PreTrainedModel, *, precision: Precision) -> None:
        self._model = model
        self._forward = LayeredForward(model, split=0, precision=precision)
        self._precision = precision

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[EncodedRow], *, max_new_tokens: int, end_ids: Sequence[int]
    ) -> Generation:
        """As :meth:`AnsweringLearner.generate`; dropout is off from here on."""
        started = time.perf_counter()
        self._forward.set_training(False)
        layers = self._forward.layers
        flops = flops_model(self._model, layers)  # adapters included, as they are there by now
        written: dict[int, NDArray[np.int64]] = {}
        cost = Cost()
        for indices in _batches(prompts, max_new_tokens):
            rows = [prompts[i].ids for i in indices]
            new_BN = self._continued(rows, max_new_tokens, end_ids)
            length, num_new = max(map(len, rows)), new_BN.shape[1]
            own = [_up_to_end(new_N, end_ids) for new_N in new_BN]
            written |= dict(zip(indices, own, strict=True))
            cost = cost.plus(
                Cost(
                    tokens=sum(map(len, rows)) + sum(map(len, own)),
                    padded_tokens=len(rows) * (length + num_new),
                    flops=generation_flops(
                        flops, num_layers=len(layers), rows=len(rows), prompt=length, new=num_new
                    ),
                )
            )
        ids = tuple(written[index] for index in range(len(prompts)))
        return Generation(ids, cost._replace(seconds=time.perf_counter() - started))

    def _continued(
        self, rows: Sequence[NDArray[np.int64]], max_new_tokens: int, end_ids: Sequence[int]
    ) -> NDArray[np.int64]:
        """[B, N] new tokens; behind a row's end they mean nothing."""
        ids_BP, mask_BP = _padded_left(rows)
        config = GenerationConfig(
            do_sample=False,
            num_beams=1,
            use_cache=True,
            max_new_tokens=max_new_tokens,
            eos_token_id=list(end_ids),
            pad_token_id=end_ids[0],
        )
        device = self._model.device
        model: Any = self._model  # transformers mixes `generate` in where mypy does not see it
        half = self._precision == "bfloat16"
        with (
            _only(model, config),
            torch.autocast(device.type, dtype=torch.bfloat16, enabled=half),
        ):
            sequences = model.generate(
                input_ids=ids_BP.to(device),
                attention_mask=mask_BP.to(device),
                generation_config=config,
            )
        new_BN: NDArray[np.int64] = sequences[:, ids_BP.shape[1] :].cpu().numpy()
        return new_BN


def generation_flops(
    flops: FlopsModel, *, num_layers: int, rows: int, prompt: int, new: int
) -> float:
    """Operations of ``rows`` prompts of ``prompt`` tokens that ``new`` tokens each follow.

    One pass reads the prompts and gives the first new token; each pass after it reads one token,
    which attends to all before it and to itself. The last token is never read, and the head scores
    one position of each row and pass.
    """
    read_singly = rows * (new - 1)
    attended = rows * sum(prompt + step for step in range(1, new))
    layer = 2.0 * flops.layer_weights * read_singly + 4.0 * flops.attention_width * attended
    return (
        flops.layers(rows=rows, length=prompt, num_layers=num_layers)
        + num_layers * layer
        + flops.head(positions=rows * new)
    )


def _batches(prompts: Sequence[EncodedRow], max_new_tokens: int) -> Iterator[list[int]]:
    """Indices of prompts of similar length."""
    order = sorted(range(len(prompts)), key=lambda index: (prompts[index].num_tokens, index))
    longest = max((prompt.num_tokens for prompt in prompts), default=0)
    size = max(1, GENERATION_TOKENS // (longest + max_new_tokens))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _padded_left(rows: Sequence[NDArray[np.int64]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [B, P] and where they are tokens; padding is token 0."""
    width = max(map(len, rows))
    ids_BP = np.zeros((len(rows), width), np.int64)
    mask_BP = np.zeros((len(rows), width), np.int64)
    for row, ids in enumerate(rows):
        ids_BP[row, width - len(ids) :] = ids
        mask_BP[row, width - len(ids) :] = 1
    return torch.from_numpy(ids_BP), torch.from_numpy(mask_BP)


def _up_to_end(new_N: NDArray[np.int64], end_ids: Sequence[int]) -> NDArray[np.int64]:
    ends = np.flatnonzero(np.isin(new_N, end_ids))
    return new_N[: ends[0] + 1] if len(ends) else new_N


@contextmanager
def _only(model: Any, config: GenerationConfig) -> Iterator[None]:
    """No setting that the model came with, such as a penalty of repetitions, has an effect."""
    own = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own
