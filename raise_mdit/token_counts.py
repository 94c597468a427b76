"""Counting the tokens of conversations that are put together from known pieces of text.

A mosaic is made of instructions and responses that come again and again, joined by a small variety
of tags, marks and blank lines. What a template writes round contents is learned once for each
sequence of roles, and the rest is counted piece by piece (:mod:`raise_mdit.joined_texts`). What a
template does is checked before it is relied on (:func:`_frame_of`); where it does not hold,
conversations are tokenised whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import jinja2

from raise_mdit.core import Message, Role
from raise_mdit.encoding import ChatEncoder, TextPart
from raise_mdit.errors import ModelError
from raise_mdit.joined_texts import JoinedTexts, additive_texts, any_of

EDGE = " \t\n\u3000"
"""White space round a content, to see whether a template strips it."""

PLAIN_PROBES = ("", " ", "word", "\n word \n", "{{ x }} <b> & \\ \" ' \u00e9", "word 12. " * 500)
"""Contents that show whether a template writes whatever it is given."""


class TokenCounter:
    """Exact numbers of tokens of conversations whose contents are lists of pieces.

    A few microseconds a piece, once the pieces and their joins have been met. The state is a cache:
    counts do not depend on what was counted before. Whatever a template writes that is not content
    is taken from its first rendering, so a date in it stays that of the first count.
    """

    def __init__(self, encoder: ChatEncoder) -> None:
        self._encoder = encoder
        self._texts = additive_texts(encoder.tokenizer)
        self._frames: dict[tuple[Role, ...], _Frame | None] = {}
        self._num_whole = 0

    @property
    def is_additive(self) -> bool:
        """Whether the tokenizer allows counts to be put together."""
        return self._texts is not None

    @property
    def num_whole(self) -> int:
        """Conversations that were tokenised whole so far.

        All of them where :attr:`is_additive` is false. Otherwise those that hold the text of a
        special token or what the template looks for, and those whose template does more than write
        the contents, stripped or not.
        """
        return self._num_whole

    def count(self, turns: Sequence[tuple[Role, Sequence[str]]]) -> tuple[int, int]:
        """Tokens and response tokens, as :meth:`ChatEncoder.count` gives for the joined pieces.

        Args:
            turns: Each turn's role and the pieces of its content.

        Raises:
            ModelError: As :meth:`ChatEncoder.encode`.
        """
        counted = None if self._texts is None else self._put_together(turns, self._texts)
        if counted is not None:
            return counted
        self._num_whole += 1
        return self._encoder.count([Message(role, "".join(pieces)) for role, pieces in turns])

    def learn(self, texts: Iterable[str]) -> None:
        """Tokenise pieces that will come, all at once, in parallel where the tokenizer does so."""
        if self._texts is not None:
            self._texts.learn(texts)

    def _put_together(
        self, turns: Sequence[tuple[Role, Sequence[str]]], texts: JoinedTexts
    ) -> tuple[int, int] | None:
        roles = tuple([role for role, _ in turns])
        if roles not in self._frames:
            self._frames[roles] = _frame_of(roles, self._encoder, texts)
        frame = self._frames[roles]
        return None if frame is None else frame.counted([pieces for _, pieces in turns], texts)


class _Part(NamedTuple):
    """A part of a rendered conversation: texts of the template, and positions of turns."""

    items: tuple[str | int, ...]
    in_response: bool


class _Layout(NamedTuple):
    """What a template makes of turns of certain roles."""

    parts: tuple[_Part, ...]
    strips: tuple[bool, ...]
    """For each turn, whether its content is stripped."""

    def rendered(self, contents: Sequence[str]) -> list[TextPart]:
        """What :meth:`ChatEncoder.parts` gives for these contents, if the layout is right."""
        pairs = zip(contents, self.strips, strict=True)
        written = [[content.strip() if strip else content] for content, strip in pairs]
        return [
            TextPart("".join(_filled(part.items, written)), part.in_response) for part in self.parts
        ]


class _CountedPart(NamedTuple):
    num_fixed: int
    """Tokens of special tokens and of runs without contents."""
    runs: tuple[tuple[str | int, ...], ...]
    """Stretches between special tokens: texts, and positions of turns."""
    in_response: bool


class _Frame(NamedTuple):
    """A layout with the template's own tokens counted."""

    parts: tuple[_CountedPart, ...]
    strips: tuple[bool, ...]
    triggers: re.Pattern[str] | None
    """Finds what contents must not hold, as the template would do something else."""

    def counted(
        self, contents: Sequence[Sequence[str]], texts: JoinedTexts
    ) -> tuple[int, int] | None:
        """Tokens and response tokens, or None where contents do not fit the frame."""
        if self.triggers and any(self.triggers.search("".join(pieces)) for pieces in contents):
            return None
        if any(self.strips):
            pairs = zip(contents, self.strips, strict=True)
            contents = [_stripped(pieces) if strip else pieces for pieces, strip in pairs]
        total = response = 0
        for part in self.parts:
            number = part.num_fixed
            for run in part.runs:
                counted = texts.count(_filled(run, contents))
                if counted is None:
                    return None
                number += counted
            if part.in_response:
                response += number
                if total == 0 and number > 0:  # nothing predicts the first token of a row
                    response -= 1
            total += number
        return total, response


