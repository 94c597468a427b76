"""Bars that move while work goes on, and leave nothing behind."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from raise_mdit.progress import Silent
from raise_mdit.progress_bars import Bars, NotesOnly, progress_for

CONTROL = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")


def screen(written: str) -> str:
    """What a terminal shows after that text: a cursor, line feeds and erased lines."""
    lines, row, column = [""], 0, 0
    for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|[\r\n])", written):
        control = CONTROL.fullmatch(part)
        if control and control[2] == "A":
            row -= int(control[1] or 1)
        elif control and control[2] == "K":
            lines[row] = ""
        elif part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif not control:
            lines[row] = lines[row].ljust(column)[:column] + part
            column += len(part)
    return "\n".join(lines).strip()


@pytest.fixture
def terminal() -> Console:
    """A terminal of 120 columns that remembers what was written."""
    return Console(file=io.StringIO(), force_terminal=True, width=120, height=20)


def written(terminal: Console) -> str:
    assert isinstance(terminal.file, io.StringIO)
    return terminal.file.getvalue()


def redraw(bars: Bars) -> None:
    """What a thread does ten times a second."""
    bars._progress.refresh()


def test_a_stage_is_shown_with_its_progress_and_figures(terminal: Console) -> None:
    bars = Bars(terminal)
    bars.start("ppo s0: learning", 48)
    bars.advance()
    bars.advance(2, episode_return=0.123456, tokens_per_second=9876.5)
    redraw(bars)

    found = screen(written(terminal))

    bars.finish()
    assert "ppo s0: learning" in found
    assert "3/48" in found
    assert "episode return 0.1235  tokens per second 9876" in found


def test_a_stage_of_unknown_length_is_shown(terminal: Console) -> None:
    bars = Bars(terminal)
    bars.start("reading the data", None)

    found = screen(written(terminal))

    bars.finish()
    assert "reading the data" in found
    assert "0/?" in found


def test_a_finished_stage_leaves_no_trace(terminal: Console) -> None:
    terminal.print("before")
    bars = Bars(terminal)
    bars.start("loading the model", 3)
    bars.advance(3, loss=1.0)
    redraw(bars)

    bars.finish()

    terminal.print("after")
    assert screen(written(terminal)) == "before\nafter"
    assert written(terminal).rindex("\x1b[?25h") > written(terminal).rindex("\x1b[?25l")


def test_a_new_stage_takes_the_place_of_the_one_before(terminal: Console) -> None:
    bars = Bars(terminal)
    bars.start("loading the model", None)
    bars.start("reading the data", 7)

    found = screen(written(terminal))

    bars.finish()
    assert "reading the data" in found
    assert "loading the model" not in found
    assert screen(written(terminal)) == ""


def test_messages_stand_above_the_bar(terminal: Console) -> None:
    bars = Bars(terminal)
    bars.start("learning", 7)

    terminal.print("a note")

    assert screen(written(terminal)).splitlines()[0] == "a note"
    bars.finish()
    assert screen(written(terminal)) == "a note"


def test_a_note_stands_above_the_bar_word_for_word(terminal: Console) -> None:
    bars = Bars(terminal)
    bars.start("comparing", None)

    bars.note("Proxy learner: [bold]as written[/bold], 0.97")

    found = screen(written(terminal)).splitlines()
    bars.finish()
    assert found[0] == "Proxy learner: [bold]as written[/bold], 0.97"
    assert "comparing" in found[1]


def test_a_note_between_stages_stays(terminal: Console) -> None:
    bars = Bars(terminal)
    bars.start("comparing", None)
    bars.finish()

    bars.note("a note")

    bars.start("learning", 7)
    bars.finish()
    assert screen(written(terminal)) == "a note"


def test_finishing_twice_is_finishing_once(terminal: Console) -> None:
    bars = Bars(terminal)
    bars.finish()
    bars.start("learning", 7)
    bars.finish()
    once = written(terminal)

    bars.finish()

    assert written(terminal) == once


def test_bars_are_for_terminals_and_silence_is_for_the_rest(terminal: Console) -> None:
    pipe = Console(file=io.StringIO())

    assert isinstance(progress_for(terminal), Bars)
    elsewhere = progress_for(pipe)
    assert isinstance(elsewhere, NotesOnly)
    elsewhere.start("learning", 3)
    elsewhere.note("[worth] knowing")
    elsewhere.finish()
    assert isinstance(pipe.file, io.StringIO)
    assert pipe.file.getvalue() == "[worth] knowing\n"


def test_silence_writes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    silent = Silent()
    silent.start("learning", 3)
    silent.advance(2, loss=1.0)
    silent.finish()
    silent.note("a note")

    assert capfd.readouterr() == ("", "")
