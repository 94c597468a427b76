"""Conversations as token ids, with the positions that carry loss.

The chat template is the tokenizer's own. A conversation is cut where each assistant turn begins and
ends, and the pieces are tokenised apart: the prompt's ids are then the very ids that generation
would start from, whatever the response is.

Shapes: ``T`` tokens of a row, ``S`` scored positions.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import jinja2
import numpy as np
from numpy.typing import NDArray

from raise_mdit.core import EncodedRow, Message
from raise_mdit.errors import ConfigError, ModelError

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<' + message['role'] + '>\n' + message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>\n' }}{% endif %}"
)
"""Used for models that come without a chat template, such as base models."""


class Tokenizer(Protocol):
    """What is needed of a Hugging Face tokenizer."""

    @property
    def chat_template(self) -> str | None:
        """Jinja text, or None."""
        ...

    @property
    def eos_token(self) -> str | None:
        """Text of the end-of-sequence token."""
        ...

    @property
    def all_special_tokens(self) -> Sequence[str]:
        """Texts of the tokens that have a part of their own, such as the end of a sequence."""
        ...

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]:
        """Tokens that are cut out of a text before it is split, by id: `content` and `special`."""
        ...

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any:
        """The conversation as text."""
        ...

    def __call__(self, text: list[str], **options: Any) -> Any:
        """Token ids of several texts."""
        ...


@dataclass(frozen=True)
class SpecialTokens:
    """Texts that a tokenizer reads as special tokens wherever they stand.

    Whoever writes one in a prompt or a response ends a turn or begins another, so no text that is
    learned or conditions may hold any.
    """

    texts: tuple[str, ...] = ()
    """None where there is no tokenizer to ask."""

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> SpecialTokens:
        """Those of a tokenizer."""
        added = (each.content for each in tokenizer.added_tokens_decoder.values() if each.special)
        return cls(tuple(sorted({*tokenizer.all_special_tokens, *added})))

    def found_in(self, text: str) -> str | None:
        """The first that a text holds, or None."""
        match = self._pattern.search(text)
        return match and match[0]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.texts, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")  # (?!) is nowhere


NOTHING_SPECIAL = SpecialTokens()
"""Where no tokenizer is at hand, or nothing is composed."""


class TextRow(NamedTuple):
    """A tokenised conversation."""

    ids: NDArray[np.int64]
    """[T] token ids."""
    in_response: NDArray[np.bool_]
    """[T] whether the token belongs to an assistant turn, its end token included."""

    @property
    def num_response_tokens(self) -> int:
        """Tokens that carry loss; the first token of a row never does, as nothing predicts it."""
        return int(self.in_response[1:].sum())

    def truncated(self, max_length: int) -> TextRow:
        """The first ``max_length`` tokens."""
        return TextRow(self.ids[:max_length], self.in_response[:max_length])


class TextPart(NamedTuple):
    """A stretch of a rendered conversation that is tokenised by itself."""

    text: str
    in_response: bool
    """Whether it is learned; otherwise it conditions."""


class ChatEncoder:
    """Turns conversations into token ids by a tokenizer's chat template.

    Raises:
        ConfigError: The system prompt holds a special token.
    """

    def __init__(self, tokenizer: Tokenizer, *, system_prompt: str | None = None) -> None:
        self._special = SpecialTokens.of(tokenizer)
        if token := self._special.found_in(system_prompt or ""):
            raise ConfigError(
                f"model.system_prompt: holds {token!r}, which the tokenizer reads as a special "
                "token; write the prompt alone, as the chat template adds what stands round it"
            )
        self._tokenizer = tokenizer
        self._template = tokenizer.chat_template or PLAIN_TEMPLATE
        self._system = [] if system_prompt is None else [Message("system", system_prompt)]

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; whoever counts with it must leave its settings alone."""
        return self._tokenizer

    @property
    def special_tokens(self) -> SpecialTokens:
        """What no text of a conversation should hold; :meth:`encode` does not look for it."""
        return self._special

    @property
    def template(self) -> str:
        """The chat template's Jinja text."""
        return self._template

    @property
    def fingerprint(self) -> str | None:
        """Hash of all that decides token ids; None for a tokenizer that cannot be written down."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        parts = (backend.to_str(), self._template, self._tokenizer.eos_token, self._system)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def encode(self, conversations: Sequence[Sequence[Message]]) -> list[TextRow]:
        """Each conversation's token ids, untruncated.

        Raises:
            ModelError: The chat template rewrites earlier turns, so responses cannot be located,
                or it refuses a conversation, such as one with a system turn.
        """
        rows = [self.parts(turns) for turns in conversations]
        texts = [part.text for row in rows for part in row]
        if not texts:
            return []
        ids = iter(self._tokenizer(texts, add_special_tokens=False)["input_ids"])
        return [_join([(next(ids), part.in_response) for part in row]) for row in rows]

    def count(self, conversation: Sequence[Message]) -> tuple[int, int]:
        """Tokens and response tokens of one conversation."""
        (row,) = self.encode([conversation])
        return len(row.ids), row.num_response_tokens

    def parts(self, conversation: Sequence[Message]) -> list[TextPart]:
        """The rendered text as it is tokenised: what conditions, what is learned, and so on.

        Raises:
            ModelError: As :meth:`encode`.
        """
        return self._cut(self._with_system(conversation))

    def _with_system(self, turns: Sequence[Message]) -> list[Message]:
        return list(turns) if turns[0].role == "system" else [*self._system, *turns]

    def _render(self, turns: Sequence[Message], *, generation_prompt: bool) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                [turn._asdict() for turn in turns],
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=generation_prompt,
            )
        except jinja2.TemplateError as error:  # Gemma's, for one, when it is given a system turn
            roles = ", ".join(turn.role for turn in turns)
            raise ModelError(
                f"the tokenizer's chat template refuses a conversation of the turns {roles} "
                f"({error}); leave out `model.system_prompt` or such rows, or use another tokenizer"
            ) from error
        return str(text)

    def _cut(self, turns: Sequence[Message]) -> list[TextPart]:
        parts: list[TextPart] = []
        done = ""
        for position in (i for i, turn in enumerate(turns) if turn.role == "assistant"):
            before = self._render(turns[:position], generation_prompt=True)
            after = self._render(turns[: position + 1], generation_prompt=False)
            if not (before.startswith(done) and after.startswith(before)):
                raise ModelError(
                    "the tokenizer's chat template rewrites earlier turns, so the response's "
                    "tokens cannot be located; use a tokenizer whose template only appends"
                )
            response, tail = self._split_at_end(after[len(before) :])
            parts += [TextPart(before[len(done) :], False), TextPart(response, True)]
            done = after[: len(after) - len(tail)]
        return parts

    def _split_at_end(self, text: str) -> tuple[str, str]:
        """The response up to its last end token, and what the template writes behind it."""
        end = self._tokenizer.eos_token
        if not end or end not in text:
            return text, ""
        cut = text.rindex(end) + len(end)
        return text[:cut], text[cut:]


def plain_row(key: str, text: TextRow) -> EncodedRow:
    """A row with a single parent."""
    scored = np.flatnonzero(text.in_response[1:])
    next_ids = text.ids[scored + 1]
    return EncodedRow(
        key=key,
        ids=text.ids,
        scored=scored,
        targets=np.stack([next_ids, next_ids], axis=1),
        target_weights=np.tile(np.array([1.0, 0.0], np.float32), (len(scored), 1)),
    )


def mixed_row(key: str, first: TextRow, second: TextRow, *, weight: float, pad: int) -> EncodedRow:
    """An interpolation of two rows: lambda of the first, 1 - lambda of the second.

    The papers' formula (arXiv 2504.07288) leaves lengths open. Here prompt and response blocks are
    aligned apart, so that both responses start at the same position: the shorter prompt is padded
    on its left and the shorter response on its right with the pad token's embedding. A position of
    which only one parent has a response token carries that token's own share alone. With lambda 0
    or 1 a parent has no share anywhere, and the row is the other parent's plain row.

    Args:
        key: Content id of the candidate.
        first: Parent with share ``weight``.
        second: Parent with share ``1 - weight``.
        weight: lambda, from 0 to 1.
        pad: Id of the pad token.
    """
    if weight in (0.0, 1.0):
        return plain_row(key, first if weight == 1.0 else second)
    starts = [int(np.argmax(row.in_response)) for row in (first, second)]
    prompt = max(starts)
    length = prompt + max(len(first.ids) - starts[0], len(second.ids) - starts[1])
    ids = np.full((2, length), pad, np.int64)
    learned = np.zeros((2, length), np.bool_)
    for parent, (row, start) in enumerate(zip((first, second), starts, strict=True)):
        here = slice(prompt - start, prompt - start + len(row.ids))
        ids[parent, here] = row.ids
        learned[parent, here] = row.in_response
    scored = np.flatnonzero(learned[:, 1:].any(axis=0))
    shares = np.array([weight, 1.0 - weight], np.float32)
    return EncodedRow(
        key=key,
        ids=ids[0],
        partner_ids=ids[1],
        mix=weight,
        scored=scored,
        targets=ids[:, scored + 1].T.copy(),
        target_weights=(learned[:, scored + 1] * shares[:, None]).T.astype(np.float32),
    )


def _join(pieces: Iterable[tuple[list[int], bool]]) -> TextRow:
    ids: list[int] = []
    in_response: list[bool] = []
    for piece, learned in pieces:
        ids += piece
        in_response += [learned] * len(piece)
    return TextRow(np.array(ids, np.int64), np.array(in_response, np.bool_))
