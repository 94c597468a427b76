"""One process at a time in a run directory: two would write over each other's arms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from raise_mdit.errors import RunError

LOCK_FILE = ".lock"
"""Stays when a process ends, however it ends: the lock is the system's, not the file's."""


@contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Hold a run directory for as long as the block lasts.

    Args:
        directory: Exists.

    Raises:
        RunError: Another process holds it.
    """
    lock = FileLock(directory / LOCK_FILE)
    try:
        lock.acquire(blocking=False)
    except Timeout as held:
        raise RunError(
            f"{directory}: another process is at work in it; wait until that has ended, or give "
            "another --out"
        ) from held
    try:
        yield
    finally:
        lock.release()
