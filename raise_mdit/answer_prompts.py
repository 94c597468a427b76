"""The prompts that a model answers by itself, and where its answers end.

A prompt is the conversation up to the assistant's last turn, as the chat template opens that turn:
the very tokens after which responses are trained. A response ends with the tokenizer's end token,
or with the special token by which the template closes an assistant's turn if that is another.

Shapes: ``I`` items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from raise_mdit.core import EncodedRow, Example
from raise_mdit.encoding import ChatEncoder, TextRow, Tokenizer, plain_row
from raise_mdit.errors import DataError, ModelError
from raise_mdit.splits import SplitName
from raise_mdit.task_metrics import Answered


@dataclass(frozen=True, slots=True, eq=False)
class AnswerPrompts:
    """What responses are generated from, and what they are held against."""

    rows: tuple[EncodedRow, ...]
    """[I] prompts as plain rows that score nothing."""
    end_ids: tuple[int, ...]
    """Tokens of which each ends a response."""
    examples: tuple[Example, ...]
    """[I] items, with prompts and references as text."""
    decoder: Decoder

    def answered(self, responses: Sequence[NDArray[np.int64]]) -> tuple[Answered, ...]:
        """The items with what was generated for each, as text without special tokens.

        Args:
            responses: [I] generated token ids.
        """
        texts = [
            self.decoder.decode(
                ids.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            for ids in responses
        ]
        return tuple(
            Answered(example.prompt, text, example.response)
            for example, text in zip(self.examples, texts, strict=True)
        )


class Decoder(Protocol):
    """What is needed of a Hugging Face tokenizer to read what was generated."""

    def decode(self, token_ids: list[int], **options: Any) -> str:
        """The text of token ids."""
        ...


def encode_prompts(
    examples: Sequence[Example],
    encoder: ChatEncoder,
    *,
    max_length: int,
    max_new_tokens: int,
    split: SplitName,
) -> AnswerPrompts:
    """The prompts of examples as a learner takes them.

    Args:
        examples: The items.
        encoder: Of conversations.
        max_length: Longest row in tokens, response included.
        max_new_tokens: Longest response in tokens.
        split: What the items are for, as errors call it.

    Raises:
        DataError: A prompt leaves no room for the response.
        ModelError: Nothing says where a response ends.
    """
    texts = encoder.encode([example.messages for example in examples])
    starts = [_last_response(text) for text in texts]
    _check_room(starts, max_length, max_new_tokens, split)
    prompts = [
        TextRow(text.ids[:start], np.zeros(start, np.bool_))
        for text, start in zip(texts, starts, strict=True)
    ]
    rows = [
        plain_row(example.id, prompt) for example, prompt in zip(examples, prompts, strict=True)
    ]
    responses = [text.ids[start:] for text, start in zip(texts, starts, strict=True)]
    return AnswerPrompts(
        rows=tuple(rows),
        end_ids=_end_ids(encoder.tokenizer, responses),
        examples=tuple(examples),
        # Whoever encodes needs no decoding; every tokenizer of transformers has it.
        decoder=cast(Decoder, encoder.tokenizer),
    )


def _last_response(text: TextRow) -> int:
    """Position at which the last assistant turn begins."""
    before = np.flatnonzero(~text.in_response)
    learned = np.flatnonzero(text.in_response)
    return int(before[before < learned[-1]][-1]) + 1


def _end_ids(tokenizer: Tokenizer, responses: Sequence[NDArray[np.int64]]) -> tuple[int, ...]:
    added: Mapping[int, Any] = tokenizer.added_tokens_decoder
    special = np.array([number for number, token in added.items() if token.special], np.int64)
    ends = {number for number in special if added[number].content == tokenizer.eos_token}
    for ids in responses:
        ends.update(ids[np.isin(ids, special)][-1:])
    if not ends:
        raise ModelError(
            "model.name: the tokenizer has no end token and its chat template closes no turn with "
            "a special token, so nothing says where a generated response ends; take another "
            "evaluation.task_metric"
        )
    return tuple(sorted(map(int, ends)))


def _check_room(
    lengths: Sequence[int], max_length: int, max_new_tokens: int, split: SplitName
) -> None:
    room = max_length - max_new_tokens
    num_long = sum(length > room for length in lengths)
    if num_long:
        raise DataError(
            f"data.{split}: {num_long} of {len(lengths)} prompts leave fewer than "
            f"evaluation.max_new_tokens {max_new_tokens} of model.max_length {max_length} to the "
            f"response, the longest has {max(lengths)} tokens; raise model.max_length to "
            f"{max(lengths) + max_new_tokens}, or lower evaluation.max_new_tokens"
        )
