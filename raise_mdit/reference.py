"""The reference pages of the documentation, written from the code so that they cannot disagree.

``python -m raise_mdit.reference docs`` writes them; a test holds them to the code.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from raise_mdit.config import ExperimentConfig
from raise_mdit.config_section import Section
from raise_mdit.runs import write_text
from raise_mdit.schema_faults import written_fields
from raise_mdit.tracking import METRICS

CONFIGURATION_HEAD = """\
# Keys of an experiment file

Written from `raise_mdit/config.py` by `python -m raise_mdit.reference docs`. Unknown keys are
faults. Relative paths are relative to the folder in which the command is called.
`--set key.path=value` overrides a key; entries of lists go by position, name, kind or source
(`policies.ppo.episodes=24`, `data.test.gsm8k.rows=40`), and `key=null` leaves out a key that cannot
be null; an entry of a list stays.
"""
KIND_MEANING = "Chooses this form."
METRICS_HEAD = """\
# Metrics

Written from `raise_mdit/tracking.py` by `python -m raise_mdit.reference docs`. These names stand in
`metrics.jsonl`, beside `policy` and `seed`, and in Weights & Biases.

| metric | meaning |
| --- | --- |
"""


def configuration_page() -> str:
    """Every section and key of an experiment file, as Markdown."""
    return "\n".join([CONFIGURATION_HEAD, *(_section(each) for each in _sections())])


def metrics_page() -> str:
    """Every metric and its meaning, as Markdown."""
    rows = (f"| `{name}` | {_cell(meaning)} |\n" for name, meaning in METRICS.items())
    return METRICS_HEAD + "".join(rows)


def write_pages(folder: Path) -> None:
    """Write both pages."""
    write_text(folder / "configuration.md", configuration_page())
    write_text(folder / "metrics.md", metrics_page())


def _sections() -> Iterator[type[Section]]:
    """Sections in the order in which a reader meets them, each once."""
    waiting: list[type[Section]] = [ExperimentConfig]
    seen: set[type[Section]] = set()
    while waiting:
        section = waiting.pop(0)
        if section in seen:
            continue
        seen.add(section)
        yield section
        inner = [child for f in section.model_fields.values() for child in _children(f.annotation)]
        waiting = inner + waiting


def _children(annotation: object) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [child for part in get_args(annotation) for child in _children(part)]


def _section(section: type[Section]) -> str:
    rows = [_row(name, field) for name, field in written_fields(section).items()]
    title = _title(section)
    meaning = inspect.cleandoc(section.__doc__ or "")
    table = ["| key | values | default | meaning |", "| --- | --- | --- | --- |", *rows]
    return "\n".join([f"## {title}", "", meaning, "", *table, ""])


def _title(section: type[Section]) -> str:
    """The name of the section, with the `kind` that chooses it where it has one."""
    kind = section.model_fields.get("kind")
    name = section.__name__.removesuffix("Config")
    chosen = get_args(kind.annotation) if kind is not None else ()
    return f"{name} (`kind: {chosen[0]}`)" if chosen else name


def _row(name: str, field: FieldInfo) -> str:
    default = "required" if field.default is PydanticUndefined else _shown(field.default)
    meaning = " ".join((field.description or KIND_MEANING).split())
    return (
        f"| `{name}` | {_cell(_values(field.annotation))} | {_cell(default)} | {_cell(meaning)} |"
    )


def _shown(default: object) -> str:
    return "see below" if isinstance(default, Section) else f"`{_yaml(default)}`"


def _yaml(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case tuple():
            return f"[{', '.join(map(_yaml, value))}]"
        case dict():
            return "{" + ", ".join(f"{key}: {_yaml(each)}" for key, each in value.items()) + "}"
    return str(value)


def _values(annotation: object) -> str:
    """What may stand there, in words."""
    arguments = get_args(annotation)
    origin = get_origin(annotation)
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in arguments)
    if origin is Annotated:
        return _values(arguments[0])
    if origin is tuple:
        return f"list of {_values(arguments[0])}"
    if origin is dict:
        return f"mapping of {_values(arguments[0])} to {_values(arguments[1])}"
    if origin in (Union, types.UnionType):
        return " or ".join(_values(each) for each in arguments)
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return _title(annotation)
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return "null" if annotation is type(None) else names[annotation]  # type: ignore[index]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
