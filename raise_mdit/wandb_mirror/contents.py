"""What of a run directory becomes an artifact, and what each was made from.

The chain is pool, features, policy, schedule. An artifact is named by its files' digests, so that
the same content is the same version wherever it is sent from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from raise_mdit.candidates import content_hash
from raise_mdit.decisions import BASIS_FILE, DECISIONS_FILE, FEATURES_FILE, POLICY_FILE
from raise_mdit.example_texts import EXAMPLES_FILE
from raise_mdit.run_candidates import WORDING_FILE

Stage = Literal["pool", "features", "policy", "schedule"]

LONGEST_NAME = 128
"""Of an artifact, in characters."""

_FILES: Mapping[Stage, tuple[str, ...]] = {
    "pool": ("pool.parquet", EXAMPLES_FILE, WORDING_FILE),
    "features": (FEATURES_FILE, BASIS_FILE),
    "policy": (POLICY_FILE, DECISIONS_FILE),
    "schedule": ("schedule.jsonl", "schedule.manifest.json"),
}
"""Files of each stage; the first is there wherever the stage is."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """Files of a run directory that are one artifact."""

    stage: Stage
    name: str
    """Of the artifact."""
    files: tuple[Path, ...]
    digests: Mapping[str, str]
    """SHA-256 of each file."""
    made_from: Mapping[Stage, str]
    """Digest of each stage before it that had a part in it."""

    @property
    def digest(self) -> str:
        """SHA-256 of its first file, which stands for it in configs."""
        return self.digests[self.files[0].name]

    @property
    def alias(self) -> str:
        """What names this version of the artifact, by the content of all its files."""
        return f"sha256-{content_hash(dict(self.digests))}"

    @property
    def path(self) -> str:
        """Name and version."""
        return f"{self.name}:{self.alias}"

    @property
    def metadata(self) -> dict[str, object]:
        """What the artifact says of itself."""
        return {"sha256": dict(self.digests), "made_from_sha256": dict(self.made_from)}


def shared_contents(directory: Path, experiment: str) -> tuple[Content, ...]:
    """The pool and its features, which all arms have in common.

    Args:
        directory: Run directory.
        experiment: Its name.
    """
    pool = _content(directory, "pool", experiment)
    if pool is None:
        return ()
    features = _content(directory, "features", experiment, made_from={"pool": pool.digest})
    return (pool,) if features is None else (pool, features)


def arm_contents(folder: Path, experiment: str) -> tuple[Content, ...]:
    """The policy, where it has weights, and then the schedule of an arm.

    Args:
        folder: Of the arm, two below its run directory.
        experiment: Its name.
    """
    origin = {each.stage: each.digest for each in shared_contents(folder.parents[1], experiment)}
    owner = f"{experiment}-{folder.name}"
    policy = _content(folder, "policy", owner, made_from=origin)
    if policy is not None:
        origin["policy"] = policy.digest
    schedule = _content(folder, "schedule", owner, made_from=origin)
    return tuple(each for each in (policy, schedule) if each is not None)


def lineage(folder: Path, experiment: str) -> dict[str, str]:
    """SHA-256 of everything that an arm was made from and made, as config keys."""
    contents = (*shared_contents(folder.parents[1], experiment), *arm_contents(folder, experiment))
    return {f"{each.stage}_sha256": each.digest for each in contents}


def _content(
    folder: Path, stage: Stage, owner: str, *, made_from: Mapping[Stage, str] | None = None
) -> Content | None:
    files = tuple(folder / name for name in _FILES[stage] if (folder / name).is_file())
    if not (folder / _FILES[stage][0]).is_file():
        return None
    return Content(
        stage=stage,
        name=_fitting(f"{owner}-{stage}"),
        files=files,
        digests={file.name: _sha256(file) for file in files},
        made_from=dict(made_from or {}),
    )


def _fitting(name: str) -> str:
    if len(name) <= LONGEST_NAME:
        return name
    tail = content_hash(name)
    return f"{name[: LONGEST_NAME - len(tail) - 1]}-{tail}"


def _sha256(file: Path) -> str:
    stat = file.stat()
    return _sha256_of(file, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=256)
def _sha256_of(file: Path, _written: int, _size: int) -> str:
    """Every arm asks for the digest of the pool, which may be gigabytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
