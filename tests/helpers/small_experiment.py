"""A small experiment: its text, for the folder that the fixture `furnish` fills, and its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import dedent

from raise_mdit import experiment
from raise_mdit.experiment_file import load_experiment
from raise_mdit.progress import Silent

Rows = Mapping[str, int]
"""How many rows of each source."""

MODEL = "{name: {folder}/model, max_length: 48}"
SOURCES = (
    "{name: left, kind: dataset, file: left.jsonl}",
    "{name: right, kind: dataset, file: right.jsonl}",
)
POOL = {"left": 20, "right": 20}


def small_experiment(
    sections: str,
    *,
    reward_validation: Rows,
    test: Rows,
    model_selection: Rows | None = None,
    pool: Rows = POOL,
    sources: Sequence[str] = SOURCES,
    decontaminate: bool = True,
    model: str = MODEL,
    name: str = "small",
    seeds: Sequence[int] = (0,),
) -> str:
    """An experiment file whose `{folder}` is still to be named.

    Args:
        sections: Learner, environment, policies and whatever else stands behind the data, as YAML.
        reward_validation: Rows of each source, as in the other parts of the data.
        test: Likewise.
        model_selection: Likewise; None for no such part.
        pool: Likewise.
        sources: Each as YAML.
        decontaminate: As in the file.
        model: Its section as YAML.
        name: As in the file.
        seeds: As in the file.
    """
    parts = {"pool": pool, "reward_validation": reward_validation, "test": test}
    if model_selection is not None:
        parts["model_selection"] = model_selection
    data = [
        "root: {folder}",
        f"sources: [{', '.join(sources)}]",
        *(f"{part}: {_shares(rows)}" for part, rows in parts.items()),
        f"decontaminate: {str(decontaminate).lower()}",
    ]
    head = [f"name: {name}", f"seeds: {[*seeds]}", f"model: {model}", "data:"]
    return "\n".join([*head, *(f"  {line}" for line in data), dedent(sections).strip(), ""])


def run_small(folder: Path, out: str, *overrides: str) -> Path:
    """Run the experiment of a furnished folder to its end.

    Args:
        folder: As `furnish` left it.
        out: Name of the run directory in the folder.
        overrides: As `--set` takes them.

    Returns:
        The run directory.
    """
    config = load_experiment(folder / "small.yaml", overrides)
    experiment.run(config, folder / out, Silent())
    return folder / out


def _shares(rows: Rows) -> str:
    """A part of the data as YAML."""
    shares = (f"{{source: {source}, rows: {count}}}" for source, count in rows.items())
    return f"[{', '.join(shares)}]"
