"""The run directory: the truth about a run, written so that a reader never meets half a file.

Every file is written beside its place under a temporary name and renamed; `metrics.jsonl` alone
grows by whole lines. Nothing is loaded by pickle.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from raise_mdit.errors import RunError

CACHE_VARIABLE = "RAISE_MDIT_CACHE"
"""Environment variable that moves the cache."""


def cache_directory() -> Path:
    """Where converted models and measurements are kept between runs."""
    moved = os.environ.get(CACHE_VARIABLE)
    if moved:
        return Path(moved)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raise-mdit"


def new_run_directory(parent: Path, name: str, *, now: datetime) -> Path:
    """A fresh folder ``parent/name/stamp``; two processes in one second get different ones."""
    stamp = now.strftime("%Y%m%d-%H%M%S")
    folder = parent / name
    folder.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, 1000):
        directory = folder / (stamp if attempt == 1 else f"{stamp}-{attempt}")
        try:
            directory.mkdir()
        except FileExistsError:
            continue
        return directory
    raise RunError(f"{folder}: a thousand runs were started in one second")


def arm_folder(directory: Path, label: str, seed: int) -> Path:
    """Where an arm keeps what it made.

    Args:
        directory: Of the run.
        label: Of the policy.
        seed: Of the arm.
    """
    return directory / "arms" / f"{label}-s{seed}"


def arms_in_words(arms: Mapping[str, Sequence[int]]) -> str:
    """Policies, each with its seeds.

    Args:
        arms: Seeds by label.
    """
    return ", ".join(" ".join([label, *(f"s{seed}" for seed in arms[label])]) for label in arms)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of ``path`` when it is complete.

    Readers see the old content or the new, never a part.
    """
    handle, scratch = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file at once."""
    with replacing(path) as stream:
        stream.write(content)


def write_text(path: Path, content: str) -> None:
    """Write text as UTF-8, at once."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: object) -> None:
    """Write strict JSON (no NaN), indented, at once."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """What :func:`write_json` wrote.

    Raises:
        RunError: The file is missing, damaged or no object.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{path}: no such file; is {path.parent} a run directory?") from error
    except ValueError as error:
        raise RunError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(value, dict):
        raise RunError(f"{path}: holds no JSON object")
    return value


def read_record(path: Path, *, form: str, version: int | None = None) -> dict[str, Any]:
    """A JSON file of ours that says its format.

    Args:
        path: Of the file.
        form: Name of the format that is read.
        version: Of the format; None where its name has it.

    Raises:
        RunError: The file is missing, damaged or of another format.
    """
    fields = read_json(path)
    found = fields.get("format"), fields.get("format_version")
    if found != (form, version):
        raise RunError(
            f"{path}: {_format_words(*found)}; this program reads {_format_words(form, version)}"
        )
    return fields


def _format_words(form: object, version: object) -> str:
    return f"format {form!r}" + ("" if version is None else f" version {version!r}")


def read_description(
    path: Path, *, form: tuple[str, int], what: str, command: str
) -> dict[str, Any]:
    """The file that says what a folder of ours is.

    Args:
        path: Of the file.
        form: Name and version of the format that is read.
        what: What such a folder is called.
        command: Writes one.

    Raises:
        RunError: There is none, it is damaged, or it is of another format.
    """
    if not path.is_file():
        raise RunError(
            f"{path.parent}: no {what} (no {path.name}); give a folder that `{command}` wrote"
        )
    return read_record(path, form=form[0], version=form[1])


class MetricsFile:
    """`metrics.jsonl`: one record a line, each written whole, so that processes can share it."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("ab", buffering=0)

    def write(self, record: Mapping[str, object]) -> None:
        """Append a record."""
        self._stream.write((json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8"))

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def keep_metrics(path: Path, arms: set[tuple[str, int]]) -> None:
    """Leave only the records of the given arms (policy, seed); a torn last line goes with them."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text("utf-8").splitlines():
        record = _record(line)
        if record is not None and (record["policy"], record["seed"]) in arms:
            kept.append(line + "\n")
    write_text(path, "".join(kept))


def _record(line: str) -> dict[str, Any] | None:
    """The record on a line, or None where a killed run left half of one."""
    try:
        record: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return record
