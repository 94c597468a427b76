"""Commands of finished schedules: explain, export, verify, replay."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from raise_mdit.commands.console import RunDirectory, err, out
from raise_mdit.errors import RunError
from raise_mdit.runs import cache_directory

ArmSeed = Annotated[int | None, typer.Option(help="Seed. Default: the policy's first.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    for command in (explain, export, verify, replay):
        app.command()(command)


def explain(
    directory: RunDirectory,
    policy: Annotated[
        str | None,
        typer.Option(help="Learned policy to explain. Default: the file's first that can be."),
    ] = None,
    seed: ArmSeed = None,
    step: Annotated[
        int | None,
        typer.Option(
            metavar="T", help="Show picks of this step only, from 0 as in schedule.jsonl."
        ),
    ] = None,
    top: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Show the N picks whose scores stood highest above their windows' means.",
        ),
    ] = 10,
) -> None:
    """Tell why a learned policy picked what it picked, and write RUN_DIR/explanation-ARM.html.

    Divides each pick's score above its window's mean among groups of features (`stage`,
    `difficulty`, `semantic`, `kind`, `availability`, and a `gradient` or `prior` where the policy
    sees one) by exact Shapley values: they sum to it, and a group without effect gets 0. Then shows
    how attributions, and shares of picks by source, kind and cluster, move over training.

    Reads policies that score candidates, such as `ppo`; needs no language model.

    Example: `raise-mdit explain runs/quickstart/… --policy ppo --seed 1 --step 5`.
    """
    from raise_mdit import explanation
    from raise_mdit.explanation_page import headline, write_page
    from raise_mdit.explanation_tables import attributions_table, picks_table, shares_table
    from raise_mdit.progress_bars import progress_for

    progress = progress_for(err)
    try:
        explained = explanation.explain(
            directory, progress=progress, policy=policy, seed=seed, step=step
        )
    finally:
        progress.finish()
    arm = explained.result
    path = directory / f"explanation-{arm.policy}-s{arm.seed}.html"
    write_page(path, explained, top=top)
    out.print(f"{arm.policy} s{arm.seed}: {headline(explained)}",
              markup=False, highlight=False)  # fmt: skip
    tables = (picks_table(explained, top=top), attributions_table(explained))
    for table in (*tables, shares_table(explained)):
        out.print(table)
        out.print()
    for note in explained.notes:
        out.print(note, markup=False, highlight=False)
    out.print(f"page      {escape(str(path))}")


def export(
    directory: RunDirectory,
    policy: Annotated[
        str | None,
        typer.Option(
            help="Policy whose schedule to export. Default: the learned one that is best on "
            "`data.model_selection`, or without it on reward-validation."
        ),
    ] = None,
    seed: ArmSeed = None,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where to. Default: `RUN_DIR/export`, of a policy `RUN_DIR/policy`. What was "
            "exported there of another run, policy or seed is not replaced.",
        ),
    ] = None,
    policy_only: Annotated[
        bool,
        typer.Option(
            "--policy-only",
            help="Write the trained policy instead of its schedule: weights and JSON, for `from: "
            "DIR` in another experiment or for your own program.",
        ),
    ] = False,
) -> None:
    """Write a policy's schedule as a folder that leaves the house: a bundle for any trainer.

    Gives the picks with what they are made of and their scores (`schedule.parquet`,
    `pool.parquet`), the same as chat data in training order (`sft.jsonl`), recorded losses
    (`steps.jsonl`), hashes of every row, ready recipes for TRL, HF Trainer, LLaMA-Factory, Axolotl
    and torchtune, and a README for its reader. `raise-mdit verify` checks it, `raise-mdit replay`
    trains on it.

    Examples: `raise-mdit export runs/quickstart/… --policy ppo --seed 1 --to schedule`;
    `raise-mdit export runs/quickstart/… --policy-only --to my_policy`.
    """
    from raise_mdit.export import export_policy, export_schedule

    if policy_only:
        made = export_policy(directory, policy=policy, seed=seed, to=to)
        out.print(f"policy {made.policy} s{made.seed} in {escape(str(made.directory))}")
        return
    written = export_schedule(directory, policy=policy, seed=seed, to=to)
    out.print(f"{written.num_rows} rows of {written.policy} s{written.seed} in "
              f"{escape(str(written.directory))}; digest {written.digest}")  # fmt: skip


Bundle = Annotated[
    Path, typer.Argument(metavar="DIR", help="A folder that `raise-mdit export` wrote.")
]


def verify(directory: Bundle) -> None:
    """Check that a bundle is as it was written: every file, and every row in its place.

    Names each file and row that was altered, is missing, was added or stands elsewhere: lines of
    `.jsonl` files from 1, as an editor shows them, rows of `.parquet` files from 0, as a data frame
    does. The hashes lie in the bundle, so compare the digest with what its maker tells you.
    """
    from raise_mdit.schedules import verification

    found = verification.verify(directory)
    if found.faults:
        raise RunError("\n".join((f"{directory}: not as it was written", *found.faults)))
    out.print(f"{escape(str(directory))}: sound, {found.num_rows} rows; digest {found.digest}")


def replay(
    directory: Bundle,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The model, where it is not where the bundle says."),
    ] = None,
    accumulation: Annotated[
        int, typer.Option(min=1, metavar="N", help="Micro-batches of a step.")
    ] = 1,
) -> None:
    """Train on a bundle again with the Hugging Face Trainer, and compare the losses of every step.

    Needs the bundle and the model, nothing of the run. Interpolations are trained on as such. Ends
    with exit code 2 where a loss is not the run's; what is trained is not kept.

    On several ranks: `torchrun --nproc-per-node 2 -m raise_mdit replay DIR`.
    """
    from raise_mdit.schedules import replay as replaying

    again = replaying.replay(
        directory, cache=cache_directory(), model=model, accumulation=accumulation
    )
    again.check()
    if os.environ.get("RANK", "0") == "0":
        for note in again.notes:
            out.print(escape(note), highlight=False)
        out.print(again.sentence, highlight=False)
