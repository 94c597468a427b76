"""How a mosaic is to look, and which responses it asks for in which order (arXiv 2405.13326)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast, get_args

from raise_mdit.candidates import Strategy
from raise_mdit.sources.draws import Draws
from raise_mdit.sources.mosaic_rendering import Choices, Marks, Place, Rule, Sentence
from raise_mdit.sources.mosaic_wording import MASKS, ORDERS, Mask, Order, Wording

PLACES: tuple[Place, ...] = get_args(Place)

MASK_RATIO = (0.1, 0.5)  # paper's code
"""Range of the share of instructions that Maskout leaves without a response; one at least. The
odd-numbered are one half rounded up, the even-numbered one half rounded down."""

MASKING: tuple[Strategy, ...] = ("maskout", "permute_maskout")
"""Strategies that leave responses out."""

_ORDERS_OF_ONE_PARITY = tuple(
    order for order in ORDERS if order not in ("odd_then_even", "even_then_odd")
)
"""Orders that say something where only odd or only even numbers are left."""


class Instruction(NamedTuple):
    """An instruction's text and what orders and masks go by."""

    text: str
    num_words: int
    num_characters: int
    letters: str
    """The text without distinction of case."""

    @classmethod
    def of(cls, text: str) -> Instruction:
        """An instruction of this text."""
        return cls(text, len(text.split()), len(text), text.casefold())


class Look(NamedTuple):
    """What is chosen before the instructions are known; see :class:`Choices`."""

    tag: int
    punctuation: int
    new_line: bool
    marks: Marks | None
    sentence: Sentence | None
    rules: list[Rule]
    masked_share: float
    """Share of the instructions that a mask leaves without a response; 0 without a mask."""


def draw_look(strategy: Strategy, *, wording: Wording, draws: Draws) -> Look:
    """Tags, marks and sentences.

    Half of the mosaics have marks, in lower case for half of those, and a sentence that asks for
    them; half of those without have a sentence too.
    """
    tag, punctuation = draws.index(len(wording.tags)), draws.index(len(wording.punctuation))
    new_line = draws.toss()
    marks: Marks | None = None
    sentences = wording.plain
    if draws.toss():
        sentences = wording.marked
        marks = {
            "bracket": draws.index(len(wording.brackets)),
            "words": draws.index(len(wording.words)),
            "lower": draws.toss(),
        }
    sentence: Sentence | None = None
    if marks is not None or draws.toss():
        sentence = {"index": draws.index(len(sentences)), "at": draws.pick(PLACES)}
    rules = _draw_rules(strategy, MASKS, wording, draws)
    share = _draw_masked_share(rules[0], draws) if strategy in MASKING else 0.0
    return Look(tag, punctuation, new_line, marks, sentence, rules, share)


def draw_choices(
    strategy: Strategy,
    look: Look,
    instructions: Sequence[Instruction],
    *,
    wording: Wording,
    draws: Draws,
) -> Choices:
    """A recipe's choices: the look, and the responses that its rules ask for.

    Args:
        strategy: Permute, Maskout or both, which need several instructions; others have no rule.
        look: The look; if its mask would be unclear for these instructions, its rules are drawn
            again.
        instructions: The instructions in their order.
        wording: What can be said.
        draws: Source of the choices.
    """
    rules: list[Rule] = []
    answers = list(range(1, len(instructions) + 1))
    if strategy != "format":
        rules = look.rules
        if strategy in MASKING:
            num_masked = max(1, int(look.masked_share * len(instructions)))
            rules = _clear_rules(rules, strategy, instructions, num_masked, wording, draws)
        for rule in rules:
            if rule["masks"]:
                masked = _masked(rule, instructions, num_masked, draws)
                answers = [number for number in answers if number not in masked]
            elif rule["name"] == "listed":
                answers = draws.shuffled(answers)
            else:
                answers = numbers_in_order(cast(Order, rule["name"]), instructions, answers)
    return {
        "wording": wording.fingerprint,
        "tag": look.tag,
        "punctuation": look.punctuation,
        "new_line": look.new_line,
        "marks": look.marks,
        "sentence": look.sentence,
        "rules": rules,
        "answers": answers,
    }


