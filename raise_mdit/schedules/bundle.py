"""The bundle: a schedule as a folder that needs nothing beside it but the language model.

It holds::

    manifest.json         what all is: format, recipe, provenance, hash of every other file
    schedule.parquet      what was trained on, one row a pick, in the order of training
    pool.parquet          the conversations that the schedule refers to, each once
    steps.jsonl           loss, learning rate and tokens of every optimizer step
    sft.jsonl             the schedule as chat data in training order, for any trainer
    row_hashes.json       hash of every row of the four files above
    chat_template.jinja   the chat template, where the run noted it
    dataset_info.json     `sft.jsonl` as LLaMA-Factory names it
    recipes/              ready to run, for other trainers
    README.md             for a person who has only this folder

Nothing in it is a pickle, and reading it runs no code.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from raise_mdit.candidates import content_hash
from raise_mdit.core import Kind, Message, Role
from raise_mdit.errors import RunError
from raise_mdit.folders import BUNDLE_FORMAT, BUNDLE_MANIFEST_FILE, is_exported_policy
from raise_mdit.runs import read_description, write_bytes, write_json, write_text

FORMAT = BUNDLE_FORMAT
FORMAT_VERSION = 1

MANIFEST_FILE = BUNDLE_MANIFEST_FILE
SCHEDULE_FILE = "schedule.parquet"
POOL_FILE = "pool.parquet"
STEPS_FILE = "steps.jsonl"
CHAT_FILE = "sft.jsonl"
HASHES_FILE = "row_hashes.json"
TEMPLATE_FILE = "chat_template.jinja"

ROW_FILES = (SCHEDULE_FILE, POOL_FILE, STEPS_FILE, CHAT_FILE)
"""Files whose rows have hashes of their own, so that a fault can be named by its row."""

_SCHEDULE_SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("slot", pa.int32()),
        ("candidate", pa.string()),
        ("kind", pa.string()),
        ("source", pa.string()),
        ("task", pa.string()),
        ("ids", pa.list_(pa.string())),
        ("weights", pa.list_(pa.float64())),
        ("score", pa.float64()),
        ("log_probability", pa.float64()),
    ]
)
_POOL_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
    ]
)


class ScheduledRow(NamedTuple):
    """One row of one batch."""

    step: int
    """Optimizer step, from 0."""
    slot: int
    """Position within the batch, from 0."""
    candidate: str
    """Id of the candidate in the run."""
    kind: Kind
    source: str
    """Source of the candidate, or of its parents joined by ``+``."""
    task: str | None
    """Task of the candidate, or of its parents joined by ``+``, where sources know it."""
    ids: tuple[str, ...]
    """Conversations in the pool: one, or the two parents of an interpolation."""
    weights: tuple[float, ...]
    """Their shares: 1, or lambda and 1 - lambda."""
    score: float | None
    """What the policy gave it, a log-weight within its window; None of a policy without scores."""
    log_probability: float | None
    """Of drawing it next, given the picks before it in the batch; None likewise."""

    @property
    def heavier(self) -> str:
        """The conversation with the larger share; of equal ones the first."""
        return self.ids[max(range(len(self.ids)), key=self.weights.__getitem__)]


class ScheduledStep(NamedTuple):
    """One optimizer step."""

    step: int
    """From 0."""
    loss: float | None
    """Mean loss per scored token of the batch before the step, as the run recorded it, in nats;
    None where it was not finite."""
    learning_rate: float
    """Of this step."""
    tokens: int
    """Tokens of the batch, without padding."""


class Bundle(NamedTuple):
    """What a bundle holds."""

    manifest: Mapping[str, Any]
    rows: tuple[ScheduledRow, ...]
    """In the order of training."""
    conversations: Mapping[str, tuple[Message, ...]]
    """By id."""
    steps: tuple[ScheduledStep, ...]
    template: str | None
    """The chat template's Jinja text, where the run noted it."""

    @property
    def recipe(self) -> Mapping[str, Any]:
        """What a trainer needs to do alike."""
        recipe: Mapping[str, Any] = self.manifest["recipe"]
        return recipe


def conversation_id(messages: Iterable[Message]) -> str:
    """Hash of a conversation: what an example has as its id."""
    return content_hash([list(turn) for turn in messages])


