"""Which examples go into which mosaic, and how each mosaic is to look (arXiv 2405.13326).

Departures from the paper's code: all randomness comes from one seed; what does not fit is given
back or reported, never lost; every instruction that a rule names by number shows its number; length
is that of the rendered conversation, meta-instructions and chat template included.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar, get_args

import numpy as np

from raise_mdit.candidates import Mosaic, Strategy
from raise_mdit.core import Example, Message
from raise_mdit.sources.mosaic_rendering import Choices, Marks, Place, Rule, Sentence, render
from raise_mdit.sources.mosaic_wording import ORDERS, Mask, Order, Wording

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
PLACES: tuple[Place, ...] = get_args(Place)

MASK_RATIO = (0.1, 0.5)  # paper's code
"""Range of the share of instructions that Maskout leaves without a response; one at least. The
odd-numbered are one half rounded up, the even-numbered one half rounded down."""

Option = TypeVar("Option")


class TokenCounts(NamedTuple):
    """Length of a rendered mosaic."""

    num_tokens: int
    num_response_tokens: int


@dataclass(frozen=True, slots=True)
class MosaicReport:
    """What became of the examples; the mosaics are counted over all passes."""

    num_examples: int
    num_passes: int
    num_mosaics: int
    num_by_strategy: Mapping[Strategy, int]
    num_by_size: Mapping[int, int]
    """Mosaics with so many instructions."""
    num_masked: int
    """Instructions whose response Maskout left out."""
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


@dataclass(frozen=True, slots=True)
class Composition:
    """Mosaics in the order in which they were made."""

    recipes: tuple[Mosaic, ...]
    token_counts: tuple[TokenCounts, ...]
    """Of each recipe."""
    report: MosaicReport


def compose(
    examples: Sequence[Example],
    *,
    passes: int,
    max_instructions: int,
    max_length: int,
    strategies: Mapping[Strategy, float],
    count_tokens: Callable[[Example], int],
    count_rendered: Callable[[Sequence[Message]], tuple[int, int]],
    rng: np.random.Generator,
    wording: Wording,
) -> Composition:
    """Mosaics that use every example once a pass, in random company.

    Args:
        examples: What to compose; their order does not matter.
        passes: How often each example is used.
        max_instructions: Largest number of instructions in a mosaic; uniform from 1 to this.
        max_length: Longest mosaic in tokens, as ``count_rendered`` measures it.
        strategies: Weights; some weight is above 0.
        count_tokens: Approximate tokens of an example, for planning.
        count_rendered: Tokens of a conversation, and those of its responses.
        rng: Source of all choices.
        wording: What mosaics can say.
    """
    composer = _Composer(
        examples,
        max_instructions=max_instructions,
        max_length=max_length,
        strategies=strategies,
        count_tokens=count_tokens,
        count_rendered=count_rendered,
        rng=rng,
        wording=wording,
    )
    for _ in range(passes):
        composer.run_pass()
    return composer.composition(passes)


class _Composer:
    """The mosaics made so far."""

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        max_instructions: int,
        max_length: int,
        strategies: Mapping[Strategy, float],
        count_tokens: Callable[[Example], int],
        count_rendered: Callable[[Sequence[Message]], tuple[int, int]],
        rng: np.random.Generator,
        wording: Wording,
    ) -> None:
        weights = np.array([strategies.get(strategy, 0.0) for strategy in STRATEGIES])
        assert weights.sum() > 0, "configs are checked when read"
        self._shares = weights / weights.sum()
        self._ids = sorted(example.id for example in examples)
        self._by_id = {example.id: example for example in examples}
        self._planned = {key: count_tokens(example) for key, example in self._by_id.items()}
        self._max_instructions = max_instructions
        self._max_length = max_length
        self._count_rendered = count_rendered
        self._rng = rng
        self._wording = wording
        self._recipes: list[Mosaic] = []
        self._token_counts: list[TokenCounts] = []
        self._left_out: list[str] = []
        self._num_given_back = 0

    def run_pass(self) -> None:
        """Use every example once."""
        queue = deque(self._ids[index] for index in self._rng.permutation(len(self._ids)))
        while queue:
            self._add_mosaic(queue)

    def composition(self, passes: int) -> Composition:
        """Everything made so far."""
        sizes = Counter(len(recipe.examples) for recipe in self._recipes)
        strategies = Counter(recipe.strategy for recipe in self._recipes)
        report = MosaicReport(
            num_examples=len(self._ids),
            num_passes=passes,
            num_mosaics=len(self._recipes),
            num_by_strategy={each: strategies[each] for each in STRATEGIES if strategies[each]},
            num_by_size=dict(sorted(sizes.items())),
            num_masked=sum(map(_num_masked, self._recipes)),
            num_given_back=self._num_given_back,
            left_out=tuple(self._left_out),
            num_tokens=sum(counts.num_tokens for counts in self._token_counts),
            num_response_tokens=sum(counts.num_response_tokens for counts in self._token_counts),
        )
        return Composition(tuple(self._recipes), tuple(self._token_counts), report)

    def _add_mosaic(self, queue: deque[str]) -> None:
        """Make a mosaic of the queue's head, or leave the head out if it is too long alone."""
        taken = self._take(queue)
        strategy = STRATEGIES[self._rng.choice(len(STRATEGIES), p=self._shares)]
        while not self._fits(taken, strategy):
            last = taken.pop()
            if not taken:
                self._left_out.append(last)
                return
            queue.appendleft(last)
            self._num_given_back += 1

    def _take(self, queue: deque[str]) -> list[str]:
        """At least one example, and as many of the number drawn as the plan has room for."""
        size = int(self._rng.integers(1, self._max_instructions, endpoint=True))
        taken = [queue.popleft()]
        length = self._planned[taken[0]]
        while queue and len(taken) < size:
            length += self._planned[queue[0]]
            if length > self._max_length:
                break
            taken.append(queue.popleft())
        return taken

    def _fits(self, taken: Sequence[str], strategy: Strategy) -> bool:
        """Whether the examples fit together; the mosaic is kept then."""
        for recipe in self._drafts(tuple(taken), strategy):
            counts = TokenCounts(*self._count_rendered(render(recipe, self._by_id, self._wording)))
            if counts.num_tokens <= self._max_length:
                self._recipes.append(recipe)
                self._token_counts.append(counts)
                return True
        return False

    def _drafts(self, taken: tuple[str, ...], strategy: Strategy) -> Iterator[Mosaic]:
        """Recipes to try: one; for a single example also one that says nothing beyond its tag."""
        if len(taken) == 1:
            strategy = self._strategy_of_one()
        if strategy == "primary":
            yield Mosaic(taken, strategy, {})
            return
        prompts = [self._by_id[key].prompt for key in taken]
        choices = draw_choices(strategy, prompts, wording=self._wording, rng=self._rng)
        yield Mosaic(taken, strategy, dict(choices))
        if len(taken) == 1:
            bare: Choices = {**choices, "marks": None, "sentence": None}
            yield Mosaic(taken, strategy, dict(bare))

    def _strategy_of_one(self) -> Strategy:
        """Format, as in the paper: one instruction has no order, and its response has to stay."""
        only_primary = self._shares[STRATEGIES.index("primary")] == 1
        return "primary" if only_primary else "format"


