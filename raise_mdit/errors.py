"""What a user can do wrong. Everything else that is raised is a fault of ours.

Every message says what was given, what is allowed and how to mend it. The command line prints the
message alone and exits with :data:`UserError.exit_code`.
"""

from __future__ import annotations

import difflib
import os.path
from collections.abc import Iterable
from pathlib import Path


class UserError(Exception):
    """A mistake that the user can mend; the message is complete without a traceback."""

    exit_code = 2


class ConfigError(UserError):
    """An experiment file that cannot be run as written."""


class DataError(UserError):
    """Data that is missing, broken, too long or too little."""


class ModelError(UserError):
    """A model that cannot be found, read or trained as asked."""


class RunError(UserError):
    """A run directory that is missing, unfinished or of another format."""


def nearest(given: str, allowed: Iterable[str]) -> str:
    """A sentence that offers the closest allowed name, or nothing when none is close.

    Args:
        given: What the user wrote, in small letters or capitals.
        allowed: The valid names.
    """
    names = {name.lower(): name for name in allowed}
    matches = difflib.get_close_matches(given.lower(), list(names), n=1, cutoff=0.6)
    return f" Did you mean {names[matches[0]]!r}?" if matches else ""


def nearest_entry(path: Path) -> str:
    """A sentence about the folder of a missing path: its closest entry, or that it is missing too.

    Paths come from the user, so they are looked at with :mod:`os.path`, which takes any text.
    """
    if not os.path.isdir(path.parent):
        return f" There is no folder {str(path.parent)!r}."
    return nearest(path.name, sorted(entry.name for entry in path.parent.iterdir()))
