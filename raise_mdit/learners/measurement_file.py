"""Measurements kept by content: arrays and what they cost to make, one file for each.

A kept measurement reports the cost of making it, so that a ledger does not depend on what happened
to be kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from raise_mdit.core import Cost, EncodedRow
from raise_mdit.runs import write_bytes

COST = "cost"
"""Of the arrays in a file, the one that is no part of the measurement."""

KEY_LENGTH = 32


class Measurement(NamedTuple):
    """What a file holds."""

    arrays: dict[str, NDArray[Any]]
    cost: Cost


class MeasurementFile:
    """The place of one measurement."""

    def __init__(self, cache: Path, key: str) -> None:
        """Take the place.

        Args:
            cache: Folder of all that is kept between runs.
            key: Covers everything that determines the measurement.
        """
        self._path = cache / "measurements" / f"{key}.safetensors"

    def read(self) -> Measurement | None:
        """What was kept; a damaged file counts as none."""
        try:
            arrays = load_file(self._path)
        except (FileNotFoundError, SafetensorError):
            return None
        tokens, padded, flops, seconds = arrays.pop(COST).tolist()
        return Measurement(arrays, Cost(int(tokens), int(padded), flops, seconds))

    def write(self, arrays: Mapping[str, NDArray[Any]], cost: Cost) -> None:
        """Keep a measurement, at once."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self._path, save({**arrays, COST: np.array(cost, np.float64)}))


def measurement_key(words: str, parts: Iterable[NDArray[Any]]) -> str:
    """A key of what a measurement depends on.

    Args:
        words: Version, model and settings.
        parts: Arrays in their order, each with its length.
    """
    state = hashlib.sha256(words.encode())
    for part in parts:
        state.update(len(part).to_bytes(8, "big"))
        state.update(part.tobytes())
    return state.hexdigest()[:KEY_LENGTH]


def parts_of_row(row: EncodedRow) -> tuple[NDArray[Any], ...]:
    """All of a row that its loss depends on, as a key takes it."""
    partner = np.zeros(0, np.int64) if row.partner_ids is None else row.partner_ids
    return row.ids, row.scored, row.targets, row.target_weights, partner, np.array([row.mix])
