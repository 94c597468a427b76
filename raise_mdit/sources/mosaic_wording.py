"""What a mosaic says round its instructions, read from a YAML file that a user may replace."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails

from raise_mdit.candidates import content_hash
from raise_mdit.config import Section
from raise_mdit.errors import ConfigError, nearest
from raise_mdit.yaml_document import Document, Fault, Location, UnreadableYaml, parse

OWN_WORDING = Path(__file__).with_name("mosaic_wording.yaml")
"""The file that is read where the user names none."""

Order = Literal[
    "listed",
    "reverse",
    "alphabetical",
    "reverse_alphabetical",
    "fewest_words",
    "most_words",
    "fewest_characters",
    "most_characters",
    "odd_then_even",
    "even_then_odd",
]
Mask = Literal["listed", "longest", "shortest", "odd", "even"]
"""Which instructions Maskout leaves without a response (arXiv 2405.13326)."""

ORDERS: tuple[Order, ...] = get_args(Order)
"""Orders of responses that Permute offers (arXiv 2405.13326)."""

MASKS: tuple[Mask, ...] = get_args(Mask)
"""Masks that Maskout offers."""

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def filled(sentence: str, **values: str) -> str:
    """The sentence with its placeholders replaced; braces inside the values stay as they are."""
    return _PLACEHOLDER.sub(lambda match: values[match[1]], sentence)


def _placeholders(*names: str) -> AfterValidator:
    """A check that a text is one line and has exactly the placeholders named."""

    def check(text: str) -> str:
        if not text.strip() or "\n" in text:
            raise ValueError("should be one line of text, not empty")
        if sorted(_PLACEHOLDER.findall(text)) != sorted(names):
            wanted = " and ".join(f"{{{name}}}" for name in names)
            raise ValueError(f"should hold {wanted} once" if names else "should hold no {...}")
        return text

    return AfterValidator(check)


# Strictness would refuse the lists of YAML for tuples; what is in them stays strict.
_Several = Field(min_length=1, strict=False)
_Pair = Annotated[tuple[str, str], Field(strict=False)]
_Tag = Annotated[str, _placeholders("n")]
_Sentences = Annotated[tuple[Annotated[str, _placeholders()], ...], _Several]
_MarkedSentences = Annotated[tuple[Annotated[str, _placeholders("begin", "end")], ...], _Several]
_ListSentences = Annotated[tuple[Annotated[str, _placeholders("list")], ...], _Several]
_CountSentences = Annotated[tuple[Annotated[str, _placeholders("count")], ...], _Several]


class ListShape(Section):
    """How an explicit list of numbers is written."""

    open: str
    separator: str = Field(min_length=1)
    close: str

    def text(self, numbers: list[int]) -> str:
        """The numbers, written so."""
        return f"{self.open}{self.separator.join(map(str, numbers))}{self.close}"


class PermuteWording(Section):
    """Sentences that ask for an order; the fields are those of :data:`Order`."""

    listed: _ListSentences
    reverse: _Sentences
    alphabetical: _Sentences
    reverse_alphabetical: _Sentences
    fewest_words: _Sentences
    most_words: _Sentences
    fewest_characters: _Sentences
    most_characters: _Sentences
    odd_then_even: _Sentences
    even_then_odd: _Sentences


class MaskoutWording(Section):
    """Sentences that name instructions to leave out; the fields are those of :data:`Mask`."""

    listed: _ListSentences
    longest: _CountSentences
    shortest: _CountSentences
    odd: _Sentences
    even: _Sentences


class Wording(Section):
    """Everything a mosaic can say that is not an instruction or a response."""

    tags: Annotated[tuple[_Tag, ...], _Several]
    """Shapes of the number before an instruction and its response."""
    punctuation: Annotated[tuple[str, ...], _Several]
    """What may follow a tag."""
    brackets: Annotated[tuple[_Pair, ...], _Several]
    """What stands on both sides of a mark's word."""
    words: Annotated[tuple[_Pair, ...], _Several]
    """Words of the marks before and after a response."""
    marked: _MarkedSentences
    """Sentences that ask for marks."""
    plain: _Sentences
    """Sentences that ask for nothing but responses."""
    lists: Annotated[tuple[ListShape, ...], _Several]
    """Shapes of explicit lists."""
    permute: PermuteWording
    """Sentences for each order."""
    maskout: MaskoutWording
    """Sentences for each mask."""

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the content: recipes hold positions in these lists, so they name the lists."""
        return content_hash(self.model_dump(mode="json"))

    def rule_sentences(self, rule: Order | Mask, *, masks: bool) -> tuple[str, ...]:
        """The sentences of an order, or of a mask."""
        sentences: tuple[str, ...] = getattr(self.maskout if masks else self.permute, rule)
        return sentences


def load_wording(path: Path | None = None) -> Wording:
    """The wording in a file; the project's own without one.

    Raises:
        ConfigError: Naming the file and every key at fault.
    """
    path = path or OWN_WORDING
    document = _document(path)
    try:
        wording = Wording.model_validate(document.value)
    except ValidationError as error:
        schema_faults = [_fault(details) for details in error.errors(include_url=False)]
        raise ConfigError(_report(path, document, schema_faults)) from error
    if document.faults:
        raise ConfigError(_report(path, document, []))
    return wording


def _document(path: Path) -> Document:
    try:
        return parse(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text; save it as UTF-8") from error
    except UnreadableYaml as error:
        raise ConfigError(f"{path}:{error.mark.line + 1}: {error}") from error


def _report(path: Path, document: Document, schema_faults: list[Fault]) -> str:
    faults = [*document.faults, *schema_faults]
    lines = [f"{path}: {len(faults)} fault(s) in the wording of mosaics"]
    for fault in faults:
        key = ".".join(map(str, fault.where)) or "the file"
        lines.append(f"  line {document.mark(fault).line + 1}: {key}: {fault.message}")
    return "\n".join(lines)


def _fault(details: ErrorDetails) -> Fault:
    where = details["loc"]
    message = details["msg"].removeprefix("Value error, ").replace("Input should", "should")
    match details["type"]:
        case "missing":
            return Fault(where, "is required but missing")
        case "extra_forbidden":
            allowed = _keys_at(where[:-1])
            hint = nearest(str(where[-1]), allowed)
            sentence = f"unknown key, allowed here: {', '.join(allowed)}.{hint}"
            return Fault(where, sentence, on_key=True)
        case "model_type":
            return Fault(where, "should be a section of keys")
    given = details["input"]
    is_text = isinstance(given, str | int | float | None)
    return Fault(where, f"{message}, got {given!r}" if is_text else message)


def _keys_at(where: Location) -> list[str]:
    """The keys of the section at a location of the wording."""
    model: type[BaseModel] = Wording
    for part in where:
        model = ListShape if isinstance(part, int) else _section(model, part)
    return list(model.model_fields)


def _section(model: type[BaseModel], key: str) -> Any:  # a type expression has no type
    annotation = model.model_fields[key].annotation
    return annotation if isinstance(annotation, type) else model
