"""Sends contents as artifacts, with what they were made from, and asks whether they arrived."""

from __future__ import annotations

from collections.abc import Iterable

import wandb

from raise_mdit.wandb_mirror.contents import Content

COMMITTED = "COMMITTED"
"""State of an artifact whose files have all arrived."""


def send(run: wandb.Run, contents: Iterable[Content], *, made_from: Iterable[Content]) -> None:
    """Give contents to a run as its outputs; they arrive by the run's end.

    The client reads the files where they are and copies nothing: they are durable, and a copy of a
    pool for each run would fill the disk.

    Args:
        run: An online run.
        contents: What it made.
        made_from: What it used; the service has it.

    Raises:
        wandb.Error: The service does not answer, or has none of what was used.
    """
    for used in made_from:
        run.use_artifact(used.path, type=used.stage)
    for content in contents:
        artifact = wandb.Artifact(content.name, type=content.stage, metadata=content.metadata)
        for file in content.files:
            artifact.add_file(str(file), name=file.name, policy="immutable", skip_cache=True)
        run.log_artifact(artifact, aliases=["latest", content.alias])


def has_arrived(api: wandb.Api, project: str, content: Content) -> bool:
    """Whether the service has all of a content.

    Args:
        api: The service.
        project: `entity/project`.
        content: What should be there.
    """
    path = f"{project}/{content.path}"
    if not api.artifact_exists(path, type=content.stage):
        return False
    found = api.artifact(path, type=content.stage)
    return bool(found.state == COMMITTED and found.metadata.get("sha256") == content.digests)
