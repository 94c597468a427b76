"""The laws of mosaics, and mosaics to hold against them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from helpers import mosaic_parser as parser
from numpy.typing import NDArray

from raise_mdit.candidates import Mosaic, make_example
from raise_mdit.config import MosaicConfig
from raise_mdit.core import Example, Message
from raise_mdit.sources.mosaic import Composed, Composer
from raise_mdit.sources.mosaic_rendering import render
from raise_mdit.sources.mosaic_wording import load_wording
from raise_mdit.sources.playground import generate

WORDING = load_wording()
PHRASES = parser.Phrases(WORDING)
EVERY_STRATEGY = {
    name: 1.0 for name in ("primary", "format", "permute", "maskout", "permute_maskout", "turns")
}

Turns = Sequence[tuple[Any, Sequence[str]]]
Count = Callable[[Sequence[Message]], tuple[int, int]]


# --- What is composed, and by which measure.


def num_words(messages: Sequence[Message]) -> tuple[int, int]:
    """Words of a conversation, and of its responses."""
    words = [len(message.content.split()) for message in messages]
    return sum(words), sum(words[1::2])


def num_words_of_turns(turns: Turns) -> tuple[int, int]:
    return num_words([Message(role, "".join(pieces)) for role, pieces in turns])


def embeddings_of(examples: Sequence[Example]) -> NDArray[np.float32]:
    """Directions that go by an example's id alone."""
    rows = [np.frombuffer(bytes.fromhex(each.id), np.int8) for each in examples]
    matrix = np.stack(rows).astype(np.float32)
    unit: NDArray[np.float32] = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    return unit


def composer_of(
    examples: Sequence[Example],
    max_length: int,
    count_rendered: Callable[[Turns], tuple[int, int]] = num_words_of_turns,
    **options: Any,
) -> Composer:
    return Composer(
        examples,
        settings=MosaicConfig(**{"strategies": EVERY_STRATEGY, **options}),
        max_length=max_length,
        count_tokens=lambda each: count_rendered([(m.role, [m.content]) for m in each.messages])[0],
        count_rendered=count_rendered,
        wording=WORDING,
        embeddings=embeddings_of(examples) if options.get("grouping") == "similar" else None,
    )


def composed(
    examples: Sequence[Example], *, seed: int = 0, max_length: int = 200, **options: Any
) -> list[Composed]:
    """One pass, measured in words."""
    composer = composer_of(examples, max_length, **options)
    return list(composer.compose(1, np.random.default_rng(seed)))


def example(prompt: str, response: str) -> Example:
    return make_example("test", [Message("user", prompt), Message("assistant", response)])


class Text(NamedTuple):
    """A mosaic as its reader and its recipe have it."""

    messages: tuple[Message, ...]
    claim: Claim


