"""How a mosaic's recipe and its examples become a conversation (arXiv 2405.13326).

Instructions are numbered from 1 in the order in which they stand; responses carry the numbers of
their instructions. Same recipe, same text: nothing is drawn here.

A conversation is made as pieces of text: those of examples are the very strings of the examples, so
that what is known of them (their tokens) need not be found again in every mosaic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal, TypedDict, cast

from raise_mdit.candidates import Mosaic
from raise_mdit.core import Example, Message, Role
from raise_mdit.errors import ConfigError
from raise_mdit.sources.mosaic_wording import Mask, Order, Wording, filled

BLANK_LINE = "\n\n"

Place = Literal["before", "after"]

Pieces = list[tuple[Role, list[str]]]
"""A conversation whose contents are the joins of their pieces."""


class Marks(TypedDict):
    """Marks round each response."""

    bracket: int
    words: int
    lower: bool
    """Whether the words are in lower case."""


class Sentence(TypedDict):
    """A sentence said once, as its position among those of its kind."""

    index: int
    at: Place
    """Before or after the instructions."""


class Rule(Sentence):
    """Which responses are asked for, or in which order."""

    name: Order | Mask
    masks: bool
    """Whether it is a mask; orders and masks have names in common."""
    list_shape: int | None
    """How explicit numbers are written; None where the rule has none."""


class Choices(TypedDict):
    """Choices of a recipe with tags; numbers are positions in the lists of the wording."""

    wording: str
    """Fingerprint of the wording."""
    tag: int
    punctuation: int
    new_line: bool
    """Whether a tag has a line to itself."""
    marks: Marks | None
    sentence: Sentence | None
    """Asks for the marks where there are marks, otherwise for nothing special."""
    rules: list[Rule]
    """None for Format; a mask, an order, or a mask and an order of what it leaves."""
    answers: list[int]
    """Numbers of the instructions that get a response, in the order of the responses."""


def render(
    recipe: Mosaic, examples: Mapping[str, Example], wording: Wording
) -> tuple[Message, ...]:
    """A mosaic as a conversation; see :func:`render_pieces`."""
    pieces = render_pieces(recipe, examples, wording)
    return tuple(Message(role, "".join(parts)) for role, parts in pieces)


def render_pieces(recipe: Mosaic, examples: Mapping[str, Example], wording: Wording) -> Pieces:
    """One user turn with all instructions and one assistant turn with the responses.

    The strategy ``turns`` gives such a pair of turns for each example instead.

    Args:
        recipe: What to make.
        examples: At least the recipe's examples, by id.
        wording: The wording with which the recipe was composed.

    Raises:
        ConfigError: The wording is another one.
    """
    parents = [examples[key] for key in recipe.examples]
    prompts = [parent.prompt for parent in parents]
    return lay_out(recipe, prompts, [parent.response for parent in parents], wording)


def lay_out(
    recipe: Mosaic, prompts: Sequence[str], responses: Sequence[str], wording: Wording
) -> Pieces:
    """As :func:`render_pieces`, from the prompts and responses of the recipe's examples."""
    if recipe.strategy == "turns":
        turns: Pieces = []
        for prompt, response in zip(prompts, responses, strict=True):
            turns += [("user", [prompt]), ("assistant", [response])]
        return turns
    user: list[str] = []
    assistant: list[str] = []
    if recipe.strategy == "primary":
        for prompt, response in zip(prompts, responses, strict=True):
            user += (BLANK_LINE, prompt)
            assistant += (BLANK_LINE, response)
    else:
        _lay_out_tagged(recipe, prompts, responses, wording, user=user, assistant=assistant)
    return [("user", user[1:]), ("assistant", assistant[1:])]


@lru_cache(maxsize=4096)
def tag_text(shape: str, punctuation: str, new_line: bool, number: int) -> str:
    """What stands before an instruction and its response."""
    return filled(shape, n=str(number)) + punctuation + ("\n" if new_line else " ")


def mark_texts(marks: Marks, wording: Wording) -> tuple[str, str]:
    """What stands before and after each response."""
    opening, closing = wording.brackets[marks["bracket"]]
    first, last = wording.words[marks["words"]]
    if marks["lower"]:
        first, last = first.lower(), last.lower()
    return opening + first + closing, opening + last + closing


def _lay_out_tagged(
    recipe: Mosaic,
    prompts: Sequence[str],
    responses: Sequence[str],
    wording: Wording,
    *,
    user: list[str],
    assistant: list[str],
) -> None:
    """Add everything, each instruction, response and sentence after a blank line."""
    choices = cast(Choices, recipe.choices)
    if choices["wording"] != wording.fingerprint:
        raise ConfigError(
            f"the mosaic was composed with the wording {choices['wording']}, got"
            f" {wording.fingerprint}; use the wording file as it was, or compose again"
        )
    before, after = _sentences(choices, len(prompts), wording)
    shape, point = wording.tags[choices["tag"]], wording.punctuation[choices["punctuation"]]
    new_line = choices["new_line"]
    tags = [tag_text(shape, point, new_line, number) for number in range(1, len(prompts) + 1)]
    for sentence in before:
        user += (BLANK_LINE, sentence)
    for tag, prompt in zip(tags, prompts, strict=True):
        user += (BLANK_LINE, tag, prompt)
    for sentence in after:
        user += (BLANK_LINE, sentence)
    marks = choices["marks"]
    begin, end = ("", "") if marks is None else mark_texts(marks, wording)
    for number in choices["answers"]:
        response = responses[number - 1]
        if marks is None:
            assistant += (BLANK_LINE, tags[number - 1], response)
        else:
            # A fence of code ends only on a line of its own.
            gap = "\n" if "\n" in response else " "
            assistant += (BLANK_LINE, tags[number - 1], begin + gap, response, gap + end)


def _sentences(
    choices: Choices, num_instructions: int, wording: Wording
) -> tuple[list[str], list[str]]:
    """The sentences before and after the instructions; those of rules are the outer (paper)."""
    said: dict[Place, list[str]] = {"before": [], "after": []}
    sentence = choices["sentence"]
    if sentence is not None:
        asking = _asks_for_responses(sentence, choices["marks"], wording)
        said[sentence["at"]].append(asking)
    for rule in choices["rules"]:
        answers = choices["answers"]
        if rule["masks"]:
            named = [n for n in range(1, num_instructions + 1) if n not in answers]
        else:
            named = answers
        said[rule["at"]].append(_states_rule(rule, named, wording))
    return said["before"][::-1], said["after"]


def _asks_for_responses(sentence: Sentence, marks: Marks | None, wording: Wording) -> str:
    if marks is None:
        return wording.plain[sentence["index"]]
    begin, end = mark_texts(marks, wording)
    return filled(wording.marked[sentence["index"]], begin=begin, end=end)


def _states_rule(rule: Rule, named: list[int], wording: Wording) -> str:
    """The rule in words.

    Args:
        rule: The rule.
        named: The numbers in their new order, or those without a response.
        wording: What can be said.
    """
    sentence = wording.rule_sentences(rule["name"], masks=rule["masks"])[rule["index"]]
    shape = rule["list_shape"]
    listed = "" if shape is None else wording.lists[shape].text(named)
    return filled(sentence, list=listed, count=str(len(named)))
