"""The useful families of the embedded data set: short tasks, each with one exact answer.

A family always answers in a house format of its own (``[3000 metres]``, ``plum x2``). A pretrained
model does not write it unasked but learns it from a few dozen rows, so training on the right family
shows on held-out rows of it and training on another family does not.

Phrasings keep fixed words in a row well below the 13 at which decontamination drops a pool row.
"""

from __future__ import annotations

import datetime
import operator
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from raise_mdit.candidates import canonical_json
from raise_mdit.sources.playground_vocabulary import (
    CITIES,
    LARGE,
    MEDIUM,
    MONTHS,
    NAMES,
    SMALL,
    THINGS,
    WEEKDAYS,
    WORDS,
    invented_word,
    number,
    pick,
    pick_distinct,
)


class Row(NamedTuple):
    """One task of a family."""

    prompt: str
    answer: str


Draw = Callable[[np.random.Generator], Row]


class Family(NamedTuple):
    """Tasks of one sort, drawn at random."""

    name: str
    what: str
    """One line for the documentation."""
    draw: Draw


def _arithmetic_story(rng: np.random.Generator) -> Row:
    phrasing, operation = pick(
        rng,
        ("{name} has {a} {things} and finds {b} more. How many are there now?", operator.add),
        ("A shop holds {a} {things}. {name} brings {b} more. How many now?", operator.add),
        ("{name} had {a} {things} and lost {b} of them. How many are left?", operator.sub),
        ("Out of {a} {things}, {name} sold {b}. How many remain?", operator.sub),
        ("{name} fills {b} boxes with {a} {things} each. How many in total?", operator.mul),
    )
    name, things = pick(rng, *NAMES), pick(rng, *THINGS)
    a, b = number(rng, MEDIUM, LARGE), number(rng, SMALL)
    prompt = phrasing.format(name=name, things=things, a=a, b=b)
    return Row(prompt, f"Total = {operation(a, b)} {things}")


def _unit_conversion(rng: np.random.Generator) -> Row:
    phrasing = pick(
        rng,
        "How many {small} are there in {amount} {large}?",
        "Please convert {amount} {large} to {small}.",
        "Express a quantity of {amount} {large} in {small}.",
        "{amount} {large} is the same as how many {small}?",
        "I have {amount} {large} here. What is that in {small}?",
    )
    large, small, factor = pick(
        rng,
        ("kilometres", "metres", 1000),
        ("metres", "centimetres", 100),
        ("centimetres", "millimetres", 10),
        ("hours", "minutes", 60),
        ("weeks", "days", 7),
        ("days", "hours", 24),
        ("kilograms", "grams", 1000),
        ("litres", "millilitres", 1000),
    )
    amount = number(rng, SMALL, MEDIUM, LARGE)
    prompt = phrasing.format(amount=amount, large=large, small=small)
    return Row(prompt, f"[{amount * factor} {small}]")


def _sorting(rng: np.random.Generator) -> Row:
    phrasing, mark = pick(
        rng,
        ("Sort these numbers from low to high: {numbers}.", " < "),
        ("Put {numbers} in ascending order.", " < "),
        ("Arrange {numbers} so that the smallest comes first.", " < "),
        ("Sort these numbers from high to low: {numbers}.", " > "),
        ("Put {numbers} in descending order.", " > "),
        ("Arrange {numbers} so that the largest comes first.", " > "),
    )
    low, high = pick(rng, (1, 30), (10, 99))
    numbers = pick_distinct(rng, range(low, high + 1), number(rng, (3, 5)))
    ordered = sorted(numbers, reverse=mark == " > ")
    prompt = phrasing.format(numbers=", ".join(map(str, numbers)))
    return Row(prompt, mark.join(map(str, ordered)))


def _counting(rng: np.random.Generator) -> Row:
    phrasing = pick(
        rng,
        "How often does the word {word} occur here: {row}?",
        "Count the word {word} in this list: {row}.",
        "In the list {row}, how many times do you see {word}?",
        "Read this: {row}. How many of these words are {word}?",
    )
    kinds = pick_distinct(rng, WORDS, 3)
    row = [*kinds, *(pick(rng, *kinds) for _ in range(number(rng, (2, 4), (4, 6))))]
    row = pick_distinct(rng, row, len(row))
    prompt = phrasing.format(word=kinds[0], row=" ".join(row))
    return Row(prompt, f"{kinds[0]} x{row.count(kinds[0])}")