class Corpus:
    """Examples by id, and all that may stand in a text."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.by_id = {each.id: each for each in examples}
        self.known = parser.known_texts(examples)

    def text_of(self, recipe: Mosaic) -> Text:
        parents = [self.by_id[key] for key in recipe.examples]
        answers = recipe.choices.get("answers", range(1, len(parents) + 1))
        claim = Claim(
            recipe.strategy,
            tuple(parent.prompt for parent in parents),
            tuple(parents[number - 1].response for number in answers),
        )
        return Text(render(recipe, self.by_id, WORDING), claim)

    def read(self, text: Text) -> parser.Reading:
        return checked(text.messages, self.known, PHRASES, text.claim)


@cache
def distinct() -> tuple[Example, ...]:
    """Examples no two of which share a text, so that a text can be told from any other."""
    texts: set[str] = set()
    kept = []
    for each in generate(seed=1, rows_per_family=30):
        if texts.isdisjoint({each.prompt, each.response}):
            texts |= {each.prompt, each.response}
            kept.append(each)
    return tuple(kept)


@cache
def distinct_corpus() -> Corpus:
    return Corpus(distinct())


# --- The laws of one mosaic.


class Claim(NamedTuple):
    """What a recipe says about its text."""

    strategy: str
    prompts: tuple[str, ...]
    """In the order in which they stand."""
    responses: tuple[str, ...]
    """In the order in which they stand."""


def checked(
    messages: Sequence[Message],
    known: parser.Known,
    phrases: parser.Phrases,
    claim: Claim | None = None,
) -> parser.Reading:
    """The first reading that keeps every law.

    Args:
        messages: The mosaic's text.
        known: What may stand in it.
        phrases: The wording's lists.
        claim: What its recipe says, where the text is to agree with one.

    Raises:
        LawBroken: Saying what is wrong with the first reading, as there is no lawful one.
    """
    faults: list[parser.LawBroken] = []

    def check_user(user: Sequence[parser.Block]) -> None:
        _check_instructions(user, claim)

    for reading in parser.readings(messages, known, phrases, check_user, faults):
        try:
            _check_sentences(reading, phrases)
            _check_numbers(reading)
            _check_texts(reading, known)
            _check_marks(reading, phrases)
            _check_claim(reading, claim)
        except parser.LawBroken as fault:
            faults.append(fault)
        else:
            return reading
    raise faults[0]


def _check_instructions(user: Sequence[parser.Block], claim: Claim | None) -> None:
    """Sentences stand round the instructions, which are numbered alike, from 1, or not at all."""
    kinds = "".join("s" if block.is_sentence else "i" for block in user)
    if not re.fullmatch("s*i+s*", kinds):
        raise parser.LawBroken("sentences do not stand round the instructions")
    instructions = [block for block in user if not block.is_sentence]
    _check_tags("instruction", instructions, {block.shape for block in instructions})
    numbers = [block.number for block in instructions if block.number is not None]
    if numbers and numbers != list(range(1, len(numbers) + 1)):
        raise parser.LawBroken(f"the instructions are numbered {numbers}")
    if claim and tuple(block.text for block in instructions) != claim.prompts:
        raise parser.LawBroken("the recipe has other instructions, or in another order")


def _check_tags(what: str, blocks: Sequence[parser.Block], shapes: Collection[str]) -> None:
    """All have a tag of one shape, or none has a tag."""
    for block in blocks:
        if not block.shape and any(shapes):
            raise parser.LawBroken(f"the {what} {block.text!r} has no tag")
    if len({*shapes, *(block.shape for block in blocks)}) > 1:
        raise parser.LawBroken(f"the tags of {what}s have several shapes")


def _check_sentences(reading: parser.Reading, phrases: parser.Phrases) -> None:
    """Numbers are shown wherever a sentence needs them, and no two sentences say the same."""
    if reading.sentences and not reading.instructions[0].shape:
        raise parser.LawBroken(f"no numbers are shown to those who read {reading.sentences[0]!r}")
    kinds = [rule.kind for rule in reading.rules]
    if len(reading.sentences) - len(kinds) > 1 or len(set(kinds)) < len(kinds):
        raise parser.LawBroken("two sentences ask for the same kind of thing")
    if kinds and len(reading.instructions) == 1:
        raise parser.LawBroken("a single instruction is more than Format")


def _check_numbers(reading: parser.Reading) -> None:
    """The responses asked for are there, once, in the order asked for, and no other."""
    numbers = range(1, len(reading.instructions) + 1)
    _check_tags("response", reading.assistant, {reading.instructions[0].shape})
    given = reading.numbers
    masked = _masked(reading.rules, len(numbers))
    for number, times in Counter(given).items():
        if number not in numbers:
            raise parser.LawBroken(f"response {number} has no instruction")
        if times > 1:
            raise parser.LawBroken(f"response {number} is there {times} times")
        if number in masked:
            raise parser.LawBroken(f"response {number} is there but was masked")
    left = [number for number in numbers if number not in masked]
    for number in left:
        if number not in given:
            raise parser.LawBroken(f"response {number} is missing")
    asked = _asked(reading.rules, left, len(numbers))
    if given != asked:
        raise parser.LawBroken(f"the responses stand in the order {given}, asked for was {asked}")


def _masked(rules: Sequence[parser.Rule], total: int) -> list[int]:
    """The numbers without a response; some response stays, and the share is the paper's."""
    masks = [rule for rule in rules if rule.kind == "mask"]
    if not masks:
        return []
    [mask] = masks
    masked = sorted(mask.numbers)
    if sorted({*masked} & {*range(1, total + 1)}) != masked or not masked:
        raise parser.LawBroken(f"the mask names {masked} of {total} instructions")
    if len(masked) == total:
        raise parser.LawBroken("no response stays")
    # Drawn from U(0.1, 0.5) and rounded down, one at least; odd numbers are a half rounded up.
    least, most = max(1, total // 10), max(1, total // 2)
    if mask.name != "halves" and not least <= len(masked) <= most:
        raise parser.LawBroken(f"the share masked is {len(masked)} of {total}")
    return masked


def _asked(rules: Sequence[parser.Rule], left: list[int], total: int) -> list[int]:
    """The numbers that are left, in the order asked for."""
    for rule in rules:
        if rule.kind == "order":
            if sorted(rule.numbers) not in (left, list(range(1, total + 1))):
                raise parser.LawBroken(f"the order names {rule.numbers} of {total} instructions")
            return [number for number in rule.numbers if number in left]
    return left


def _check_texts(reading: parser.Reading, known: parser.Known) -> None:
    """Each response is that of its instruction."""
    for number, response in zip(reading.numbers, reading.assistant, strict=True):
        prompt = reading.instructions[number - 1].text
        if response.text not in known.responses_of.get(prompt, ()):
            raise parser.LawBroken(f"response {number} is that of another instruction")


def _check_marks(reading: parser.Reading, phrases: parser.Phrases) -> None:
    """Marks stand round every response or round none, and a sentence names these very marks."""
    if any(block.marks for block in reading.instructions):
        raise parser.LawBroken("marks stand round an instruction")
    named = {phrases.marks_named(sentence) for sentence in reading.sentences} - {None}
    asked = named.pop() if named else None
    for number, block in zip(reading.numbers, reading.assistant, strict=True):
        if block.marks != asked:
            raise parser.LawBroken(
                f"response {number} has the marks {block.marks}, asked were {asked}"
            )


def _check_claim(reading: parser.Reading, claim: Claim | None) -> None:
    """The text is what its recipe says it is."""
    if claim is None:
        return
    looks = reading.strategy
    alone = len(claim.prompts) == 1 and claim.strategy == "turns"
    if claim.strategy != looks and not (alone and looks == "primary"):
        raise parser.LawBroken(f"the recipe says {claim.strategy}, the text looks like {looks}")
    if tuple(block.text for block in reading.assistant) != claim.responses:
        raise parser.LawBroken("the recipe has other responses, or in another order")


# --- The laws of many.


def check_length(mosaic: Composed, text: Text, count: Count, max_length: int) -> None:
    """The numbers of tokens are right, and the limit is kept."""
    measured = count(text.messages)
    if measured != (mosaic.num_tokens, mosaic.num_response_tokens):
        raise parser.LawBroken(f"{measured} tokens were counted otherwise")
    if measured[0] > max_length:
        raise parser.LawBroken(f"{measured[0]} tokens exceed the limit of {max_length}")


def check_uses(
    examples: Sequence[Example], recipes: Sequence[Mosaic], left_out: Sequence[str], passes: int
) -> None:
    """Each pass uses each example once, or reports it."""
    uses = Counter(key for recipe in recipes for key in recipe.examples)
    uses.update(left_out)
    for each in examples:
        if uses.pop(each.id, 0) != passes:
            raise parser.LawBroken(f"{each.id} is not used or reported once a pass")
    if uses:
        raise parser.LawBroken("something else than the examples is used")


def check_same(first: Sequence[Composed], second: Sequence[Composed]) -> None:
    """Two runs with one seed made the same mosaics in the same order."""
    if list(first) != list(second):
        raise parser.LawBroken("the mosaics are not the same")


def check_strategy(recipe: Mosaic, weights: Mapping[str, float]) -> None:
    """The strategy is one with weight; one instruction alone has Format, where that makes sense."""
    possible = {name for name, weight in weights.items() if weight}
    if len(recipe.examples) == 1:
        possible = possible if possible <= {"primary", "turns"} else {"format"}
    if recipe.strategy not in possible:
        raise parser.LawBroken(f"{recipe.strategy} of {len(recipe.examples)} instructions")
