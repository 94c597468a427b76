"""How columns become a conversation: the layouts in which instruction data is published.

A multiple-choice question becomes a prompt that lists the options below the question, each behind
its letter, and a response that is the right option's text alone. Models rate letters by their place
in the list (Zheng et al. 2024, arXiv 2309.03882): of 60 questions of CommonsenseQA with five
options, the untuned SmolLM2-135M answers 41 with the last if responses begin with the letter, and
none of the five more than 17 times if they do not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from string import ascii_uppercase
from types import NoneType
from typing import Literal, NamedTuple

from raise_mdit.core import Message, Role
from raise_mdit.errors import DataError, nearest

FormatName = Literal[
    "alpaca", "dolly", "messages", "multiple_choice", "prompt_completion", "question_answer"
]
Fields = Mapping[str, object]

_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "human": "user",  # ShareGPT's names
    "gpt": "assistant",
}
_TURN_KEYS = (("role", "content"), ("from", "value"))
"""OpenAI's names of a turn's parts, then ShareGPT's."""
_OPTION_LINE = re.compile(r"([A-Z]|\d+)[.):] *(\S.*)")
"""An option with its letter or number, such as `A. bank`."""
_TYPE_NAMES: dict[type, str] = {
    NoneType: "null",
    bool: "true or false",
    dict: "an object",
    float: "a number",
    int: "a number",
    list: "a list",
    str: "text",
}


class RowFault(Exception):
    """Why one row makes no conversation; the reader adds where the row stands."""


def _no_choices(fields: Fields) -> None:
    """Most rows are no multiple-choice questions."""


class RowFormat(NamedTuple):
    """One layout of instruction data."""

    columns: tuple[tuple[str, ...], ...]
    """Groups of columns; a row that has all of one group is of this format."""
    optional: tuple[str, ...]
    """Columns that are used where they are present."""
    convert: Callable[[Fields], tuple[Message, ...]]
    """The turns of a row, unchecked as a conversation."""
    choices: Callable[[Fields], tuple[str, ...] | None] = _no_choices
    """Texts of the options of a row, where it is a multiple-choice question."""

    def describe(self) -> str:
        """The columns in words."""
        needed = " or ".join(" + ".join(group) for group in self.columns)
        return needed + "".join(f", optional {column}" for column in self.optional)

    def fits(self, columns: Iterable[str]) -> bool:
        """Whether one whole group is among the columns."""
        return any(set(group) <= set(columns) for group in self.columns)


