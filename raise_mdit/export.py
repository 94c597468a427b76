"""A schedule or a policy of a finished run in a folder of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from raise_mdit import __version__
from raise_mdit.agents.attribution import holds_scorer
from raise_mdit.candidates import content_hash
from raise_mdit.core import Message
from raise_mdit.decisions import (
    BASIS_FILE,
    DECISIONS_FILE,
    FEATURES_FILE,
    POLICY_FILE,
    read_decisions,
    read_features,
)
from raise_mdit.errors import RunError
from raise_mdit.experiment_file import read_config
from raise_mdit.exported_policy import (
    DESCRIPTION_FILE,
    PolicyDescription,
    read_fields,
    write_policy,
)
from raise_mdit.finished_arm import FinishedArm, chosen_arm
from raise_mdit.folders import is_exported_policy
from raise_mdit.policy_config import PpoConfig
from raise_mdit.policy_source import prior_of_arm, reward_examples
from raise_mdit.runs import arm_folder, write_text
from raise_mdit.schedule import order_digest
from raise_mdit.schedules import bundle
from raise_mdit.schedules.bundle import ScheduledRow
from raise_mdit.schedules.guides import write_guides
from raise_mdit.trial_sentences import picked_otherwise

_FILE_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,7}")
"""The end of a file's name; that of a folder such as `export-1.2` is none."""


class Exported(NamedTuple):
    """What was written."""

    directory: Path
    policy: str
    seed: int
    num_rows: int
    digest: str
    """Of the whole bundle; who gets it can compare."""


def export_schedule(
    directory: str | Path, *, policy: str | None, seed: int | None, to: str | Path | None
) -> Exported:
    """Write the schedule of one policy and seed as a bundle; see :mod:`raise_mdit.schedules`.

    Args:
        directory: A run directory.
        policy: Label; None takes the learned policy that is best on what a choice may be made on,
            or of all where none is learned; see :func:`raise_mdit.comparison.best_on_validation`.
        seed: None takes the policy's first.
        to: Where to; None is ``directory/export``. An earlier bundle of the same arm is replaced.

    Raises:
        RunError: There is no such run, policy or seed, its files were altered, or ``to`` is or is
            named like a file or holds something else, such as the bundle of another arm or run.
    """
    directory = Path(directory)
    target = directory / "export" if to is None else Path(to)
    check_folder(target)
    arm = chosen_arm(directory, policy, seed)
    run = FinishedArm(directory, arm)
    conversations = run.conversations()
    rows, steps = list(run.rows()), list(run.steps())
    recipe = run.recipe()
    fields = _manifest(run, rows, recipe)
    _clear_bundle(target, fields)
    bundle.write_rows(target, rows)
    bundle.write_conversations(target, conversations)
    bundle.write_lines(target / bundle.STEPS_FILE, (step._asdict() for step in steps))
    chat = [_chat_line(row, conversations, recipe["system_prompt"]) for row in rows]
    bundle.write_lines(target / bundle.CHAT_FILE, chat)
    if run.template is not None:
        write_text(target / bundle.TEMPLATE_FILE, run.template)
    write_guides(target, fields)
    bundle.seal(target, fields)
    digest = bundle.read_manifest(target)["digest"]
    return Exported(target, arm.policy, arm.seed, len(rows), digest)


def export_policy(
    directory: str | Path, *, policy: str | None, seed: int | None, to: str | Path | None
) -> Exported:
    """Write the policy of one arm, without its run; see :mod:`raise_mdit.exported_policy`.

    Args:
        directory: A run directory.
        policy: As :func:`export_schedule`.
        seed: As :func:`export_schedule`.
        to: Where to; None is ``directory/policy``. An earlier export of the same policy is
            replaced.

    Raises:
        RunError: As :func:`export_schedule`, or the policy is none that scores candidates.
    """
    directory = Path(directory)
    target = directory / "policy" if to is None else Path(to)
    check_folder(target)
    arm = chosen_arm(directory, policy, seed)
    folder = arm_folder(directory, arm.policy, arm.seed)
    weights = folder / POLICY_FILE
    config = read_config(directory)
    (section,) = (each for each in config.policies if each.label == arm.policy)
    if isinstance(section, PpoConfig) and section.from_run is not None:
        raise RunError(
            f"--policy {arm.policy}: it came trained, from {section.from_run}; export it from there"
        )
    if not (folder / DECISIONS_FILE).is_file() or not holds_scorer(weights):
        raise RunError(
            f"--policy {arm.policy}: a policy of kind {arm.kind} has no weights that score "
            "candidates; name one that learns to, such as of kind ppo"
        )
    if isinstance(section, PpoConfig):
        section = section.model_copy(update={"prior": prior_of_arm(section, arm)})
    size = config.features.semantic_size
    description = PolicyDescription(
        label=arm.policy,
        seed=arm.seed,
        section=section.model_dump(mode="json"),
        tier=config.features.tier,
        semantic_size=size,
        pool_columns=read_features(directory / FEATURES_FILE).names,
        extra_columns=read_decisions(folder / DECISIONS_FILE).extra_names,
        provenance={
            "made_by": f"raise-mdit {__version__}",
            "experiment": config.name,
            "model": config.model.name,
        },
        reward_examples=reward_examples(directory),
    )
    _clear_policy(target, _Origin(arm.policy, arm.seed, config.name, bundle.file_hash(weights)))
    basis = directory / BASIS_FILE if size > 0 else None
    write_policy(target, description, weights=weights, basis=basis)
    digest = bundle.file_hash(target / DESCRIPTION_FILE)
    return Exported(target, arm.policy, arm.seed, 0, digest)


