"""Runs of W&B beside those of policies: the pool, its features, and the comparison.

Each is one stage, so that W&B draws the chain from pool to comparison. Their ids follow from their
content: whatever sends them again goes on with the same run.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import wandb

from raise_mdit.candidates import content_hash
from raise_mdit.comparison import PolicySummary, summarise
from raise_mdit.config import WandbConfig
from raise_mdit.results import ArmResult, read_results
from raise_mdit.runs import arm_folder
from raise_mdit.wandb_mirror import artifacts
from raise_mdit.wandb_mirror.contents import Content, arm_contents, shared_contents
from raise_mdit.wandb_mirror.service import API_TIMEOUT, RunLabels, open_run
from raise_mdit.wandb_mirror.tables import TableRows, comparison_table, costs_table

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
        if artifacts.has_arrived(api, project_path(api, config), content):
            continue
        labels = RunLabels(
            name=content.stage,
            group=experiment,
            job_type=content.stage,
            config={"experiment_name": experiment, f"{content.stage}_sha256": content.digest},
        )
        run_id = f"{content.stage}-{content_hash([experiment, content.alias])[:16]}"
        run = open_run(config, labels, directory=directory, mode="online", run_id=run_id)
        try:
            artifacts.send(run, [content], made_from=contents[:number])
        finally:
            run.finish()


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
