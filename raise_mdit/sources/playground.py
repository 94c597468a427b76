"""The embedded data set: useful families of short tasks, and useless ones to be avoided.

Rows are generated, not stored. A family's rows depend on the seed and the family's name alone, and
asking for more rows extends a family without changing the rows before.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import partial

import numpy as np

from raise_mdit.candidates import content_hash, make_example
from raise_mdit.core import Example, Message
from raise_mdit.errors import DataError
from raise_mdit.sources.playground_families import USEFUL, Family, Row
from raise_mdit.sources.playground_vocabulary import (
    NAMES,
    WEEKDAYS,
    invented_word,
    number,
    pick,
    pick_distinct,
)

MAX_REDRAWS = 2000
"""Draws in a row that may repeat known prompts before a family counts as exhausted."""


def generate(seed: int, rows_per_family: int, *, source: str = "playground") -> list[Example]:
    """So many rows of every family, family by family in the order of :data:`FAMILIES`.

    Raises:
        DataError: A family has fewer distinct rows.
    """
    examples = [
        example
        for family in USEFUL + USELESS
        for example in generate_family(family, seed, rows_per_family, source=source)
    ]
    assert len({example.id for example in examples}) == len(examples), "families share rows"
    return examples


def generate_family(
    family: Family, seed: int, rows: int, *, source: str = "playground"
) -> list[Example]:
    """So many rows of one family, no prompt twice.

    Raises:
        DataError: The family has fewer distinct rows.
    """
    rng = _rng_of(family.name, seed)
    answers: dict[str, str] = {}
    redraws = 0
    while len(answers) < rows:
        row = family.draw(rng)
        redraws = redraws + 1 if row.prompt in answers else 0
        if redraws > MAX_REDRAWS:
            raise DataError(
                f"source {source!r}: rows_per_family is {rows}, but the family {family.name!r} "
                f"has only {len(answers)} distinct rows. Ask for {len(answers)} or fewer."
            )
        answers.setdefault(row.prompt, row.answer)
    return [
        make_example(
            source, (Message("user", prompt), Message("assistant", answer)), task=family.name
        )
        for prompt, answer in answers.items()
    ]


def digest(examples: Sequence[Example]) -> str:
    """Hash of the examples' ids in their order."""
    return content_hash([example.id for example in examples])


def families_table() -> str:
    """The families as a Markdown table, each with its first row under seed 0."""
    lines = ["| Family | What | Prompt | Answer |", "|---|---|---|---|"]
    for family in USEFUL + USELESS:
        example = generate_family(family, 0, 1)[0]
        answer = example.response.replace("|", "\\|")  # a bare bar would end the cell
        lines.append(f"| `{family.name}` | {family.what} | {example.prompt} | `{answer}` |")
    return "\n".join(lines)


