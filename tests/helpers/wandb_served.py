"""What a stand-in for the server of Weights & Biases has been sent."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

ENTITY = "lab"
"""Whose key it is."""
TIME = "2026-01-01T00:00:00Z"

Json = dict[str, Any]


@dataclass
class ServedRun:
    """What a run has sent."""

    fields: Json = field(default_factory=dict)
    """As the client named them: `displayName`, `groupName`, `jobType`, `tags`, `sweep`."""
    rows: list[Json] = field(default_factory=list)
    summary: Json = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def config(self) -> Json:
        """Without the client's own part."""
        entries = json.loads(self.fields.get("config") or "{}")
        return {key: entry["value"] for key, entry in entries.items() if key != "_wandb"}

    @property
    def axes(self) -> dict[str, str]:
        """Step metric by metric."""
        entries = json.loads(self.fields["config"])["_wandb"]["value"]["m"]
        names = {str(number + 1): entry for number, entry in enumerate(entries)}
        return {
            entry.get("1") or entry["2"]: names[str(entry["5"])]["1"]
            for entry in entries
            if "5" in entry
        }


@dataclass
class ServedArtifact:
    """One version of an artifact."""

    id: str
    name: str
    type: str
    version: int
    digest: str
    run: str
    aliases: list[str]
    metadata: Json
    state: str = "PENDING"
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Served:
    """All that was sent."""

    runs: dict[str, ServedRun] = field(default_factory=lambda: defaultdict(ServedRun))
    """By id."""
    artifacts: list[ServedArtifact] = field(default_factory=list)
    uses: list[tuple[str, str]] = field(default_factory=list)
    """Id of a run and artifact that it uses, as `name:vN`."""
    views: dict[str, Json] = field(default_factory=dict)
    """Workspaces and reports by id."""
    sweeps: list[Json] = field(default_factory=list)
    url: str = ""
    """Of the server, where files are to be sent."""

    def named(self, name: str) -> ServedRun:
        """The one run of a display name."""
        (found,) = (run for run in self.runs.values() if run.fields.get("displayName") == name)
        return found

    def committed(self, kind: str) -> list[ServedArtifact]:
        """Whole artifacts of a type."""
        return [each for each in self.artifacts if (each.type, each.state) == (kind, "COMMITTED")]

    def lineage(self) -> set[tuple[str, str]]:
        """Edges of the graph that W&B draws, by name: artifact to its user, run to what it gave."""
        called = {key: str(run.fields.get("displayName")) for key, run in self.runs.items()}
        used = {(name.partition(":")[0], called[run]) for run, name in self.uses}
        return used | {(called[artifact.run], artifact.name) for artifact in self.artifacts}

    def views_of(self, kind: str) -> list[Json]:
        """Reports (`runs`) or workspaces (`project-view`)."""
        return [view for view in self.views.values() if view["type"] == kind]


Operation = Callable[[Served, Json], Json]
"""Takes the variables of a GraphQL operation, and gives its data."""


def project_named(name: str) -> Json:
    """A project as every operation describes it."""
    return {
        "__typename": "Project",
        "id": f"project-{name}",
        "internalId": "1",
        "name": name,
        "entityName": ENTITY,
        "entity": {"id": ENTITY, "name": ENTITY},
        "createdAt": TIME,
        "isBenchmark": False,
        "user": None,
    }


def page_info() -> Json:
    """The end of a list that is one page."""
    return {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
