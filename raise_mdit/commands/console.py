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
