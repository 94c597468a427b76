"""The check that a candidate source keeps its contract, for the tests of whoever writes one.

:class:`raise_mdit.sources.custom.CandidateSource` is the contract. A source that is in use is
checked too, one candidate at a time; here it is run twice, and all that is wrong is told at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from raise_mdit.candidates import Custom
from raise_mdit.core import Example
from raise_mdit.encoding import NOTHING_SPECIAL, SpecialTokens, Tokenizer
from raise_mdit.own_class import Fault, watched_generators
from raise_mdit.sources.custom import (
    CandidateSource,
    ContractError,
    Made,
    Stopped,
    inspected,
)

NUM_NUMBERS_SHOWN = 3
"""Candidates that a fault lists; the rest are counted."""


def check_source(
    source: CandidateSource,
    examples: Sequence[Example],
    *,
    seed: int = 0,
    tokenizer: Tokenizer | None = None,
) -> None:
    """Nothing, if a source keeps its contract for these examples.

    It is run twice, on copies of the examples. What it makes is compared and kept in memory, so a
    few hundred examples are a good number. Global generators are left as they were.

    Args:
        source: Of the user's.
        examples: At least one; better examples that differ in length and number of turns.
        seed: Of the generators that both runs are given.
        tokenizer: Of the model to be tuned, such as `AutoTokenizer.from_pretrained` gives it: no
            text may hold one of its special tokens. None does not look for any.

    Raises:
        ContractError: With all faults; candidates are counted from 1.
    """
    assert examples, "a source is checked on at least one example"
    special = NOTHING_SPECIAL if tokenizer is None else SpecialTokens.of(tokenizer)
    with watched_generators() as touched:
        first, second = (_run(source, examples, seed, special) for _ in range(2))
        general = [*first.faults, *touched()]
    general += _differences(first, second)
    lines = [f"{fault.wrong}; {fault.mend}" for fault in general] + _grouped(first.made)
    if lines:
        title = f"{type(source).__name__} breaks the contract of a candidate source:"
        raise ContractError("\n  ".join([title, *lines])) from first.cause


class _Run(NamedTuple):
    made: list[Made]
    faults: list[Fault]
    """Of the run as a whole."""
    cause: BaseException | None
    """What the source's code raised."""


def _run(
    source: CandidateSource, examples: Sequence[Example], seed: int, special: SpecialTokens
) -> _Run:
    """Everything a source makes of copies of the examples."""
    given = [replace(example) for example in examples]
    made: list[Made] = []
    faults: list[Fault] = []
    cause = None
    try:
        made.extend(inspected(source, given, np.random.default_rng(seed), special=special))
    except Stopped as stop:
        faults.append(stop.fault)
        cause = stop.__cause__
    if given != list(examples):
        mend = "sort, shuffle or edit a copy of your own, such as `list(examples)`"
        faults.append(Fault("it changes the examples that it is given", mend))
    return _Run(made, faults, cause)


def _differences(first: _Run, second: _Run) -> list[Fault]:
    pairs = enumerate(zip_longest(first.made, second.made), start=1)
    number = next((number for number, (one, other) in pairs if one != other), None)
    if number is None:
        return []
    wrong = f"two runs with the same seed differ, first in candidate {number}"
    mend = "draw from `rng` alone, sort sets, and keep nothing from one call of `make` to the next"
    return [Fault(wrong, mend)]


def _grouped(made: Sequence[Made]) -> list[str]:
    """A line for every kind of fault: the first candidate that has it, and who else."""
    found: dict[str, list[tuple[int, str]]] = {}
    for number, candidate in enumerate(made, start=1):
        for fault in candidate if not isinstance(candidate, Custom) else ():
            found.setdefault(fault.mend, []).append((number, fault.wrong))
    return [_line(mend, cases) for mend, cases in found.items()]


def _line(mend: str, cases: Sequence[tuple[int, str]]) -> str:
    first, *numbers = dict.fromkeys(number for number, _ in cases)
    wrong = ", ".join(wrong for number, wrong in cases if number == first)
    others = ", ".join(map(str, numbers[:NUM_NUMBERS_SHOWN]))
    num_hidden = len(numbers) - NUM_NUMBERS_SHOWN
    more = f" and {num_hidden} more" if num_hidden > 0 else ""
    likewise = f" (likewise: {others}{more})" if numbers else ""
    return f"candidate {first}: {wrong}; {mend}{likewise}"
