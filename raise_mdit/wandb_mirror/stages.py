"""Runs of W&B beside those of policies: the pool, its features, schedules, and the comparison.

Each is one stage, so that W&B draws the chain from pool to comparison: it joins artifacts by runs
only, what a run used with what it gave. Their ids follow from their content: whatever sends them
again goes on with the same run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import wandb

from raise_mdit.candidates import content_hash
from raise_mdit.comparison import PolicySummary, summarise
from raise_mdit.config import WandbConfig
from raise_mdit.results import ArmResult, read_result, read_results
from raise_mdit.runs import arm_folder
from raise_mdit.wandb_mirror import artifacts
from raise_mdit.wandb_mirror.contents import Content, arm_contents, shared_contents
from raise_mdit.wandb_mirror.service import API_TIMEOUT, RunLabels, open_run
from raise_mdit.wandb_mirror.tables import TableRows, comparison_table, costs_table, picks_table

PICKS_TABLE = "picks"
COMPARISON_TABLE = "comparison"
COSTS_TABLE = "costs"
"""Under which key of a run's summary each table is."""


def send_table(run: wandb.Run, name: str, table: TableRows) -> None:
    """Put a table into the summary of an online run; in the history it would be a row too many."""
    made = wandb.Table(columns=list(table.columns), data=[list(row) for row in table.rows])
    run.summary[name] = made


def send_shared(config: WandbConfig, experiment: str, directory: Path) -> None:
    """Send pool and features of a run directory, as far as the service does not have them.

    Args:
        config: Project and entity.
        experiment: Its name.
        directory: Run directory.

    Raises:
        wandb.Error: The service does not take them.
        TimeoutError: It takes too long.
    """
    contents = shared_contents(directory, experiment)
    api = wandb.Api(timeout=API_TIMEOUT)
    for number, content in enumerate(contents):
        labels = _stage_labels(content, experiment, name=content.stage)
        before = contents[:number]
        _send_stage(api, config, content, made_from=before, labels=labels, within=directory)


def send_arm_files(run: wandb.Run, folder: Path, *, experiment: str) -> None:
    """Send the table of picks of an arm, and its policy or, where it has no weights, its schedule.

    Args:
        run: Of the arm, online.
        folder: Of the arm, of whose run directory the service has pool and features.
        experiment: Its name.

    Raises:
        wandb.Error: The service does not answer.
    """
    send_table(run, PICKS_TABLE, picks_table(folder))
    shared = shared_contents(folder.parents[1], experiment)
    artifacts.send(run, arm_contents(folder, experiment)[:1], made_from=shared)


def send_schedule(config: WandbConfig, experiment: str, folder: Path) -> None:
    """Send the schedule that a policy with weights made, as far as the service does not have it.

    A run of its own uses the policy. The arm's run, which gives the policy, could not say that the
    schedule came from it.

    Args:
        config: Project and entity.
        experiment: Its name.
        folder: Of the arm, whose run is finished.

    Raises:
        wandb.Error: The service does not take it.
        TimeoutError: It takes too long.
    """
    directory, contents = folder.parents[1], arm_contents(folder, experiment)
    if len(contents) < 2:  # without a policy the arm's run gives the schedule
        return
    policy, schedule = contents
    before = (*shared_contents(directory, experiment), policy)
    name = f"schedule {arm_name(read_result(folder))}"
    labels = _stage_labels(schedule, experiment, name=name)
    api = wandb.Api(timeout=API_TIMEOUT)
    _send_stage(api, config, schedule, made_from=before, labels=labels, within=directory)


def arm_name(result: ArmResult) -> str:
    """How the run of a finished arm is called."""
    return f"{result.policy}/s{result.seed}"


def send_comparison(config: WandbConfig, experiment: str, directory: Path) -> None:
    """Send how policies compare: a run with a table, intervals in its summary, and all schedules.

    Args:
        config: Project and entity.
        experiment: Its name.
        directory: Run directory, finished.

    Raises:
        wandb.Error: The service does not take it.
        TimeoutError: It takes too long.
    """
    arms = read_results(directory / "results.json")
    labels = RunLabels(
        name="comparison",
        group=experiment,
        job_type="comparison",
        config={"experiment_name": experiment, "run_directory": directory.resolve().name},
    )
    run_id = comparison_id(experiment, directory)
    run = open_run(config, labels, directory=directory, mode="online", run_id=run_id)
    try:
        artifacts.send(run, [], made_from=_schedules(directory, experiment, arms))
        summaries = summarise(arms)
        send_table(run, COMPARISON_TABLE, comparison_table(summaries))
        send_table(run, COSTS_TABLE, costs_table(arms))
        run.summary["policies"] = {each.policy: _intervals(each) for each in summaries}
    finally:
        run.finish()


def comparison_id(experiment: str, directory: Path) -> str:
    """Id of the run that compares the policies of a run directory."""
    return f"comparison-{content_hash([experiment, directory.resolve().name])[:16]}"


def project_path(api: wandb.Api, config: WandbConfig) -> str:
    """`entity/project`, the entity being the key's own where the file names none."""
    return f"{config.entity or api.default_entity}/{config.project}"


def _stage_labels(content: Content, experiment: str, *, name: str) -> RunLabels:
    return RunLabels(
        name=name,
        group=experiment,
        job_type=content.stage,
        config={"experiment_name": experiment, f"{content.stage}_sha256": content.digest},
    )


def _send_stage(
    api: wandb.Api,
    config: WandbConfig,
    content: Content,
    *,
    made_from: Sequence[Content],
    labels: RunLabels,
    within: Path,
) -> None:
    """Send a content by a run of its own, unless the service has it."""
    if artifacts.has_arrived(api, project_path(api, config), content):
        return
    run_id = f"{content.stage}-{content_hash([content.path])[:16]}"
    run = open_run(config, labels, directory=within, mode="online", run_id=run_id)
    try:
        artifacts.send(run, [content], made_from=made_from)
    finally:
        run.finish()


def _schedules(directory: Path, experiment: str, arms: tuple[ArmResult, ...]) -> list[Content]:
    folders = [arm_folder(directory, arm.policy, arm.seed) for arm in arms]
    contents = [each for folder in folders for each in arm_contents(folder, experiment)]
    return [each for each in contents if each.stage == "schedule"]


def _intervals(summary: PolicySummary) -> dict[str, object]:
    intervals = {
        "loss": summary.loss,
        "loss_ratio": summary.loss_ratio,
        "metric": summary.metric_value,
        "minus_random": summary.difference_to_random,
    }
    known = {name: asdict(each) for name, each in intervals.items() if each is not None}
    return {**known, "verdict": summary.verdict}
