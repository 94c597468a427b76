"""Reads a mosaic back from its text, knowing English and shapes but nothing of how it was written.

Instructions and responses have to be lower-case letters and white space, so that a digit belongs to
a tag, a bracket to a mark and a capital to a sentence.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from raise_mdit.core import Example, Message

TAGS = (
    *(r"(\d+)", r"\((\d+)\)", r"\[(\d+)\]", r"<(\d+)>", r"\{(\d+)\}"),
    *(r"(\d+)\)", r"#(\d+)", r"\|(\d+)\|", r"-(\d+)-", r"Item (\d+)"),
)
MARK = r"[^\w\s]+[A-Za-z ]+[^\w\s]+"
BLOCK = r"(?:\A|\n\n)"


class Reading(NamedTuple):
    instructions: list[tuple[int, str]]
    answers: list[tuple[int, str]]
    marks: list[tuple[str, str]]
    sentences: list[str]


def tag_in(assistant: str) -> re.Pattern[str]:
    """The one tag that opens the text, as a pattern for all its numbers."""
    ends = [f"{point}{gap}" for point in ("", r"\.", ":") for gap in (" ", "\n")]
    patterns = [re.compile(f"{BLOCK}{tag}{end}") for tag in TAGS for end in ends]
    [found] = [pattern for pattern in patterns if pattern.match(assistant)]
    return found


def numbered(text: str, tag: re.Pattern[str]) -> list[tuple[int, str]]:
    hits = list(tag.finditer(text))
    ends = [hit.start() for hit in hits[1:]] + [len(text)]
    return [(int(hit[1]), text[hit.end() : end]) for hit, end in zip(hits, ends, strict=True)]


def read(messages: Sequence[Message]) -> Reading:
    user, assistant = (message.content for message in messages)
    tag = tag_in(assistant)
    first = tag.search(user)
    assert first, "instructions carry the tags of the responses"
    instructions = numbered(user, tag)
    last, *after = re.split(r"\n\n(?=[A-Z])", instructions[-1][1])
    instructions[-1] = (instructions[-1][0], last)
    answers, marks = [], []
    for number, body in numbered(assistant, tag):
        inside = re.fullmatch(rf"({MARK})(\s)(.*)\2({MARK})", body, re.DOTALL)
        answers.append((number, inside[3] if inside else body))
        marks.append((inside[1], inside[4]) if inside else ("", ""))
    before = user[: first.start()].split("\n\n") if first.start() else []
    return Reading(instructions, answers, marks, before + after)


def stated_answers(sentence: str, instructions: Sequence[str]) -> list[int] | None:
    """The numbers that a reader of the sentence would respond to; None if it states no rule."""
    numbers = list(range(1, len(instructions) + 1))
    if says(sentence, "skip|leave out|left out|ignore|no response"):
        masked = stated_mask(sentence, instructions)
        return [n for n in numbers if n not in masked]
    if says(sentence, "in reverse:|backwards|count down|sequence round"):
        return numbers[::-1]
    if says(sentence, "a to z|z to a"):
        return ranked(sentence, [text.lower() for text in instructions])
    if says(sentence, "words|word counts"):
        return ranked(sentence, [len(text.split()) for text in instructions])
    if says(sentence, "character"):
        return ranked(sentence, [len(text) for text in instructions])
    if says(sentence, "odd") and says(sentence, "even"):
        odd_first = sentence.lower().index("odd") < sentence.lower().index("even")
        return sorted(numbers, key=lambda n: n % 2 != odd_first)
    return numbers_in(sentence) or None


def stated_mask(sentence: str, instructions: Sequence[str]) -> list[int]:
    """The numbers that a reader of the sentence would leave out."""
    numbers = range(1, len(instructions) + 1)
    if says(sentence, "longest|shortest"):
        [count] = numbers_in(sentence)
        by_length = sorted(numbers, key=lambda n: len(instructions[n - 1]))
        return by_length[-count:] if says(sentence, "longest") else by_length[:count]
    if says(sentence, "odd|even"):
        return [n for n in numbers if n % 2 == says(sentence, "odd")]
    return numbers_in(sentence)


def ranked(sentence: str, keys: Sequence[int] | Sequence[str]) -> list[int]:
    """Numbers by their keys, in the direction that the sentence states; equal ones as they were."""
    ranks = np.unique(np.array(keys), return_inverse=True)[1]
    descending = says(sentence, "z to a|most|decreasing|the more|fall")
    return [int(n) + 1 for n in np.argsort(-ranks if descending else ranks, kind="stable")]


def says(sentence: str, words: str) -> bool:
    return re.search(words, sentence, re.IGNORECASE) is not None


def numbers_in(sentence: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", sentence)]


def faults(messages: Sequence[Message], parents: Sequence[Example]) -> list[str]:
    """Everything that a reader would find wrong with a mosaic of these examples."""
    reading = read(messages)
    prompts = [parent.prompt for parent in parents]
    rules = [stated_answers(sentence, prompts) for sentence in reading.sentences]
    stated = [rule for rule in rules if rule is not None] or [list(range(1, len(parents) + 1))]
    begin, end = reading.marks[0]
    asked = [sentence for sentence in reading.sentences if begin in sentence and end in sentence]
    checks = {
        "instructions": reading.instructions == list(enumerate(prompts, 1)),
        "one rule": len(stated) == 1,
        "order or mask": [number for number, _ in reading.answers] == stated[0],
        "texts": all(text == parents[n - 1].response for n, text in reading.answers),
        "same marks": len(set(reading.marks)) == 1,
        "marks are asked for once": not begin or len(asked) == 1,
    }
    return [name for name, holds in checks.items() if not holds]
