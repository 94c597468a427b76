"""Which examples go into which mosaic (arXiv 2405.13326).

Departures from the paper's code: all randomness comes from one seed; what does not fit is given
back or reported, never lost; every instruction that a rule names by number shows its number; length
is that of the rendered conversation, meta-instructions and chat template included.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from raise_mdit.candidates import Mosaic, Strategy
from raise_mdit.config import MosaicConfig
from raise_mdit.core import Example
from raise_mdit.sources.draws import Draws
from raise_mdit.sources.mosaic_choices import MASKING, Instruction, Look, draw_choices, draw_look
from raise_mdit.sources.mosaic_grouping import pass_order
from raise_mdit.sources.mosaic_lengths import LengthEstimate
from raise_mdit.sources.mosaic_rendering import Pieces, lay_out
from raise_mdit.sources.mosaic_sizes import mosaic_sizes
from raise_mdit.sources.mosaic_wording import Wording

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

WITHOUT_TAGS: tuple[Strategy, ...] = ("primary", "turns")
"""Strategies that add no text, and so have nothing to choose."""


class Composed(NamedTuple):
    """A mosaic and its length."""

    recipe: Mosaic
    num_tokens: int
    num_response_tokens: int


@dataclass(frozen=True, slots=True)
class MosaicReport:
    """What became of the examples; the mosaics are counted over all passes."""

    num_examples: int
    num_passes: int
    """Passes that came to their end."""
    num_mosaics: int
    num_by_strategy: Mapping[Strategy, int]
    num_by_size: Mapping[int, int]
    """Mosaics with so many instructions."""
    num_masked: int
    """Instructions whose response a mask left out."""
    num_given_back: int
    """Examples that a mosaic gave back because it did not fit with them; others took them."""
    left_out: tuple[str, ...]
    """Ids of examples too long even alone, once for each pass that left them out, in its order."""
    num_tokens: int
    num_response_tokens: int

    @property
    def num_left_out(self) -> int:
        """Times an example was left out of a pass."""
        return len(self.left_out)


class Composer:
    """Makes mosaics one after the other, and keeps nothing of them but what its report counts."""

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        settings: MosaicConfig,
        max_length: int,
        count_tokens: Callable[[Example], int],
        count_rendered: Callable[[Pieces], tuple[int, int]],
        wording: Wording,
        embeddings: NDArray[np.float32] | None,
    ) -> None:
        """Measure the examples.

        Args:
            examples: What to compose; their order does not matter.
            settings: Sizes, strategies and grouping; passes and length are given apart.
            max_length: Longest mosaic in tokens, as ``count_rendered`` measures it.
            count_tokens: Approximate tokens of an example as a conversation, for planning.
            count_rendered: Tokens of a conversation, and those of its responses. It decides.
            wording: What mosaics can say.
            embeddings: [M, H] unit rows in the order of ``examples``, where similar ones are to
                stand together; otherwise unused.
        """
        order = sorted(range(len(examples)), key=lambda index: examples[index].id)
        similar = settings.grouping == "similar" and embeddings is not None
        self._embeddings = embeddings[order] if similar and embeddings is not None else None
        self._examples = [examples[index] for index in order]
        self._ids = [example.id for example in self._examples]
        self._settings = settings
        self._max_length = max_length
        self._count_rendered = count_rendered
        self._wording = wording
        self._lengths = LengthEstimate(count_rendered, wording)
        self._instructions = [Instruction.of(example.prompt) for example in self._examples]
        self._responses = [example.response for example in self._examples]
        tokens = [count_tokens(example) - self._lengths.template for example in self._examples]
        self._texts = [max(0, each) for each in tokens]
        self._response_texts = list(
            map(_response_text, self._texts, self._instructions, self._responses)
        )
        weights = list(accumulate(settings.strategies.get(each, 0.0) for each in STRATEGIES))
        assert weights[-1] > 0, "configs are checked when read"
        self._shares = [weight / weights[-1] for weight in weights]
        self._tagged = any(
            settings.strategies.get(each) for each in set(STRATEGIES) - set(WITHOUT_TAGS)
        )
        self._num_passes = 0
        self._num_by_strategy: Counter[Strategy] = Counter()
        self._num_by_size: Counter[int] = Counter()
        self._num_masked = 0
        self._num_given_back = 0
        self._left_out: list[str] = []
        self._num_tokens = 0
        self._num_response_tokens = 0

    def compose(self, passes: int, rng: np.random.Generator) -> Iterator[Composed]:
        """Mosaics that use every example once a pass, as they are made.

        A mosaic has as many instructions as was drawn for it, unless the limit is in the way: then
        the next example was tried and did not fit, or would not by the measured length so far and
        an estimate of its own. That estimate errs by a few tokens, of tags and at seams; where
        responses are masked, by the difference between this one and the share that is masked.

        Args:
            passes: How often each example is used.
            rng: Source of all choices; read ahead of what is used, so nothing else should use it.
        """
        draws = Draws(rng)
        largest = self._settings.max_instructions
        sizes = mosaic_sizes(self._settings.sizes, largest=largest, rng=rng)
        grouping = self._settings.grouping
        for _ in range(passes):
            runs = pass_order(grouping, self._examples, embeddings=self._embeddings, rng=rng)
            for run in runs:
                yield from self._compose_run(run.tolist(), sizes, draws)
            self._num_passes += 1

    @property
    def report(self) -> MosaicReport:
        """What was composed so far."""
        strategies = self._num_by_strategy
        return MosaicReport(
            num_examples=len(self._examples),
            num_passes=self._num_passes,
            num_mosaics=self._num_by_size.total(),
            num_by_strategy={each: strategies[each] for each in STRATEGIES if strategies[each]},
            num_by_size=dict(sorted(self._num_by_size.items())),
            num_masked=self._num_masked,
            num_given_back=self._num_given_back,
            left_out=tuple(self._left_out),
            num_tokens=self._num_tokens,
            num_response_tokens=self._num_response_tokens,
        )

    def _compose_run(
        self, run: Sequence[int], sizes: Iterator[int | None], draws: Draws
    ) -> Iterator[Composed]:
        """Mosaics of all examples at the positions given, in their order."""
        start = 0
        while start < len(run):
            size = next(sizes)
            last = len(run) if size is None else min(len(run), start + size)
            composed = self._compose_one(run, start, last, draws)
            if composed is None:
                self._left_out.append(self._ids[run[start]])
                start += 1
            else:
                self._count(composed)
                start += len(composed.recipe.examples)
                yield composed

    def _compose_one(
        self, run: Sequence[int], start: int, last: int, draws: Draws
    ) -> Composed | None:
        """A mosaic of the examples from ``start`` to at most ``last``; None if not one fits.

        What is planned is written and measured. If it is too long, examples are given back; if
        there is room left for more by the estimate, they are tried.
        """
        strategy = STRATEGIES[bisect(self._shares, draws.uniform())]
        look = draw_look(strategy, wording=self._wording, draws=draws)
        once, each = self._lengths.beside(strategy, look)
        plan = _Plan(run, self._texts, self._response_texts, look.masked_share, each)
        end = max(start + 1, plan.extended(start, last, self._max_length - once))
        best: Composed | None = None
        kept = start
        while end > kept:
            tried = self._written(run[start:end], strategy, look, draws)
            room = self._max_length - tried.num_tokens
            if room >= 0:
                best, kept = tried, end
                end = plan.extended(end, last, room)
            else:
                last = end - 1  # so many do not fit, and are not tried again
                end = plan.shortened(start, end, -room)
                self._num_given_back += last + 1 - max(kept, end, start + 1)
        return best

    def _written(
        self, taken: Sequence[int], strategy: Strategy, look: Look, draws: Draws
    ) -> Composed:
        """A mosaic of the examples, however long; a single one does without marks to fit."""
        if len(taken) > 1:
            return self._measured(taken, strategy, look, draws)
        # As in the paper: one instruction has no order, and its response has to stay.
        if self._tagged:
            strategy = "format"
        composed = self._measured(taken, strategy, look, draws)
        if composed.num_tokens > self._max_length and strategy == "format":
            bare = look._replace(marks=None, sentence=None)
            return self._measured(taken, strategy, bare, draws)
        return composed

    def _measured(
        self, taken: Sequence[int], strategy: Strategy, look: Look, draws: Draws
    ) -> Composed:
        instructions = [self._instructions[index] for index in taken]
        keys = tuple([self._ids[index] for index in taken])
        recipe = Mosaic(keys, strategy, {})
        if strategy not in WITHOUT_TAGS:
            choices = draw_choices(strategy, look, instructions, wording=self._wording, draws=draws)
            recipe.choices.update(choices)
        prompts = [instruction.text for instruction in instructions]
        responses = [self._responses[index] for index in taken]
        pieces = lay_out(recipe, prompts, responses, self._wording)
        return Composed(recipe, *self._count_rendered(pieces))

    def _count(self, composed: Composed) -> None:
        recipe = composed.recipe
        self._num_by_strategy[recipe.strategy] += 1
        self._num_by_size[len(recipe.examples)] += 1
        if recipe.strategy in MASKING:
            self._num_masked += len(recipe.examples) - len(recipe.choices["answers"])
        self._num_tokens += composed.num_tokens
        self._num_response_tokens += composed.num_response_tokens


class _Plan(NamedTuple):
    """What the examples of a mosaic are thought to cost; ends are positions in the run."""

    run: Sequence[int]
    texts: Sequence[int]
    """Tokens of each example's texts, by example."""
    response_texts: Sequence[int]
    """Those of the response among them."""
    masked_share: float
    """Share of the responses that is left out."""
    each: int
    """Tokens beside the texts for each instruction."""

    def extended(self, end: int, last: int, room: float) -> int:
        """The end up to which there is room for more, and at most ``last``."""
        while end < last:
            room -= self._cost(end)
            if room < 0:
                break
            end += 1
        return end

    def shortened(self, start: int, end: int, excess: float) -> int:
        """The end that makes up for an excess: one earlier at least, and one example if several."""
        least = min(start + 1, end - 1)
        while excess > 0 and end > least:
            end -= 1
            excess -= self._cost(end)
        return end

    def _cost(self, position: int) -> float:
        """Tokens of one example with what stands round it."""
        example = self.run[position]
        masked = self.masked_share * self.response_texts[example]
        return self.texts[example] + self.each - masked


def _response_text(num_tokens: int, instruction: Instruction, response: str) -> int:
    """Tokens of a response: those of the example, shared out by characters."""
    num_characters = instruction.num_characters + len(response)
    return num_tokens * len(response) // max(1, num_characters)
