"""What pydantic found wrong with an experiment file or a wording, in the words of the file.

Pydantic's locations name union branches that are not in the file, it reports each branch of a union
for itself, and it calls a list too short when its entries are at fault. All of that is undone here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from raise_mdit.config import ExperimentConfig
from raise_mdit.errors import nearest
from raise_mdit.yaml_document import Fault, Location, Value

_WANTED = {
    "bool_type": "true or false",
    "dict_type": "a section of keys",
    "float_type": "a number",
    "int_type": "a whole number",
    "model_attributes_type": "a section of keys",
    "model_type": "a section of keys",
    "string_type": "text",
    "tuple_type": "a list",
}
"""What an error type asks for; a union of such types asks for one of them."""

CLASS_PATH = "package.module:Class"
"""Stands for all kinds that are classes of the user's own."""

_LONGEST_SHOWN = 60
"""Characters of a wrong value that a message repeats."""


def schema_faults(
    error: ValidationError, root: Value, *, model: type[BaseModel] = ExperimentConfig
) -> list[Fault]:
    """Each fault once, at the place in ``root`` that has to change.

    Args:
        error: What validation raised.
        root: The value that was validated.
        model: What it was validated as.
    """
    written = _Written(root, model)
    groups: dict[tuple[Location, bool], list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        if not _is_echo(details):
            groups.setdefault(_place(details, written), []).append(details)
    places = [where for where, _ in groups]
    return [
        Fault(where, _message(details, where, written), on_key=on_key)
        for (where, on_key), details in groups.items()
        if not _is_other_branch(details, where, places)
    ]


def allowed_keys(
    root: Value, where: Location, *, model: type[BaseModel] = ExperimentConfig
) -> list[str]:
    """Keys that may stand in the section at ``where``; none where no section is expected.

    Args:
        root: A value, valid or not.
        where: Of a section in it.
        model: What the value is validated as.
    """
    keys: dict[str, None] = {}
    for annotation in _annotations_at(_Written(root, model), where):
        keys.update(dict.fromkeys(_keys_of(annotation)))
    return list(keys)


def takes_null(root: Value, where: Location) -> bool:
    """Whether null is a value of the key at ``where``, and not only a word for leaving it out.

    Args:
        root: An experiment, valid or not.
        where: Of a key in it, written or not.
    """
    return NoneType in _annotations_at(_Written(root, ExperimentConfig), where)


def written_fields(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a section by their keys in a file, which may be words that Python keeps."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def value_at(root: Value, where: Location) -> Value:
    """The value at a location, or None where there is none."""
    for part in where:
        match root, part:
            case dict(), str():
                root = root.get(part)
            case list(), int() if part < len(root):
                root = root[part]
            case _:
                return None
    return root


def shown(value: object) -> str:
    """A value as a message repeats it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case dict():
            return "a section of keys"
        case list() | tuple():
            return "a list" if value else "an empty list"
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


class _Written(NamedTuple):
    """What a file says, and what it should be."""

    root: Value
    model: type[BaseModel]


def _is_echo(details: ErrorDetails) -> bool:
    """Whether a list is called too short only because its entries have faults of their own."""
    if details["type"] != "too_short":
        return False
    num_sound = details["ctx"]["actual_length"]
    return bool(num_sound < len(details["input"]))


def _is_other_branch(group: list[ErrorDetails], where: Location, places: list[Location]) -> bool:
    """Whether a section is only called no word or number: another type it may have fits better."""
    deeper = any(place[: len(where)] == where and len(place) > len(where) for place in places)
    return deeper and all(each["type"] in (*_WANTED, "literal_error") for each in group)


def _place(details: ErrorDetails, written: _Written) -> tuple[Location, bool]:
    """Where a fault is in the file, and whether it is the key that is wrong."""
    if details["type"] == "missing":
        return (*_in_file(details["loc"][:-1], written), details["loc"][-1]), False
    where = _in_file(details["loc"], written)
    match details["type"]:
        case "union_tag_invalid" | "union_tag_not_found":
            return (*where, "kind"), False
        case "value_error":
            return (*where, *_blamed_key(details, value_at(written.root, where))), False
    return where, details["type"] == "extra_forbidden" or details["loc"][-1:] == ("[key]",)


def _in_file(location: Location, written: _Written) -> Location:
    """A location of pydantic's without the union branches, which the file does not have."""
    where: Location = ()
    branch_taken_at: Location | None = None
    for part in location:
        value = value_at(written.root, where)
        match value, part:
            case dict(), str() if part == value.get("kind") and branch_taken_at != where:
                is_key = part in allowed_keys(written.root, where, model=written.model)
                branch_taken_at, where = where, (*where, part) if is_key else where
            case dict(), str() if part in value:
                where = (*where, part)
            case list(), int():
                where = (*where, part)
    return where


def _blamed_key(details: ErrorDetails, section: Value) -> Location:
    """The key of the section with which a validator's message begins, if it does."""
    first = _own_words(details).split(maxsplit=1)[0].rstrip(":")
    return (first,) if isinstance(section, dict) and first in section else ()


def _own_words(details: ErrorDetails) -> str:
    return details["msg"].removeprefix("Value error, ")


def _message(group: list[ErrorDetails], where: Location, written: _Written) -> str:
    details = group[0]
    match details["type"]:
        case "extra_forbidden":
            return _unknown_key(where, written)
        case "literal_error" if details["loc"][-1:] == ("[key]",):
            return _unknown_key(where, written)
        case "missing":
            return "is required but missing"
        case "union_tag_not_found":
            kinds = _kinds(_annotations_at(written, where[:-1]))
            return f"is required but missing, allowed: {', '.join(kinds)}"
        case "union_tag_invalid":
            kinds = _kinds(_annotations_at(written, where[:-1]))
            return _not_one_of(value_at(written.root, where), kinds)
        case "literal_error" if len(group) == 1:
            return _not_one_of(details["input"], _quoted(details["ctx"]["expected"]))
    if all(each["type"] in (*_WANTED, "literal_error") for each in group):
        return f"{_wrong_type(group)}{_as_section(details['input'], where, written)}"
    return _out_of_range(details)


def _unknown_key(where: Location, written: _Written) -> str:
    allowed = allowed_keys(written.root, where[:-1], model=written.model)
    key = str(where[-1])
    return f"unknown key, allowed here: {', '.join(allowed)}.{nearest(key, allowed)}"


def _not_one_of(given: object, allowed: list[str]) -> str:
    return f"got {shown(given)}, allowed: {', '.join(allowed)}.{nearest(str(given), allowed)}"


def _wrong_type(group: list[ErrorDetails]) -> str:
    given = group[0]["input"]
    names = [
        name for each in group for name in _quoted((each.get("ctx") or {}).get("expected", ""))
    ]
    wanted = [_WANTED[each["type"]] for each in group if each["type"] in _WANTED]
    sentence = f"should be {' or '.join(wanted + [repr(name) for name in names])}"
    return f"{sentence}, got {shown(given)}.{nearest(str(given), names)}{_repair(group[0])}"


def _as_section(given: object, where: Location, written: _Written) -> str:
    """How to write a kind by itself where a section of that kind is wanted."""
    kinds = _kinds(_annotations_at(written, where)) if isinstance(given, str) else []
    return f" Write {{kind: {given}}}." if given in kinds else nearest(str(given), kinds)


def _repair(details: ErrorDetails) -> str:
    """How to write what was probably meant."""
    given = details["input"]
    match details["type"]:
        case "int_type" if isinstance(given, float) and given.is_integer():
            return f" Write {int(given)}."
        case "string_type" if isinstance(given, int | float):
            return " Put it in quotes."
        case "int_type" | "float_type" | "bool_type" if isinstance(given, str):
            return " Numbers, true and false stand without quotes." if _looks_typed(given) else ""
    return ""


def _looks_typed(text: str) -> bool:
    return bool(re.fullmatch(r"[-+]?[0-9][0-9.eE+-]*|true|false", text))


def _out_of_range(details: ErrorDetails) -> str:
    match details["type"]:
        case "value_error":
            words = _own_words(details)
            key, colon, rest = words.partition(": ")
            return rest if colon and key.isidentifier() else words
        case "too_short":
            least, found = details["ctx"]["min_length"], len(details["input"]) or "an empty list"
            return (
                f"should have at least {least} {'entry' if least == 1 else 'entries'}, got {found}"
            )
        case "too_long":
            most = details["ctx"]["max_length"]
            return f"should have at most {most} entries, got {len(details['input'])}"
        case "string_pattern_mismatch":
            wanted = "should be letters, digits, '_', '.' and '-', beginning with a letter or digit"
            return f"{wanted}, got {shown(details['input'])}"
    words = details["msg"].replace("Input should", "should").replace("String should", "should")
    return f"{words}, got {shown(details['input'])}"


def _quoted(text: str) -> list[str]:
    """The names between quotes in pydantic's ``'a', 'b' or 'c'``."""
    return re.findall(r"'([^']*)'", text)


def _annotations_at(
    written: _Written, where: Location
) -> list[Any]:  # type expressions have no type
    """The types expected at a location; a written `kind` leaves only its own."""
    current: list[Any] = [written.model]
    for depth, part in enumerate(where, start=1):
        if isinstance(part, str):
            current = [type_ for each in current for type_ in _field_types(each, part)]
        section = value_at(written.root, where[:depth])
        kind = section.get("kind") if isinstance(section, dict) else None
        current = [each for each in current if _is_kind(kind, each)] or current
    return current


def _is_kind(kind: Value, annotation: Any) -> bool:
    """Whether a section of that kind has this type; a class's path is the only one with a colon."""
    is_path = isinstance(kind, str) and ":" in kind
    return (CLASS_PATH if is_path else kind) in _kinds([annotation])


def _field_types(annotation: Any, key: str) -> Iterator[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = written_fields(annotation)
        if key in fields:
            yield from _alternatives(fields[key].annotation)
    elif get_origin(annotation) is dict:
        yield from _alternatives(get_args(annotation)[1])


def _alternatives(annotation: Any) -> Iterator[Any]:
    """The types of a union; of a list, the types of its entries."""
    if get_origin(annotation) in (None, dict, Literal):
        yield annotation
        return
    arguments = get_args(annotation)
    for argument in arguments[:1] if get_origin(annotation) is Annotated else arguments:
        yield from _alternatives(argument)


def _keys_of(annotation: Any) -> tuple[str, ...]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return tuple(written_fields(annotation))
    if get_origin(annotation) is dict:
        return tuple(get_args(get_args(annotation)[0]))
    return ()


def _kinds(annotations: list[Any]) -> list[str]:
    """The values of `kind` by which the types are told apart."""
    models = [each for each in annotations if "kind" in _keys_of(each)]
    kinds = [model.model_fields["kind"].annotation for model in models]
    return [name for kind in kinds for name in ((CLASS_PATH,) if kind is str else get_args(kind))]
