"""Measurements in processes of their own: peak memory is theirs, and nothing is warm."""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

Result = TypeVar("Result")


class Call(Protocol):
    """Runs a measurement somewhere and gives what it returns."""

    def __call__(self, measurement: Callable[..., Result], *arguments: Any) -> Result:
        """What ``measurement(*arguments)`` returns; its exceptions are raised here."""
        ...


def call_apart(measurement: Callable[..., Result], *arguments: Any) -> Result:
    """Run in a new interpreter, which ends afterwards.

    Args:
        measurement: A function of a module.
        *arguments: Are pickled, as is what is returned.

    Raises:
        BrokenProcessPool: The process was killed, as when memory does not suffice.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as processes:
        return processes.submit(measurement, *arguments).result()


def call_here(measurement: Callable[..., Result], *arguments: Any) -> Result:
    """Run in this process; peak memory is then that of everything before."""
    return measurement(*arguments)


def peak_memory(device: torch.device) -> int:
    """Bytes: of tensors on a GPU, else of this process with all its libraries."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":  # where ru_maxrss begins at what the parent process had
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS
