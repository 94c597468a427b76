"""A workspace and a report with the panels of the local report."""

from __future__ import annotations

import json
import re
import warnings
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from helpers.tracked_runs import PROJECT, conclude, config, write_arm, write_shared
from helpers.wandb_server import StandIn

from raise_mdit.errors import RunError
from raise_mdit.tracking import METRICS, PICKS

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # wandb-workspaces uses Pydantic's old ways
    from raise_mdit.wandb_mirror.dashboard import Pushed, parts, push


@pytest.fixture
def directory(tmp_path: Path, server: StandIn) -> Path:
    """A finished run, of whose project the server knows."""
    server.runs["some"].fields["project"] = PROJECT
    write_shared(tmp_path, config("online"))
    results = []
    for policy in ("random", "ppo"):
        folder = tmp_path / "arms" / f"{policy}-s0"
        folder.mkdir(parents=True)
        results.append(write_arm(folder, policy, 0))
    conclude(tmp_path, results)
    return tmp_path


def views(server: StandIn, kind: str) -> list[dict[str, Any]]:
    return [view for view in server.views.values() if view["type"] == kind]


def test_pushing_twice_updates_what_is_there(server: StandIn, directory: Path) -> None:
    first, second = push(directory), push(directory)
    assert first == second
    assert isinstance(first, Pushed)
    assert len(views(server, "project-view")) == len(views(server, "runs")) == 1


def test_the_workspace_has_the_sections_of_the_local_report(
    server: StandIn, directory: Path
) -> None:
    push(directory)
    (view,) = views(server, "project-view")
    sections = json.loads(view["spec"])["section"]["panelBankConfig"]["sections"]
    template = files("raise_mdit").joinpath("report.html").read_text("utf-8")
    local = re.findall(r"<h2>([^{<]+)</h2>", template)
    shown = [section["name"] for section in sections if section["panels"]]
    assert shown == [title for title in local if title in shown]
    assert len(shown) == len(parts())


def test_both_show_the_runs_of_this_directory_alone(server: StandIn, directory: Path) -> None:
    push(directory)
    for kind in ("project-view", "runs"):
        (view,) = views(server, kind)
        assert "which-policy" in view["spec"]
        assert directory.name in view["spec"]


def test_the_report_says_what_the_local_one_says(server: StandIn, directory: Path) -> None:
    push(directory)
    (view,) = views(server, "runs")
    words = json.dumps(json.loads(view["spec"]), ensure_ascii=False)
    assert "| ppo | 1.5000 |" in words
    assert "one seed" in words


def test_panels_show_metrics_that_are_sent() -> None:
    panels: list[Any] = [panel for part in parts() for panel in part.panels]
    lines = [panel for panel in panels if hasattr(panel, "y")]
    bars = [panel for panel in panels if hasattr(panel, "metrics")]
    assert {name for panel in lines for name in panel.y} <= set(METRICS)
    assert {panel.x for panel in lines} <= set(METRICS)
    assert {metric.name for panel in bars for metric in panel.metrics} <= set(METRICS)
    assert [panel.metric_regex for panel in lines if panel.metric_regex] == [f"{PICKS}.*"]


def test_a_run_without_results_is_refused(server: StandIn, tmp_path: Path) -> None:
    write_shared(tmp_path, config("online"))
    with pytest.raises(RunError, match="no results"):
        push(tmp_path)
