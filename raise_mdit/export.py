"""A learned schedule as chat data in training order, for any trainer."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from raise_mdit import __version__
from raise_mdit.candidates import Mdit, Recipe
from raise_mdit.comparison import ArmResult, arms_from_json, compared_losses
from raise_mdit.conversations import conversation_of
from raise_mdit.core import Message
from raise_mdit.errors import RunError, nearest
from raise_mdit.example_texts import EXAMPLES_FILE, read_examples
from raise_mdit.pool import Pool
from raise_mdit.runs import read_json, write_json, write_text
from raise_mdit.schedule import Pick, order_digest, read_schedule
from raise_mdit.sources.mosaic_wording import Wording, load_wording

EXPORT_FORMAT = "raise-mdit/export"
EXPORT_VERSION = 1

WORDING_FILE = "mosaic_wording.yaml"
"""In a run directory: what mosaics could say, where that is not the project's own wording."""

_FILE_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,7}")
"""The end of a file's name; that of a folder such as `export-1.2` is none."""

README = """\
# A training schedule

`sft.jsonl` holds {num_rows} conversations in the order in which they were chosen: {num_steps}
optimizer steps of {batch_size} rows. Policy `{policy}`, seed {seed}.

Train on it **in file order**, one pass, no shuffling and no packing, with {batch_size} rows an
optimizer step (batch x ranks x accumulation), loss on the assistant's tokens only, at most
{max_length} tokens a row. Settings that keep the order:

| trainer | settings |
| --- | --- |
| Hugging Face Trainer 5, TRL | `train_sampling_strategy="sequential"`, `packing=False` |
| LLaMA-Factory | `disable_shuffling: true`, no `val_size`, no packing |
| Axolotl | `curriculum_sampling: true` and `shuffle_merged_datasets: false` |

`manifest.json` names the model, the learner and a digest of the order; `schedule.jsonl` says which
candidate stands in which step and slot.
{interpolated}"""

INTERPOLATED = """
{count} rows are interpolations of two instructions in embedding space. Text cannot hold them: in
`sft.jsonl` each stands as its heavier parent and is marked `"interpolated": true`; its parents and
their weight are in `schedule.jsonl`.
"""


class Exported(NamedTuple):
    """What was written."""

    directory: Path
    policy: str
    seed: int
    num_rows: int


def export_schedule(
    directory: Path, *, policy: str | None, seed: int | None, to: Path | None
) -> Exported:
    """Write the schedule of one policy and seed.

    Args:
        directory: A run directory.
        policy: Label; None takes the learned policy with the lowest test loss, or without one the
            policy with the lowest.
        seed: None takes the policy's first.
        to: Where to; None is ``directory/export``.

    Raises:
        RunError: There is no such run, policy or seed, its files were altered, or ``to`` is or is
            named like a file.
    """
    target = to or directory / "export"
    _check_folder(target)
    arm = _chosen_arm(directory, policy, seed)
    picks = read_schedule(directory / "arms" / f"{arm.policy}-s{arm.seed}")
    manifest = read_json(directory / "schedule.manifest.json")
    target.mkdir(parents=True, exist_ok=True)
    rows = _Rows(directory).of(picks)
    _write_lines(target / "sft.jsonl", [row.sft for row in rows])
    _write_lines(target / "schedule.jsonl", [row.schedule for row in rows])
    num_interpolated = sum(pick.kind == "mdit" for pick in picks)
    write_json(
        target / "manifest.json",
        {
            "format": EXPORT_FORMAT,
            "format_version": EXPORT_VERSION,
            "made_by": f"raise-mdit {__version__}",
            "policy": arm.policy,
            "seed": arm.seed,
            "num_rows": len(picks),
            "num_steps": arm.steps,
            "num_interpolated": num_interpolated,
            "order_digest": order_digest(picks),
            "recipe": manifest["recipe"],
        },
    )
    write_text(target / "README.md", _readme(arm, manifest["recipe"], len(picks), num_interpolated))
    return Exported(target, arm.policy, arm.seed, len(picks))


