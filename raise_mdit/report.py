"""One HTML file that answers an experiment's question and shows what the answer stands on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import plotly.graph_objects as go
from markupsafe import Markup

from raise_mdit import report_figures
from raise_mdit.comparison import (
    COMPARED_BY_TARGETS,
    PolicySummary,
    reached_by,
    references,
    target_names,
)
from raise_mdit.compute_figure import loss_by_compute
from raise_mdit.config import ExperimentConfig
from raise_mdit.early_stops import early_stop_sentences
from raise_mdit.effects import ROLES
from raise_mdit.experiment_file import resolved_yaml
from raise_mdit.pages import rendered
from raise_mdit.picks_section import picks_section
from raise_mdit.plots import embedded
from raise_mdit.prominence import PALE, policy_colours
from raise_mdit.report_sentences import (
    cautions,
    headline,
    limits_sentence,
    metric_agreement_of,
    return_trends,
)
from raise_mdit.report_table import main_table, references_table, targets_table
from raise_mdit.report_words import metric_words, split_words
from raise_mdit.results import ArmResult, compared_split
from raise_mdit.runs import write_text
from raise_mdit.trial_sentences import trial_sentences

REPORT_FILE = "report.html"
"""In a run directory."""


class _Agreement(NamedTuple):
    """Whether loss and task metric rank models alike."""

    sentence: str
    figure: Markup | None


def write_report(
    directory: Path,
    *,
    config: ExperimentConfig,
    arms: Sequence[ArmResult],
    summaries: Sequence[PolicySummary],
    status: str,
    versions: Mapping[str, str],
    notes: Sequence[str],
) -> None:
    """Write `report.html` into a run directory; one that is there is replaced.

    Args:
        directory: Of the run. Pool, features, texts and schedule in it are shown where they are
            there.
        config: The experiment as it was run.
        arms: What finished.
        summaries: The same by policy.
        status: How the run stands, such as `complete`.
        versions: Version of each package that had a part in the numbers.
        notes: Sentences a reader should know, such as what was removed from the splits.

    Raises:
        RunError: A file of the run is damaged or does not belong to the others.
    """
    colours = policy_colours(arms, summaries)
    page = rendered(
        "report.html",
        name=config.name,
        status=status,
        sentences=headline(summaries),
        cautions=cautions(summaries),
        split=split_words(summaries),
        is_opened=compared_split(arms) == "test",
        main=main_table(summaries, colours) if summaries else None,
        against=references_table(summaries, colours),
        limits=limits_sentence(summaries),
        by_target=targets_table(summaries, colours),
        num_targets=len(target_names(summaries)),
        compared_by_targets=COMPARED_BY_TARGETS,
        references={label: ROLES[role] for role, label in references(arms).items()},
        num_policies=len(summaries),
        seeds=len({arm.seed for arm in arms}),
        picks=picks_section(directory, arms, summaries),
        agreement=_agreement(arms, summaries, colours),
        configuration=resolved_yaml(config),
        versions=versions,
        notes=notes,
        **_plots(arms, summaries, colours),
    )
    write_text(directory / REPORT_FILE, page)


def _plots(
    arms: Sequence[ArmResult], summaries: Sequence[PolicySummary], colours: Mapping[str, str]
) -> dict[str, object]:
    """What the template shows of curves and costs, with their legends and words."""
    shown = [arm for arm in arms if arm.policy in colours]
    learned = {arm.policy: colours[arm.policy] for arm in shown if arm.episode_returns}
    legend = {policy: colour for policy, colour in colours.items() if colour != PALE}
    if len(legend) < len(colours):
        others = len(colours) - len(legend)
        legend["another policy" if others == 1 else f"{others} other policies"] = PALE
    return {
        "trends": [
            *trial_sentences(shown),
            *early_stop_sentences(shown),
            *return_trends(shown),
        ],
        "learned": learned,
        "running_mean": report_figures.RUNNING_MEAN,
        "policies": legend,
        "purposes": {
            purpose.replace("_", " "): colour
            for purpose, colour in report_figures.purpose_colours(shown).items()
        },
        **{
            name: _html(figure, name)
            for name, figure in {
                "compute": loss_by_compute(shown, summaries, colours),
                "returns": report_figures.episode_returns(shown, colours),
                "by_step": report_figures.validation_by_step(shown, colours),
                "by_compute": report_figures.validation_by_compute(shown, colours),
                "ends": report_figures.held_out_losses(shown, summaries, colours),
                "costs": report_figures.costs(shown),
            }.items()
        },
    }


def _agreement(
    arms: Sequence[ArmResult], summaries: Sequence[PolicySummary], colours: Mapping[str, str]
) -> _Agreement | None:
    """Loss against task metric over all arms, where the experiment measures one."""
    metric, found = metric_words(summaries), metric_agreement_of(arms, summaries)
    if metric is None or found is None:
        return None
    figure = report_figures.metric_by_loss(
        reached_by(arms), colours, metric=metric, place=split_words(summaries).place
    )
    return _Agreement(found.sentence, _html(figure, "agreement"))


def _html(figure: go.Figure, name: str) -> Markup | None:
    """The figure for the page, or nothing where it has nothing to show."""
    return embedded(figure, name) if figure.data else None
