"""Multiple choice as a language model answers it: by the likelihood of each option.

Every option is scored as the response to the same prompt, and the model's answer is the one with
the lowest mean loss per token, its end token included: the per-token likelihood of Brown et al.
2020 (arXiv 2005.14165, section 2.4), so that short options have no advantage. Of equal ones the
first counts. An option that is listed twice is scored once.

Shapes: ``I`` questions, ``R`` options of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raise_mdit.candidates import make_example
from raise_mdit.core import EncodedRow, Example, Message
from raise_mdit.corpus import LONGEST_OPENING
from raise_mdit.encoding import ChatEncoder, plain_row
from raise_mdit.errors import DataError
from raise_mdit.splits import SplitName


@dataclass(frozen=True, slots=True, eq=False)
class OptionRows:
    """Each option of each question as a row of its own, question by question."""

    rows: Sequence[EncodedRow]
    """R rows."""
    starts: NDArray[np.int64]
    """[I] position of each question's first option."""
    right: NDArray[np.int64]
    """[I] position of each question's right option."""

    def items_right(self, losses_R: NDArray[np.float64]) -> NDArray[np.bool_]:
        """[I] whether each question's right option has the lowest loss.

        Args:
            losses_R: Mean loss per scored token of each row.
        """
        options = np.split(losses_R, self.starts[1:])
        chosen = self.starts + [int(np.argmin(losses)) for losses in options]  # the first of equals
        right: NDArray[np.bool_] = chosen == self.right
        return right

    def accuracy(self, losses_R: NDArray[np.float64]) -> float:
        """Share of the questions whose right option has the lowest loss."""
        return float(self.items_right(losses_R).mean())


def encode_options(
    examples: Sequence[Example], encoder: ChatEncoder, *, max_length: int, split: SplitName
) -> OptionRows:
    """The options of multiple-choice questions as a learner takes them.

    Args:
        examples: The questions.
        encoder: Of conversations.
        max_length: Longest row in tokens.
        split: What the questions are for, as errors call it.

    Raises:
        DataError: An example has no options, or one that is too long.
    """
    _check_have_options(examples, split)
    options = [tuple(dict.fromkeys(example.choices or ())) for example in examples]
    answered = [
        make_example(
            example.source, [*example.messages[:-1], Message("assistant", text)], task=example.task
        )
        for example, texts in zip(examples, options, strict=True)
        for text in texts
    ]
    encoded = encoder.encode([each.messages for each in answered])
    _check_fit([len(text.ids) for text in encoded], max_length, split)
    starts = np.cumsum([0, *map(len, options)])[:-1].astype(np.int64)
    places = [
        texts.index(example.response) for example, texts in zip(examples, options, strict=True)
    ]
    rows = [plain_row(each.id, text) for each, text in zip(answered, encoded, strict=True)]
    return OptionRows(rows, starts, starts + places)


def _check_have_options(examples: Sequence[Example], split: SplitName) -> None:
    without = [example for example in examples if example.choices is None]
    if without:
        opening = without[0].prompt[:LONGEST_OPENING].replace("\n", " ")
        raise DataError(
            f"data.{split}: {len(without)} of {len(examples)} examples have no options to choose "
            f"from (source {without[0].source!r}: {opening!r}...), which evaluation.task_metric "
            "option_likelihood needs; take sources of format multiple_choice, or another metric"
        )


def _check_fit(lengths: Sequence[int], max_length: int, split: SplitName) -> None:
    num_long = sum(length > max_length for length in lengths)
    if num_long:
        raise DataError(
            f"data.{split}: {num_long} of {len(lengths)} options are longer than model.max_length "
            f"{max_length} with their prompts, the longest has {max(lengths)} tokens; a part of an "
            "option cannot be compared with the others, so raise model.max_length"
        )