def _date_step(rng: np.random.Generator) -> Row:
    phrasing, sign = pick(
        rng,
        ("What date comes {days} days after {date}?", 1),
        ("Start on {date} and go {days} days forward. What date is it?", 1),
        ("A parcel sent on {date} takes {days} days. When does it arrive?", 1),
        ("What date was {days} days before {date}?", -1),
        ("Start on {date} and go {days} days back. What date is it?", -1),
    )
    start = datetime.date(2001, 1, 1) + datetime.timedelta(days=number(rng, (0, 9999)))
    days = number(rng, SMALL, (10, 30), (31, 60))
    end = start + datetime.timedelta(days=sign * days)
    prompt = phrasing.format(days=days, date=f"{start.day} {MONTHS[start.month - 1]} {start.year}")
    return Row(prompt, f"@{end:%d.%m.%Y}")


def _json_extraction(rng: np.random.Generator) -> Row:
    phrasing = pick(
        rng,
        "Extract age, city and name as JSON: {name} is {age} and lives in {city}.",
        "Give me JSON with age, city, name. {name}, aged {age}, comes from {city}.",
        "Turn this into a JSON record: at {age}, {name} moved to {city}.",
        "JSON, please: in {city} I met {name}, who is {age} years old.",
    )
    fields = {"age": number(rng, (18, 39), (40, 89)), "city": pick(rng, *CITIES)}
    fields["name"] = pick(rng, *NAMES)
    return Row(phrasing.format(**fields), canonical_json(fields))


def _passive_rewriting(rng: np.random.Generator) -> Row:
    phrasing = pick(
        rng,
        "Rewrite in the passive voice: {name} {verb} the {thing}.",
        "Make this sentence passive. {name} {verb} the {thing}.",
        "Say the same in the passive: {name} {verb} the {thing}.",
        "Passive form, please: {name} {verb} the {thing}.",
    )
    verb = pick(
        rng,
        *("painted", "washed", "opened", "closed", "repaired", "moved", "cleaned", "dropped"),
        *("carried", "ordered", "returned", "borrowed", "covered", "counted"),
    )
    name, look = pick(rng, *NAMES), pick(rng, "old", "new", "red", "blue", "small", "large")
    thing = f"{look} {pick(rng, *THINGS).removesuffix('s')}"
    prompt = phrasing.format(name=name, verb=verb, thing=thing)
    return Row(prompt, f"~ The {thing} was {verb} by {name}.")


def _rule_classification(rng: np.random.Generator) -> Row:
    phrasing = pick(
        rng,
        "Above {limit} {unit} is {over}, the rest is {under}. Classify {value} {unit}.",
        "Label {value} {unit}: {over} when above {limit}, else {under}.",
        "Up to {limit} {unit} we say {under}, beyond it {over}. What about {value} {unit}?",
        "Is {value} {unit} {under} or {over}, if {over} begins above {limit}?",
    )
    over, under = pick_distinct(rng, ("red", "green", "blue", "gold", "black", "white"), 2)
    limit, gap = number(rng, (10, 50), (51, 200)), number(rng, (1, 9))
    value = limit + pick(rng, -1, 1) * gap
    unit = pick(rng, "kg", "metres", "litres", "points", "euros", "degrees")
    prompt = phrasing.format(limit=limit, value=value, over=over, under=under, unit=unit)
    return Row(prompt, f"class::{over if value > limit else under}")


def _letter_reversal(rng: np.random.Generator) -> Row:
    phrasing = pick(
        rng,
        "Spell the invented word {word} backwards.",
        "Write {word} with its letters in reverse order.",
        "What do you get when you read {word} from right to left?",
        "Reverse the letters of this string: {word}.",
    )
    word = invented_word(rng)
    return Row(phrasing.format(word=word), "-".join(reversed(word)))


def _comparison(rng: np.random.Generator) -> Row:
    phrasing, best = pick(
        rng,
        ("{first} scored {a} points and {second} scored {b}. Who scored more?", max),
        ("{first} is {a} cm tall, {second} is {b} cm. Who is taller?", max),
        ("{first} needed {a} seconds and {second} needed {b}. Who was faster?", min),
        ("{first} paid {a} euros, {second} paid {b}. Who paid less?", min),
    )
    first, second = pick_distinct(rng, NAMES, 2)
    a, gap = number(rng, (20, 99), LARGE), number(rng, (1, 9), (10, 19))
    b = a + pick(rng, -1, 1) * gap
    winner = first if best(a, b) == a else second
    prompt = phrasing.format(first=first, second=second, a=a, b=b)
    return Row(prompt, f"{winner} / {gap}")


def _sequence_continuation(rng: np.random.Generator) -> Row:
    phrasing = pick(
        rng,
        "Which number continues the sequence {row}?",
        "What comes next: {row}?",
        "Find the rule and give the next number after {row}.",
        "A counter shows {row}. What does it show after that?",
    )
    length, step = number(rng, (3, 5)), number(rng, SMALL, (10, 20)) * pick(rng, -1, 1)
    start = number(rng, MEDIUM, LARGE) + (0 if step > 0 else 100)
    row = [start + step * index for index in range(length)]
    return Row(phrasing.format(row=", ".join(map(str, row))), f"-> {start + step * length}")


