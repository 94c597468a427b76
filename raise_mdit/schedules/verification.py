"""Whether a bundle is what was written: every file and every row, in its place.

Hashes find what was damaged or changed on the way. Against somebody who changes the rows and then
writes all hashes anew they help only if the bundle's digest came by another way; compare it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from raise_mdit.errors import RunError
from raise_mdit.schedules.bundle import (
    HASHES_FILE,
    MANIFEST_FILE,
    ROW_FILES,
    SCHEDULE_FILE,
    file_hash,
    files_of,
    manifest_digest,
    read_manifest,
    read_rows,
    row_hashes,
    schedule_digest,
)


class Verified(NamedTuple):
    """What was found of a bundle."""

    faults: tuple[str, ...]
    """What is wrong, one sentence each, the file first; none if the bundle is sound."""
    num_rows: int
    """That the manifest promises."""
    digest: str
    """Of the bundle as its manifest tells it."""


def verify(directory: str | Path) -> Verified:
    """Look for altered, missing, added and reordered rows, and for such files.

    Rows of `.jsonl` files are named by their lines, from 1 as an editor shows them; rows of Parquet
    files by their numbers, from 0 as a data frame shows them.

    Raises:
        RunError: The folder is no bundle of this format.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    faults: list[str] = []
    digest = manifest_digest(manifest)
    if manifest.get("digest") != digest:
        faults.append(f"{MANIFEST_FILE}: altered; its digest does not match what it says")
    faults += _file_faults(directory, manifest)
    return Verified(tuple(faults), int(manifest.get("num_rows", 0)), digest)


def check(directory: str | Path) -> None:
    """Nothing, if a bundle is sound.

    Raises:
        RunError: It is not; every fault is named.
    """
    faults = verify(directory).faults
    if faults:
        raise RunError("\n".join((f"{directory}: not as it was written", *faults)))


def _file_faults(directory: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    promised: Mapping[str, str] = manifest.get("files", {})
    found = set(files_of(directory))
    expected = _expected_hashes(directory) if HASHES_FILE in found else {}
    for name in sorted({*promised, *found}):
        path = directory / name
        if name not in found:
            yield f"{name}: missing"
        elif name not in promised:
            yield f"{name}: not part of the bundle"
        elif path.is_symlink():
            yield f"{name}: a link, where the bundle had a file"
        elif file_hash(path) != promised[name]:
            yield from _altered(path, name, expected.get(name))
    if SCHEDULE_FILE in found:
        yield from _order_faults(directory, manifest)


def _expected_hashes(directory: Path) -> dict[str, list[str]]:
    """By file; nothing where the file of hashes itself is damaged, which its own hash shows."""
    try:
        hashes = json.loads((directory / HASHES_FILE).read_text("utf-8"))
    except ValueError:
        return {}
    return hashes if isinstance(hashes, dict) else {}


def _altered(path: Path, name: str, expected: list[str] | None) -> Iterator[str]:
    """What is wrong with a file whose hash does not match."""
    if name not in ROW_FILES or expected is None:
        yield f"{name}: altered"
        return
    try:
        faults = list(row_faults(expected, row_hashes(path), row_name=_row_name(name)))
    except RunError as error:
        yield f"{name}: altered; {error}"
        return
    if not faults:
        yield f"{name}: written anew; its rows are as they were, but not its bytes"
    yield from (f"{name}: {fault}" for fault in faults)


def _row_name(file: str) -> Callable[[int], str]:
    """How rows of a file are named: as an editor shows lines, or as a data frame shows rows."""
    if file.endswith(".jsonl"):
        return lambda row: f"line {row + 1}"
    return lambda row: f"row {row} (from 0)"


def row_faults(
    expected: Sequence[str], found: Sequence[str], *, row_name: Callable[[int], str]
) -> Iterator[str]:
    """What became of rows.

    A row that is missing is named by where it was, every other by where it is.

    Args:
        expected: Hashes of the rows as they were; no two are alike.
        found: Hashes of the rows as they are.
        row_name: What messages call a row, by its number from 0.
    """
    place = {each: row for row, each in enumerate(expected)}
    there = set(found)
    replaced = {
        row
        for row, each in enumerate(found[: len(expected)])
        if each not in place and expected[row] not in there
    }
    for row, each in enumerate(expected):
        if each not in there:
            yield f"{row_name(row)}: {'altered' if row in replaced else 'missing'}"
    kept: list[int] = []
    seen: set[str] = set()
    for row, each in enumerate(found):
        if each in seen:
            yield f"{row_name(row)}: a copy of another row"
        elif each in place:
            kept.append(row)
        elif row not in replaced:
            yield f"{row_name(row)}: added"
        seen.add(each)
    in_order = sorted(place[found[row]] for row in kept)
    for row, wanted in zip(kept, in_order, strict=True):
        if place[found[row]] != wanted:
            yield f"{row_name(row)}: out of order; it was {row_name(place[found[row]])}"


def _order_faults(directory: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    """The digest of the order, which the run directory has too."""
    try:
        rows = read_rows(directory)
    except (RunError, TypeError, KeyError):
        return  # the file's own hash has told
    digest = schedule_digest(rows, policy=manifest["policy"], seed=manifest["seed"])
    if digest != manifest.get("order_digest"):
        yield f"{SCHEDULE_FILE}: its order does not match the manifest's `order_digest`"
