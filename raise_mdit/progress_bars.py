"""Progress as a person sees it in a terminal."""

from __future__ import annotations

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

from raise_mdit.progress import Silent


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
