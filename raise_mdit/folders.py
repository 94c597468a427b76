"""Folders of ours, told apart by the file that each has, and what was meant where it is another."""

from __future__ import annotations

import json
import os.path
import re
from collections.abc import Sequence
from pathlib import Path

from raise_mdit.errors import nearest_entry

CONFIG_FILE = "config.yaml"
"""Of a run directory."""
PREPARATION_FILE = "preparation.json"
"""Of a run directory whose data and model were sound."""
SWEEP_FILE = "sweep.json"
"""In the directory of a sweep: points, their losses and the winner."""
POLICY_DESCRIPTION_FILE = "policy.json"
"""Of a policy that was exported by itself."""
BUNDLE_MANIFEST_FILE = "manifest.json"
"""Of a schedule that was exported."""
BUNDLE_FORMAT = "raise-mdit/bundle"
"""What that file says, so that no other program's manifest is taken for it."""
POINT = "sweep-"
"""Begins the name of each run directory of a sweep; its number follows, from 1."""

NUM_SHOWN = 5
"""Run directories that a message lists; the rest are counted."""


def no_run_directory(directory: Path) -> str:
    """What to say of a path at which there is no run directory: what it is, and what to name.

    Args:
        directory: Without `config.yaml`.
    """
    begin = f"{directory}: not a run directory"
    if not os.path.exists(directory):
        return f"{begin}; it does not exist.{nearest_entry(directory)}"
    if not os.path.isdir(directory):
        parent = directory.parent
        inside = f", but of {parent}: name that" if (parent / CONFIG_FILE).is_file() else ""
        return f"{begin} (it is a file{inside})"
    return f"{begin} (no {CONFIG_FILE}){_meant(directory)}"


def is_exported_policy(directory: Path) -> bool:
    """Whether a folder says that it holds a policy that was exported by itself."""
    return (directory / POLICY_DESCRIPTION_FILE).is_file()


def _meant(directory: Path) -> str:
    """What a folder is instead, behind the sentence that it is no run directory; "" if unknown."""
    if _is_bundle(directory):
        return (
            "; it is a schedule that was exported: raise-mdit verify or raise-mdit replay takes it"
        )
    if is_exported_policy(directory):
        return "; it is a policy that was exported: `from:` of an experiment's policy takes it"
    runs = [each for each in directory.iterdir() if (each / CONFIG_FILE).is_file()]
    points = sorted((each for each in runs if _number(each)), key=_number)
    if points or (directory / SWEEP_FILE).is_file():
        return f"; it is the directory of a sweep, whose run directories are {_listed(points)}"
    if runs:
        newest = max(runs, key=lambda each: ((each / CONFIG_FILE).stat().st_mtime_ns, each.name))
        others = f", the newest of {len(runs)} run directories in it" if len(runs) > 1 else ""
        return f"; did you mean {newest}{others}?"
    return ""


def _is_bundle(directory: Path) -> bool:
    file = directory / BUNDLE_MANIFEST_FILE
    if not file.is_file():
        return False
    try:
        manifest = json.loads(file.read_text("utf-8"))
    except ValueError:  # some other program's
        return False
    return isinstance(manifest, dict) and manifest.get("format") == BUNDLE_FORMAT


def _number(directory: Path) -> int:
    """Of a point of a sweep, from 1; 0 of every other folder."""
    found = re.fullmatch(rf"{POINT}(\d+)", directory.name)
    return int(found[1]) if found else 0


def _listed(directories: Sequence[Path]) -> str:
    if not directories:
        return "gone"
    more = len(directories) - NUM_SHOWN
    named = ", ".join(map(str, directories[:NUM_SHOWN]))
    return f"{named} and {more} more" if more > 0 else named
