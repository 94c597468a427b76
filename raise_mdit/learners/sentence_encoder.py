"""Embeddings of texts by a sentence encoder, in place of the tuned model's own.

The embedding is the mean of the last hidden states over the tokens of a text, special tokens
included, at unit length: the pooling of Sentence-BERT (arXiv 1908.10084, section 3). Layers that
an encoder's own sentence-transformers settings put behind it are not read.

Results are cached by content: the weights, the configuration, the token ids (which say all that the
tokenizer, the text and the length limit do), the kind of device and the versions of the libraries.

Shapes: ``M`` texts, ``B`` texts of a batch, ``T`` tokens, ``H`` hidden size.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from raise_mdit.candidates import content_hash
from raise_mdit.core import Cost, EncodedRow
from raise_mdit.encoding import TextRow, plain_row
from raise_mdit.errors import ModelError, nearest_entry
from raise_mdit.learners.batches import collate, length_sorted_batches
from raise_mdit.learners.causal_lm import EVALUATION_TOKENS
from raise_mdit.learners.measurement_file import MeasurementFile
from raise_mdit.learners.pretrained import (
    READ_FAULTS,
    Device,
    Tokenizer,
    context_length_of,
    model_digest,
    place_of,
)

KEY = "features.sentence_encoder"

POOLING = "mean of the last states, version 1"
"""Changed when the meaning of a cached number changes."""


class Embedded(NamedTuple):
    """What the encoder makes of each text."""

    embeddings: NDArray[np.float32]
    """[M, H] unit length."""
    cost: Cost
    """Of the forward passes; a cached result reports what it cost to make."""


def encode_sentences(
    name: str,
    texts: Sequence[str],
    *,
    device: Device,
    cache: Path,
    advance: Callable[[int], None],
    max_length: int,
) -> Embedded:
    """The embedding of every text by the encoder called ``name``, which is gone afterwards.

    FLOPs are what torch counts in the first pass of each shape of batch. Attention is computed by
    its plain products, since torch does not count the fused ones of a CPU.

    Args:
        name: A hub name or a folder; its weights are safetensors, and its code is never run.
        texts: What is read, each cut off at ``max_length``.
        device: Where it reads.
        cache: Folder of cached results.
        advance: Called with the number of texts done.
        max_length: Longest text in the encoder's own tokens; its context limits it further.

    Raises:
        ModelError: The encoder cannot be loaded, lacks weights, gives no state for each token, or
            its tokenizer finds no token in a text; or there is no GPU where one is asked for.
    """
    place = place_of(device)
    encoder, tokenizer = _load(name)
    rows = _tokenised(name, tokenizer, texts, min(max_length, _num_positions(encoder, tokenizer)))
    file = MeasurementFile(cache, _key(encoder, place, rows))
    found = file.read()
    if found is not None:
        advance(len(texts))
        return Embedded(found.arrays["embeddings"], found.cost)
    _check_states(name, encoder)
    embedded = _Reader(encoder.to(place), place).read(rows, advance)  # type: ignore[arg-type]  # the wrapper around it hides its type
    file.write({"embeddings": embedded.embeddings}, embedded.cost)
    return embedded


class _Reader:
    """Reads rows in length-sorted batches and adds up what that costs."""

    def __init__(self, encoder: PreTrainedModel, device: torch.device) -> None:
        self._encoder = encoder
        self._device = device
        self._flops: dict[tuple[int, int], float] = {}  # of each shape of batch that was read
        self._cost = Cost()

    @torch.no_grad()
    def read(self, rows: Sequence[EncodedRow], advance: Callable[[int], None]) -> Embedded:
        """Every row, in the order given."""
        embeddings: list[NDArray[np.float32]] = []
        order: list[int] = []
        for indices in length_sorted_batches(rows, max_tokens=EVALUATION_TOKENS):
            embeddings.append(self._read_batch([rows[i] for i in indices]))
            order += indices
            advance(len(indices))
        return Embedded(np.concatenate(embeddings)[np.argsort(order)], self._cost)

    def _read_batch(self, rows: list[EncodedRow]) -> NDArray[np.float32]:
        started = time.perf_counter()
        ids_BT = collate(rows, device=self._device).ids_BT
        lengths_B = torch.tensor([row.num_tokens for row in rows], device=self._device)
        mask_BT = torch.arange(ids_BT.shape[1], device=self._device) < lengths_B[:, None]
        states_BTH = self._states(ids_BT, mask_BT)
        embeddings = mean_over_tokens(states_BTH, mask_BT).cpu().numpy()  # waits for the device
        seconds = time.perf_counter() - started
        flops = self._flops[len(rows), ids_BT.shape[1]]
        tokens = sum(row.num_tokens for row in rows)
        self._cost = self._cost.plus(Cost(tokens, ids_BT.numel(), flops, seconds))
        return np.asarray(embeddings, np.float32)

    def _states(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        rows, length = ids_BT.shape
        if (rows, length) in self._flops:
            return last_states(self._encoder, ids_BT, mask_BT)
        with FlopCounterMode(display=False) as counter:
            states_BTH = last_states(self._encoder, ids_BT, mask_BT)
        self._flops[rows, length] = float(counter.get_total_flops())
        return states_BTH


def last_states(
    encoder: PreTrainedModel, ids_BT: torch.Tensor, mask_BT: torch.Tensor
) -> torch.Tensor:
    """[B, T, H] states above the last layer; what is masked is not attended to."""
    output = encoder(input_ids=ids_BT, attention_mask=mask_BT.long())
    states: torch.Tensor = output.last_hidden_state
    return states


def mean_over_tokens(states_BTH: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """Unit embeddings [B, H]: the mean of the states that are not masked."""
    # The sum has the direction of the mean, which is all that is left at unit length.
    sum_BH = torch.einsum("bt,bth->bh", mask_BT.to(states_BTH.dtype), states_BTH)
    return nn.functional.normalize(sum_BH, dim=1)


def _load(name: str) -> tuple[PreTrainedModel, Tokenizer]:
    """The encoder in evaluation mode, without its pooler, and its tokenizer."""
    _check_path(name)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):  # weights that are absent are drawn, then refused
        (encoder, report), tokenizer = _read(name)
    lacking = {*report["missing_keys"], *(key for key, *_shapes in report["mismatched_keys"])}
    absent = {key for key in lacking if key.split(".")[0] != "pooler"}
    if absent:
        raise ModelError(
            f"{KEY}: {name!r} lacks {len(absent)} of the weights that its configuration asks for, "
            f"or holds them in another shape, such as {min(absent)!r}; give a complete encoder"
        )
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = nn.Identity()  # its output is not used, and many come without its weights
    return encoder.requires_grad_(False).eval(), tokenizer


def _read(name: str) -> tuple[Any, Tokenizer]:
    """What transformers makes of a name; Any: its type leaves out the report."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        loaded: Any = AutoModel.from_pretrained(
            name,
            dtype=torch.float32,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation="eager",
            ignore_mismatched_sizes=True,  # they are in the report
            output_loading_info=True,
        )
    except Exception as error:
        # tokenizers raises the plain class on a damaged file
        if not isinstance(error, READ_FAULTS) and type(error) is not Exception:
            raise
        raise _refused(name, "could not be loaded", error) from error
    return loaded, tokenizer


