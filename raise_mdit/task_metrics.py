'''What a generated response is worth: by its answer, or by a function of the user's own.

With `evaluation.task_metric: answer_match` an extractor finds the answer in the response and in the
reference, and the two are compared. A function of your own scores the response itself. For example,
a file `grading.py` in the working directory::

    def score(prompt: str, generated: str, reference: str) -> float:
        """Share of the reference's words that the response has."""
        wanted = set(reference.lower().split())
        return len(wanted & set(generated.lower().split())) / len(wanted)

and in the experiment file::

    evaluation:
      task_metric: grading:score
      max_new_tokens: 64

``prompt`` is everything before the last turn, ``generated`` what the model wrote up to the end of
its turn or to the limit, without special tokens, and ``reference`` the last turn of the data. The
number is 0 for wrong, 1 for right, or anything between. Before a run spends anything, each
reference is scored against itself, so that a function that fails is found.

An extractor of your own is called with a text and gives its answer, or None where it has none::

    def letter(text: str) -> str | None:
        return text.strip()[:1] or None
'''

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import NamedTuple

from raise_mdit.config import EvaluationConfig
from raise_mdit.errors import DataError
from raise_mdit.own_class import told, type_name
from raise_mdit.own_function import find_function

METRIC_KEY = "evaluation.task_metric"
EXTRACTOR_KEY = "evaluation.extractor"

NUMBER = r"\$?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
"""With or without commas between thousands, without sign."""

_SIGNED = re.compile(rf"(?:(?<![\w)])-)?{NUMBER}")
_MARKED = re.compile(rf"####\s*(-?{NUMBER})")

Score = Callable[[str, str, str], float]
"""Worth of a response from 0 to 1, given prompt, response and reference."""

Extract = Callable[[str], str | None]
"""The answer in a response, or None where there is none."""


class Answered(NamedTuple):
    """A response beside what was asked and what was wanted."""

    prompt: str
    generated: str
    reference: str


@dataclass(frozen=True, slots=True)
class AnswerMetric:
    """A metric of generated responses."""

    score: Score
    max_new_tokens: int
    """Longest response in tokens."""

    def scores(self, answered: Sequence[Answered]) -> tuple[float, ...]:
        """Worth of each response, from 0 to 1.

        Raises:
            DataError: A reference has no answer, or the user's function fails.
        """
        return tuple(self.score(*each) for each in answered)


def load_answer_metric(evaluation: EvaluationConfig) -> AnswerMetric | None:
    """The metric that an experiment asks for, where it generates responses.

    Raises:
        ConfigError: The user's function cannot be found or imported, or takes other arguments.
    """
    if not evaluation.generates:
        return None
    if evaluation.task_metric == "answer_match":
        score = _answer_match(_extractor(evaluation.extractor), evaluation.extractor)
    else:
        assert evaluation.task_metric is not None, "what generates has a metric"
        score = _own_score(evaluation.task_metric)
    return AnswerMetric(score, evaluation.max_new_tokens)


def gsm8k_answer(text: str) -> str | None:
    """The number after the first `####`, or None, as Cobbe et al. score GSM8K (arXiv 2110.14168).

    A response without the mark has no answer, whatever numbers are in it. Unlike theirs, a dollar
    sign before the number is passed over.
    """
    found = _MARKED.search(text)
    return found and found[1]


def last_number(text: str) -> str | None:
    """The last number in a text, or None where there is none.

    A minus counts where no letter, digit or bracket stands before it: `16-3` ends in 3.
    """
    found = _SIGNED.findall(text)
    return found[-1] if found else None


def whole_text(text: str) -> str:
    """All of a text without white space around it."""
    return text.strip()


EXTRACTORS: dict[str, Extract] = {
    "gsm8k": gsm8k_answer,
    "last_number": last_number,
    "whole": whole_text,
}
"""Ours, by the names of :data:`raise_mdit.config.ExtractorName`."""


def same_answer(first: str, second: str) -> bool:
    """Whether two answers are equal: as numbers where both are, and else to the letter."""
    values = _value(first), _value(second)
    return first == second if None in values else values[0] == values[1]


def _value(text: str) -> Decimal | None:
    """What a text says if it is a number, without dollar sign and thousands' commas."""
    stripped = text.strip()
    if not re.fullmatch(f"-?{NUMBER}", stripped):
        return None
    return Decimal(stripped.replace("$", "").replace(",", ""))


def _answer_match(extract: Extract, name: str) -> Score:
    def score(_prompt: str, generated: str, reference: str) -> float:
        wanted = extract(reference)
        if wanted is None:
            raise DataError(
                f"{EXTRACTOR_KEY}: {name} finds no answer in the reference {_opening(reference)!r}"
                f"; take another extractor ({', '.join(EXTRACTORS)} or `package.module:function`)"
            )
        found = extract(generated)
        return float(found is not None and same_answer(found, wanted))

    return score


def _extractor(name: str) -> Extract:
    if name in EXTRACTORS:
        return EXTRACTORS[name]
    own = find_function(name, EXTRACTOR_KEY, arguments=("text",))

    def extract(text: str) -> str | None:
        try:
            found = own(text)
        except Exception as error:  # the user's code, which may raise anything
            raise DataError(
                f"{EXTRACTOR_KEY}: {name} raised {told(error)} for {_opening(text)!r}; mend it"
            ) from error
        if not (found is None or isinstance(found, str)):
            raise DataError(
                f"{EXTRACTOR_KEY}: what {name} gives for {_opening(text)!r} is {type_name(found)}; "
                "return a text, or None where there is no answer"
            )
        return found

    return extract


def _own_score(path: str) -> Score:
    own = find_function(path, METRIC_KEY, arguments=("prompt", "generated", "reference"))

    def score(prompt: str, generated: str, reference: str) -> float:
        try:
            given = own(prompt, generated, reference)
        except Exception as error:  # the user's code, which may raise anything
            raise DataError(
                f"{METRIC_KEY}: {path} raised {told(error)} for the response "
                f"{_opening(generated)!r} to {_opening(prompt)!r}; mend it"
            ) from error
        if not (isinstance(given, Real) and 0 <= float(given) <= 1):
            what = repr(given) if isinstance(given, Real) else type_name(given)
            raise DataError(
                f"{METRIC_KEY}: what {path} gives for the response {_opening(generated)!r} is "
                f"{what}; return a number from 0 to 1"
            )
        return float(given)

    return score


LONGEST_OPENING = 60
"""Characters of a text that a message repeats."""


def _opening(text: str) -> str:
    line = text.replace("\n", " ")
    return line if len(line) <= LONGEST_OPENING else f"{line[:LONGEST_OPENING]}..."
