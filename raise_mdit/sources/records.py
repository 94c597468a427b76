"""Instruction data from a file or the Hugging Face hub, as examples.

Positions in errors are what an editor or a data frame shows: ``file.jsonl:17`` is line 17, counted
from 1; ``file.json row 17`` and ``file.parquet row 17`` are index 17, counted from 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from raise_mdit.candidates import make_example
from raise_mdit.config import DatasetSource, HubConfig
from raise_mdit.core import Example
from raise_mdit.errors import DataError, nearest
from raise_mdit.sources.row_formats import (
    FORMATS,
    Fields,
    RowFault,
    RowFormat,
    conversation,
    recognise,
)

NUM_BAD_ROWS_SHOWN = 5
"""Bad rows that an error lists; the rest are counted."""


class BadRow(NamedTuple):
    """A row that makes no example."""

    where: str
    """Position, such as ``file.jsonl:17``."""
    reason: str


@dataclass(frozen=True, slots=True)
class SourceRows:
    """What reading a source gives."""

    examples: tuple[Example, ...]
    """In the order of the source, each text once."""
    bad_rows: tuple[BadRow, ...]
    """Rows that were skipped."""
    num_duplicates: int
    """Rows whose text an earlier row had; they were left out."""


class _Row(NamedTuple):
    where: str
    fields: Fields


def read_source(
    source: DatasetSource, *, root: str | None, on_bad_row: Literal["stop", "skip"]
) -> SourceRows:
    """The examples of a source.

    Args:
        source: What to read and in which format.
        root: Folder of ``source.file``; None reads from the hub where the source names it.
        on_bad_row: Whether a row that makes no example raises or is left out and listed.

    Raises:
        DataError: If the data is missing, unreadable, empty or, with ``stop``, has a bad row.
    """
    origin, rows = _open(source, root)
    examples: dict[str, Example] = {}
    bad_rows: list[BadRow] = []
    num_rows = 0
    for row in _convert(rows, source, origin):
        num_rows += 1
        if isinstance(row, BadRow):
            bad_rows.append(row)
        else:
            examples.setdefault(row.id, row)
    if bad_rows and on_bad_row == "stop":
        raise DataError(
            f"{_list_bad_rows(bad_rows)}\nMend them, or leave such rows out with "
            "`data.on_bad_row: skip`."
        )
    if not examples:
        rest = f"all of its rows are bad. {_list_bad_rows(bad_rows)}" if bad_rows else "it is empty"
        raise DataError(f"{origin}: no row to use: {rest}")
    num_duplicates = num_rows - len(bad_rows) - len(examples)
    return SourceRows(tuple(examples.values()), tuple(bad_rows), num_duplicates)


def _list_bad_rows(bad_rows: list[BadRow]) -> str:
    lines = [f"{row.where}: {row.reason}" for row in bad_rows[:NUM_BAD_ROWS_SHOWN]]
    num_hidden = len(bad_rows) - len(lines)
    if num_hidden:
        lines.append(f"and {num_hidden} more")
    if len(bad_rows) == 1:
        return lines[0]
    return "\n  ".join([f"{len(bad_rows)} rows cannot be used:", *lines])


def _convert(
    rows: Iterable[_Row | BadRow], source: DatasetSource, origin: str
) -> Iterator[Example | BadRow]:
    row_format: RowFormat | None = None
    for row in rows:
        if isinstance(row, BadRow):
            yield row
            continue
        if row_format is None:  # the first row tells
            _check_task_column(row.fields, source, origin)
            row_format = _row_format(row.fields, source, origin)
        try:
            messages = conversation(row.fields, row_format)
            yield make_example(
                source.name,
                messages,
                task=_task(row.fields, source.task_column),
                choices=row_format.choices(row.fields),
            )
        except RowFault as fault:
            yield BadRow(row.where, str(fault))


def _row_format(fields: Fields, source: DatasetSource, origin: str) -> RowFormat:
    if source.format == "auto":
        return FORMATS[recognise(fields, origin=origin)]
    return FORMATS[source.format]


def _check_task_column(fields: Fields, source: DatasetSource, origin: str) -> None:
    column = source.task_column
    if column is not None and column not in fields:
        raise DataError(
            f"{origin}: `task_column` of source {source.name!r} is {column!r}; "
            f"the columns are {', '.join(fields)}.{nearest(column, fields)}"
        )


def _task(fields: Fields, column: str | None) -> str | None:
    if column is None:
        return None
    task = fields.get(column)
    if isinstance(task, int):  # class labels of hub data are numbers
        return str(task)
    if not isinstance(task, str) or not task.strip():
        raise RowFault(f"the task column {column!r} is missing, blank or not text")
    return task


def _open(source: DatasetSource, root: str | None) -> tuple[str, Iterator[_Row | BadRow]]:
    """How errors call the data, and its rows; nothing is read before the first row is asked."""
    if root is not None and source.file is None:
        raise DataError(
            f"source {source.name!r} has no `file`, which it needs when data.root is set "
            f"({root!r}). Name its file, or set data.root to null to read from the hub."
        )
    if root is None and source.hub is not None:
        return source.hub.name, _hub_rows(source.hub)
    assert source.file is not None, "the config asks for `file`, `hub` or both"
    readers = {".json": _json_rows, ".jsonl": _json_lines_rows, ".parquet": _parquet_rows}
    suffix = Path(source.file).suffix
    if suffix not in readers:
        raise DataError(
            f"source {source.name!r}: {source.file} ends in {suffix or 'nothing'!r}; "
            f"files that can be read end in {', '.join(readers)}."
        )
    path = Path(root or "") / source.file
    _check_is_file(path, source.name)
    return source.file, readers[suffix](path, source.file)


def _check_is_file(path: Path, name: str) -> None:
    if path.is_file():
        return
    if path.exists():
        raise DataError(f"source {name!r}: {path} is not a file.")
    missing = path
    while not missing.parent.exists():
        missing = missing.parent
    siblings = sorted(entry.name for entry in missing.parent.iterdir())
    raise DataError(
        f"source {name!r}: there is no {path}: {str(missing.parent)!r} has no {missing.name!r}."
        f"{nearest(missing.name, siblings)} Paths are relative to data.root, or to the current "
        "folder when that is null."
    )


def _json_rows(path: Path, name: str) -> Iterator[_Row | BadRow]:
    try:
        values = json.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: not UTF-8 at byte {error.start}: {error.reason}") from error
    except json.JSONDecodeError as error:
        lines = " Rows on lines of their own belong in a .jsonl file."
        hint = lines if error.msg == "Extra data" else ""
        raise DataError(f"{name}:{error.lineno}:{error.colno}: {error.msg}.{hint}") from error
    if not isinstance(values, list):
        raise DataError(f"{name}: a list of objects is needed.{_inner_list(values)}")
    for index, value in enumerate(values):
        yield _object(f"{name} row {index}", value)


def _inner_list(value: object) -> str:
    entries = value.items() if isinstance(value, dict) else ()
    keys = [key for key, entry in entries if isinstance(entry, list)]
    return f" Save the list under {keys[0]!r} as the whole file." if keys else ""


def _json_lines_rows(path: Path, name: str) -> Iterator[_Row | BadRow]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _json_line(f"{name}:{number}", line)


def _json_line(where: str, line: bytes) -> _Row | BadRow:
    try:
        return _object(where, json.loads(line.decode("utf-8-sig").rstrip()))
    except UnicodeDecodeError as error:
        return BadRow(f"{where}:{error.start + 1}", f"not UTF-8: {error.reason}")
    except json.JSONDecodeError as error:
        return BadRow(f"{where}:{error.colno}", f"not JSON: {error.msg}")


def _object(where: str, value: object) -> _Row | BadRow:
    if isinstance(value, dict):
        return _Row(where, value)
    return BadRow(where, "not an object with columns")


def _parquet_rows(path: Path, name: str) -> Iterator[_Row | BadRow]:
    try:
        with pq.ParquetFile(path) as file:
            index = 0
            for batch in file.iter_batches():
                for fields in batch.to_pylist():
                    yield _Row(f"{name} row {index}", fields)
                    index += 1
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{name}: not a readable Parquet file: {_first_line(error)}") from error


def _hub_rows(hub: HubConfig) -> Iterator[_Row | BadRow]:
    for index, fields in enumerate(_load_from_hub(hub)):
        yield _Row(f"{hub.name} row {index}", fields)


def _load_from_hub(hub: HubConfig) -> Any:  # the library has no types
    import datasets  # takes a second to import, and only this function needs it

    try:
        return datasets.load_dataset(hub.name, hub.subset, split=hub.split)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        hides_cause = isinstance(error, datasets.exceptions.DatasetGenerationError)
        reason = _first_line(error.__cause__ if hides_cause and error.__cause__ else error)
        raise DataError(
            f"hub data set {hub.name!r} (subset {hub.subset!r}, split {hub.split!r}) cannot be "
            f"read: {reason}. Check the name and the network, or set data.root to a "
            "folder and `file` of the source to a file in it."
        ) from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