def draw_choices(
    strategy: Strategy, prompts: Sequence[str], *, wording: Wording, rng: np.random.Generator
) -> Choices:
    """How a mosaic of these instructions looks, and which responses it asks for.

    Args:
        strategy: Any but primary, which has nothing to choose.
        prompts: The instructions in their order; several unless the strategy is Format.
        wording: What can be said.
        rng: Source of the choices.
    """
    name, answers = _draw_rule(strategy, prompts, rng)
    marks = _draw_marks(wording, rng)
    return Choices(
        wording=wording.fingerprint,
        tag=_index(wording.tags, rng),
        punctuation=_index(wording.punctuation, rng),
        new_line=_toss(rng),
        marks=marks,
        sentence=_draw_sentence(marks, wording, rng),
        rule=_phrase(name, strategy, wording, rng) if name else None,
        answers=answers,
    )


def numbers_in_order(order: Order, prompts: Sequence[str]) -> list[int]:
    """Instruction numbers in any order but ``listed``; equal ones keep the order they stand in.

    Letters and lengths are those of instructions, which are known before the first response.
    """
    numbers = list(range(1, len(prompts) + 1))
    match order:
        case "reverse":
            return numbers[::-1]
        case "odd_then_even":
            return numbers[::2] + numbers[1::2]
        case "even_then_odd":
            return numbers[1::2] + numbers[::2]
        case "alphabetical" | "reverse_alphabetical":
            letters = [prompt.casefold() for prompt in prompts]
            descending = order == "reverse_alphabetical"
            return sorted(numbers, key=lambda n: letters[n - 1], reverse=descending)
    by_words = order in ("fewest_words", "most_words")
    sizes = [len(prompt.split()) if by_words else len(prompt) for prompt in prompts]
    descending = order in ("most_words", "most_characters")
    return sorted(numbers, key=lambda n: sizes[n - 1], reverse=descending)