def _filled(items: Sequence[str | int], contents: Sequence[Sequence[str]]) -> list[str]:
    texts: list[str] = []
    for item in items:
        if isinstance(item, int):
            texts += contents[item]
        else:
            texts.append(item)
    return texts


def _stripped(pieces: Sequence[str]) -> list[str]:
    """Pieces that give the stripped text when they are joined."""
    kept = list(pieces)
    while kept and not kept[0].lstrip():
        del kept[0]
    while kept and not kept[-1].rstrip():
        del kept[-1]
    if kept:
        kept[0] = kept[0].lstrip()
        kept[-1] = kept[-1].rstrip()
    return kept


def _frame_of(roles: Sequence[Role], encoder: ChatEncoder, texts: JoinedTexts) -> _Frame | None:
    """The frame of a shape of conversation, or None where contents do more than fill it.

    Contents are tried that are empty, long or full of signs, and whatever strings are written in
    the template, since these are what it may look for in a content.
    """

    def fits(content: str) -> bool:
        contents = [content] * len(roles)
        try:
            return encoder.parts(_turns(roles, contents)) == layout.rendered(contents)
        except ModelError:  # a template may refuse some contents only
            return False

    try:
        layout = _layout_of(roles, encoder)
    except ModelError:  # it is raised again when the conversation is tokenised whole
        return None
    if not (_holds_each_once(layout.parts, len(roles)) and all(map(fits, PLAIN_PROBES))):
        return None
    triggers = [
        first
        for first, content in _template_probes(encoder.template)
        if not (texts.special.search(content) or fits(content))
    ]
    parts = [_counted_part(part, texts) for part in layout.parts]
    frame = _Frame(
        tuple(part for part in parts if part is not None),
        layout.strips,
        any_of(triggers) if triggers else None,
    )
    return None if None in parts or not _counts_probes(frame, roles, encoder, texts) else frame


def _layout_of(roles: Sequence[Role], encoder: ChatEncoder) -> _Layout:
    slots = [f"sentinel-{turn}-turn" for turn in range(len(roles))]
    turn_of = {slot: turn for turn, slot in enumerate(slots)}
    pattern = re.compile(f"({'|'.join(slots)})")
    parts = tuple(
        _Part(tuple(turn_of.get(item, item) for item in pattern.split(text)), in_response)
        for text, in_response in encoder.parts(_turns(roles, slots))
    )
    edged = [EDGE + slot + EDGE for slot in slots]
    rendered = "".join(part.text for part in encoder.parts(_turns(roles, edged)))
    return _Layout(parts, tuple(content not in rendered for content in edged))


def _turns(roles: Sequence[Role], contents: Sequence[str]) -> list[Message]:
    return [Message(role, content) for role, content in zip(roles, contents, strict=True)]


def _holds_each_once(parts: Sequence[_Part], num_turns: int) -> bool:
    turns = [item for part in parts for item in part.items if isinstance(item, int)]
    return sorted(turns) == list(range(num_turns))


def _template_probes(template: str) -> Iterator[tuple[str, str]]:
    """A string of the template, and a content that equals it, begins with it, or ends with it.

    Neighbours come together, for conditions such as ``startswith('<a>') and endswith('</a>')``.
    """
    tokens = [*jinja2.Environment().lexer.tokenize(template)]
    strings = [str(token.value) for token in tokens if token.type == "string"]
    keys = {id(token) for before, token in pairwise(tokens) if before.type == "lbracket"}
    compared = [str(t.value) for t in tokens if t.type == "string" and id(t) not in keys]
    pairs = [*((each, each) for each in strings), *pairwise(compared)]
    for first, second in dict.fromkeys(pairs):
        yield first, first
        yield first, f"{first} word {second}"


def _counted_part(part: _Part, texts: JoinedTexts) -> _CountedPart | None:
    """Special tokens are cuts; what stands between them is counted together with the contents."""
    num_special, runs = 0, [list[str | int]()]
    for item in part.items:
        if isinstance(item, int):
            runs[-1].append(item)
            continue
        if texts.greedy.search(item):
            return None
        first, *others = texts.special.split(item)
        runs[-1].append(first)
        runs += [[text] for text in others]
        num_special += len(others)
    open_runs = tuple(tuple(run) for run in runs if any(isinstance(item, int) for item in run))
    fixed = [texts.count(_filled(run, ())) for run in runs if tuple(run) not in open_runs]
    if None in fixed:
        return None
    return _CountedPart(
        num_special + sum(map(int, filter(None, fixed))), open_runs, part.in_response
    )


def _counts_probes(
    frame: _Frame, roles: Sequence[Role], encoder: ChatEncoder, texts: JoinedTexts
) -> bool:
    """Whether the frame gives the number of tokens of the probes that it counts at all."""
    for content in PLAIN_PROBES:
        counted = frame.counted([[content]] * len(roles), texts)
        if counted not in (None, encoder.count(_turns(roles, [content] * len(roles)))):
            return False
    return True
