"""The ordered list of batches that a policy chose, replayable by any trainer.

A schedule is `schedule.jsonl`, one pick a line in the order of training, beside a manifest that
says what it belongs to and holds a digest of the order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from raise_mdit.candidates import content_hash
from raise_mdit.core import Kind
from raise_mdit.errors import RunError
from raise_mdit.runs import read_json, write_json, write_text

FORMAT = "raise-mdit/schedule"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Pick:
    """One row of one batch."""

    policy: str
    seed: int
    step: int
    """Optimizer step, from 0."""
    slot: int
    """Position within the batch, from 0."""
    id: str
    """Candidate id."""
    kind: Kind
    source: str
    """Source of the candidate, or of its parents joined by ``+``."""
    task: str | None
    """Task of the candidate, or of its parents joined by ``+``, where sources know it."""


def order_digest(picks: Iterable[Pick]) -> str:
    """Hash of which candidate was trained on when."""
    return content_hash([[p.policy, p.seed, p.step, p.slot, p.id] for p in picks])


def write_schedule(directory: Path, picks: Sequence[Pick], recipe: dict[str, object]) -> None:
    """Write `schedule.jsonl` and `schedule.manifest.json`.

    Args:
        directory: Where to.
        picks: In the order of training.
        recipe: What a trainer needs to replay them: model, batch size, learning rate and so on.
    """
    lines = (json.dumps(asdict(pick), ensure_ascii=False) + "\n" for pick in picks)
    write_text(directory / "schedule.jsonl", "".join(lines))
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "num_picks": len(picks),
        "order_digest": order_digest(picks),
        "recipe": recipe,
    }
    write_json(directory / "schedule.manifest.json", manifest)


def read_schedule(directory: Path) -> tuple[Pick, ...]:
    """What :func:`write_schedule` wrote.

    Raises:
        RunError: A file is missing, of another format, or does not match its manifest.
    """
    manifest = read_json(directory / "schedule.manifest.json")
    if (manifest.get("format"), manifest.get("format_version")) != (FORMAT, FORMAT_VERSION):
        raise RunError(
            f"{directory / 'schedule.manifest.json'}: format {manifest.get('format')!r} version "
            f"{manifest.get('format_version')!r}; this program reads {FORMAT!r} {FORMAT_VERSION}"
        )
    path = directory / "schedule.jsonl"
    try:
        # Not splitlines: it also cuts at U+2028 and the like, which JSON leaves in a task's name.
        with path.open(encoding="utf-8") as lines:
            picks = tuple(Pick(**json.loads(line)) for line in lines)
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path}: not a schedule ({error})") from error
    if order_digest(picks) != manifest.get("order_digest"):
        raise RunError(
            f"{path}: altered since it was written; its order does not match the manifest"
        )
    return picks
