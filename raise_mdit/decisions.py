"""What a policy was offered and took at each step, and the features that it saw.

Both are written as safetensors, which run no code when they are read. With a policy's weights they
say again what it scored, and why it picked what it picked.

Shapes: ``T`` steps, ``W`` slots of a window, ``k`` picks of a batch, ``G`` context, ``S`` extra
columns, ``N`` candidates of the pool, ``F`` features.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from raise_mdit.core import Observation
from raise_mdit.errors import RunError
from raise_mdit.features import Basis, FeatureTable
from raise_mdit.runs import write_bytes

DECISIONS_FILE = "decisions.safetensors"
POLICY_FILE = "policy.safetensors"
"""Weights of a learned policy, beside its decisions."""
"""In the folder of an arm."""
FEATURES_FILE = "features.safetensors"
BASIS_FILE = "basis.safetensors"
"""In a run directory."""

MASKED_ROW = -1
"""Stands in `windows` where a slot holds no candidate."""

DECISIONS_FORMAT = "raise-mdit/decisions/1"
FEATURES_FORMAT = "raise-mdit/features/1"
BASIS_FORMAT = "raise-mdit/basis/1"
_DIMENSIONS = {
    DECISIONS_FORMAT: {"windows": 2, "selected": 2, "context": 2, "extra": 3, "picks": 2},
    FEATURES_FORMAT: {"values": 2, "strata": 1},
    BASIS_FORMAT: {"components": 2, "mean": 1},
}
"""Number of dimensions of each array in a file of each format."""


class Decisions(NamedTuple):
    """The steps of one fine-tuning under a policy."""

    windows: NDArray[np.int32]
    """[T, W] pool rows offered, :data:`MASKED_ROW` where a slot was masked."""
    selected: NDArray[np.float32]
    """[T, W] how often each was picked before in this fine-tuning."""
    context: NDArray[np.float32]
    """[T, G] the stage: :data:`raise_mdit.envs.observation.CONTEXT`."""
    extra: NDArray[np.float32]
    """[T, W, S] columns of `candidates` behind the pool's own features; 0 where masked."""
    extra_names: tuple[str, ...]
    """S names, such as ``prior`` and ``gradient``."""
    picks: NDArray[np.int32]
    """[T, k] slots taken, in the order of the batch."""


class DecisionLog:
    """Collects what a policy decides, step by step.

    A step takes 8 + 4 S bytes a slot; the features of the pool are kept once, in their own file.
    """

    def __init__(self, *, num_features: int, extra_names: tuple[str, ...] = ()) -> None:
        """Begin with nothing.

        Args:
            num_features: F of the pool's own table, the first columns of `candidates`.
            extra_names: S names of the columns behind them.
        """
        self._num_features = num_features
        self._extra_names = extra_names
        self._steps: list[tuple[NDArray[Any], ...]] = []

    def add(self, observation: Observation, action: NDArray[np.int64]) -> None:
        """Take in a step; nothing of what is given is kept.

        Args:
            observation: Of ``raise_mdit/InstructionSelection-v0``, of one environment.
            action: [k] slots that were picked.
        """
        mask_W = np.asarray(observation["mask"]) > 0
        extra_WS = observation["candidates"][:, self._num_features :]
        assert extra_WS.shape[1] == len(self._extra_names), f"{extra_WS.shape} of extra columns"
        self._steps.append(
            (
                np.where(mask_W, observation["window"], MASKED_ROW).astype(np.int32),
                np.array(observation["selected"], np.float32),
                np.array(observation["context"], np.float32),
                np.where(mask_W[:, None], extra_WS, 0).astype(np.float32),
                np.array(action, np.int32),
            )
        )

    def cut(self, num_steps: int) -> None:
        """Forget what came after the first steps."""
        del self._steps[num_steps:]

    @property
    def decisions(self) -> Decisions:
        """All steps so far; at least one."""
        assert self._steps, "no step was added"
        windows, selected, context, extra, picks = map(np.stack, zip(*self._steps, strict=True))
        return Decisions(windows, selected, context, extra, self._extra_names, picks)


