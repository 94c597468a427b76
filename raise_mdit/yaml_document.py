"""A YAML text as plain values that remember where each one stands.

The text is YAML 1.2, so `1e-4` is a number and `no` is text. Values are built here from the parsed
nodes rather than by a YAML constructor: every duplicate key, unknown tag or endless alias becomes a
fault with a position, all of them at once, and no tag can make an object.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, ReusedAnchorWarning, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

Value: TypeAlias = "bool | int | float | str | list[Value] | dict[str, Value] | None"
Location: TypeAlias = tuple[str | int, ...]
"""Keys and list positions that lead from the root to a value."""

_TAG_PREFIX = "tag:yaml.org,2002:"
_TEXT_TAGS = ("str", "timestamp", "merge", "value")
"""Scalars kept as written: an unquoted date is a fine name, and YAML 1.2 knows no merge key."""
_LINE_BREAK = re.compile(r"\r\n|\n|\r")


class Mark(NamedTuple):
    """A place in a text, counted from 0."""

    line: int
    column: int
    width: int = 1
    """Characters to underline."""


class Fault(NamedTuple):
    """One thing that is wrong, and where."""

    where: Location
    message: str
    on_key: bool = False
    """Whether the key is at fault rather than its value."""
    mark: Mark | None = None
    """Place in the text where ``where`` does not tell it, as for the second of two equal keys."""


class UnreadableYaml(Exception):
    """A text that is not YAML, and the place where reading stopped."""

    def __init__(self, message: str, *, mark: Mark, lines: Sequence[str]) -> None:
        super().__init__(message)
        self.mark = mark
        self.lines = lines


class Document(NamedTuple):
    """What a text says and where it says it."""

    value: Value
    lines: Sequence[str]
    marks: dict[Location, Mark]
    """Place of each value; a section's or list's is that of its key."""
    key_marks: dict[Location, Mark]
    """Place of the key of each value that has one."""
    faults: list[Fault]
    """What is wrong although the text is YAML."""

    def mark(self, fault: Fault) -> Mark:
        """The place of a fault; where its value was not written, that of the section around it."""
        if fault.mark is not None:
            return fault.mark
        if fault.on_key and fault.where in self.key_marks:
            return self.key_marks[fault.where]
        ancestors = (fault.where[:depth] for depth in range(len(fault.where), -1, -1))
        return next((self.marks[where] for where in ancestors if where in self.marks), Mark(0, 0))


def parse(text: str) -> Document:
    """The document of a YAML text.

    Raises:
        UnreadableYaml: If the text is not YAML.
    """
    lines = _LINE_BREAK.split(text)
    yaml = YAML(typ="safe", pure=True)
    try:
        with warnings.catch_warnings():  # YAML lets an anchor be given again; the later one counts
            warnings.simplefilter("ignore", ReusedAnchorWarning)
            root = yaml.compose(text)
        builder = _Builder(yaml)
        value = None if root is None else builder.build(root, ())
    except RecursionError:
        raise UnreadableYaml("is nested too deeply", mark=Mark(0, 0), lines=lines) from None
    except MarkedYAMLError as error:
        message, mark = _syntax_fault(error)
        raise UnreadableYaml(message, mark=mark, lines=lines) from error
    except (YAMLError, ValueError, OverflowError) as error:  # characters or escapes that are none
        message = f"is not valid YAML: {' '.join(str(error).split())}"
        raise UnreadableYaml(message, mark=Mark(0, 0), lines=lines) from error
    return Document(value, lines, builder.marks, builder.key_marks, builder.faults)


class _Builder:
    """Turns nodes into values, collecting places and faults on the way."""

    def __init__(self, yaml: YAML) -> None:
        self.marks: dict[Location, Mark] = {}
        self.key_marks: dict[Location, Mark] = {}
        self.faults: list[Fault] = []
        self._yaml = yaml
        self._open: set[int] = set()

    def build(self, node: Node, where: Location) -> Value:
        """The value of a node, its own place and those of everything in it."""
        in_section = where in self.key_marks
        is_visible = isinstance(node, ScalarNode) and _width(node) > 0
        show_key = in_section and not is_visible
        self.marks[where] = self.key_marks[where] if show_key else _mark(node)
        if isinstance(node, ScalarNode):
            return self._scalar(node, where)
        if node.tag not in (f"{_TAG_PREFIX}map", f"{_TAG_PREFIX}seq"):
            self._blame(node, where, f"has the tag {node.tag}, which is not supported; remove it")
            return None
        if id(node) in self._open:
            self._blame(node, where, "is an alias that contains itself")
            return None
        self._open.add(id(node))
        value = self._collection(node, where)
        self._open.remove(id(node))
        return value

    def _collection(self, node: Node, where: Location) -> Value:
        if isinstance(node, MappingNode):
            return self._mapping(node, where)
        assert isinstance(node, SequenceNode)
        return [self.build(item, (*where, index)) for index, item in enumerate(node.value)]

    def _mapping(self, node: MappingNode, where: Location) -> dict[str, Value]:
        section: dict[str, Value] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self._blame(key_node, where, "a key should be plain text")
                continue
            key = str(key_node.value)
            place = (*where, key)
            if key in section:
                first = self.key_marks[place].line + 1
                self._blame(key_node, place, f"is given twice, first on line {first}; keep one")
                continue
            self.key_marks[place] = _mark(key_node)
            section[key] = self.build(value_node, place)
        return section

    def _scalar(self, node: ScalarNode, where: Location) -> Value:
        text = str(node.value)
        kind = str(node.tag).removeprefix(_TAG_PREFIX)
        if kind in _TEXT_TAGS:
            return text
        try:
            value = self._typed(node, kind)
        except (ValueError, KeyError, IndexError):  # `!!int x`, `!!bool x`, `!!int ''`
            self._blame(node, where, f"{text!r} cannot be read as {kind}; quote it to make it text")
            return text
        if isinstance(value, float) and not math.isfinite(value):
            self._blame(node, where, f"should be a finite number, got {text}")
        return value

    def _typed(self, node: ScalarNode, kind: str) -> Value:
        constructor = self._yaml.constructor
        match kind:
            case "null":
                return None
            case "bool":
                return bool(constructor.construct_yaml_bool(node))
            case "int":
                return int(constructor.construct_yaml_int(node))
            case "float":
                return float(constructor.construct_yaml_float(node))
            case _:
                raise ValueError(kind)

    def _blame(self, node: Node, where: Location, message: str) -> None:
        self.faults.append(Fault(where, message, mark=_mark(node)))


def _width(node: Node) -> int:
    """Characters of a scalar that stands on one line; 1 for what spans several."""
    start, end = node.start_mark, node.end_mark
    return int(end.column - start.column) if start.line == end.line else 1


def _mark(node: Node) -> Mark:
    width = _width(node) if isinstance(node, ScalarNode) else 1
    return Mark(node.start_mark.line, node.start_mark.column, max(1, width))


def _syntax_fault(error: MarkedYAMLError) -> tuple[str, Mark]:
    """What stopped the parser, said at the place where the user has to look."""
    context, problem = error.context or "", error.problem or str(error)
    here, opened = error.problem_mark or error.context_mark, error.context_mark
    if "'\\t'" in problem:
        message = "a tab cannot indent in YAML; use spaces"
    elif "flow" in context:
        message, here = f"this bracket is not closed, or a comma is missing: {problem}", opened
    elif "quoted scalar" in context and "end of" in problem:
        message, here = "this quote is not closed", opened
    elif "mapping values" in problem:
        message = "a ':' is not allowed here; quote text that contains ': ', or mend the indent"
    else:
        message = ", ".join(filter(None, (context, problem)))
    return message, Mark(here.line, here.column) if here else Mark(0, 0)
