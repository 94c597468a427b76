"""A benchmark's figures as tables of texts: for a terminal, for Markdown and for the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from raise_mdit.benchmarks.benchmark import COMPARED, OURS, YARDSTICK, Benchmark
from raise_mdit.benchmarks.variants import VARIANTS
from raise_mdit.split_table import WIDER_THAN_ANY_TABLE

PART_NAMES = {
    "update": "update",
    "validation": "validation pass",
    "env_step": "environment step",
    "episode": "whole episode",
    "training": "policy training",
}
EXTRAPOLATED = "*"
TIMES = "\N{MULTIPLICATION SIGN}"


class TextTable(NamedTuple):
    """A table whose first column names its rows."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    """Sentences below it."""


def tables(benchmark: Benchmark) -> list[TextTable]:
    """Everything that was measured; nothing for what was not."""
    made = [_variants(benchmark), _overhead(benchmark), _pools(benchmark), _learners(benchmark)]
    return [table for table in made if table.rows]


def as_markdown(table: TextTable) -> str:
    """The table under its title, as GitHub reads it."""
    alignment = [":--", *["--:"] * (len(table.header) - 1)]
    lines = [_line(table.header), _line(alignment), *map(_line, table.rows)]
    notes = "".join(
        f"\n{note.replace(EXTRAPOLATED, chr(92) + EXTRAPOLATED)}" for note in table.notes
    )
    return f"**{table.title}**\n\n" + "\n".join(lines) + "\n" + notes


def as_rich(table: TextTable) -> Group:
    """The table for a terminal, with its notes below."""
    made = Table(
        title=table.title,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        collapse_padding=True,
    )
    for position, name in enumerate(table.header):
        made.add_column(name, justify="right" if position else "left", no_wrap=True)
    for row in table.rows:
        made.add_row(*row)
    # On a narrow terminal lines run on; rich would cut figures there: "1,2…".
    made.width = Console(width=WIDER_THAN_ANY_TABLE).measure(made).maximum
    return Group(made, *(Text(note, style="dim") for note in table.notes))


def duration(seconds: float) -> str:
    """With the unit in which it reads best, to three digits."""
    if seconds >= 120:
        return f"{seconds / 60:.3g} min"
    if seconds >= 1:
        return f"{seconds:.3g} s"
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds * 1e6:.3g} µs"


def _variants(benchmark: Benchmark) -> TextTable:
    names = [variant.name for variant in VARIANTS]
    rows = [_part(benchmark, part, names) for part in PART_NAMES]
    memory = [f"{benchmark.variants[name].peak_memory_bytes / 2**20:,.0f} MiB" for name in names]
    return TextTable(
        "Seconds of the same fine-tuning",
        ["", *(name.replace("_", " ") for name in names), "speed-up", "of FLOPs"],
        [*rows, ["peak memory", *memory, "", ""]],
        [
            f"{YARDSTICK}: {VARIANTS[0].meaning}.",
            *(f"{variant.name}: {variant.meaning}." for variant in VARIANTS[1:]),
            f"{EXTRAPOLATED} a first validation pass and {benchmark.setting.sizes.episodes} "
            "episodes as long as the measured one; other trainings were run, from empty caches.",
            f"speed-up: {YARDSTICK} over {OURS}; of FLOPs: the same quotient of operations.",
        ],
    )


def _part(benchmark: Benchmark, part: str, names: Sequence[str]) -> list[str]:
    cells = []
    for name, variant in zip(names, VARIANTS, strict=True):
        guessed = part == "training" and not variant.trains_policy
        seconds = getattr(benchmark.variants[name].seconds, part)
        cells.append(duration(seconds) + (EXTRAPOLATED if guessed else ""))
    if part not in COMPARED:
        return [PART_NAMES[part], *cells, "", ""]
    quotients = (benchmark.ratios[part], benchmark.flops_ratios[part])
    return [PART_NAMES[part], *cells, *(f"{quotient:.3g}{TIMES}" for quotient in quotients)]


def _overhead(benchmark: Benchmark) -> TextTable:
    overhead = benchmark.overhead
    return TextTable(
        f"What is not the learner ({OURS})",
        ["", "time", "share"],
        [
            [
                "step, without update and validation",
                duration(overhead.step_seconds),
                f"{overhead.step_share:.2%}",
            ],
            [
                "policy update, of the episodes it learns from",
                duration(overhead.policy_update_seconds),
                f"{overhead.policy_update_share:.2%}",
            ],
        ],
    )


def _pools(benchmark: Benchmark) -> TextTable:
    return TextTable(
        "Size of the pool (a learner that does nothing)",
        ["candidates", "environment step", "allocated by it", "rollout buffer", "scoring all"],
        [
            [
                f"{scale.candidates:,}",
                duration(scale.env_step_seconds),
                f"{scale.env_step_bytes / 2**10:,.0f} KiB",
                f"{scale.buffer_bytes / 2**10:,.0f} KiB",
                duration(scale.scoring_seconds),
            ]
            for scale in benchmark.pool_scaling
        ],
    )


def _learners(benchmark: Benchmark) -> TextTable:
    rows = []
    for each in benchmark.learners_at_once:
        row = [f"{each.learners}", "out of memory", duration(each.separate_seconds), ""]
        if each.seconds is not None:
            quotient = f"{each.separate_seconds / each.seconds:.3g}{TIMES}"
            row[1], row[3] = duration(each.seconds), quotient
        rows.append(row)
    return TextTable(
        "Learners at once: update and validation of each",
        ["learners", "together", "one after another", "speed-up"],
        rows,
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