def window_columns(table: FeatureTable, decisions: Decisions, step: int) -> NDArray[np.float32]:
    """[W, F] what the policy saw of each slot at a step; masked slots hold the pool's first row."""
    values_WF = table.values[np.maximum(decisions.windows[step], 0)]
    return np.column_stack([values_WF, decisions.extra[step], np.log1p(decisions.selected[step])])


def write_decisions(path: Path, decisions: Decisions) -> None:
    """Write decisions, at once."""
    arrays = {name: getattr(decisions, name) for name in _DIMENSIONS[DECISIONS_FORMAT]}
    _write(path, DECISIONS_FORMAT, arrays, decisions.extra_names)


def read_decisions(path: Path) -> Decisions:
    """What :func:`write_decisions` wrote.

    Raises:
        RunError: The file is missing, damaged or of another format.
    """
    arrays, names = _read(path, DECISIONS_FORMAT)
    decisions = Decisions(**arrays, extra_names=names)
    num_steps, num_slots = decisions.windows.shape
    shapes = (
        decisions.selected.shape == (num_steps, num_slots),
        decisions.extra.shape == (num_steps, num_slots, len(names)),
        len(decisions.context) == len(decisions.picks) == num_steps > 0,
    )
    picks_Tk = decisions.picks
    if not (all(shapes) and ((picks_Tk >= 0) & (picks_Tk < num_slots)).all()):
        raise RunError(f"{path}: altered since it was written; its arrays do not fit together")
    return decisions


def write_features(path: Path, table: FeatureTable) -> None:
    """Write the features of a pool, at once."""
    arrays = {name: getattr(table, name) for name in _DIMENSIONS[FEATURES_FORMAT]}
    _write(path, FEATURES_FORMAT, arrays, table.names)


def read_features(path: Path) -> FeatureTable:
    """What :func:`write_features` wrote.

    Raises:
        RunError: The file is missing, damaged or of another format.
    """
    arrays, names = _read(path, FEATURES_FORMAT)
    table = FeatureTable(names, arrays["values"], arrays["strata"])
    if table.values.shape != (len(table.strata), len(names)):
        raise RunError(f"{path}: altered since it was written; its arrays do not fit together")
    return table


def write_basis(path: Path, basis: Basis, *, embeddings: str) -> None:
    """Write the axes of a pool's semantic columns, at once.

    Args:
        path: The file.
        basis: What a policy has to be shown another pool along.
        embeddings: Whose they are axes of, in words that name no other.
    """
    _write(path, BASIS_FORMAT, basis._asdict(), (embeddings,))


def read_basis(path: Path) -> tuple[Basis, str]:
    """What :func:`write_basis` wrote: the axes, and whose embeddings they are axes of.

    Raises:
        RunError: The file is missing, damaged or of another format.
    """
    arrays, names = _read(path, BASIS_FORMAT)
    basis = Basis(**arrays)
    if basis.components.shape[1:] != basis.mean.shape or len(names) != 1:
        raise RunError(f"{path}: altered since it was written; its arrays do not fit together")
    return basis, names[0]


def _write(
    path: Path, file_format: str, arrays: dict[str, NDArray[Any]], names: tuple[str, ...]
) -> None:
    # Safetensors writes the memory as it lies, so a transposed view would come back scrambled.
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    metadata = {"format": file_format, "names": json.dumps(names)}
    write_bytes(path, save(whole, metadata=metadata))


def _read(path: Path, file_format: str) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    """The arrays of a file, and its names of columns."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
    except FileNotFoundError as error:
        raise RunError(
            f"{path}: no such file; runs of older versions have none, so run again"
        ) from error
    except SafetensorError as error:
        raise RunError(f"{path}: damaged, not readable as safetensors ({error})") from error
    if metadata.get("format") != file_format:
        raise RunError(
            f"{path}: format {metadata.get('format')!r}; this program reads {file_format!r}"
        )
    dimensions = {name: array.ndim for name, array in arrays.items()}
    if dimensions != _DIMENSIONS[file_format]:
        raise RunError(f"{path}: holds {dimensions}, not {_DIMENSIONS[file_format]}")
    return arrays, tuple(json.loads(metadata["names"]))