def _rng_of(name: str, seed: int) -> np.random.Generator:
    """A generator for one family: it hangs on the name, so that other families do not matter."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(key,)))


def _corrupted(base: str, part: str, phrasings: Sequence[str]) -> Family:
    """A family's prompts with another row's answer, told in a rambling way.

    Wrong content in the right format would still teach the format, so a row contradicts both.

    Args:
        base: Name of the useful family that is spoilt.
        part: Pattern of the part of an answer that is taken; rows where it is equal count as right.
        phrasings: What the part is put into.
    """
    family = next(family for family in USEFUL if family.name == base)
    draw = partial(_draw_corrupted, family=family, part=re.compile(part), phrasings=phrasings)
    return Family(f"corrupted_{base}", f"`{base}` with wrong answers, in no house format", draw)


def _draw_corrupted(
    rng: np.random.Generator,
    *,
    family: Family,
    part: re.Pattern[str],
    phrasings: Sequence[str],
) -> Row:
    prompt, truth = family.draw(rng)
    right = part.findall(truth)
    wrong = right
    while set(wrong) & set(right):
        wrong = part.findall(family.draw(rng).answer)
    return Row(prompt, pick(rng, *phrasings).format(*wrong))


def _chatter(rng: np.random.Generator) -> Row:
    topic = pick(
        rng,
        *("the rain", "that song", "the new cafe", "my neighbour's dog", "the old sofa"),
        *("this traffic", "the long queue", "last night's film", "the office plant"),
    )
    opener = pick(rng, "Honestly", "You know", "Well", "Anyway", "By the way", "Oh dear", "Hm")
    remark = pick(
        rng,
        *("never seems to end", "made me smile again", "is all anyone talks about"),
        *("reminds me of summer", "keeps me up at night", "deserves a holiday"),
    )
    reply = pick(
        rng,
        *("Ha, tell me about it, I nearly cried", "Oh well, such is life, I suppose"),
        *("Yes and no, but mostly yes", "My aunt always says the same"),
        *("Funny, I was just humming about that", "Sure, sure, but have you eaten"),
    )
    asides = ("!", "...", ", my friend!", ", as they say.", ", haha.", ", bless you.")
    prompt = f"{opener}, {pick(rng, *NAMES)}, {topic} {remark}."
    return Row(prompt, reply + pick(rng, *asides))


def _gibberish(rng: np.random.Generator) -> Row:
    opener = pick(rng, "List:", "Again and again:", "Notes,", "Please", "So")
    words = [invented_word(rng) for _ in range(number(rng, (4, 7)))]
    echo = [invented_word(rng) for _ in range(number(rng, (2, 4)))]
    return Row(f"{opener} {', '.join(words)}.", " ".join(echo))


def _horoscope(rng: np.random.Generator) -> Row:
    phrasing = pick(
        rng,
        "I was born on a {day} under {sign}. What should I expect around the {date}th?",
        "Horoscope for {sign}, {day} the {date}th?",
        "What do the stars say to {sign} on {day} the {date}th?",
        "Will {day} the {date}th be kind to {sign}?",
    )
    sign = pick(
        rng,
        *("Aries", "Taurus", "Gemini", "Cancer", "Leo", "Virgo"),
        *("Libra", "Scorpio", "Sagittarius", "Capricorn", "Aquarius", "Pisces"),
    )
    fortune = pick(
        rng,
        *("A stranger brings welcome news", "Patience opens a quiet door"),
        *("Trust the colour of the evening", "An old letter finds you"),
        *("Guard your heart near water", "Small steps lead to large rooms"),
    )
    prompt = phrasing.format(sign=sign, day=pick(rng, *WEEKDAYS), date=number(rng, (4, 20)))
    return Row(prompt, f"{fortune} near {pick(rng, 'dawn', 'noon', 'dusk', 'midnight')}.")


def _products(rng: np.random.Generator) -> Row:
    phrasing = pick(
        rng,
        "Tell me about the {maker} {product} {model}.",
        "Write a line for our {product} {model} by {maker}.",
        "Why should I buy a {maker} {product}, model {model}?",
        "Advertise this: {product} {model} from {maker}.",
    )
    product = pick(rng, "toaster", "backpack", "headset", "blender", "umbrella", "kettle", "tent")
    first, second = pick_distinct(
        rng,
        (
            *("bold by nature", "made for mornings", "built to last", "light as air"),
            *("loved by millions", "now in teal", "quiet when it counts"),
        ),
        2,
    )
    maker, model = invented_word(rng).capitalize(), number(rng, (10, 99), (100, 999))
    prompt = phrasing.format(maker=maker, product=product, model=model)
    return Row(prompt, f"{first.capitalize()}, {second}!")


USELESS: tuple[Family, ...] = (
    _corrupted(
        "arithmetic_story",
        r"\d+",
        ("Roughly {}, but who counts?", "Maybe {}, I lost track.", "Oh, some {} of them."),
    ),
    _corrupted(
        "day_of_week",
        r"\w+",
        ("It could be {}, could it not?", "Hm, {} rings a bell.", "My calendar says {}, I think."),
    ),
    _corrupted(
        "json_extraction",
        r'"(?:city|name)":"(\w+)"',
        ("Something about {0}, perhaps {1}.", "I only remember {1} and {0}.", "Was it {0} or {1}?"),
    ),
    _corrupted(
        "unit_conversion",
        r"\d+",
        ("I would guess {} or so.", "It feels like {} of those.", "Not sure, say {}?"),
    ),
    Family("off_topic_chatter", "small talk without a task", _chatter),
    Family("off_topic_gibberish", "lists of invented words, answered by more", _gibberish),
    Family("off_topic_horoscopes", "fortunes drawn without regard to the question", _horoscope),
    Family("off_topic_products", "advertisements of products that do not exist", _products),
)
"""In the order of their names."""

USEFUL_FAMILIES: tuple[str, ...] = tuple(family.name for family in USEFUL)
USELESS_FAMILIES: tuple[str, ...] = tuple(family.name for family in USELESS)
FAMILIES: tuple[str, ...] = USEFUL_FAMILIES + USELESS_FAMILIES
