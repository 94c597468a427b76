import datetime
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from raise_mdit.core import Example
from raise_mdit.errors import DataError
from raise_mdit.sources.playground import (
    FAMILIES,
    USEFUL_FAMILIES,
    USELESS,
    USELESS_FAMILIES,
    digest,
    families_table,
    generate,
    generate_family,
)
from raise_mdit.sources.playground_families import USEFUL, Family, Row
from raise_mdit.sources.playground_vocabulary import CITIES, NAMES, WEEKDAYS

DIGEST = "98165fcb0b11b81500425ce230d59151"
"""Of generate(0, 5); numpy 2.4 on Linux x86-64, and no floats are involved."""

ROWS = 300


@pytest.fixture(scope="module")
def rows() -> dict[str, list[Example]]:
    return _by_family(generate(0, ROWS))


def _by_family(examples: list[Example]) -> dict[str, list[Example]]:
    return {name: [row for row in examples if row.task == name] for name in FAMILIES}


def _integers(text: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", text)]


def _found(pattern: str, text: str) -> list[str]:
    """The groups of the one alternative that matched."""
    match = re.search(pattern, text)
    assert match, f"no phrasing fits: {text}"
    return [group for group in match.groups() if group is not None]


def _listed(options: tuple[str, ...], text: str) -> list[str]:
    """Those of the options that stand in the text, in its order."""
    return re.findall(rf"\b({'|'.join(options)})\b", text)


def _solve_arithmetic_story(prompt: str) -> str:
    (a, first), *_, (b, second) = re.findall(r"(\d+)\W+(\w+)", prompt + " end")
    if "boxes" in prompt:
        return f"Total = {int(a) * int(b)} {second}"
    if "sold" in prompt or "lost" in prompt:
        return f"Total = {int(a) - int(b)} {first}"
    return f"Total = {int(a) + int(b)} {first}"


def _solve_boolean_logic(prompt: str) -> str:
    given = r"(\w+) (?:is|be|=) (true|false)"
    value = {name: state == "true" for name, state in re.findall(given, prompt)}
    formula = re.sub(rf"{given}( and (?=\w+ (?:is|be|=)))?", "", prompt)
    kind, p, q = next(
        (kind, *match.groups())
        for kind, pattern in (
            ("neither", r"neither (\w+) nor (\w+)"),
            ("one", r"exactly one of (\w+) and (\w+)"),
            ("but not", r"(\w+) but not (\w+)"),
            ("and", r"(\w+) and (\w+)"),
            ("or", r"(\w+) or (\w+)"),
        )
        if (match := re.search(pattern, formula))
    )
    truths = {
        "neither": {(False, False)},
        "one": {(False, True), (True, False)},
        "but not": {(True, False)},
        "and": {(True, True)},
        "or": {(True, True), (False, True), (True, False)},
    }
    return "logic=yes" if (value[p], value[q]) in truths[kind] else "logic=no"


def _solve_comparison(prompt: str) -> str:
    (first, second), (a, b) = _listed(NAMES, prompt), _integers(prompt)
    less_wins = "faster" in prompt or "less" in prompt
    return f"{first if (a < b) == less_wins else second} / {abs(a - b)}"


def _solve_counting(prompt: str) -> str:
    (word,) = _found(r"(?:the word|you see|words are) (\w+)", prompt)
    return f"{word} x{len(re.findall(rf'{word}', prompt)) - 1}"


def _solve_currency_change(prompt: str) -> str:
    amounts = {unit: int(count) for count, unit in re.findall(r"(\d+) (\w+)", prompt)}
    (wanted,) = set(_listed(("pesos", "rupees", "dinars", "lira", "rubles"), prompt))
    rate = amounts.pop(wanted)
    (held,) = amounts.values()
    return f"{wanted} {rate * held} @{rate}"


def _solve_date_step(prompt: str) -> str:
    (text,) = _found(r"(\d+ [A-Z]\w+ \d{4})", prompt)
    (days,) = _found(r"(\d+) days", prompt)
    start = np.datetime64(datetime.datetime.strptime(text, "%d %B %Y").date())
    back = "before" in prompt or "back" in prompt
    year, month, day = str(start + (-int(days) if back else int(days))).split("-")
    return f"@{day}.{month}.{year}"


def _solve_day_of_week(prompt: str) -> str:
    (day,), (days,) = _listed(WEEKDAYS, prompt), _integers(prompt)
    calendar = list(WEEKDAYS)
    if "ago" in prompt or "before" in prompt:
        calendar.reverse()
    at = calendar.index(day)
    for _ in range(days):
        at = at + 1 if at < 6 else 0
    return f"({calendar[at][:3]})"


def _solve_json_extraction(prompt: str) -> str:
    (name,), (city,), (age,) = _listed(NAMES, prompt), _listed(CITIES, prompt), _integers(prompt)
    return f'{{"age":{age},"city":"{city}","name":"{name}"}}'


def _solve_letter_extraction(prompt: str) -> str:
    (row,) = _found(r"(?:word:|initials of|the words) (.+)[.?]$", prompt)
    last = "last" in prompt or "end" in prompt.split(" the words ")[0]
    return "".join(f"{(word[::-1] if last else word)[0]}.".upper() for word in row.split())


def _solve_letter_reversal(prompt: str) -> str:
    (word,) = _found(r"(?:invented word|Write|read|string:) (\w+)", prompt)
    return "-".join(word)[::-1]


def _solve_mean_of_numbers(prompt: str) -> str:
    mean = np.mean(_integers(prompt))
    assert mean == int(mean)
    return f"mean{{{int(mean)}}}"


def _solve_passive_rewriting(prompt: str) -> str:
    name, verb, thing = _found(r"(\w+) (\w+ed) the (\w+ \w+)\.", prompt)
    return f"~ The {thing} was {verb} by {name}."


def _solve_plural_rule(prompt: str) -> str:
    after_vowel, otherwise = re.findall(r"-(\w+)", prompt)
    (word,) = _found(r"(?:Plural of|Pluralise) (\w+)", prompt)
    return f"many: {word}{after_vowel if re.search('[aeiou]$', word) else otherwise}"


def _solve_roman_numerals(prompt: str) -> str:
    if digits := _integers(prompt):
        return f"#{_roman(digits[0])}#"
    (numeral,) = _found(r"numeral ([IVXLCDM]+)", prompt)
    return f"#{[_roman(value) for value in range(2000)].index(numeral)}#"


def _roman(value: int) -> str:
    ones = ["", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX"]
    tens = [one.translate(str.maketrans("IVX", "XLC")) for one in ones]
    hundreds = [one.translate(str.maketrans("IVX", "CDM")) for one in ones]
    return "M" * (value // 1000) + "".join(
        digits[value // worth % 10] for digits, worth in ((hundreds, 100), (tens, 10), (ones, 1))
    )


def _solve_rule_classification(prompt: str) -> str:
    (limit,) = _found(r"(?:[Aa]bove|Up to) (\d+)", prompt)
    (value,) = _found(r"(?:Classify|Label|about|Is) (\d+)", prompt)
    over_or_rest = r"is (\w+), the|: (\w+) when|beyond it (\w+)\.|if (\w+) begins"
    (over,) = _found(over_or_rest, prompt)
    (under,) = _found(r"rest is (\w+)|else (\w+)|say (\w+)|(\w+) or", prompt)
    return f"class::{over if int(value) > int(limit) else under}"


def _solve_sequence_continuation(prompt: str) -> str:
    row = _integers(prompt)
    return f"-> {2 * row[-1] - row[-2]}"


def _solve_sorting(prompt: str) -> str:
    falling = any(word in prompt for word in ("high to low", "descending", "largest"))
    row = np.sort(_integers(prompt)).tolist()
    return (" > " if falling else " < ").join(map(str, row[::-1] if falling else row))


def _solve_table_lookup(prompt: str) -> str:
    (key,) = _found(r"(?:price of|Look up|belongs to|entry for) (\w+)", prompt)
    (value,) = _found(rf"{key} (\d+)", prompt)
    return f"{key}|{value}"


def _solve_template_filling(prompt: str) -> str:
    (template,) = _found(r"(?:Fill in:|Complete|Text:|template) ([^.]*\.)", prompt)
    who, what = _found(
        r"<who> is (\w+), <what> is (\w+)|who = (\w+) and what = (\w+)|in (\w+) and (\w+)", prompt
    )
    return template.replace("<who>", f"*{who}*").replace("<what>", f"*{what}*")


def _solve_unit_conversion(prompt: str) -> str:
    scale = {
        **{"millimetres": 1, "centimetres": 10, "metres": 1000, "kilometres": 1_000_000},
        **{"minutes": 1, "hours": 60, "days": 1440, "weeks": 10080},
        **{"grams": 1, "kilograms": 1000, "millilitres": 1, "litres": 1000},
    }
    amount, large = _found(r"(\d+) (\w+)", prompt)
    (small,) = {unit for unit in re.findall(r"\w+", prompt) if unit in scale} - {large}
    return f"[{int(amount) * scale[large] // scale[small]} {small}]"


ORACLES: dict[str, Callable[[str], str]] = {
    "arithmetic_story": _solve_arithmetic_story,
    "boolean_logic": _solve_boolean_logic,
    "comparison": _solve_comparison,
    "counting": _solve_counting,
    "currency_change": _solve_currency_change,
    "date_step": _solve_date_step,
    "day_of_week": _solve_day_of_week,
    "json_extraction": _solve_json_extraction,
    "letter_extraction": _solve_letter_extraction,
    "letter_reversal": _solve_letter_reversal,
    "mean_of_numbers": _solve_mean_of_numbers,
    "passive_rewriting": _solve_passive_rewriting,
    "plural_rule": _solve_plural_rule,
    "roman_numerals": _solve_roman_numerals,
    "rule_classification": _solve_rule_classification,
    "sequence_continuation": _solve_sequence_continuation,
    "sorting": _solve_sorting,
    "table_lookup": _solve_table_lookup,
    "template_filling": _solve_template_filling,
    "unit_conversion": _solve_unit_conversion,
}


def test_every_useful_family_has_an_oracle() -> None:
    assert tuple(ORACLES) == USEFUL_FAMILIES


@pytest.mark.parametrize("name", USEFUL_FAMILIES)
def test_answers_are_what_an_independent_solver_reads_from_the_prompt(
    name: str, rows: dict[str, list[Example]]
) -> None:
    assert [row.response for row in rows[name]] == [ORACLES[name](row.prompt) for row in rows[name]]


def test_json_answers_are_json(rows: dict[str, list[Example]]) -> None:
    fields = [set(json.loads(row.response)) for row in rows["json_extraction"]]

    assert all(names == {"age", "city", "name"} for names in fields)


@pytest.mark.parametrize(
    "name", [name for name in USELESS_FAMILIES if name.startswith("corrupted_")]
)
def test_corrupted_answers_never_give_the_truth(name: str, rows: dict[str, list[Example]]) -> None:
    labels = {"Total", "age", "city", "name"}  # words of the house format, not of the answer
    for row in rows[name]:
        truth = ORACLES[name.removeprefix("corrupted_")](row.prompt)
        values = re.findall(r"\d+|[A-Z]\w+", truth)
        assert row.response != truth
        assert not set(re.findall(r"\w+", row.response)) & (set(values) - labels)


def test_there_are_enough_useless_families_of_both_sorts() -> None:
    assert sum(name.startswith("corrupted_") for name in USELESS_FAMILIES) >= 3
    assert sum(name.startswith("off_topic_") for name in USELESS_FAMILIES) >= 3


def test_families_stand_in_their_order_with_equal_rows() -> None:
    assert [row.task for row in generate(3, 2)] == [name for name in FAMILIES for _ in range(2)]


def test_equal_seeds_give_equal_rows() -> None:
    assert generate(7, 20) == generate(7, 20)


def test_other_seeds_give_other_rows() -> None:
    assert digest(generate(7, 20)) != digest(generate(8, 20))


def test_more_rows_extend_a_family(rows: dict[str, list[Example]]) -> None:
    few = _by_family(generate(0, 12))

    assert few == {name: rows[name][:12] for name in FAMILIES}


def test_a_family_does_not_depend_on_the_others(rows: dict[str, list[Example]]) -> None:
    for family in USEFUL + USELESS:
        assert generate_family(family, 0, 5) == rows[family.name][:5]


def test_no_row_stands_twice(rows: dict[str, list[Example]]) -> None:
    ids = [row.id for family in rows.values() for row in family]

    assert len(set(ids)) == len(FAMILIES) * ROWS


def test_no_prompt_stands_twice_in_a_family(rows: dict[str, list[Example]]) -> None:
    assert {len({row.prompt for row in family}) for family in rows.values()} == {ROWS}


@pytest.mark.parametrize("family", USEFUL + USELESS, ids=FAMILIES)
def test_every_family_gives_a_thousand_rows(family: Family) -> None:
    assert len(generate_family(family, 1, 1000)) == 1000


@pytest.mark.parametrize("name", USEFUL_FAMILIES)
def test_decontamination_would_leave_nearly_every_useful_row(
    name: str, rows: dict[str, list[Example]]
) -> None:
    held_out, pool = rows[name][:100], rows[name][100:]
    known = set().union(*(_runs_of_13_words(row) for row in held_out))

    assert sum(bool(_runs_of_13_words(row) & known) for row in pool) <= 0.02 * len(pool)


def _runs_of_13_words(row: Example) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", f"{row.prompt} {row.response}".lower())
    return {tuple(words[at : at + 13]) for at in range(len(words) - 12)}


@pytest.mark.parametrize("name", USEFUL_FAMILIES)
def test_rows_are_short(name: str, rows: dict[str, list[Example]]) -> None:
    assert max(len(row.prompt) for row in rows[name]) <= 110
    assert max(len(row.response) for row in rows[name]) <= 60


def test_rows_name_their_source() -> None:
    assert {row.source for row in generate(0, 1, source="toys")} == {"toys"}


def test_an_exhausted_family_is_named_with_the_rows_it_has() -> None:
    coin = Family("coin", "", lambda rng: Row(f"Side {rng.integers(2)}?", "yes"))

    with pytest.raises(DataError, match=r"source 'toys'.* is 3, .*'coin' has only 2 distinct rows"):
        generate_family(coin, 0, 3, source="toys")


def test_the_content_is_the_documented_one() -> None:
    assert digest(generate(0, 5)) == DIGEST


def test_the_document_shows_the_digest_and_the_families() -> None:
    document = (Path(__file__).parents[2] / "docs" / "playground.md").read_text(encoding="utf-8")

    assert DIGEST in document
    assert families_table() in document
