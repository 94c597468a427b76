"""What a mosaic says round its instructions, read from a YAML file that a user may replace."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, ValidationError

from raise_mdit.candidates import content_hash
from raise_mdit.config import MosaicConfig
from raise_mdit.config_section import Section
from raise_mdit.encoding import NOTHING_SPECIAL, SpecialTokens
from raise_mdit.errors import ConfigError
from raise_mdit.schema_faults import schema_faults, shown
from raise_mdit.yaml_document import Document, Fault, Location, UnreadableYaml, Value, parse

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
            raise ValueError(f"should be one line of text, not empty, got {shown(text)}")
        if sorted(_PLACEHOLDER.findall(text)) != sorted(names):
            wanted = " and ".join(f"{{{name}}}" for name in names)
            held = f"{wanted} once" if names else "no {...}"
            raise ValueError(f"should hold {held}, got {shown(text)}")
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


def wording_of(config: MosaicConfig | None, *, special: SpecialTokens = NOTHING_SPECIAL) -> Wording:
    """The wording that the mosaics of an experiment take; the project's own without mosaics.

    Args:
        config: The key `pools.mosaic`.
        special: As :func:`load_wording`; nothing is looked for where there are no mosaics.

    Raises:
        ConfigError: As :func:`load_wording`.
    """
    if config is None:
        return load_wording()
    return load_wording(Path(config.wording) if config.wording else None, special=special)


def load_wording(path: Path | None = None, *, special: SpecialTokens = NOTHING_SPECIAL) -> Wording:
    """The wording in a file; the project's own without one.

    Args:
        path: Of a user's own file.
        special: What the tokenizer would not read as text.

    Raises:
        ConfigError: Naming the file, the line and every key at fault, or that something it says
            holds a special token.
    """
    path = path or OWN_WORDING
    document = _document(path)
    try:
        wording = Wording.model_validate(document.value)
    except ValidationError as error:
        faults = schema_faults(error, document.value, model=Wording)
        raise ConfigError(_report(path, document, faults)) from error
    special_faults = list(_special_faults(wording, special))
    if document.faults or special_faults:
        raise ConfigError(_report(path, document, special_faults))
    return wording


def _special_faults(wording: Wording, special: SpecialTokens) -> Iterator[Fault]:
    found = {
        (where, token): None
        for where, text in _said(wording, special)
        if (token := special.found_in(text))
    }
    for where, token in found:
        yield Fault(where, f"makes {token!r}, which the tokenizer reads as a special token")


def _said(wording: Wording, special: SpecialTokens) -> Iterator[tuple[Location, str]]:
    """What a mosaic says as it is written here, and what is put together of it."""
    yield from _texts(wording.model_dump(mode="json"), ())
    for index, (opening, closing) in enumerate(wording.brackets):
        for word in (word for pair in wording.words for word in pair):
            for written in (word, word.lower()):
                yield ("brackets", index), opening + written + closing
    numbers = {"1", *re.findall(r"[0-9]+", " ".join(special.texts))}  # <extra_id_7>, for one
    for index, tag in enumerate(wording.tags):
        for point in wording.punctuation:
            for number in sorted(numbers):
                yield ("tags", index), filled(tag, n=number) + point


def _texts(value: Value, where: Location) -> Iterator[tuple[Location, str]]:
    match value:
        case str():
            yield where, value
        case dict():
            for key, each in value.items():
                yield from _texts(each, (*where, key))
        case list():
            for index, each in enumerate(value):
                yield from _texts(each, (*where, index))


def _document(path: Path) -> Document:
    try:
        return parse(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text; save it as UTF-8") from error
    except UnreadableYaml as error:
        raise ConfigError(f"{path}:{error.mark.line + 1}: {error}") from error


def _report(path: Path, document: Document, more: list[Fault]) -> str:
    faults = sorted([*document.faults, *more], key=document.mark)
    lines = [f"{path}: {len(faults)} fault(s) in the wording of mosaics"]
    for fault in faults:
        key = ".".join(map(str, fault.where)) or "the file"
        lines.append(f"  line {document.mark(fault).line + 1}: {key}: {fault.message}")
    return "\n".join(lines)