def schedule_digest(rows: Iterable[ScheduledRow], *, policy: str, seed: int) -> str:
    """:func:`raise_mdit.schedule.order_digest` of the picks that the rows were made from."""
    return content_hash([[policy, seed, row.step, row.slot, row.candidate] for row in rows])


def write_rows(directory: Path, rows: Sequence[ScheduledRow]) -> None:
    """Write `schedule.parquet`."""
    _write_table(directory / SCHEDULE_FILE, [row._asdict() for row in rows], _SCHEDULE_SCHEMA)


def write_conversations(directory: Path, conversations: Mapping[str, tuple[Message, ...]]) -> None:
    """Write `pool.parquet`."""
    rows = [
        {"id": each, "messages": [turn._asdict() for turn in messages]}
        for each, messages in conversations.items()
    ]
    _write_table(directory / POOL_FILE, rows, _POOL_SCHEMA)


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON Lines."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def seal(directory: Path, fields: Mapping[str, Any]) -> None:
    """Write the hashes of all rows and files, and the manifest; last, as it says what there is.

    Args:
        directory: With every other file in its place.
        fields: What else the manifest says.
    """
    hashes = {name: row_hashes(directory / name) for name in ROW_FILES}
    write_json(directory / HASHES_FILE, hashes)
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **fields,
        "files": {name: file_hash(directory / name) for name in files_of(directory)},
    }
    write_json(directory / MANIFEST_FILE, {**manifest, "digest": manifest_digest(manifest)})


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """Hash of all that a manifest says, and so of the whole bundle."""
    return content_hash({key: value for key, value in manifest.items() if key != "digest"})


def files_of(directory: Path) -> list[str]:
    """Every file below a folder but the manifest, sorted, as POSIX paths."""
    found = (path for path in directory.rglob("*") if path.is_file() or path.is_symlink())
    names = (path.relative_to(directory).as_posix() for path in found)
    return sorted(name for name in names if name != MANIFEST_FILE)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def row_hashes(path: Path) -> list[str]:
    """Hash of each row of a file of :data:`ROW_FILES`, in their order.

    Raises:
        RunError: It is not readable as what its name says.
    """
    if path.suffix == ".parquet":
        return [content_hash(row) for row in _read_table(path)]
    return [hashlib.sha256(line).hexdigest()[:32] for line in path.read_bytes().splitlines(True)]


def read_manifest(directory: str | Path) -> dict[str, Any]:
    """The manifest of a bundle of this format.

    Raises:
        RunError: There is none, or it is of another format.
    """
    directory = Path(directory)
    if is_exported_policy(directory) and not (directory / MANIFEST_FILE).is_file():
        raise RunError(
            f"{directory}: no bundle, but a policy that was exported: `from:` of an experiment's "
            "policy takes it, and checks its files"
        )
    return read_description(
        directory / MANIFEST_FILE,
        form=(FORMAT, FORMAT_VERSION),
        what="bundle",
        command="raise-mdit export RUN_DIR --to DIR",
    )


def read_rows(directory: str | Path) -> tuple[ScheduledRow, ...]:
    """The rows of a schedule.

    Raises:
        RunError: The file is damaged.
    """
    rows = _read_table(Path(directory) / SCHEDULE_FILE)
    return tuple(
        ScheduledRow(**{**row, "ids": tuple(row["ids"]), "weights": tuple(row["weights"])})
        for row in rows
    )


def read_bundle(directory: str | Path) -> Bundle:
    """A bundle that was found sound; see :func:`raise_mdit.schedules.verification.verify`.

    Raises:
        RunError: It is damaged, or of another format.
    """
    directory = Path(directory)
    template = directory / TEMPLATE_FILE
    lines = (directory / STEPS_FILE).read_text("utf-8").splitlines()
    return Bundle(
        manifest=read_manifest(directory),
        rows=read_rows(directory),
        conversations={
            row["id"]: tuple(_message(turn) for turn in row["messages"])
            for row in _read_table(directory / POOL_FILE)
        },
        steps=tuple(ScheduledStep(**json.loads(line)) for line in lines),
        template=template.read_text("utf-8") if template.is_file() else None,
    )


def _message(turn: Mapping[str, Any]) -> Message:
    role: Role = turn["role"]
    return Message(role, turn["content"])


def _write_table(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), content, compression="zstd")
    write_bytes(path, content.getvalue())


def _read_table(path: Path) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise RunError(f"{path}: not a Parquet file, or damaged ({error})") from error
    return rows
