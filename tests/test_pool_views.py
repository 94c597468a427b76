"""What a pool takes, and its candidates, as a person reads them."""

from __future__ import annotations

import io

import pytest
from helpers.printing import printed
from rich.cells import cell_len
from rich.console import Console

from raise_mdit.candidates import make_example
from raise_mdit.core import Message
from raise_mdit.pool_inspection import Heading, MixedPosition, MixedView, TextView
from raise_mdit.pool_report import KindReport
from raise_mdit.pool_views import PARENT_LENGTH, candidate_text, pool_table

MILLIONS = KindReport("all", 1234567, 52002, 5678901, 234567890, 123456789, 154321, 345678901, 632)


def test_a_line_holds_what_an_epoch_over_a_kind_takes() -> None:
    mosaics = KindReport("mosaic", 1200, 4000, 6000, 50000, 20000, 150, 60000, 614400)

    lines = printed(pool_table([mosaics, MILLIONS], batch_size=8, max_length=512))

    assert "steps of 8" in lines[0]
    assert "padded to 512" in lines[0]
    fields = "mosaic 1,200 4,000 5.00 50,000 20,000 40.0% 150 60,000 614,400"
    assert lines[2].split() == fields.split()
    assert lines[3].split()[0] == "all"


def test_the_table_of_a_million_candidates_is_not_cut() -> None:
    narrow = printed(pool_table([MILLIONS], batch_size=8, max_length=2000), width=40)

    assert "".join(narrow) == "".join(
        printed(pool_table([MILLIONS], batch_size=8, max_length=2000))
    )
    assert "…" not in "".join(narrow)


# --- Candidates.

HEADING = Heading("mosaic", "c0ffee", "toy", 1234, 567, "format of 2 examples")
PARENTS = (
    make_example("toy", [Message("user", "ask [bold]me"), Message("assistant", "told")]),
    make_example("toy", [Message("user", "x" * (PARENT_LENGTH + 9)), Message("assistant", "y")]),
)


def mixed(*positions: MixedPosition, hidden: int = 0) -> MixedView:
    return MixedView(HEADING, PARENTS, positions, len(positions) + hidden)


def test_a_conversation_is_shown_word_for_word_with_its_roles() -> None:
    turns = (Message("user", "Add\n  [1, 2] :smile:"), Message("assistant", "3"))

    lines = printed(candidate_text(TextView(HEADING, turns)))

    assert lines[0] == "── mosaic c0ffee"
    assert lines[1] == "format of 2 examples"
    assert lines[2] == "source toy; 1,234 tokens, 567 of them with loss"
    assert lines[3:] == ["user", "Add", "  [1, 2] :smile:", "assistant", "3", ""]


def test_a_text_cannot_write_elsewhere_on_the_terminal() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=120, no_color=True)
    turns = (Message("user", "a\x1b[2Jb\x07\rc\x9bd\te"),)
    token = MixedPosition("\x1b[2J", None, "\x9b", 0.5)

    console.print(candidate_text(TextView(HEADING, turns)))
    console.print(candidate_text(mixed(token)))

    text = file.getvalue()
    assert "\x1b[2J" not in text
    assert not set("\x07\r\x9b") & set(text)
    assert "a\ufffd[2Jb\ufffd\ufffdc\ufffdd" in text


def test_an_interpolation_is_shown_with_both_parents_shortened() -> None:
    lines = printed(candidate_text(mixed(MixedPosition("a", "b", "a", 0.5))))

    start = lines.index("first parent, prompt")
    assert lines[start + 1 : start + 4] == ["ask [bold]me", "first parent, response", "told"]
    assert "x" * PARENT_LENGTH + "… (9 characters more)" in lines


def test_the_nearest_tokens_stand_below_those_of_the_parents() -> None:
    positions = (
        MixedPosition(" long", "\n", " long", 0.912),
        MixedPosition(None, " b", " b", 1.0),
    )

    lines = printed(candidate_text(mixed(*positions, hidden=1200)))

    rows = {line.split()[0]: line for line in lines if line.strip()}
    assert rows["nearest"].split() == ["nearest", "·long", "·b"]
    assert rows["first"].split() == ["first", "·long"]
    assert rows["second"].split() == ["second", "⏎", "·b"]
    assert rows["cosine"].split() == ["cosine", "0.91", "1.00"]
    column = rows["nearest"].index("·b")
    assert rows["second"].index("·b") == rows["cosine"].index("1.00") == column
    assert lines[-3] == "where a parent has no token, the pad embedding is mixed in"
    assert lines[-2] == "and 1,200 more positions"


def test_padding_is_not_explained_where_there_is_none() -> None:
    lines = printed(candidate_text(mixed(MixedPosition("a", "b", "a", 0.5))))

    assert lines[-2].split() == ["cosine", "0.50"]


@pytest.mark.parametrize("width", [40, 120])
def test_many_tokens_go_on_below_and_none_is_lost(width: int) -> None:
    tokens = [f"{number}語{'z' * (number % 30)}" for number in range(60)]
    positions = [MixedPosition(token, token, token, 0.5) for token in tokens]

    lines = printed(candidate_text(mixed(*positions)), width=width)

    shown_tokens = [
        token for line in lines if line.startswith("nearest") for token in line.split()[1:]
    ]
    assert shown_tokens == tokens
    assert max(map(cell_len, (line for line in lines if line.startswith("nearest")))) <= 100