def _check_path(name: str) -> None:
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(
                f"{KEY}: the folder {name!r} holds no config.json; give the folder that "
                "`save_pretrained` wrote"
            )
    elif path.exists():
        raise ModelError(f"{KEY}: {name!r} is a file; give a folder or a hub name")
    elif name.startswith(("./", "../", "/")):
        raise ModelError(f"{KEY}: there is no folder {name!r}.{nearest_entry(path)}")


def _check_states(name: str, encoder: PreTrainedModel) -> None:
    """Read two tokens: a model for images, or one with a decoder, cannot take them alone."""
    ids_BT = torch.zeros(1, 2, dtype=torch.int64)
    try:
        with torch.no_grad():
            states_BTH = last_states(encoder, ids_BT, torch.ones_like(ids_BT, dtype=torch.bool))
        if states_BTH.shape[:2] != ids_BT.shape:
            raise ValueError(f"two tokens have states of shape {tuple(states_BTH.shape)}")
    except READ_FAULTS as error:
        raise _refused(name, "gives no state for each token of a text", error) from error


def _refused(name: str, what: str, error: Exception) -> ModelError:
    expected = isinstance(error, OSError | ValueError) and str(error).strip()
    text = str(error) if expected else f"{type(error).__name__}: {error}"
    reason = textwrap.shorten(text, 200, placeholder=" ...")
    return ModelError(
        f"{KEY}: {name!r} {what} ({reason}); give the name of an encoder with safetensors weights "
        "on the hub that can be reached, or a folder that `save_pretrained` wrote"
    )


def _num_positions(encoder: PreTrainedModel, tokenizer: Tokenizer) -> int:
    """Longest sequence that both take; a table with a row for padding counts from behind it."""
    limits = [context_length_of(encoder), int(tokenizer.model_max_length)]
    for name, module in encoder.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            offset = 0 if module.padding_idx is None else module.padding_idx + 1  # RoBERTa, MPNet
            limits.append(module.num_embeddings - offset)
    return min(limits)


def _tokenised(
    name: str, tokenizer: Tokenizer, texts: Sequence[str], limit: int
) -> list[EncodedRow]:
    """Token ids of every text, special tokens included; nothing is scored."""
    rows = tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]
    for text, ids in zip(texts, rows, strict=True):
        if not ids:
            raise ModelError(f"{KEY}: the tokenizer of {name!r} finds no token in {text[:40]!r}")
    return [
        plain_row("", TextRow(np.array(ids, np.int64), np.zeros(len(ids), np.bool_)))
        for ids in rows
    ]


def _key(encoder: PreTrainedModel, device: torch.device, rows: Sequence[EncodedRow]) -> str:
    versions = [POOLING, transformers.__version__]  # the digest has torch's
    model = [model_digest(encoder), device.type]
    return content_hash([versions, model, [row.ids.tolist() for row in rows]])