def recognise(columns: Iterable[str], *, origin: str) -> FormatName:
    """The one format that the columns fit.

    Args:
        columns: Column names of a row.
        origin: File or hub name, for the error.

    Raises:
        DataError: If no format fits, or several do.
    """
    found = sorted(columns)
    fitting = [name for name, row_format in FORMATS.items() if row_format.fits(found)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise DataError(
            f"{origin}: the columns {', '.join(found)} fit several formats: "
            f"{', '.join(fitting)}. Set `format` of the source to one of them."
        )
    formats = "; ".join(f"{name} ({each.describe()})" for name, each in FORMATS.items())
    raise DataError(
        f"{origin}: no format fits the columns {', '.join(found) or '(none)'}. "
        f"Formats: {formats}.{_nearest_column(found)}"
    )


def conversation(fields: Fields, row_format: RowFormat) -> tuple[Message, ...]:
    """The turns of a row, the assistant's last.

    Raises:
        RowFault: If a column is missing or not text, or the prompt or response is blank.
    """
    messages = row_format.convert(fields)
    if not messages:
        raise RowFault("the conversation has no turns")
    if messages[-1].role != "assistant":
        raise RowFault(f"the last turn is the {messages[-1].role}'s, not the assistant's")
    if not messages[-1].content.strip():
        raise RowFault("the response is blank")
    if not any(turn.content.strip() for turn in messages[:-1] if turn.role != "system"):
        raise RowFault("the prompt is blank")
    return messages


def _alpaca(fields: Fields) -> tuple[Message, ...]:
    return _instruction(fields, extra="input", response="output")


def _dolly(fields: Fields) -> tuple[Message, ...]:
    return _instruction(fields, extra="context", response="response")


def _instruction(fields: Fields, *, extra: str, response: str) -> tuple[Message, ...]:
    instruction, answer = _text(fields, "instruction"), _text(fields, response)
    material = _text(fields, extra) if fields.get(extra) is not None else ""
    prompt = f"{instruction}\n{material}" if material.strip() else instruction
    return (Message("user", prompt), Message("assistant", answer))


def _messages(fields: Fields) -> tuple[Message, ...]:
    named = (name for (name,) in FORMATS["messages"].columns if fields.get(name) is not None)
    column = next(named, "messages")
    return _turns(_present(fields, column), column)


def _prompt_completion(fields: Fields) -> tuple[Message, ...]:
    prompt = _text_or_turns(fields, "prompt", role="user")
    return prompt + _text_or_turns(fields, "completion", role="assistant")


def _question_answer(fields: Fields) -> tuple[Message, ...]:
    question, answer = _text(fields, "question"), _text(fields, "answer")
    return (Message("user", question), Message("assistant", answer))


class _Option(NamedTuple):
    label: str
    text: str

    @property
    def line(self) -> str:
        return f"{self.label}. {self.text}"


def _multiple_choice(fields: Fields) -> tuple[Message, ...]:
    options = _options(fields)
    lines = [_text(fields, "question"), *(option.line for option in options)]
    return (Message("user", "\n".join(lines)), Message("assistant", _right(fields, options).text))


def _option_texts(fields: Fields) -> tuple[str, ...]:
    return tuple(option.text for option in _options(fields))


def _options(fields: Fields) -> list[_Option]:
    """The options of a question, with the labels that the row gives or letters from A on."""
    column = "choices" if "choices" in fields else "options"
    match _present(fields, column):
        case str() as text:
            lines = _checked_text(text, f"column {column!r}").splitlines()
            options = [_option_line(line, column) for line in lines if line.strip()]
        case list() as texts:
            options = _labelled(ascii_uppercase[: len(texts)], texts, column)
        case {"label": list() as labels, "text": list() as texts}:
            options = _labelled(labels, texts, column)
        case other:
            raise RowFault(f"column {column!r} is {_type_name(other)}, not a list of options")
    if len(options) < 2 or len({option.label for option in options}) < len(options):
        given = ", ".join(option.label for option in options) or "none"
        raise RowFault(f"column {column!r} needs several options, each with its own label: {given}")
    return options


def _option_line(line: str, column: str) -> _Option:
    match = _OPTION_LINE.fullmatch(line.strip())
    if match is None:
        raise RowFault(f"column {column!r} has the line {line!r}, which is no option like 'A. yes'")
    return _Option(match[1], _single_spaced(match[2]))


def _labelled(labels: Sequence[object], texts: Sequence[object], column: str) -> list[_Option]:
    if len(labels) != len(texts):
        raise RowFault(f"column {column!r} has {len(labels)} labels for {len(texts)} options")
    names = [_checked_text(label, f"a label of column {column!r}").strip() for label in labels]
    options = [_checked_text(text, f"an option of column {column!r}") for text in texts]
    if not all(map(str.strip, options)):
        raise RowFault(f"column {column!r} has a blank option")
    return [_Option(*pair) for pair in zip(names, map(_single_spaced, options), strict=True)]


def _single_spaced(text: str) -> str:
    """On one line, as options are listed."""
    return " ".join(text.split())


def _right(fields: Fields, options: Sequence[_Option]) -> _Option:
    """The option that the answer names: by label, by label and text, by text, or by number."""
    column = "answerKey" if "answerKey" in fields else "answer"
    answer = _present(fields, column)
    if isinstance(answer, int):  # class labels of hub data are numbers from 0
        answer = options[answer].label if 0 <= answer < len(options) else str(answer)
    name = _single_spaced(_checked_text(answer, f"column {column!r}"))
    for names in zip(*((each.label, each.line, each.text) for each in options), strict=True):
        if name in names:
            return options[names.index(name)]
    lines = [option.line for option in options]
    raise RowFault(f"column {column!r} is {name!r}, none of the options.{nearest(name, lines)}")


FORMATS: dict[FormatName, RowFormat] = {
    "alpaca": RowFormat((("instruction", "output"),), ("input",), _alpaca),
    "dolly": RowFormat((("instruction", "response"),), ("context",), _dolly),
    "messages": RowFormat((("messages",), ("conversations",)), (), _messages),
    "multiple_choice": RowFormat(
        (
            ("question", "options", "answer"),
            ("question", "choices", "answer"),
            ("question", "choices", "answerKey"),
        ),
        (),
        _multiple_choice,
        _option_texts,
    ),
    "prompt_completion": RowFormat((("prompt", "completion"),), (), _prompt_completion),
    "question_answer": RowFormat((("question", "answer"),), (), _question_answer),
}
"""Every format by its name in an experiment file."""


def _text_or_turns(fields: Fields, column: str, *, role: Role) -> tuple[Message, ...]:
    value = _present(fields, column)
    if isinstance(value, list):
        return _turns(value, column)
    return (Message(role, _checked_text(value, f"column {column!r}")),)


def _turns(value: object, column: str) -> tuple[Message, ...]:
    if not isinstance(value, list):
        raise RowFault(f"column {column!r} is {_type_name(value)}, not a list of turns")
    return tuple(_turn(each, f"{column}[{index}]") for index, each in enumerate(value))


def _turn(value: object, where: str) -> Message:
    if not isinstance(value, dict):
        raise RowFault(f"{where} is {_type_name(value)}, not an object")
    for role_key, content_key in _TURN_KEYS:
        if role_key in value and content_key in value:
            role = _role(value[role_key], f"{where}.{role_key}")
            return Message(role, _checked_text(value[content_key], f"{where}.{content_key}"))
    pairs = " or ".join(" + ".join(pair) for pair in _TURN_KEYS)
    raise RowFault(f"{where} has the keys {', '.join(map(str, value)) or '(none)'}, not {pairs}")


def _role(value: object, where: str) -> Role:
    name = _checked_text(value, where)
    if name not in _ROLES:
        raise RowFault(
            f"{where} is {name!r}; roles are {', '.join(_ROLES)}.{nearest(name, _ROLES)}"
        )
    return _ROLES[name]


def _text(fields: Fields, column: str) -> str:
    return _checked_text(_present(fields, column), f"column {column!r}")


def _present(fields: Fields, column: str) -> object:
    if column not in fields:
        raise RowFault(f"column {column!r} is missing.{nearest(column, fields)}")
    return fields[column]


def _checked_text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise RowFault(f"{where} is {_type_name(value)}, not text")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
        raise RowFault(f"{where} is not Unicode: {error.reason}") from error
    return value


def _type_name(value: object) -> str:
    return _TYPE_NAMES.get(type(value), type(value).__name__)


def _nearest_column(found: Iterable[str]) -> str:
    known = [name for each in FORMATS.values() for group in each.columns for name in group]
    offers = ((column, nearest(column, known)) for column in found if column not in known)
    return next((f" Column {column!r}:{offer}" for column, offer in offers if offer), "")
