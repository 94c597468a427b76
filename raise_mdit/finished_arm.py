"""One finished arm of a run directory, as far as a bundle needs it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from raise_mdit import tracking
from raise_mdit.comparison import best_on_validation
from raise_mdit.config import ExperimentConfig
from raise_mdit.conversations import Part, parts_of
from raise_mdit.core import Message
from raise_mdit.errors import RunError, nearest
from raise_mdit.example_texts import EXAMPLES_FILE, read_examples
from raise_mdit.experiment_file import read_config
from raise_mdit.folders import CONFIG_FILE, PREPARATION_FILE, no_run_directory
from raise_mdit.learners.adamw import decay_factor
from raise_mdit.pool import Pool
from raise_mdit.results import ArmResult, read_results
from raise_mdit.run_arms import missing_arms
from raise_mdit.run_candidates import wording_of
from raise_mdit.runs import arm_folder, arms_in_words, read_json
from raise_mdit.schedule import read_schedule
from raise_mdit.schedules.bundle import ScheduledRow, ScheduledStep, conversation_id
from raise_mdit.schedules.scores import PickScore, pick_scores
from raise_mdit.sources.mosaic_wording import Wording

LOSS_MASK = "assistant turns with their end token; all else only conditions"


def chosen_arm(directory: Path, policy: str | None, seed: int | None) -> ArmResult:
    """The finished arm that is asked for; see :func:`export_schedule`."""
    results = directory / "results.json"
    if not (directory / CONFIG_FILE).is_file():
        raise RunError(no_run_directory(directory))
    if not results.is_file():
        raise RunError(
            f"{directory}: not a finished run (no results.json); finish it with "
            f"raise-mdit run {directory}"
        )
    finished = read_results(results)
    arms = [arm for arm in finished if arm.schedule_steps > 0]
    if not arms:
        raise RunError(f"{directory}: no policy of this run trained on anything")
    config = read_config(directory)
    unfinished = missing_arms(config, {(arm.policy, arm.seed) for arm in finished})
    if policy is None:
        learned = [arm for arm in arms if arm.has_rewards]
        owed = {each.label for each in config.policies if each.learns} & unfinished.keys()
        if owed and not learned:
            waited_for = arms_in_words({label: unfinished[label] for label in sorted(owed)})
            raise RunError(
                f"{directory}: no policy that learns has finished yet. raise-mdit run {directory} "
                f"goes on with {waited_for}; --policy names one that has finished"
            )
        policy = best_on_validation(learned or arms, finished)
    of_policy = {arm.seed: arm for arm in arms if arm.policy == policy}
    if seed in unfinished.get(policy, ()) or (policy in unfinished and not of_policy):
        waited_for = arms_in_words({policy: unfinished[policy]})
        raise RunError(
            f"{directory}: not finished yet: {waited_for}; raise-mdit run {directory} goes on"
        )
    if not of_policy:
        labels = sorted({arm.policy for arm in arms})
        raise RunError(
            f"--policy {policy!r}: not among what trained in this run, {', '.join(labels)}."
            f"{nearest(policy, labels)}"
        )
    if seed is None:
        seed = min(of_policy)
    if seed not in of_policy:
        raise RunError(f"--seed {seed}: {policy} has seeds {sorted(of_policy)}")
    return of_policy[seed]


class FinishedArm:
    """One arm of a run directory, as far as a bundle needs it."""

    def __init__(self, directory: Path, arm: ArmResult) -> None:
        self.directory = directory
        self.arm = arm
        self.folder = arm_folder(directory, arm.policy, arm.seed)
        self.picks = read_schedule(self.folder)
        self.config: ExperimentConfig = read_config(directory)
        self._pool = Pool.read(directory / "pool.parquet")
        self._numbers = self._pool.rows_of([pick.id for pick in self.picks])
        self._examples = read_examples(directory / EXAMPLES_FILE)
        self._preparation = read_json(directory / PREPARATION_FILE)
        self._wording: Wording = wording_of(directory)

    @property
    def template(self) -> str | None:
        """The chat template; None in runs of versions that did not note it."""
        template: str | None = self._preparation.get("chat_template")
        return template

    @cached_property
    def versions(self) -> dict[str, Any]:
        """What the run ran on."""
        return read_json(self.directory / "versions.json")

    def rows(self) -> Iterator[ScheduledRow]:
        """The picks with what they are made of and what the policy gave them."""
        scores: Sequence[PickScore | None] | None
        scores = pick_scores(self.directory, self.folder, self._numbers)
        if scores is None:
            scores = [None] * len(self.picks)
        for pick, row, given in zip(self.picks, self._numbers, scores, strict=True):
            parts = self._parts(int(row))
            yield ScheduledRow(
                step=pick.step,
                slot=pick.slot,
                candidate=pick.id,
                kind=pick.kind,
                source=pick.source,
                task=pick.task,
                ids=tuple(conversation_id(messages) for messages, _ in parts),
                weights=tuple(share for _, share in parts),
                score=given and given.score,
                log_probability=given and given.log_probability,
            )

    def conversations(self) -> dict[str, tuple[Message, ...]]:
        """All that the schedule refers to, in the order of first use."""
        return {
            conversation_id(messages): messages
            for row in self._numbers
            for messages, _ in self._parts(int(row))
        }

    def steps(self) -> Iterator[ScheduledStep]:
        """What the run recorded of every step.

        Raises:
            RunError: The records are not those of the schedule.
        """
        records = self._records()
        learner, share, tokens = self.config.learner, 0.0, 0
        for step, record in enumerate(records):
            factor = decay_factor(learner.schedule, share)
            so_far = int(record[tracking.TUNING_TOKENS])
            yield ScheduledStep(
                step=step,
                loss=record[tracking.TUNING_LOSS],
                learning_rate=learner.learning_rate * factor,
                tokens=so_far - tokens,
            )
            share, tokens = float(record[tracking.BUDGET_SHARE_SPENT]), so_far

    def recipe(self) -> dict[str, Any]:
        """What a trainer must do alike, and what it can check."""
        config, template = self.config, self.template
        noted = read_json(self.folder / "schedule.manifest.json")["recipe"]
        return {
            **noted,
            "loss_mask": LOSS_MASK,
            "learning_rate_schedule": {
                "kind": config.learner.schedule,
                "peak": config.learner.learning_rate,
                "over": "the budget in tokens" if config.environment.budget.tokens else "steps",
                "warmup_steps": 0,
            },
            "optimizer": "AdamW, betas 0.9 and 0.999, epsilon 1e-8",
            "precision": self._preparation.get("precision", config.model.precision),
            "seed": config.data.seed,
            "chat_template_sha256": template and hashlib.sha256(template.encode()).hexdigest(),
        }

    def _records(self) -> list[dict[str, Any]]:
        path = self.directory / "metrics.jsonl"
        arm = (self.arm.policy, self.arm.seed)
        try:
            with path.open(encoding="utf-8") as lines:
                records = [json.loads(line) for line in lines]
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: missing or damaged ({error})") from error
        own = [
            record
            for record in records
            if (record["policy"], record["seed"]) == arm and tracking.TUNING_STEP in record
        ]
        if [record[tracking.TUNING_STEP] for record in own] != list(range(1, self.arm.steps + 1)):
            raise RunError(f"{path}: does not hold each step of {arm[0]} s{arm[1]} once, in order")
        return own[: self.arm.schedule_steps]

    def _parts(self, row: int) -> tuple[Part, ...]:
        """Conversations with their shares."""
        return parts_of(self._pool.recipe(int(row)), self._examples, self._wording)