def _check_folder(target: Path) -> None:
    if target.is_dir():
        return
    if target.exists():
        raise RunError(f"--to: {str(target)!r} is a file; an export is a folder, so name one")
    if _FILE_SUFFIX.fullmatch(target.suffix):
        raise RunError(
            f"--to: {str(target)!r} ends like a file, but an export is a folder of sft.jsonl (chat "
            "data, the one format), schedule.jsonl, manifest.json and README.md; name a folder, "
            f"such as {str(target.with_suffix(''))!r}"
        )


def _chosen_arm(directory: Path, policy: str | None, seed: int | None) -> ArmResult:
    results = directory / "results.json"
    if not results.is_file():
        raise RunError(f"{directory}: not a finished run (no results.json)")
    finished = arms_from_json(results.read_text("utf-8"))
    arms = [arm for arm in finished if arm.steps > 0]
    if not arms:
        raise RunError(f"{directory}: no policy of this run trained on anything")
    if policy is None:
        learned = [arm for arm in arms if arm.episode_returns]
        losses = compared_losses(finished)
        if not losses:
            raise RunError(
                f"{directory}: base has not finished, against which several targets are compared; "
                "name one with --policy"
            )
        policy = min(learned or arms, key=lambda arm: losses[arm.policy, arm.seed]).policy
    of_policy = {arm.seed: arm for arm in arms if arm.policy == policy}
    if not of_policy:
        labels = sorted({arm.policy for arm in arms})
        raise RunError(
            f"--policy {policy!r}: not in this run, which has {', '.join(labels)}."
            f"{nearest(policy, labels)}"
        )
    if seed is None:
        seed = min(of_policy)
    if seed not in of_policy:
        raise RunError(f"--seed {seed}: {policy} has seeds {sorted(of_policy)}")
    return of_policy[seed]


class _Row(NamedTuple):
    sft: dict[str, Any]
    schedule: dict[str, Any]


class _Rows:
    """Renders picks from a run directory's pool and texts."""

    def __init__(self, directory: Path) -> None:
        self._examples = read_examples(directory / EXAMPLES_FILE)
        self._pool = Pool.read(directory / "pool.parquet")
        own = directory / WORDING_FILE
        self._wording: Wording = load_wording(own if own.is_file() else None)

    def of(self, picks: tuple[Pick, ...]) -> list[_Row]:
        """Each pick as a conversation and as a line of the schedule."""
        numbers = self._pool.rows_of([pick.id for pick in picks])
        return [self._row(pick, int(row)) for pick, row in zip(picks, numbers, strict=True)]

    def _row(self, pick: Pick, row: int) -> _Row:
        recipe = self._pool.recipe(row)
        messages = [turn._asdict() for turn in self._messages(recipe)]
        sft: dict[str, Any] = {"messages": messages, "id": pick.id, "step": pick.step}
        if isinstance(recipe, Mdit):
            sft["interpolated"] = True
        return _Row(sft, {**asdict(pick), "recipe": asdict(recipe)})

    def _messages(self, recipe: Recipe) -> tuple[Message, ...]:
        if isinstance(recipe, Mdit):
            heavier = recipe.first if recipe.weight >= 0.5 else recipe.second
            return self._examples[heavier].messages
        return conversation_of(recipe, self._examples, self._wording)


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _readme(arm: ArmResult, recipe: dict[str, Any], num_rows: int, num_interpolated: int) -> str:
    return README.format(
        policy=arm.policy,
        seed=arm.seed,
        num_rows=num_rows,
        num_steps=arm.steps,
        batch_size=recipe["batch_size"],
        max_length=recipe["max_length"],
        interpolated=INTERPOLATED.format(count=num_interpolated) if num_interpolated else "",
    )
