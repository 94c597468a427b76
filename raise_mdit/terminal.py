"""What a person sees in a terminal: progress bars while work goes on, one table at the end."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from raise_mdit.comparison import PolicySummary
from raise_mdit.core import Cost
from raise_mdit.progress import Silent
from raise_mdit.statistics import Interval

TFLOP = 1e12
WIDER_THAN_ANY_TABLE = 1000


class Bars:
    """A bar for the stage at hand, with its figures; finished stages leave no trace."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None

    def start(self, stage: str, total: int | None) -> None:
        """Show a new stage in place of the one before."""
        self.finish()
        self._progress.start()
        self._task = self._progress.add_task(stage, total=total, figures="")

    def advance(self, amount: int = 1, **figures: float) -> None:
        """Move the bar, and show the figures."""
        assert self._task is not None, "a stage has begun"
        shown = "  ".join(
            f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items()
        )
        self._progress.update(self._task, advance=amount, figures=shown)

    def finish(self) -> None:
        """Remove the bar."""
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._progress.stop()
            self._task = None

    def note(self, sentence: str) -> None:
        """Print above the bar."""
        self._progress.console.print(sentence, markup=False, highlight=False, emoji=False)


class NotesOnly(Silent):
    """Prints what is worth knowing, without bars: for a pipe or a log."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def note(self, sentence: str) -> None:
        """Print a line."""
        self._console.print(sentence, markup=False, highlight=False, emoji=False)


def progress_for(console: Console) -> Bars | NotesOnly:
    """Bars on a terminal, notes alone elsewhere."""
    return Bars(console) if console.is_terminal else NotesOnly(console)


def results_table(summaries: Sequence[PolicySummary]) -> Table:
    """One line a policy: loss and difference to random with 95 % intervals, total cost, verdict."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.add_column("policy", no_wrap=True)
    table.add_column("test loss", justify="right", no_wrap=True)
    with_metric = any(summary.exact_match is not None for summary in summaries)
    if with_metric:
        table.add_column("exact", justify="right")
    for name in ("steps", "tokens", "TFLOP", "min"):
        table.add_column(name, justify="right")
    table.add_column("minus random", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for summary in summaries:
        metric = [_share(summary.exact_match)] if with_metric else []
        table.add_row(
            summary.policy,
            _interval(summary.test_loss),
            *metric,
            f"{summary.steps:,.0f}",
            f"{summary.tokens:,.0f}",
            *_compute(summary.compute),
            "" if summary.verdict == "reference" else _interval(summary.difference_to_random),
            summary.verdict,
        )
    # On a narrow terminal lines run on; rich would cut figures there: "1,2…".
    table.width = Console(width=WIDER_THAN_ANY_TABLE).measure(table).maximum
    return table


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return ""
    if interval.high is None:
        return f"{interval.mean:.3f}"
    return f"{interval.mean:.3f} ±{interval.high - interval.mean:.3f}"


def _share(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.mean:.1%}"


def _compute(cost: Cost) -> tuple[str, str]:
    return f"{cost.flops / TFLOP:,.1f}", f"{cost.seconds / 60:,.1f}"
