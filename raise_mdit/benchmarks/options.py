"""Options that several benchmarks have: where, on what model and data, and how large."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from raise_mdit.benchmarks.setting import Setting, Sizes, prepare_setting
from raise_mdit.errors import ModelError
from raise_mdit.learners.forward import resolve_precision
from raise_mdit.learners.pretrained import Device
from raise_mdit.progress import Progress
from raise_mdit.runs import cache_directory

DEFAULT_MODEL = "smollm2-135m"

SIZE_OPTIONS = {
    "pool": ("--pool", "candidates"),
    "validation": ("--validation", "held-out rows of the validation pass"),
    "batch_size": ("--batch", "rows of an update"),
    "window": ("--window", "candidates offered at each step"),
    "steps": ("--steps", "steps of an episode"),
    "episodes": ("--episodes", "episodes of a policy's training"),
    "top_layers": ("--top-layers", "layers trained; `naive` trains all"),
    "max_length": ("--max-length", "longest row in tokens"),
    "repeats": ("--repeats", "measurements of each figure"),
    "seed": ("--seed", "of draws, adapters and policies"),
}
"""Option and meaning of the fields of :class:`raise_mdit.benchmarks.setting.Sizes`."""


def new_parser(program: str, *, description: str, epilog: str) -> argparse.ArgumentParser:
    """A parser whose texts are shown as they are written."""
    return argparse.ArgumentParser(
        prog=program,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_place_and_data(parser: argparse.ArgumentParser) -> None:
    """Add what says where a benchmark runs, and on which model and data."""
    place = parser.add_argument_group("where")
    place.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is"
    )
    place.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="auto: bfloat16 where the device multiplies it in hardware",
    )
    place.add_argument("--out", type=Path, default=Path("runs/bench"), help="default: runs/bench")
    data = parser.add_argument_group("model and data")
    data.add_argument(
        "--model", default=DEFAULT_MODEL, help=f"folder, hub name or GGUF; default {DEFAULT_MODEL}"
    )
    data.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="instruction data (.json, .jsonl, .parquet); default: the embedded playground, "
        "several rows composed into one by Mosaic-IT",
    )


def add_sizes(group: argparse._ArgumentGroup, fields: Sequence[str], usual: Sizes) -> None:
    """Add options of sizes.

    Args:
        group: Where they are listed.
        fields: Keys of :data:`SIZE_OPTIONS`.
        usual: The sizes that hold where an option is not given.
    """
    for field in fields:
        option, meaning = SIZE_OPTIONS[field]
        group.add_argument(
            option,
            dest=field,
            type=int if field == "seed" else count,
            metavar="N",
            help=f"{meaning}; default {getattr(usual, field)}",
        )


def chosen_sizes(options: argparse.Namespace, usual: Sizes) -> Sizes:
    """The sizes that were given, over the usual ones."""
    given = {field: getattr(options, field, None) for field in SIZE_OPTIONS}
    return replace(usual, **{name: value for name, value in given.items() if value is not None})


def count(text: str) -> int:
    """A whole number above 0.

    Raises:
        ValueError: It is none; the parser says so.
    """
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def asked_setting(
    options: argparse.Namespace, sizes: Sizes, *, scratch: Path, progress: Progress
) -> Setting:
    """The setting that the options of :func:`add_place_and_data` ask for.

    Raises:
        UserError: There is no such device, or the model or the data cannot be had.
    """
    device = asked_device(options.device)
    return prepare_setting(
        sizes,
        model=options.model,
        data=options.data,
        device=device,
        precision=resolve_precision(options.precision, torch.device(device)),
        models=cache_directory(),
        scratch=scratch,
        progress=progress,
    )


def asked_device(asked: Device) -> Device:
    """The device that is meant.

    Raises:
        ModelError: It is a GPU, and torch finds none.
    """
    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise ModelError(
            "--device cuda: torch finds no GPU here; take cpu, or `make gpu` on a machine with one"
        )
    if asked == "auto":
        return "cuda" if available else "cpu"
    return asked
