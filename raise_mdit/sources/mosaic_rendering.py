"""How a mosaic's recipe and its examples become a conversation (arXiv 2405.13326).

Instructions are numbered from 1 in the order in which they stand; responses carry the numbers of
their instructions. Same recipe, same text: nothing is drawn here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict, cast

from raise_mdit.candidates import Mosaic, Strategy
from raise_mdit.core import Example, Message
from raise_mdit.errors import ConfigError
from raise_mdit.sources.mosaic_wording import Mask, Order, Wording, filled

BLANK_LINE = "\n\n"

Place = Literal["before", "after"]


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
    """Which responses are asked for, and in which order."""

    name: Order | Mask
    list_shape: int | None
    """How explicit numbers are written; None where the rule has none."""


class Choices(TypedDict):
    """A recipe's choices; numbers are positions in the lists of the wording. Primary has none."""

    wording: str
    """Fingerprint of the wording."""
    tag: int
    punctuation: int
    new_line: bool
    """Whether a tag has a line to itself."""
    marks: Marks | None
    sentence: Sentence | None
    """Asks for the marks where there are marks, otherwise for nothing special."""
    rule: Rule | None
    """None for Format."""
    answers: list[int]
    """Numbers of the instructions that get a response, in the order of the responses."""


def render(
    recipe: Mosaic, examples: Mapping[str, Example], wording: Wording
) -> tuple[Message, ...]:
    """One user turn with all instructions and one assistant turn with the responses.

    Args:
        recipe: What to make.
        examples: At least the recipe's examples, by id.
        wording: The wording with which the recipe was composed.

    Raises:
        ConfigError: The wording is another one.
    """
    parents = [examples[key] for key in recipe.examples]
    prompts = [parent.prompt for parent in parents]
    responses = [parent.response for parent in parents]
    if recipe.strategy == "primary":
        return _conversation(prompts, responses)
    choices = cast(Choices, recipe.choices)
    if choices["wording"] != wording.fingerprint:
        raise ConfigError(
            f"the mosaic was composed with the wording {choices['wording']}, got"
            f" {wording.fingerprint}; use the wording file as it was, or compose again"
        )
    tagged = [_tag(number, choices, wording) + text for number, text in enumerate(prompts, 1)]
    return _conversation(
        [*_said("before", recipe, wording), *tagged, *_said("after", recipe, wording)],
        [
            _tag(number, choices, wording) + _marked(responses[number - 1], choices, wording)
            for number in choices["answers"]
        ],
    )


def _conversation(user: Sequence[str], assistant: Sequence[str]) -> tuple[Message, ...]:
    return (
        Message("user", BLANK_LINE.join(user)),
        Message("assistant", BLANK_LINE.join(assistant)),
    )


def _tag(number: int, choices: Choices, wording: Wording) -> str:
    tag = filled(wording.tags[choices["tag"]], n=str(number))
    return tag + wording.punctuation[choices["punctuation"]] + " \n"[choices["new_line"]]


def _marked(response: str, choices: Choices, wording: Wording) -> str:
    if choices["marks"] is None:
        return response
    begin, end = _mark_pair(choices["marks"], wording)
    gap = "\n" if "\n" in response else " "  # a fence of code ends only on a line of its own
    return begin + gap + response + gap + end


def _mark_pair(marks: Marks, wording: Wording) -> tuple[str, str]:
    opening, closing = wording.brackets[marks["bracket"]]
    begin, end = (
        opening + (word.lower() if marks["lower"] else word) + closing
        for word in wording.words[marks["words"]]
    )
    return begin, end


def _said(at: Place, recipe: Mosaic, wording: Wording) -> list[str]:
    """The sentences on one side of the instructions; the rule's is the outer one (paper)."""
    choices = cast(Choices, recipe.choices)
    sentence, rule = choices["sentence"], choices["rule"]
    said: list[str] = []
    if sentence and sentence["at"] == at:
        said.append(_asks_for_responses(sentence, choices["marks"], wording))
    if rule and rule["at"] == at:
        answers = choices["answers"]
        masked = [n for n in range(1, len(recipe.examples) + 1) if n not in answers]
        said.append(_states_rule(rule, recipe.strategy, masked or answers, wording))
    return said if at == "after" else said[::-1]


def _asks_for_responses(sentence: Sentence, marks: Marks | None, wording: Wording) -> str:
    if marks is None:
        return wording.plain[sentence["index"]]
    begin, end = _mark_pair(marks, wording)
    return filled(wording.marked[sentence["index"]], begin=begin, end=end)


def _states_rule(rule: Rule, strategy: Strategy, named: list[int], wording: Wording) -> str:
    """The rule in words.

    Args:
        rule: The rule.
        strategy: Permute or Maskout, which have rules of equal names.
        named: The numbers in their new order, or those without a response.
        wording: What can be said.
    """
    sentences = wording.rule_sentences(rule["name"], masks=strategy == "maskout")
    shape = rule["list_shape"]
    listed = "" if shape is None else wording.lists[shape].text(named)
    return filled(sentences[rule["index"]], list=listed, count=str(len(named)))
