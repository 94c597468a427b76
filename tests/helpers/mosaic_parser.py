"""Reads a mosaic back from its text.

It shares no code with the writer. What it knows: the instructions and responses that may stand in a
text, the lists of a wording as plain data, and enough English to say what a sentence of the
project's own wording asks for. Texts may be odd enough to be read in several ways (an instruction
may itself begin with a number): all of them are given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from raise_mdit.core import Example, Message
from raise_mdit.sources.mosaic_wording import Wording


class LawBroken(Exception):
    """What is wrong with a mosaic, in words."""


class Known(NamedTuple):
    """What may stand in a mosaic."""

    responses_of: Mapping[str, Collection[str]]
    """By instruction."""
    responses: Collection[str]


class Block(NamedTuple):
    """What stands between two blank lines: an instruction, a response or a sentence."""

    text: str
    opening: str = ""
    """What is written before the text: tag, mark."""
    closing: str = ""
    number: int | None = None
    shape: str = ""
    """The tag without its number; empty where there is none."""
    marks: tuple[str, str] | None = None
    is_sentence: bool = False

    @property
    def written(self) -> str:
        return self.opening + self.text + self.closing


class Rule(NamedTuple):
    """What a sentence asks for."""

    kind: Literal["order", "mask"]
    name: str
    numbers: list[int]
    """In the order asked for, or those that get no response."""


class Reading(NamedTuple):
    """One way to read a mosaic."""

    user: tuple[Block, ...]
    assistant: tuple[Block, ...]
    num_turns: int
    """Pairs of an instruction's and a response's turn."""

    @property
    def instructions(self) -> list[Block]:
        return [block for block in self.user if not block.is_sentence]

    @property
    def numbers(self) -> list[int]:
        """Of the responses: their tags', or their positions where there are no tags."""
        blocks = enumerate(self.assistant, 1)
        return [i if block.number is None else block.number for i, block in blocks]

    @property
    def sentences(self) -> list[str]:
        return [block.text for block in self.user if block.is_sentence]

    @property
    def rules(self) -> list[Rule]:
        prompts = [block.text for block in self.instructions]
        rules = [stated_rule(sentence, prompts) for sentence in self.sentences]
        return [rule for rule in rules if rule]

    @property
    def strategy(self) -> str:
        """What the text looks like; one turn of one plain instruction looks primary."""
        if self.num_turns > 1:
            return "turns"
        if not any(block.shape for block in self.user):
            return "primary"
        kinds = {rule.kind for rule in self.rules}
        names = {"order": "permute", "mask": "maskout"}
        return "_".join(names[kind] for kind in ("order", "mask") if kind in kinds) or "format"


def known_texts(examples: Sequence[Example]) -> Known:
    """What may stand in mosaics of these examples."""
    responses_of: dict[str, set[str]] = {}
    for example in examples:
        responses_of.setdefault(example.prompt, set()).add(example.response)
    return Known(responses_of, {example.response for example in examples})


def written(reading: Reading) -> tuple[Message, ...]:
    """The text that is read so."""
    if reading.num_turns > 1:
        turns = [Message("user", block.written) for block in reading.user]
        for i, block in enumerate(reading.assistant):
            turns.insert(2 * i + 1, Message("assistant", block.written))
        return tuple(turns)
    user = "\n\n".join(block.written for block in reading.user)
    return (
        Message("user", user),
        Message("assistant", "\n\n".join(block.written for block in reading.assistant)),
    )


# --- What a wording can write, as patterns.


