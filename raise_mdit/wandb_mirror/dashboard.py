"""The local report as a workspace and a report of W&B: the same questions, the same order.

Both are found again by name, so that pushing twice updates them. Numbers on them are W&B's, drawn
from runs; what the report says in words is the local report's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import wandb
import wandb_workspaces.expr as expr
import wandb_workspaces.workspaces as ws
from wandb_workspaces.reports.v2 import interface as wr
from wandb_workspaces.workspaces import internal

from raise_mdit import tracking
from raise_mdit.candidates import content_hash
from raise_mdit.comparison import PolicySummary, summarise
from raise_mdit.config import ExperimentConfig, WandbConfig
from raise_mdit.errors import RunError
from raise_mdit.experiment_file import load_experiment, read_config
from raise_mdit.report_sentences import headline
from raise_mdit.report_words import DIFFERENCE, LOSS, interval_text
from raise_mdit.results import read_results
from raise_mdit.wandb_mirror.service import SERVICE_FAULTS, connect, reason
from raise_mdit.wandb_mirror.stages import COMPARISON_TABLE, COSTS_TABLE, PICKS_TABLE, project_path

POLICY = wr.Config("policy_name")
"""By which runs are grouped."""
MAX_TITLE = 128
"""Characters of a report's title."""
ALL_RUNS = (
    "All runs of this experiment, whatever their run directory. `raise-mdit dashboard push RUN_DIR`"
    " shows those of one run, and its verdicts in words."
)


@dataclass(frozen=True)
class Part:
    """A question of the report, and the plots that answer it."""

    title: str
    """As in the local report."""
    panels: tuple[wr.PanelTypes, ...]


class Pushed(NamedTuple):
    """Where to look."""

    workspace: str
    """Address."""
    report: str
    """Address."""


def push(experiment: Path) -> Pushed:
    """Create or update the workspace and the report of an experiment.

    Both are named after the experiment; the last push says which runs they show.

    Args:
        experiment: Run directory with results, whose runs are shown, or experiment file, for all
            runs of the experiment.

    Raises:
        ConfigError: The file is none, or has faults.
        RunError: There are no results, the experiment is not tracked, or the service does not
            answer.
    """
    shown = _of_directory(experiment) if experiment.is_dir() else _of_file(experiment)
    api = connect()
    entity, _, project = project_path(api, shown.mirror).partition("/")
    place = _Place(entity, project, shown.name, shown.run_directory)
    try:
        return Pushed(_push_workspace(place), _push_report(place, shown.words, api))
    except SERVICE_FAULTS as fault:
        raise RunError(f"Weights & Biases: {reason(fault)}") from fault


def parts() -> tuple[Part, ...]:
    """What is shown, in the order of the local report."""
    return (
        Part("All policies", (wr.WeavePanelSummaryTable(table_name=COMPARISON_TABLE),)),
        Part(
            "Did the policy learn?",
            (
                _lines("Return by learning episode", tracking.ROLLOUT_EPISODE_RETURN),
                _lines("Critic: explained variance", "train/explained_variance"),
                _lines("Divergence of an update", "train/approx_kl"),
            ),
        ),
        Part(
            "How the loss fell",
            (
                _lines("Loss on reward-validation", tracking.REWARD_VALIDATION_LOSS),
                _lines("Loss of batches", tracking.TUNING_LOSS),
            ),
        ),
        Part(
            "Where each policy ended",
            (_bars("Loss on the sealed test, mean and standard error", tracking.TEST_LOSS),),
        ),
        Part(
            "What was picked, and when",
            (
                wr.LinePlot(
                    title="Share of picks by group",
                    x=tracking.TUNING_STEP,
                    metric_regex=f"{tracking.PICKS}.*",
                    plot_type="pct-area",
                    groupby=POLICY,
                    groupby_aggfunc="mean",
                ),
                wr.WeavePanelSummaryTable(table_name=PICKS_TABLE),
            ),
        ),
        Part(
            "What it cost",
            (
                _bars("Floating-point operations in all", tracking.COST_FLOPS),
                wr.WeavePanelSummaryTable(table_name=COSTS_TABLE),
            ),
        ),
    )


def _lines(title: str, metric: str) -> wr.LinePlot:
    """A metric against its axis, policies by mean and range of their seeds."""
    return wr.LinePlot(
        title=title,
        x=tracking.STEP_AXES[metric],
        y=[metric],
        groupby=POLICY,
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
    )


