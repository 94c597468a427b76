"""What a person sees in a terminal: progress bars while work goes on, tables at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, Group
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
from rich.text import Text

from raise_mdit.comparison import (
    COMPARED_BY_TARGETS,
    PolicySummary,
    reference_of,
    references_among,
    target_names,
)
from raise_mdit.core import Example
from raise_mdit.effects import Reference
from raise_mdit.pool_inspection import Heading, MixedPosition, MixedView, TextView
from raise_mdit.pool_report import KindReport
from raise_mdit.progress import Silent
from raise_mdit.report_sentences import limits_sentence
from raise_mdit.report_words import TFLOP, ended_at, metric_name
from raise_mdit.split_table import Column, SplitTable, uncut
from raise_mdit.statistics import Interval

PARENT_LENGTH = 400
"""Characters of a parent's prompt or response that are shown of an interpolation."""
TOKENS_WIDTH = 88
"""Columns in which tokens stand beside each other, and go on below."""

REFERENCES_NOTE = (
    "± and + - reach to the ends of 95 % intervals over seeds; a minus is a difference paired by "
    "seed, below zero is better. A verdict holds over seeds and over held-out items, corrected for "
    "the number of policies (Holm). Equal tokens, compute: loss on reward-validation when every "
    "policy had spent as much as the one that spent the least."
)

_SAFE = {code: "\ufffd" for code in (*range(32), 127, *range(128, 160))}
"""Control characters, which could move the cursor; texts come from anywhere."""
_SAFE_TEXT = {code: mark for code, mark in _SAFE.items() if chr(code) not in "\n\t"}
_SAFE_TOKEN = {**_SAFE, ord(" "): "·", ord("\n"): "⏎", ord("\t"): "⇥"}


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


def results_table(summaries: Sequence[PolicySummary]) -> SplitTable:
    """One line a policy: loss, difference to random, both with 95 % intervals, and cost.

    Where held-out data have several targets, also the loss on each, and what is compared: the mean
    over targets of loss over that of the untrained model.
    """
    targets = target_names(summaries)
    on = "test" if not summaries or summaries[0].split == "test" else "model-selection"
    measured = [Column(f"{on} loss", [_interval(each.loss) for each in summaries])]
    for target in targets:
        of_target = [_interval(each.target_losses[target]) for each in summaries]
        measured.append(Column(target, of_target))
    if targets:
        ratios = [_interval(each.loss_ratio) for each in summaries]
        measured.append(Column("loss / base's", ratios))
    metric = metric_name(summaries)
    if metric is not None:
        measured.append(Column(metric, [_share(each.metric_value) for each in summaries]))
    reference = reference_of(summaries)
    by_targets = f"loss / base's: {COMPARED_BY_TARGETS}; minus {reference} in it"
    return SplitTable(
        "policy",
        [each.policy for each in summaries],
        groups=[*([column] for column in measured), _against_random(summaries), _costs(summaries)],
        caption=by_targets if targets else "",
    )


def references_table(summaries: Sequence[PolicySummary]) -> SplitTable | None:
    """One line a policy: against each reference but random, and on equal budgets.

    Returns:
        None where the first table has said it all.
    """
    groups = [
        _against(summaries, reference)
        for reference in references_among(summaries)
        if reference.role != "random"
    ]
    equal: dict[str, list[str]] = {
        "equal tokens": [
            ended_at(each, "tokens") or _interval(each.at_equal_tokens) for each in summaries
        ],
        "equal compute": [
            ended_at(each, "flops") or _interval(each.at_equal_compute) for each in summaries
        ],
    }
    budgets = [Column(name, cells) for name, cells in equal.items() if any(cells)]
    if budgets:
        groups.append(budgets)
    if not groups:
        return None
    names = [each.policy for each in summaries]
    return SplitTable("policy", names, groups=groups, caption=limits_sentence(summaries))


def _costs(summaries: Sequence[PolicySummary]) -> list[Column]:
    return [
        Column("steps", [f"{each.steps:,.0f}" for each in summaries]),
        Column("tokens", [f"{each.tokens:,.0f}" for each in summaries]),
        Column("TFLOP", [f"{each.compute.flops / TFLOP:,.1f}" for each in summaries]),
        Column("min", [f"{each.compute.seconds / 60:,.1f}" for each in summaries]),
    ]


def _against_random(summaries: Sequence[PolicySummary]) -> list[Column]:
    """The verdict stands there without a reference, too."""
    return [
        Column(
            f"minus {reference_of(summaries)}",
            [
                "" if each.verdict == "reference" else _interval(each.difference_to_random)
                for each in summaries
            ],
        ),
        Column("verdict", [each.verdict for each in summaries], "left"),
    ]


