"""A planted fault of each kind is found by the laws of mosaics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
from helpers import mosaic_laws as laws
from helpers import mosaic_parser as parser

from raise_mdit.candidates import Mosaic
from raise_mdit.core import Message


@cache
def unharmed() -> dict[laws.Text, parser.Reading]:
    """Mosaics as they were made, and how they read."""
    mosaics = [
        mosaic
        for seed in (0, 1)
        for mosaic in laws.composed(laws.distinct(), seed=seed, max_instructions=5)
    ]
    texts = [laws.distinct_corpus().text_of(mosaic.recipe) for mosaic in mosaics]
    return {text: laws.distinct_corpus().read(text) for text in texts}


def test_a_mosaic_written_again_is_the_same_and_lawful() -> None:
    for text, reading in unharmed().items():
        assert parser.written(reading) == text.messages
        laws.checked(parser.written(reading), laws.distinct_corpus().known, laws.PHRASES)
    assert {reading.strategy for reading in unharmed().values()} == {*laws.EVERY_STRATEGY}


def with_sentence(
    reading: parser.Reading, kind: str, reworded: Callable[[str, parser.Rule], str]
) -> parser.Reading | None:
    """The reading with its order's or mask's sentence reworded; None where it has none."""
    prompts = [block.text for block in reading.instructions]
    for i, block in enumerate(reading.user):
        rule = parser.stated_rule(block.text, prompts) if block.is_sentence else None
        if rule and rule.kind == kind:
            said = block._replace(text=reworded(block.text, rule))
            if said == block:
                return None
            return reading._replace(user=(*reading.user[:i], said, *reading.user[i + 1 :]))
    return None


def renumbered(block: parser.Block, number: int) -> parser.Block:
    opening = block.opening.replace(str(block.number), str(number), 1)
    return block._replace(number=number, opening=opening)


def shifted(block: parser.Block) -> parser.Block:
    assert block.number is not None
    return renumbered(block, block.number + 1)


def untagged(block: parser.Block) -> parser.Block:
    if not block.shape:
        return block
    tag = len(block.shape) - 1 + len(str(block.number))
    return block._replace(opening=block.opening[tag:], number=None, shape="")


def unmarked(block: parser.Block) -> parser.Block:
    if block.marks is None:
        return block
    gap = 1
    opening = block.opening[: -len(block.marks[0]) - gap]
    return block._replace(opening=opening, closing="", marks=None)


def replaced(blocks: Sequence[parser.Block], i: int, block: parser.Block) -> tuple[Any, ...]:
    return (*blocks[:i], block, *blocks[i + 1 :])


Damage = Callable[[parser.Reading], parser.Reading | None]
FAULTS: dict[str, tuple[str, Damage]] = {}
"""How each fault is planted, None where a mosaic has no room for it, and what the reader says."""


def fault(says: str) -> Callable[[Damage], Damage]:
    def enter(damage: Damage) -> Damage:
        FAULTS[damage.__name__] = (says, damage)
        return damage

    return enter


def is_tagged(reading: parser.Reading) -> bool:
    return bool(reading.instructions[0].shape)


def several(reading: parser.Reading) -> bool:
    return reading.num_turns == 1 and len(reading.assistant) > 1


@fault(r"response \d+ is missing")
def a_response_missing(reading: parser.Reading) -> parser.Reading | None:
    return reading._replace(assistant=reading.assistant[:-1]) if several(reading) else None


@fault(r"response \d+ is there 2 times")
def a_response_doubled(reading: parser.Reading) -> parser.Reading | None:
    if not is_tagged(reading):
        return None
    return reading._replace(assistant=(*reading.assistant, reading.assistant[0]))


@fault(r"response \d+ is that of another instruction")
def two_texts_swapped(reading: parser.Reading) -> parser.Reading | None:
    if len(reading.assistant) < 2:
        return None
    first, *between, last = reading.assistant
    swapped = first._replace(text=last.text), *between, last._replace(text=first.text)
    return reading._replace(assistant=swapped)


@fault("stand in the order")
def two_responses_swapped(reading: parser.Reading) -> parser.Reading | None:
    if not (is_tagged(reading) and several(reading)):
        return None
    first, second, *others = reading.assistant
    return reading._replace(assistant=(second, first, *others))


@fault("is there but was masked")
def a_masked_response_present(reading: parser.Reading) -> parser.Reading | None:
    for number, block in enumerate(reading.instructions, 1):
        if reading.num_turns == 1 and number not in reading.numbers:
            extra = renumbered(reading.assistant[0], number)
            [response] = laws.distinct_corpus().known.responses_of[block.text]
            extra = extra._replace(text=response)
            return reading._replace(assistant=(*reading.assistant, extra))
    return None


@fault("stand in the order")
def a_sentence_of_another_order(reading: parser.Reading) -> parser.Reading | None:
    prompts = [block.text for block in reading.instructions]

    def another(sentence: str, rule: parser.Rule) -> str:
        for name in ("reverse", "odd_then_even", "fewest_words", "alphabetical"):
            for other in laws.WORDING.rule_sentences(name, masks=False):
                stated = parser.stated_rule(other, prompts)
                assert stated
                order = [number for number in stated.numbers if number in reading.numbers]
                if order != reading.numbers:
                    return other
        return sentence

    return with_sentence(reading, "order", another) if several(reading) else None


@fault("was masked|is missing")
def a_sentence_of_another_mask(reading: parser.Reading) -> parser.Reading | None:
    def another(sentence: str, rule: parser.Rule) -> str:
        is_odd = 1 in rule.numbers and 2 not in rule.numbers
        return (laws.WORDING.maskout.even if is_odd else laws.WORDING.maskout.odd)[0]

    return with_sentence(reading, "mask", another)


@fault("was masked|is missing|is open")
def longest_said_for_shortest(reading: parser.Reading) -> parser.Reading | None:
    def another(sentence: str, rule: parser.Rule) -> str:
        return sentence.replace("longest", "shortest")

    return with_sentence(reading, "mask", another)


@fault("no response stays")
def all_responses_masked(reading: parser.Reading) -> parser.Reading | None:
    numbers = ", ".join(str(n) for n in range(1, len(reading.instructions) + 1))
    sentence = laws.WORDING.maskout.listed[0].replace("{list}", numbers)
    found = with_sentence(reading, "mask", lambda *_: sentence)
    return found._replace(assistant=()) if found else None


@fault("the share masked is")
def too_many_masked(reading: parser.Reading) -> parser.Reading | None:
    kept = reading.assistant[-1].number
    masked = [n for n in range(1, len(reading.instructions) + 1) if n != kept]
    sentence = laws.WORDING.maskout.listed[0].replace("{list}", ", ".join(map(str, masked)))
    found = with_sentence(reading, "mask", lambda *_: sentence)
    return found._replace(assistant=found.assistant[-1:]) if found and len(masked) > 2 else None


@fault("the order names")
def an_order_without_one_number(reading: parser.Reading) -> parser.Reading | None:
    if len(reading.assistant) < 3:
        return None
    numbers = ", ".join(map(str, reading.numbers[1:]))
    sentence = laws.WORDING.permute.listed[0].replace("{list}", numbers)
    return with_sentence(reading, "order", lambda *_: sentence)


@fault("instructions are numbered")
def numbers_of_instructions_shifted(reading: parser.Reading) -> parser.Reading | None:
    if not is_tagged(reading):
        return None
    user = tuple(block if block.is_sentence else shifted(block) for block in reading.user)
    return reading._replace(user=user)


@fault(r"response \d+ (has no instruction|is missing|is there but was masked)")
def numbers_of_responses_shifted(reading: parser.Reading) -> parser.Reading | None:
    if not is_tagged(reading):
        return None
    return reading._replace(assistant=tuple(map(shifted, reading.assistant)))


@fault("the instruction .* has no tag")
def an_instruction_without_tag(reading: parser.Reading) -> parser.Reading | None:
    if not is_tagged(reading) or len(reading.instructions) < 2:
        return None
    i = reading.user.index(reading.instructions[1])
    return reading._replace(user=replaced(reading.user, i, untagged(reading.user[i])))


@fault("the response .* has no tag")
def a_response_without_tag(reading: parser.Reading) -> parser.Reading | None:
    if not is_tagged(reading):
        return None
    bare = untagged(reading.assistant[0])
    return reading._replace(assistant=(bare, *reading.assistant[1:]))


@fault("the tags of responses have several shapes")
def a_tag_of_another_shape(reading: parser.Reading) -> parser.Reading | None:
    if not is_tagged(reading):
        return None
    block = untagged(reading.assistant[0])
    number = reading.assistant[0].number
    tag = f"#{number}: " if reading.assistant[0].shape != "#n: " else f"({number}) "
    other = block._replace(opening=tag + block.opening)
    return reading._replace(assistant=(other, *reading.assistant[1:]))


@fault(r"response \d+ has the marks None")
def a_response_without_marks(reading: parser.Reading) -> parser.Reading | None:
    block = reading.assistant[-1]
    if block.marks is None:
        return None
    return reading._replace(assistant=(*reading.assistant[:-1], unmarked(block)))


@fault("nothing known stands at")
def a_response_without_its_end_mark(reading: parser.Reading) -> parser.Reading | None:
    block = reading.assistant[-1]
    if block.marks is None:
        return None
    return reading._replace(assistant=(*reading.assistant[:-1], block._replace(closing="")))


@fault(r"response \d+ has the marks \(.*asked were \(")
def marks_other_than_stated(reading: parser.Reading) -> parser.Reading | None:
    if reading.assistant[0].marks is None:
        return None
    begin, end = ("<<OPEN>>", "<<CLOSE>>")
    if reading.assistant[0].marks == (begin, end):
        return None
    other = [
        bare._replace(opening=f"{bare.opening}{begin} ", closing=f" {end}")
        for bare in map(unmarked, reading.assistant)
    ]
    return reading._replace(assistant=tuple(other))


@fault(r"response \d+ has the marks \(.*asked were None")
def marks_that_no_sentence_names(reading: parser.Reading) -> parser.Reading | None:
    if reading.assistant[0].marks is None:
        return None
    user = [block for block in reading.user if not laws.PHRASES.marks_named(block.text)]
    return reading._replace(user=tuple(user))


@fault("no numbers are shown")
def a_rule_without_numbers(reading: parser.Reading) -> parser.Reading | None:
    if not reading.rules:
        return None
    return reading._replace(
        user=tuple(map(untagged, reading.user)), assistant=tuple(map(untagged, reading.assistant))
    )


@fault("a single instruction is more than Format")
def a_rule_for_one_instruction(reading: parser.Reading) -> parser.Reading | None:
    if not is_tagged(reading) or len(reading.instructions) > 1:
        return None
    rule = parser.Block(laws.WORDING.permute.reverse[1], is_sentence=True)
    return reading._replace(user=(rule, *reading.user))


@fault("two sentences ask for the same kind of thing")
def a_second_rule_of_the_kind(reading: parser.Reading) -> parser.Reading | None:
    if not reading.rules:
        return None
    kind = reading.rules[0].kind
    second = laws.WORDING.rule_sentences("listed", masks=kind == "mask")[0].replace("{list}", "1")
    return reading._replace(user=(parser.Block(second, is_sentence=True), *reading.user))


@fault("sentences do not stand round")
def a_sentence_among_instructions(reading: parser.Reading) -> parser.Reading | None:
    if not is_tagged(reading) or len(reading.instructions) < 2:
        return None
    i = reading.user.index(reading.instructions[1])
    stray = parser.Block(laws.WORDING.plain[0], is_sentence=True)
    return reading._replace(user=(*reading.user[:i], stray, *reading.user[i:]))


@fault("nothing known stands at")
def an_instruction_altered(reading: parser.Reading) -> parser.Reading | None:
    if reading.num_turns > 1:
        return None
    i = reading.user.index(reading.instructions[-1])
    altered = reading.user[i]._replace(text=reading.user[i].text + "!")
    return reading._replace(user=replaced(reading.user, i, altered))


@fault("the turns are those of")
def a_turn_missing(reading: parser.Reading) -> parser.Reading | None:
    return reading._replace(assistant=reading.assistant[:-1]) if reading.num_turns > 1 else None


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_named(name: str) -> None:
    says, damage = FAULTS[name]
    damaged = [spoilt for reading in unharmed().values() if (spoilt := damage(reading))]
    assert len(damaged) >= 5
    for spoilt in damaged:
        with pytest.raises(parser.LawBroken, match=says):
            laws.checked(parser.written(spoilt), laws.distinct_corpus().known, laws.PHRASES)


@pytest.mark.parametrize(
    ("says", "planted"),
    [
        ("the recipe says", lambda claim: claim._replace(strategy="none")),
        ("other instructions", lambda claim: claim._replace(prompts=claim.prompts[::-1])),
        ("other responses", lambda claim: claim._replace(responses=claim.responses[::-1])),
    ],
    ids=["another strategy", "another order of instructions", "another order of responses"],
)
def test_a_recipe_that_says_otherwise_is_found(
    says: str, planted: Callable[[laws.Claim], laws.Claim]
) -> None:
    for text in unharmed():
        if len(text.claim.responses) > 1:
            with pytest.raises(parser.LawBroken, match=says):
                laws.distinct_corpus().read(text._replace(claim=planted(text.claim)))


def test_a_length_mask_among_equal_lengths_is_open() -> None:
    known = parser.known_texts([laws.example("aa", "a"), laws.example("bb", "b")])
    user = f"1. aa\n\n2. bb\n\n{laws.WORDING.maskout.longest[0].replace('{count}', '1')}"
    text = [Message("user", user), Message("assistant", "1. a")]
    with pytest.raises(parser.LawBroken, match="which instructions are meant is open"):
        laws.checked(text, known, laws.PHRASES)


def test_one_token_over_the_limit_or_counted_otherwise_is_found() -> None:
    mosaic = laws.composed(laws.distinct())[0]
    text = laws.distinct_corpus().text_of(mosaic.recipe)
    laws.check_length(mosaic, text, laws.num_words, mosaic.num_tokens)
    with pytest.raises(parser.LawBroken, match="exceed the limit"):
        laws.check_length(mosaic, text, laws.num_words, mosaic.num_tokens - 1)
    with pytest.raises(parser.LawBroken, match="counted otherwise"):
        laws.check_length(mosaic, text, lambda _: (mosaic.num_tokens + 1, 1), 10_000)


def test_an_example_dropped_or_used_again_is_found() -> None:
    recipes = [mosaic.recipe for mosaic in laws.composed(laws.distinct())]
    laws.check_uses(laws.distinct(), recipes, [], 1)
    for spoilt in (recipes[1:], [*recipes, recipes[0]]):
        with pytest.raises(parser.LawBroken, match="not used or reported once"):
            laws.check_uses(laws.distinct(), spoilt, [], 1)
    with pytest.raises(parser.LawBroken, match="something else"):
        laws.check_uses(laws.distinct(), recipes, ["another"], 1)


def test_another_seed_taken_for_the_same_is_found() -> None:
    with pytest.raises(parser.LawBroken, match="not the same"):
        laws.check_same(
            laws.composed(laws.distinct(), seed=0), laws.composed(laws.distinct(), seed=1)
        )


def test_a_strategy_that_was_not_asked_for_is_found() -> None:
    two, one = Mosaic(("a", "b"), "permute", {}), Mosaic(("a",), "permute", {})
    laws.check_strategy(two, {"permute": 1.0})
    for recipe, weights in ((two, {"permute": 0.0, "format": 1.0}), (one, {"permute": 1.0})):
        with pytest.raises(parser.LawBroken, match="permute of"):
            laws.check_strategy(recipe, weights)