class Phrases:
    """The lists of a wording, ready to be recognised."""

    def __init__(self, wording: Wording) -> None:
        points = "|".join(map(re.escape, sorted(wording.punctuation, reverse=True)))
        self.tags = [
            re.compile(_pattern(tag, n="([0-9]+)") + rf"(?:{points})[ \n]") for tag in wording.tags
        ]
        self.ends: dict[str, set[str]] = {}
        """Marks that may stand behind a response, by the mark before it."""
        for left, right in wording.brackets:
            for begin, end in wording.words:
                for first, last in ((begin, end), (begin.lower(), end.lower())):
                    self.ends.setdefault(left + first + right, set()).add(left + last + right)
        self._begin_lengths = sorted({len(begin) for begin in self.ends})
        self._any_marked = re.compile(
            "|".join(_pattern(each, begin=".+", end=".+") for each in wording.marked)
        )
        self._marked = [
            re.compile(_pattern(each, begin="(.+)", end="(.+)")) for each in wording.marked
        ]
        lists = "|".join(
            f"{re.escape(each.open)}[0-9]+(?:{re.escape(each.separator)}[0-9]+)*"
            f"{re.escape(each.close)}"
            for each in wording.lists
        )
        rules = [*wording.permute.model_dump().values(), *wording.maskout.model_dump().values()]
        unmarked = [sentence for sentences in (*rules, wording.plain) for sentence in sentences]
        self._unmarked = re.compile(
            "|".join(_pattern(each, list=f"(?:{lists})", count="[0-9]+") for each in unmarked)
        )

    def is_sentence(self, text: str) -> bool:
        return bool(self._unmarked.fullmatch(text) or self.marks_named(text))

    def marks_named(self, sentence: str) -> tuple[str, str] | None:
        """The marks that a sentence asks for."""
        if not self._any_marked.fullmatch(sentence):
            return None
        for pattern in self._marked:
            found = pattern.fullmatch(sentence)
            if found and found[2] in self.ends.get(found[1], ()):
                return found[1], found[2]
        return None

    def marks_at(self, text: str, start: int) -> Iterator[tuple[str, str]]:
        """Pairs of marks of which the first stands here, with a gap behind it."""
        for length in self._begin_lengths:
            begin = text[start : start + length]
            if begin in self.ends and text.startswith((" ", "\n"), start + length):
                yield from ((begin, end) for end in self.ends[begin])


def _pattern(sentence: str, **slots: str) -> str:
    parts = re.split(r"\{(\w+)\}", sentence)
    return "".join(slots[part] if i % 2 else re.escape(part) for i, part in enumerate(parts))


# --- What a sentence asks for, in English.


def stated_rule(sentence: str, instructions: Sequence[str]) -> Rule | None:
    """What a reader of the sentence would do; None if it states no order and no mask."""
    numbers = list(range(1, len(instructions) + 1))
    if _says(sentence, "skip|leave out|left out|ignore|no response"):
        return _stated_mask(sentence, instructions)
    if _says(sentence, "in reverse:|backwards|count down|sequence round"):
        return Rule("order", "reverse", numbers[::-1])
    if _says(sentence, "a to z|z to a"):
        return _ranked("alphabet", sentence, [text.casefold() for text in instructions])
    if _says(sentence, "words|word counts"):
        return _ranked("words", sentence, [len(text.split()) for text in instructions])
    if _says(sentence, "character"):
        return _ranked("characters", sentence, [len(text) for text in instructions])
    if _says(sentence, "odd") and _says(sentence, "even"):
        odd_first = sentence.lower().index("odd") < sentence.lower().index("even")
        halves = numbers[::2], numbers[1::2]
        return Rule(
            "order", "halves", [n for half in halves[:: 1 if odd_first else -1] for n in half]
        )
    listed = _numbers_in(sentence)
    return Rule("order", "listed", listed) if listed else None


def _stated_mask(sentence: str, instructions: Sequence[str]) -> Rule:
    numbers = list(range(1, len(instructions) + 1))
    if not _says(sentence, "longest|shortest"):
        if _says(sentence, "odd|even"):
            return Rule("mask", "halves", numbers[0 if _says(sentence, "odd") else 1 :: 2])
        return Rule("mask", "listed", _numbers_in(sentence))
    [count] = _numbers_in(sentence)
    longest = _says(sentence, "longest")
    by_length = _ranked("", "most" if longest else "fewest", list(map(len, instructions))).numbers
    lengths = [len(instructions[n - 1]) for n in by_length]
    if 0 < count < len(lengths) and lengths[count - 1] == lengths[count]:
        raise LawBroken(f"which instructions are meant is open, as lengths are equal: {sentence!r}")
    return Rule("mask", "length", by_length[:count])


def _ranked(name: str, sentence: str, keys: Sequence[Any]) -> Rule:
    """Numbers by their keys, in the direction that the sentence states; equal ones as they were."""
    descending = _says(sentence, "z to a|most|decreasing|the more|fall")
    distinct = sorted(set(keys), reverse=descending)
    numbers = [n for key in distinct for n, own in enumerate(keys, 1) if own == key]
    return Rule("order", name, numbers)