def _letter_extraction(rng: np.random.Generator) -> Row:
    phrasing, index = pick(
        rng,
        ("Take the first letter of each word: {row}.", 0),
        ("What are the initials of {row}?", 0),
        ("Make an acronym from the words {row}.", 0),
        ("Take the last letter of each word: {row}.", -1),
        ("Which letters end the words {row}?", -1),
    )
    row = pick_distinct(rng, WORDS, number(rng, (3, 5)))
    letters = "".join(f"{word[index].upper()}." for word in row)
    return Row(phrasing.format(row=" ".join(row)), letters)


def _currency_change(rng: np.random.Generator) -> Row:
    phrasing = pick(
        rng,
        "One {held} buys {rate} {wanted}. How many {wanted} for {amount} {held}s?",
        "Change {amount} {held}s into {wanted} at {rate} {wanted} per {held}.",
        "At the bank a {held} is worth {rate} {wanted}. What do {amount} {held}s bring?",
        "I hold {amount} {held}s, each worth {rate} {wanted}. How many {wanted} is that?",
    )
    held = pick(rng, "crown", "dollar", "euro", "franc", "guilder", "pound")
    wanted = pick(rng, "pesos", "rupees", "dinars", "lira", "rubles")
    rate, amount = number(rng, SMALL, (10, 20)), number(rng, SMALL, MEDIUM)
    prompt = phrasing.format(held=held, wanted=wanted, rate=rate, amount=amount)
    return Row(prompt, f"{wanted} {rate * amount} @{rate}")


def _roman_numerals(rng: np.random.Generator) -> Row:
    phrasing, to_roman = pick(
        rng,
        ("How do you write {given} in Roman numerals?", True),
        ("Turn the number {given} into a Roman numeral.", True),
        ("A clockmaker wants to engrave {given} in Roman style. What does she engrave?", True),
        ("Which number is the Roman numeral {given}?", False),
        ("Read the Roman numeral {given} as an ordinary number.", False),
    )
    value = number(rng, (4, 99), (100, 399), (400, 1999))
    roman = _roman(value)
    given, answer = (value, roman) if to_roman else (roman, value)
    return Row(phrasing.format(given=given), f"#{answer}#")


def _roman(value: int) -> str:
    marks = ("M", "CM", "D", "CD", "C", "XC", "L", "XL", "X", "IX", "V", "IV", "I")
    worths = (1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1)
    text = ""
    for mark, worth in zip(marks, worths, strict=True):
        count, value = divmod(value, worth)
        text += mark * count
    return text


def _plural_rule(rng: np.random.Generator) -> Row:
    phrasing = pick(
        rng,
        "Plurals add -{after_vowel} after a vowel, otherwise -{otherwise}. Plural of {word}?",
        "Plural of {word}, if vowels take -{after_vowel} and consonants -{otherwise}?",
        "Words ending in a vowel get -{after_vowel}, others -{otherwise}. Pluralise {word}.",
        "Pluralise {word}: -{after_vowel} behind a vowel, -{otherwise} behind a consonant.",
    )
    after_vowel, otherwise = pick_distinct(rng, ("ka", "mo", "ne", "ti", "um", "esh", "ir"), 2)
    word = invented_word(rng)
    ending = after_vowel if word[-1] in "aeiou" else otherwise
    prompt = phrasing.format(word=word, after_vowel=after_vowel, otherwise=otherwise)
    return Row(prompt, f"many: {word}{ending}")


def _day_of_week(rng: np.random.Generator) -> Row:
    phrasing, sign = pick(
        rng,
        ("Today is {day}. Which day of the week is it in {days} days?", 1),
        ("{days} days after a {day}, what day of the week is it?", 1),
        ("It is {day} and the fair opens {days} days from now. On which day?", 1),
        ("Today is {day}. Which day of the week was it {days} days ago?", -1),
        ("What day of the week comes {days} days before a {day}?", -1),
    )
    start, days = int(rng.integers(7)), number(rng, SMALL, MEDIUM, LARGE)
    end = WEEKDAYS[(start + sign * days) % 7]
    return Row(phrasing.format(day=WEEKDAYS[start], days=days), f"({end[:3]})")


def _table_lookup(rng: np.random.Generator) -> Row:
    phrasing = pick(
        rng,
        "Price list: {table}. What is the price of {key}?",
        "Look up {key} in this table: {table}.",
        "Given {table}, which number belongs to {key}?",
        "From the table {table} read the entry for {key}.",
    )
    keys = pick_distinct(rng, WORDS, number(rng, (3, 4)))
    values = pick_distinct(rng, range(2, pick(rng, 20, 99)), len(keys))
    at = int(rng.integers(len(keys)))
    table = ", ".join(f"{key} {value}" for key, value in zip(keys, values, strict=True))
    return Row(phrasing.format(table=table, key=keys[at]), f"{keys[at]}|{values[at]}")