def _bars(title: str, metric: str) -> wr.BarPlot:
    """A final number of policies, by mean and standard error of their seeds."""
    return wr.BarPlot(
        title=title,
        metrics=[wr.SummaryMetric(metric)],
        groupby=POLICY,
        groupby_aggfunc="mean",
        groupby_rangefunc="stderr",
    )


class _Shown(NamedTuple):
    """An experiment whose runs are shown."""

    name: str
    mirror: WandbConfig
    run_directory: str | None
    """Name of the only one whose runs are shown; None for all."""
    words: tuple[str, ...]
    """Markdown above the panels of the report."""


def _of_directory(directory: Path) -> _Shown:
    if not (directory / "results.json").is_file():
        raise RunError(f"{directory}: no results.json; was a run ever finished or stopped here?")
    config = read_config(directory)
    summaries = summarise(read_results(directory / "results.json"))
    words = ("\n\n".join(headline(summaries)), markdown_table(summaries))
    return _Shown(config.name, _mirror(config, directory), directory.resolve().name, words)


def _of_file(file: Path) -> _Shown:
    config = load_experiment(file)
    return _Shown(config.name, _mirror(config, file), None, (ALL_RUNS,))


def _mirror(config: ExperimentConfig, given: Path) -> WandbConfig:
    if config.tracking.wandb is None:
        raise RunError(
            f"{given}: `tracking.wandb` is null, so W&B has no runs to show; give a run directory "
            "that was tracked, or a file with `tracking: {wandb: {mode: online}}`"
        )
    return config.tracking.wandb


class _Place(NamedTuple):
    """Whose runs are shown, and where."""

    entity: str
    project: str
    experiment: str
    run_directory: str | None

    @property
    def filters(self) -> expr.And:
        """Runs of policies and of comparisons; those that only pass files on show nothing."""
        conditions = [
            expr.Metric("Group") == self.experiment,
            expr.Metric("JobType").isin(["arm", "comparison"]),
        ]
        if self.run_directory is not None:
            conditions.append(expr.Config("run_directory") == self.run_directory)
        return expr.And(*conditions)

    @property
    def title(self) -> str:
        return f"{self.experiment}: which instructions to train on"[:MAX_TITLE]


def _push_workspace(place: _Place) -> str:
    workspace = ws.Workspace(
        entity=place.entity,
        project=place.project,
        name=place.title,
        sections=[
            ws.Section(name=part.title, panels=list(part.panels), is_open=True) for part in parts()
        ],
        runset_settings=ws.RunsetSettings(
            filters=place.filters,
            groupby=[expr.Config(POLICY.name)],
            order=[ws.Ordering(ws.Summary(tracking.TEST_LOSS), ascending=True)],
            pinned_columns=[f"summary:{tracking.TEST_LOSS}", f"summary:{tracking.COST_FLOPS}"],
        ),
    )
    # The client finds a workspace again only by its address, so its internal name follows from what
    # it shows.
    name = f"nw-{content_hash([place.entity, place.project, place.experiment])[:11]}-v"
    workspace._internal_name = name
    workspace._internal_id = _workspace_id(place, name)
    save: Callable[[], object] = workspace.save
    save()
    return str(workspace.url)


def _workspace_id(place: _Place, name: str) -> str:
    """Of the workspace that has an internal name; empty where there is none yet."""
    try:
        view = internal.get_view_dict(
            place.entity, place.project, internal._internal_name_to_url_query_str(name)
        )
    except ValueError:
        return ""
    return str(view["id"])


def _push_report(place: _Place, words: Sequence[str], api: wandb.Api) -> str:
    runset = wr.Runset(
        entity=place.entity, project=place.project, name="policies", filters=place.filters
    )
    blocks: list[wr.BlockTypes] = [wr.MarkdownBlock(text=each) for each in words]
    for part in parts():
        blocks += [wr.H2(part.title), wr.PanelGrid(runsets=[runset], panels=list(part.panels))]
    report = wr.Report(
        entity=place.entity,
        project=place.project,
        title=place.title,
        description="Written by `raise-mdit dashboard push`; pushing again replaces it.",
        blocks=blocks,
    )
    for found in api.reports(f"{place.entity}/{place.project}", name=place.title):
        report.id = found.id
    report.save()
    return str(report.url)


def markdown_table(summaries: Sequence[PolicySummary]) -> str:
    """The comparison with its intervals, as Markdown."""
    rows = (
        (
            each.policy,
            interval_text(each.compared, LOSS),
            interval_text(each.difference_to_random, DIFFERENCE),
            each.verdict,
        )
        for each in summaries
    )
    head = ("policy", "loss", "minus random", "verdict")
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