def _draw_rule(
    strategy: Strategy, prompts: Sequence[str], rng: np.random.Generator
) -> tuple[Order | Mask | None, list[int]]:
    """A rule and the numbers of the responses it leaves, in their order."""
    numbers = list(range(1, len(prompts) + 1))
    match strategy:
        case "permute":
            order = _draw(ORDERS, rng)
            if order == "listed":
                return order, [int(n) for n in rng.permutation(numbers)]
            return order, numbers_in_order(order, prompts)
        case "maskout":
            mask, masked = _draw_mask(prompts, rng)
            return mask, [n for n in numbers if n not in masked]
    return None, numbers


def _draw_mask(prompts: Sequence[str], rng: np.random.Generator) -> tuple[Mask, list[int]]:
    """A mask and the numbers it masks: one at least, and never all."""
    total = len(prompts)
    count = max(1, int(rng.uniform(*MASK_RATIO) * total))
    by_length = numbers_in_order("fewest_characters", prompts)
    listed = sorted(int(n) + 1 for n in rng.choice(total, count, replace=False))
    masked: dict[Mask, list[int]] = {
        "listed": listed,
        "longest": by_length[-count:],
        "shortest": by_length[:count],
        "odd": list(range(1, total + 1, 2)),
        "even": list(range(2, total + 1, 2)),
    }
    lengths = sorted(map(len, prompts))
    # Equal lengths on both sides of the cut would leave open which one is meant.
    if lengths[count - 1] == lengths[count]:
        del masked["shortest"]
    if lengths[-count] == lengths[-count - 1]:
        del masked["longest"]
    mask = _draw(tuple(masked), rng)
    return mask, masked[mask]


def _draw_marks(wording: Wording, rng: np.random.Generator) -> Marks | None:
    """Marks for half of the mosaics, in lower case for half of those."""
    if not _toss(rng):
        return None
    return Marks(
        bracket=_index(wording.brackets, rng), words=_index(wording.words, rng), lower=_toss(rng)
    )


def _draw_sentence(
    marks: Marks | None, wording: Wording, rng: np.random.Generator
) -> Sentence | None:
    """A sentence wherever there are marks, and for half of the mosaics without."""
    if marks is not None:
        return Sentence(index=_index(wording.marked, rng), at=_draw(PLACES, rng))
    if _toss(rng):
        return Sentence(index=_index(wording.plain, rng), at=_draw(PLACES, rng))
    return None


def _phrase(
    name: Order | Mask, strategy: Strategy, wording: Wording, rng: np.random.Generator
) -> Rule:
    sentences = wording.rule_sentences(name, masks=strategy == "maskout")
    return Rule(
        index=_index(sentences, rng),
        at=_draw(PLACES, rng),
        name=name,
        list_shape=_index(wording.lists, rng) if name == "listed" else None,
    )


def _num_masked(recipe: Mosaic) -> int:
    if recipe.strategy != "maskout":
        return 0
    return len(recipe.examples) - len(recipe.choices["answers"])


def _index(options: Sequence[object], rng: np.random.Generator) -> int:
    return int(rng.integers(len(options)))


def _draw(options: Sequence[Option], rng: np.random.Generator) -> Option:
    return options[_index(options, rng)]


def _toss(rng: np.random.Generator) -> bool:
    return bool(rng.random() < 0.5)
