"""The trained parameters of a model as a file, to be measured later.

Written as safetensors, which run no code when they are read.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from raise_mdit.errors import RunError
from raise_mdit.runs import write_bytes

WEIGHTS_FILE = "weights.safetensors"
"""In the folder of an arm whose sealed test is opened later."""
FORMAT = "raise-mdit/weights/1"


def write_weights(path: Path, model: nn.Module, *, base_digest: str) -> None:
    """Write the parameters of a model that are trained, at once.

    Args:
        path: Where to.
        model: Of which those parameters require a gradient.
        base_digest: Of the model before any training, to which they belong.
    """
    trained = {name: weight.detach().contiguous() for name, weight in _trained(model).items()}
    write_bytes(path, save(trained, {"format": FORMAT, "base": base_digest}))


@torch.no_grad()
def read_weights(path: Path, model: nn.Module, *, base_digest: str) -> None:
    """Give a model the trained parameters of a file.

    Args:
        path: Written by :func:`write_weights`.
        model: Of the same architecture, with the same parameters trained; changed in place.
        base_digest: Of the model before any training.

    Raises:
        RunError: The file is missing or damaged, or belongs to another model or other parameters;
            the model is as it was.
    """
    saved = _read(path, base_digest)
    trained = _trained(model)
    shapes = {name: weight.shape for name, weight in saved.items()}
    if shapes != {name: weight.shape for name, weight in trained.items()}:
        raise RunError(f"{path}: holds other parameters than this experiment trains")
    for name, weight in trained.items():
        weight.copy_(saved[name])


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def _read(path: Path, base_digest: str) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            saved = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  # no dict
    except FileNotFoundError as fault:
        raise RunError(f"{path}: no such file; was the arm run with another open_test?") from fault
    except SafetensorError as fault:
        raise RunError(f"{path}: not readable as safetensors ({fault})") from fault
    if metadata.get("format") != FORMAT:
        raise RunError(f"{path}: no weights of an arm (format {metadata.get('format')!r})")
    if metadata.get("base") != base_digest:
        raise RunError(f"{path}: was trained from another model than {base_digest}")
    return saved
