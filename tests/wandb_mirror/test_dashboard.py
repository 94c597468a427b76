"""A workspace and a report with the panels of the local report."""

from __future__ import annotations

import json
import re
import warnings
from copy import deepcopy
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from helpers.tracked_runs import (
    DEAD_SERVER,
    POLICIES,
    PROJECT,
    conclude,
    config,
    write_arm,
    write_shared,
)
from helpers.wandb_served import Served
from helpers.wandb_server import StandIn

from raise_mdit.config import TrackingConfig
from raise_mdit.errors import ConfigError, RunError
from raise_mdit.experiment_file import resolved_yaml
from raise_mdit.tracking import METRICS, PICKS

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # wandb-workspaces uses Pydantic's old ways
    from raise_mdit.wandb_mirror.dashboard import Pushed, parts, push


class Shown(NamedTuple):
    """A workspace and a report after one push and another."""

    first: Pushed
    second: Pushed
    served: Served

    def spec(self, kind: str) -> dict[str, Any]:
        """What the report (`runs`) or the workspace (`project-view`) shows."""
        (view,) = self.served.views_of(kind)
        spec: dict[str, Any] = json.loads(view["spec"])
        return spec


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    directory = tmp_path_factory.mktemp("runs") / "20260101-000000"
    write_shared(directory, config("online"))
    results = []
    for policy in POLICIES:
        folder = directory / "arms" / f"{policy}-s0"
        folder.mkdir(parents=True)
        results.append(write_arm(folder, policy, 0))
    conclude(directory, results)
    return directory


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment of that run."""
    file = tmp_path_factory.mktemp("experiments") / "which.yaml"
    file.write_text(resolved_yaml(config("online")))
    return file


@pytest.fixture(scope="module")
def of_directory(service: StandIn, directory: Path) -> Shown:
    return push_twice(service, directory)


@pytest.fixture(scope="module")
def of_file(service: StandIn, file: Path) -> Shown:
    return push_twice(service, file)


def push_twice(service: StandIn, experiment: Path) -> Shown:
    service.begin(Served())
    service.served.runs["some"].fields["project"] = PROJECT
    first, second = push(experiment), push(experiment)
    assert service.unknown == []
    return Shown(first, second, deepcopy(service.served))


@pytest.mark.parametrize("pushed", ["of_directory", "of_file"])
def test_pushing_twice_updates_what_is_there(request: pytest.FixtureRequest, pushed: str) -> None:
    shown: Shown = request.getfixturevalue(pushed)
    assert shown.first == shown.second
    assert len(shown.served.views_of("project-view")) == len(shown.served.views_of("runs")) == 1


def test_a_file_and_a_run_directory_have_the_same_workspace_and_sections(
    of_directory: Shown, of_file: Shown
) -> None:
    assert of_directory.first.workspace == of_file.first.workspace
    assert sections(of_directory) == sections(of_file)


def test_the_workspace_has_the_sections_of_the_local_report(of_directory: Shown) -> None:
    template = files("raise_mdit").joinpath("report.html").read_text("utf-8")
    local = re.findall(r"<h2>([^{<]+)</h2>", template)
    shown = sections(of_directory)
    assert shown == [title for title in local if title in shown]
    assert len(shown) == len(parts())


def sections(shown: Shown) -> list[str]:
    """Titles of the workspace's sections that have panels."""
    found = shown.spec("project-view")["section"]["panelBankConfig"]["sections"]
    return [section["name"] for section in found if section["panels"]]


@pytest.mark.parametrize("kind", ["project-view", "runs"])
def test_a_run_directory_shows_its_runs_alone(
    of_directory: Shown, directory: Path, kind: str
) -> None:
    assert filters(of_directory.spec(kind)) == {
        ("group", "=", "which-policy"),
        ("jobType", "IN", "arm comparison"),
        ("run_directory", "=", directory.name),
    }


@pytest.mark.parametrize("kind", ["project-view", "runs"])
def test_a_file_shows_all_runs_of_the_experiment(of_file: Shown, kind: str) -> None:
    assert filters(of_file.spec(kind)) == {
        ("group", "=", "which-policy"),
        ("jobType", "IN", "arm comparison"),
    }


def filters(spec: Any) -> set[tuple[str, str, str]]:
    """Conditions on runs wherever they stand in a view, as key, operator and value."""
    if isinstance(spec, list):
        return set().union(*map(filters, spec))
    if not isinstance(spec, dict):
        return set()
    if spec.get("op") and spec.get("key") and spec.get("value"):
        value = spec["value"]
        said = value if isinstance(value, str) else " ".join(value)
        return {(spec["key"]["name"].removesuffix(".value"), spec["op"], said)}
    return set().union(*map(filters, spec.values()))


def test_the_report_says_what_the_local_one_says(of_directory: Shown) -> None:
    words = json.dumps(of_directory.spec("runs"), ensure_ascii=False)
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


def test_a_file_without_tracking_is_refused(tmp_path: Path) -> None:
    untracked = config("online").model_copy(update={"tracking": TrackingConfig()})
    (tmp_path / "which.yaml").write_text(resolved_yaml(untracked))
    with pytest.raises(RunError, match=r"which.yaml: `tracking.wandb` is null"):
        push(tmp_path / "which.yaml")


def test_what_is_neither_a_run_nor_a_file_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"whic.yaml: does not exist.*which.yaml"):
        push(file.with_name("whic.yaml"))


def test_a_server_that_is_not_there_is_named(directory: Path, no_server: None) -> None:
    with pytest.raises(RunError, match=rf"{DEAD_SERVER} does not answer"):
        push(directory)