def _against(summaries: Sequence[PolicySummary], reference: Reference) -> list[Column]:
    effects = [summary.effect_against(reference) for summary in summaries]
    differences = [
        _interval(effect.difference)
        if effect is not None
        else ("reference" if summary.policy == reference.policy else "")
        for summary, effect in zip(summaries, effects, strict=True)
    ]
    verdicts = ["" if effect is None else effect.verdict for effect in effects]
    return [Column(f"minus {reference.policy}", differences), Column("verdict", verdicts, "left")]


def pool_table(reports: Sequence[KindReport], *, batch_size: int, max_length: int) -> Table:
    """One line a kind of candidates: what one epoch over them takes.

    Args:
        reports: The lines.
        batch_size: Rows of the steps.
        max_length: Length limit to which rows are padded.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.add_column("kind", no_wrap=True)
    for name in (
        "candidates",
        "examples",
        "mean k",
        "tokens",
        "response",
        "supervised",
        f"steps of {batch_size:,}",
        "padded in batches",
        f"padded to {max_length:,}",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for report in reports:
        table.add_row(
            report.kind,
            f"{report.num_candidates:,}",
            f"{report.num_examples:,}",
            f"{report.mean_parents:.2f}",
            f"{report.num_tokens:,}",
            f"{report.num_response_tokens:,}",
            f"{report.supervised_share:.1%}",
            f"{report.num_steps:,}",
            f"{report.num_batch_padded_tokens:,}",
            f"{report.num_fully_padded_tokens:,}",
        )
    return uncut(table)


def candidate_text(view: TextView | MixedView) -> Group:
    """A candidate to be read: what it is, and its conversation or its two parents."""
    if isinstance(view, TextView):
        return Group(*_heading(view.heading), *_conversation(view))
    return Group(*_heading(view.heading), *_interpolation(view))


def _heading(heading: Heading) -> Iterator[Text]:
    yield Text(f"── {heading.kind} {heading.id}", style="bold")
    yield Text(
        f"{heading.made}\nsource {heading.source}; {heading.num_tokens:,} tokens, "
        f"{heading.num_response_tokens:,} of them with loss",
        style="dim",
    )


def _conversation(view: TextView) -> Iterator[Text]:
    for message in view.messages:
        yield _turn(message.role, message.content)
    yield Text()


def _interpolation(view: MixedView) -> Iterator[Text | Table]:
    for name, parent in zip(("first", "second"), view.parents, strict=True):
        yield from _parent(name, parent)
    yield Text("response, token by token", style="bold cyan")
    yield from map(_tokens, _lines(view.positions))
    if any(None in position for position in view.positions):
        yield Text("where a parent has no token, the pad embedding is mixed in", style="dim")
    hidden = view.num_positions - len(view.positions)
    if hidden:
        yield Text(f"and {hidden:,} more positions", style="dim")
    yield Text()


def _parent(name: str, parent: Example) -> Iterator[Text]:
    yield _turn(f"{name} parent, prompt", _shortened(parent.prompt))
    yield _turn(f"{name} parent, response", _shortened(parent.response))


def _turn(label: str, content: str) -> Text:
    return Text.assemble((f"{label}\n", "bold cyan"), content.translate(_SAFE_TEXT))


def _shortened(text: str) -> str:
    hidden = len(text) - PARENT_LENGTH
    return text if hidden <= 0 else f"{text[:PARENT_LENGTH]}… ({hidden:,} characters more)"


class _Position(NamedTuple):
    """A position of an interpolated response, from above to below."""

    first: str
    second: str
    nearest: str
    cosine: str

    @property
    def width(self) -> int:
        return 2 + max(map(cell_len, self))


def _lines(positions: Sequence[MixedPosition]) -> Iterator[list[_Position]]:
    """Columns that have room beside each other."""
    line: list[_Position] = []
    room = TOKENS_WIDTH
    for column in map(_column, positions):
        if line and column.width > room:
            yield line
            line, room = [], TOKENS_WIDTH
        line.append(column)
        room -= column.width
    if line:
        yield line


def _column(position: MixedPosition) -> _Position:
    return _Position(
        _token(position.first),
        _token(position.second),
        _token(position.nearest),
        f"{position.cosine:.2f}",
    )


def _token(text: str | None) -> str:
    return "" if text is None else text.translate(_SAFE_TOKEN)


def _tokens(columns: Sequence[_Position]) -> Table:
    """Tokens of both parents, and below them what their mixture is nearest to."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(1 + len(columns)):
        table.add_column(no_wrap=True)
    for name, cells in zip(_Position._fields, zip(*columns, strict=True), strict=True):
        style = "bold" if name == "nearest" else "dim"
        table.add_row(name, *(Text(cell) for cell in cells), style=style)
    return uncut(table)


def _interval(interval: Interval | None) -> str:
    """The mean and how far the interval reaches: one number where both ways are alike."""
    if interval is None:
        return ""
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.3f}"
    up, down = f"{interval.high - interval.mean:.3f}", f"{interval.mean - interval.low:.3f}"
    return f"{interval.mean:.3f} " + (f"±{up}" if up == down else f"+{up} -{down}")


def _share(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.mean:.1%}"