def check_folder(target: Path) -> None:
    """Nothing, if a folder can be made there.

    Raises:
        RunError: It is a file or a link to nothing, or named like a file.
    """
    if target.is_dir():
        return
    if target.exists():
        raise RunError(f"--to: {str(target)!r} is a file; an export is a folder, so name one")
    if target.is_symlink():
        raise RunError(f"--to: {str(target)!r} is a link to what does not exist; name a folder")
    if _FILE_SUFFIX.fullmatch(target.suffix):
        raise RunError(
            f"--to: {str(target)!r} ends like a file, but an export is a folder of sft.jsonl (chat "
            "data), schedule.parquet, manifest.json, README.md and more; name a folder, such as "
            f"{str(target.with_suffix(''))!r}"
        )


def _manifest(
    run: FinishedArm, rows: Sequence[ScheduledRow], recipe: dict[str, Any]
) -> dict[str, Any]:
    arm = run.arm
    num_interpolated = sum(row.kind == "mdit" for row in rows)
    return {
        "policy": arm.policy,
        "seed": arm.seed,
        "num_rows": len(rows),
        "num_steps": arm.schedule_steps,
        "num_interpolated": num_interpolated,
        "lossy_in_jsonl": num_interpolated > 0,
        "has_scores": any(row.score is not None for row in rows),
        "repeated_episode": picked_otherwise(arm),
        "order_digest": order_digest(run.picks),
        "recipe": recipe,
        "provenance": {
            "made_by": f"raise-mdit {__version__}",
            "experiment": run.config.name,
            "policy_kind": arm.kind,
            "status": arm.status,
            "versions": run.versions,
        },
    }


def _chat_line(
    row: ScheduledRow,
    conversations: Mapping[str, tuple[Message, ...]],
    system_prompt: str | None,
) -> dict[str, Any]:
    messages = conversations[row.heavier]
    if system_prompt is not None and messages[0].role != "system":
        messages = (Message("system", system_prompt), *messages)
    return {
        "messages": [turn._asdict() for turn in messages],
        "id": row.candidate,
        "step": row.step,
        "slot": row.slot,
        "interpolated": row.kind == "mdit",
    }


class _Origin(NamedTuple):
    """Where an export comes from; of two that are equal, one may replace the other."""

    policy: str
    seed: int
    experiment: str
    content: str
    """Hash of what tells it from that of another run."""

    @property
    def name(self) -> str:
        """Of the arm, as messages tell it."""
        return f"{self.policy} s{self.seed} of experiment {self.experiment!r}"


def _origin_of(manifest: Mapping[str, Any]) -> _Origin:
    """Of a bundle: of another run are other picks, or picks that were trained on otherwise."""
    return _Origin(
        manifest["policy"],
        manifest["seed"],
        manifest["provenance"]["experiment"],
        content_hash([manifest["order_digest"], manifest["recipe"]]),
    )


def _clear_bundle(target: Path, fields: Mapping[str, Any]) -> None:
    """Make the folder, without an earlier bundle of the same arm."""
    ours: set[str] = set()
    if (target / bundle.MANIFEST_FILE).is_file():
        before = bundle.read_manifest(target)
        _check_same_origin(target, "schedule", _origin_of(before), _origin_of(fields))
        ours = {bundle.MANIFEST_FILE, *before["files"]}
    _clear_of(target, ours)


def _clear_policy(target: Path, origin: _Origin) -> None:
    """Make the folder, without an earlier export of the same policy."""
    ours: set[str] = set()
    if is_exported_policy(target):
        described = read_fields(target)
        experiment = described["provenance"]["experiment"]
        weights = described["files"][POLICY_FILE]
        before = _Origin(described["label"], described["seed"], experiment, weights)
        _check_same_origin(target, "policy", before, origin)
        ours = {DESCRIPTION_FILE, POLICY_FILE, BASIS_FILE}
    _clear_of(target, ours)


def _check_same_origin(target: Path, what: str, before: _Origin, asked: _Origin) -> None:
    """Nothing, if an export may replace the one that is there.

    Raises:
        RunError: It is of another arm or of another run.
    """
    if before == asked:
        return
    other = asked.name if asked.name != before.name else "the same of another run"
    raise RunError(
        f"--to: {str(target)!r} holds the {what} of {before.name}, and {other} is to be written; "
        "name another directory, or remove that one"
    )


def _clear_of(target: Path, ours: set[str]) -> None:
    """Make the folder, or remove the files of an earlier export from it.

    Raises:
        RunError: The folder holds something else, which verification would find.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"--to: {str(target)!r} cannot be made ({error.strerror})") from error
    others = sorted({*bundle.files_of(target)} - ours)
    if others:
        raise RunError(
            f"--to: {str(target)!r} holds what is no part of an export, such as {others[0]!r}; "
            "name an empty folder or that of an earlier export"
        )
    for name in ours:
        (target / name).unlink(missing_ok=True)
