"""Token ids of examples, kept on disk: a data set is tokenised once for each tokenizer.

An entry is keyed by all that decides the ids: the tokenizer's whole definition, the chat template,
the system prompt, the version of the tokenizing library and the examples' content ids. It carries a
checksum; a damaged one is made again.

Shapes: ``M`` examples, ``T`` tokens of all of them.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from raise_mdit.core import Example
from raise_mdit.encoding import ChatEncoder, TextRow
from raise_mdit.runs import write_bytes

CACHE_VERSION = "1"
"""Raised when the meaning of a stored array changes."""

Arrays = dict[str, NDArray[np.generic]]


def encode_examples(
    encoder: ChatEncoder, examples: Sequence[Example], *, cache: Path
) -> list[TextRow]:
    """Each example's token ids, as :meth:`ChatEncoder.encode` gives them.

    Args:
        encoder: Of conversations.
        examples: To be encoded, or found.
        cache: Folder of what was encoded before.

    Raises:
        ModelError: As :meth:`ChatEncoder.encode`.
    """
    fingerprint = encoder.fingerprint
    if fingerprint is None or not examples:  # nothing tells one slow tokenizer from another
        return encoder.encode([example.messages for example in examples])
    file = cache / "tokens" / f"{_key(fingerprint, examples)}.safetensors"
    found = _read(file)
    if found is None:
        found = _arrays(encoder.encode([example.messages for example in examples]))
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, save({**found, "checksum": _checksum(found)}))
    return _rows(found)


def _key(fingerprint: str, examples: Sequence[Example]) -> str:
    state = hashlib.sha256(f"{CACHE_VERSION} {fingerprint} {version('tokenizers')}".encode())
    for example in examples:
        state.update(example.id.encode())
    return state.hexdigest()[:32]


def _arrays(rows: Sequence[TextRow]) -> Arrays:
    return {
        "ids": np.concatenate([row.ids for row in rows]).astype(np.int32),
        "in_response": np.concatenate([row.in_response for row in rows]).astype(np.uint8),
        "lengths": np.array([len(row.ids) for row in rows], np.int64),
    }


def _rows(arrays: Arrays) -> list[TextRow]:
    """Rows that share the memory of two arrays over all T tokens."""
    ids, in_response = arrays["ids"].astype(np.int64), arrays["in_response"].astype(np.bool_)
    ends = np.cumsum(arrays["lengths"])[:-1]
    pairs = zip(np.split(ids, ends), np.split(in_response, ends), strict=True)
    return [TextRow(*pair) for pair in pairs]


def _read(file: Path) -> Arrays | None:
    """What was stored; a damaged file counts as none and is written again."""
    try:
        arrays: Arrays = load_file(file)
    except (FileNotFoundError, SafetensorError):
        return None
    stored = arrays.pop("checksum", None)
    intact = stored is not None and np.array_equal(stored, _checksum(arrays))
    return arrays if intact else None


def _checksum(arrays: Arrays) -> NDArray[np.int64]:
    state = 0
    for name in sorted(arrays):
        state = zlib.crc32(arrays[name].tobytes(), state)
    return np.array([state], np.int64)