def _says(sentence: str, words: str) -> bool:
    return re.search(words, sentence, re.IGNORECASE) is not None


def _numbers_in(sentence: str) -> list[int]:
    return [int(digits) for digits in re.findall("[0-9]+", sentence)]


# --- Reading.


def readings(
    messages: Sequence[Message],
    known: Known,
    phrases: Phrases,
    check_user: Callable[[Sequence[Block]], None],
    faults: list[LawBroken],
) -> Iterator[Reading]:
    """All readings whose user's side is in order; what is wrong with others goes to faults.

    Args:
        messages: The mosaic's text.
        known: What may stand in it.
        phrases: The wording's lists.
        check_user: Raises :class:`LawBroken` for a user's side that need not be read further.
        faults: Is added to.
    """
    roles = [message.role for message in messages]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        faults.append(LawBroken(f"the turns are those of {', '.join(roles)}"))
        return
    for user in _blocks_of(messages[::2], known.responses_of, phrases, faults):
        try:
            check_user(user)
        except LawBroken as fault:
            faults.append(fault)
            continue
        for assistant in _blocks_of(messages[1::2], known.responses, phrases, faults):
            yield Reading(user, assistant, len(messages) // 2)


def _blocks_of(
    turns: Sequence[Message],
    known: Collection[str],
    phrases: Phrases,
    faults: list[LawBroken],
) -> Iterator[tuple[Block, ...]]:
    """All ways to read one turn; of several turns, each is one text."""
    if len(turns) == 1:
        yield from _blocks(turns[0].content, known, phrases, faults)
    else:
        yield tuple(Block(turn.content) for turn in turns)


def _blocks(
    text: str, known: Collection[str], phrases: Phrases, faults: list[LawBroken]
) -> Iterator[tuple[Block, ...]]:
    """All ways to read a text as blocks with blank lines between them."""
    ends = [hit.start() for hit in re.finditer(r"(?=\n\n)", text)] + [len(text)]
    furthest = 0
    dead_ends: set[int] = set()

    def blocks_from(start: int) -> Iterator[tuple[Block, ...]]:
        nonlocal furthest
        furthest = max(furthest, start)
        alive = False
        for end, block in _blocks_at(start, text, ends, known, phrases):
            if end + 2 in dead_ends:
                continue
            rests = [()] if end == len(text) else blocks_from(end + 2)
            for rest in rests:
                alive = True
                yield (block, *rest)
        if not alive:
            dead_ends.add(start)

    if not text and text not in known:
        yield ()
        return
    yield from blocks_from(0)
    if 0 in dead_ends:
        faults.append(LawBroken(f"nothing known stands at {text[furthest : furthest + 60]!r}"))


def _blocks_at(
    start: int, text: str, ends: Sequence[int], known: Collection[str], phrases: Phrases
) -> Iterator[tuple[int, Block]]:
    """Blocks that may stand here, each with its end."""
    possible = [end for end in ends if end >= start]
    if possible and phrases.is_sentence(text[start : possible[0]]):
        yield possible[0], Block(text[start : possible[0]], is_sentence=True)
    tags = [found for tag in phrases.tags if (found := tag.match(text, start))]
    for tag in (*tags, None):
        body = tag.end() if tag else start
        head = Block(
            text="",
            opening=text[start:body],
            number=int(tag[1]) if tag else None,
            shape=text[start : tag.start(1)] + "n" + text[tag.end(1) : body] if tag else "",
        )
        marks = list(phrases.marks_at(text, body))
        for end in possible:
            if end >= body:
                for block in _bodies(head, text[body:end], marks, known):
                    yield end, block


def _bodies(
    head: Block, body: str, marks: Sequence[tuple[str, str]], known: Collection[str]
) -> Iterator[Block]:
    """The block with this text in it, read with marks and without."""
    if body in known:
        yield head._replace(text=body)
    for begin, end in marks:
        gap = body[len(begin) : len(begin) + 1]
        first, last = len(begin + gap), len(body) - len(gap + end)
        if body.endswith(gap + end) and first <= last and body[first:last] in known:
            yield head._replace(
                text=body[first:last],
                opening=head.opening + body[:first],
                closing=body[last:],
                marks=(begin, end),
            )