def numbers_in_order(
    order: Order, instructions: Sequence[Instruction], numbers: Sequence[int]
) -> list[int]:
    """Numbers of instructions in any order but ``listed``; equal ones keep the order they stand in.

    Letters and lengths are those of instructions, which are known before the first response.

    Args:
        order: The order.
        instructions: All instructions; the first has number 1.
        numbers: Those to put in order, ascending.
    """
    match order:
        case "reverse":
            return list(numbers[::-1])
        case "odd_then_even":
            return sorted(numbers, key=lambda n: n % 2 == 0)
        case "even_then_odd":
            return sorted(numbers, key=lambda n: n % 2)
        case "alphabetical" | "reverse_alphabetical":
            descending = order == "reverse_alphabetical"
            return sorted(numbers, key=lambda n: instructions[n - 1].letters, reverse=descending)
        case "fewest_words" | "most_words":
            descending = order == "most_words"
            return sorted(numbers, key=lambda n: instructions[n - 1].num_words, reverse=descending)
    assert order in ("fewest_characters", "most_characters"), order
    descending = order == "most_characters"
    return sorted(numbers, key=lambda n: instructions[n - 1].num_characters, reverse=descending)


def _draw_rules(
    strategy: Strategy, masks: Sequence[Mask], wording: Wording, draws: Draws
) -> list[Rule]:
    rules: list[Rule] = []
    orders = ORDERS
    if strategy in MASKING:
        mask = draws.pick(masks)
        rules.append(_phrased(mask, True, wording, draws))
        orders = _ORDERS_OF_ONE_PARITY if mask in ("odd", "even") else ORDERS
    if strategy in ("permute", "permute_maskout"):
        rules.append(_phrased(draws.pick(orders), False, wording, draws))
    return rules


def _draw_masked_share(mask: Rule, draws: Draws) -> float:
    low, high = MASK_RATIO
    share = low + (high - low) * draws.uniform()
    return 0.5 if mask["name"] in ("odd", "even") else share


def _clear_rules(
    rules: list[Rule],
    strategy: Strategy,
    instructions: Sequence[Instruction],
    num_masked: int,
    wording: Wording,
    draws: Draws,
) -> list[Rule]:
    """The rules, or others if equal lengths at the cut leave open which instructions are meant."""
    if rules[0]["name"] not in ("longest", "shortest"):
        return rules
    lengths = sorted(each.num_characters for each in instructions)
    unclear: list[Mask] = []
    if lengths[num_masked - 1] == lengths[num_masked]:
        unclear.append("shortest")
    if lengths[-num_masked] == lengths[-num_masked - 1]:
        unclear.append("longest")
    if rules[0]["name"] not in unclear:
        return rules
    return _draw_rules(strategy, [each for each in MASKS if each not in unclear], wording, draws)


def _masked(
    rule: Rule, instructions: Sequence[Instruction], num_masked: int, draws: Draws
) -> Sequence[int]:
    """The numbers without a response: one at least, and never all."""
    numbers = range(1, len(instructions) + 1)
    match rule["name"]:
        case "listed":
            return draws.shuffled(numbers)[:num_masked]
        case "odd":
            return numbers[::2]
        case "even":
            return numbers[1::2]
        case "longest":
            return numbers_in_order("fewest_characters", instructions, numbers)[-num_masked:]
    return numbers_in_order("fewest_characters", instructions, numbers)[:num_masked]


def _phrased(name: Order | Mask, masks: bool, wording: Wording, draws: Draws) -> Rule:
    return {
        "index": draws.index(len(wording.rule_sentences(name, masks=masks))),
        "at": draws.pick(PLACES),
        "name": name,
        "masks": masks,
        "list_shape": draws.index(len(wording.lists)) if name == "listed" else None,
    }