def _template_filling(rng: np.random.Generator) -> Row:
    phrasing = pick(
        rng,
        "Fill in: {template} <who> is {who}, <what> is {what}.",
        "Complete {template} Take who = {who} and what = {what}.",
        "Use the template {template} Set in {who} and {what}.",
        "Text: {template} Put in {who} and {what}.",
    )
    template = pick(
        rng,
        "Dear <who>, your <what> is ready.",
        "<who> has lost a <what> today.",
        "Please send the <what> to <who>.",
        "The <what> belongs to <who>.",
        "<who> asked about the <what>.",
    )
    who, what = invented_word(rng).capitalize(), pick(rng, *WORDS)
    answer = template.replace("<who>", f"*{who}*").replace("<what>", f"*{what}*")
    return Row(phrasing.format(template=template, who=who, what=what), answer)


def _boolean_logic(rng: np.random.Generator) -> Row:
    phrasing = pick(
        rng,
        "Suppose {p} is {p_is} and {q} is {q_is}. Does this hold: {formula}?",
        "Let {p} be {p_is} and {q} be {q_is}. Evaluate: {formula}.",
        "Given {p} = {p_is} and {q} = {q_is}, is it the case that {formula}?",
        "Check the claim '{formula}' when {p} is {p_is} and {q} is {q_is}.",
    )
    p, q = pick_distinct(rng, WORDS, 2)
    p_is, q_is = bool(rng.integers(2)), bool(rng.integers(2))
    formula, holds = pick(
        rng,
        ("{p} and {q}", p_is and q_is),
        ("{p} or {q}", p_is or q_is),
        ("{p} but not {q}", p_is and not q_is),
        ("neither {p} nor {q}", not (p_is or q_is)),
        ("exactly one of {p} and {q}", p_is != q_is),
    )
    states = {"p_is": str(p_is).lower(), "q_is": str(q_is).lower()}
    prompt = phrasing.format(p=p, q=q, formula=formula.format(p=p, q=q), **states)
    return Row(prompt, f"logic={'yes' if holds else 'no'}")


def _mean_of_numbers(rng: np.random.Generator) -> Row:
    phrasing = pick(
        rng,
        "What is the mean of {numbers}?",
        "Compute the average of the numbers {numbers}.",
        "Four or fewer measurements gave {numbers}. What is their mean?",
        "Add up {numbers} and divide by how many there are.",
    )
    (low, high), count = pick(rng, (1, 30), (10, 99)), number(rng, (2, 4))
    numbers = pick_distinct(rng, range(low, high + 1), count)
    while sum(numbers) % count:
        numbers = pick_distinct(rng, range(low, high + 1), count)
    prompt = phrasing.format(numbers=", ".join(map(str, numbers)))
    return Row(prompt, f"mean{{{sum(numbers) // count}}}")


USEFUL: tuple[Family, ...] = (
    Family("arithmetic_story", "one addition, subtraction or product in words", _arithmetic_story),
    Family("boolean_logic", "a claim about two truth values", _boolean_logic),
    Family("comparison", "who wins, and by how much", _comparison),
    Family("counting", "how often a word occurs in a list", _counting),
    Family("currency_change", "money changed at a stated rate", _currency_change),
    Family("date_step", "the date some days later or earlier", _date_step),
    Family("day_of_week", "the weekday some days later or earlier", _day_of_week),
    Family("json_extraction", "facts of a sentence as compact JSON", _json_extraction),
    Family("letter_extraction", "first or last letters of words", _letter_extraction),
    Family("letter_reversal", "an invented word spelled backwards", _letter_reversal),
    Family("mean_of_numbers", "the mean, always a whole number", _mean_of_numbers),
    Family("passive_rewriting", "an active sentence made passive", _passive_rewriting),
    Family("plural_rule", "a stated plural rule applied to an invented word", _plural_rule),
    Family("roman_numerals", "numbers to Roman numerals and back", _roman_numerals),
    Family("rule_classification", "a label by a stated threshold", _rule_classification),
    Family("sequence_continuation", "the next number of a progression", _sequence_continuation),
    Family("sorting", "numbers in ascending or descending order", _sorting),
    Family("table_lookup", "one entry of a small table", _table_lookup),
    Family("template_filling", "a template with its blanks filled in", _template_filling),
    Family("unit_conversion", "a quantity in a smaller unit", _unit_conversion),
)
"""In the order of their names."""
