"""What the commands have in common: where they print, and how they take files and folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

out = Console(soft_wrap=True)
"""For results."""
err = Console(stderr=True, soft_wrap=True)
"""For progress and faults."""

ExperimentFile = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="Experiment YAML, such as experiments/quickstart.yaml."),
]
Jobs = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="N",
        help="Arms at a time (an arm is a policy with a seed), each in a process of its own with "
        "its share of the cores and a model of its own in memory. More get done in the same time, "
        "for steps are too small to keep many cores busy; seconds in the ledger grow.",
    ),
]
RunDirectory = Annotated[
    Path, typer.Argument(metavar="RUN_DIR", help="A run directory, such as runs/quickstart/….")
]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set a key of the file, as often as needed: `--set data.root=../data "
        "--set 'seeds=[0, 1]' --set policies.ppo.episodes=24`.",
    ),
]
