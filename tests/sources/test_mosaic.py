"""Which mosaics are composed, and how each is written; laws of their text are in another file."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from raise_mdit.candidates import Mosaic, Strategy, canonical_json, make_example
from raise_mdit.config import MosaicConfig, SizeDistribution
from raise_mdit.core import Example, Message, Role
from raise_mdit.encoding import SpecialTokens
from raise_mdit.errors import ConfigError
from raise_mdit.sources.draws import Draws
from raise_mdit.sources.mosaic import Composed, Composer, MosaicReport
from raise_mdit.sources.mosaic_choices import Instruction, numbers_in_order
from raise_mdit.sources.mosaic_grouping import pass_order, task_of
from raise_mdit.sources.mosaic_rendering import render, render_pieces
from raise_mdit.sources.mosaic_sizes import mosaic_sizes
from raise_mdit.sources.mosaic_wording import MASKS, ORDERS, OWN_WORDING, load_wording, wording_of

WORDING = load_wording()
THIRDS: Mapping[Strategy, float] = {"format": 1.0, "permute": 1.0, "maskout": 1.0}
ALL: Mapping[Strategy, float] = {**THIRDS, "primary": 1.0, "permute_maskout": 1.0, "turns": 1.0}
PILING: tuple[SizeDistribution, ...] = ("exponential", "pareto", "log_normal", "logistic")
NO_LIMIT = 100_000

Turns = Sequence[tuple[Role, Sequence[str]]]

# --- What the tests compose.


def words_in(turns: Turns) -> tuple[int, int]:
    """Words of a conversation, and of its responses."""
    words = [len("".join(pieces).split()) for _, pieces in turns]
    return sum(words), sum(words[1::2])


def words_of(each: Example) -> int:
    return words_in([(message.role, [message.content]) for message in each.messages])[0]


def composer_of(
    examples: Sequence[Example],
    *,
    max_length: int = NO_LIMIT,
    strategies: Mapping[Strategy, float] = THIRDS,
    count_tokens: Callable[[Example], int] = words_of,
    count_rendered: Callable[[Turns], tuple[int, int]] = words_in,
    embeddings: NDArray[np.float32] | None = None,
    **options: Any,
) -> Composer:
    return Composer(
        examples,
        settings=MosaicConfig(strategies=dict(strategies), **options),
        max_length=max_length,
        count_tokens=count_tokens,
        count_rendered=count_rendered,
        wording=WORDING,
        embeddings=embeddings,
    )


def composed(
    examples: Sequence[Example], *, seed: int = 0, passes: int = 1, **options: Any
) -> tuple[list[Composed], MosaicReport]:
    """Mosaics and their report."""
    composer = composer_of(examples, **options)
    return list(composer.compose(passes, np.random.default_rng(seed))), composer.report


def recipes_of(examples: Sequence[Example], **options: Any) -> list[Mosaic]:
    return [each.recipe for each in composed(examples, **options)[0]]


def example(
    prompt: str, response: str, *, source: str = "test", task: str | None = None
) -> Example:
    turns = [Message("user", prompt), Message("assistant", response)]
    return make_example(source, turns, task=task)


def by_id(examples: Sequence[Example]) -> dict[str, Example]:
    return {each.id: each for each in examples}


def many(count: int, seed: int = 0) -> list[Example]:
    rng = np.random.default_rng(seed)
    letters = rng.choice(list("abc d\n"), (2 * count + 40, 24))
    texts = sorted({"".join(row).strip() for row in letters})
    pairs = zip(texts[:count], texts[::-1], strict=False)
    return [example(prompt, response) for prompt, response in pairs]


words = st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=6)
texts = st.builds(lambda parts, gap: gap.join(parts), words, st.sampled_from([" ", "\n", "\n\n"]))
corpora = st.lists(
    st.builds(example, texts, texts), min_size=1, max_size=16, unique_by=lambda each: each.id
)
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=60, deadline=None)


# --- Every example once, within the limit.


@quick
@given(corpora, seeds, st.integers(1, 3), st.integers(4, 80), st.sampled_from(["uniform", "fill"]))
def test_a_pass_uses_or_reports_each_example_once(
    examples: list[Example], seed: int, passes: int, max_length: int, sizes: str
) -> None:
    mosaics, report = composed(
        examples, seed=seed, passes=passes, max_length=max_length, sizes=sizes, strategies=ALL
    )
    uses = Counter(key for each in mosaics for key in each.recipe.examples)
    uses.update(report.left_out)
    assert uses == {each.id: passes for each in examples}


@quick
@given(corpora, seeds, st.integers(4, 80), st.sampled_from([0, 1, 50]))
def test_a_mosaic_keeps_the_limit_whatever_was_planned(
    examples: list[Example], seed: int, max_length: int, planned: int
) -> None:
    mosaics, _ = composed(
        examples,
        seed=seed,
        max_length=max_length,
        strategies=ALL,
        count_tokens=lambda each: planned,
    )
    for each in mosaics:
        pieces = render_pieces(each.recipe, by_id(examples), WORDING)
        assert words_in(pieces) == (each.num_tokens, each.num_response_tokens)
        assert each.num_tokens <= max_length


@pytest.mark.parametrize(("sizes", "largest"), [("fill", 1), ("fixed", 9)])
def test_a_mosaic_stops_only_where_the_next_would_not_fit(sizes: str, largest: int) -> None:
    examples = many(300)
    known = by_id(examples)
    mosaics, report = composed(
        examples,
        sizes=sizes,
        max_instructions=largest,
        max_length=40,
        strategies={"primary": 1.0},
    )
    taken = [each.recipe.examples for each in mosaics]
    stopped = [(a, b) for a, b in pairwise(taken) if sizes == "fill" or len(a) < largest]
    assert len(stopped) > 20
    for here, after in stopped:
        assert sum(words_of(known[key]) for key in (*here, after[0])) > 40
    assert report.num_left_out == 0


def test_room_that_an_overestimate_left_is_used() -> None:
    examples = many(200)
    known = by_id(examples)
    excess = 5
    mosaics, _ = composed(
        examples,
        sizes="fill",
        max_length=60,
        strategies={"primary": 1.0},
        count_tokens=lambda each: words_of(each) + excess,
    )
    taken = [each.recipe.examples for each in mosaics]
    for here, after in pairwise(taken):
        assert sum(words_of(known[key]) for key in (*here, after[0])) + excess > 60


def test_an_example_too_long_alone_is_reported_in_each_pass() -> None:
    long = example("a " * 50, "b")
    _, report = composed([example("a", "b"), long], passes=2, max_length=40)
    assert report.left_out == (long.id, long.id)
    assert report.num_left_out == 2
    assert report.num_given_back <= 2


def test_what_does_not_fit_is_given_back() -> None:
    _, report = composed(many(100), max_length=40, count_tokens=lambda each: 0)
    assert report.num_given_back > 0
    assert report.num_left_out == 0


def test_nothing_is_given_back_by_an_example_alone() -> None:
    _, report = composed([example("a " * 50, "b")], max_length=40)
    assert (report.num_given_back, report.num_left_out) == (0, 1)


@pytest.mark.parametrize("seed", range(20))
def test_a_sentence_never_costs_a_single_example_its_place(seed: int) -> None:
    only = example("a " * 6, "b")  # 7 words and a tag of at most 2, said twice
    assert composed([only], seed=seed, max_length=11)[1].num_left_out == 0


def test_few_mosaics_are_written_more_than_once_near_the_limit() -> None:
    calls = 0

    def counted(turns: Turns) -> tuple[int, int]:
        nonlocal calls
        calls += 1
        return words_in(turns)

    composer = composer_of(
        many(2000),
        sizes="fill",
        max_length=60,
        strategies={"primary": 1.0, "turns": 1.0},
        count_rendered=counted,
    )
    num_mosaics = len(list(composer.compose(1, np.random.default_rng(0))))
    assert calls < 1.1 * num_mosaics


# --- Same seed, one after the other.


@pytest.mark.parametrize("grouping", ["random", "task", "similar"])
def test_the_same_seed_gives_the_same_mosaics_in_any_order_of_examples(grouping: str) -> None:
    examples = many(60)
    rows = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
    first = composed(examples, grouping=grouping, embeddings=rows, strategies=ALL)
    second = composed(examples[::-1], grouping=grouping, embeddings=rows[::-1], strategies=ALL)
    assert first == second
    other = composed(examples, grouping=grouping, embeddings=rows, strategies=ALL, seed=1)
    assert first[0] != other[0]


def test_mosaics_come_before_their_pass_is_over() -> None:
    composer = composer_of(many(500))
    mosaics = composer.compose(2, np.random.default_rng(0))
    next(mosaics)
    assert (composer.report.num_mosaics, composer.report.num_passes) == (1, 0)
    list(mosaics)
    assert composer.report.num_passes == 2


def test_a_report_adds_up_over_all_that_was_composed() -> None:
    examples = many(300)
    composer = composer_of(examples, strategies=ALL, max_length=80)
    mosaics = [each for seed in (0, 1) for each in composer.compose(1, np.random.default_rng(seed))]
    report = composer.report
    recipes = [each.recipe for each in mosaics]
    assert report.num_examples == 300
    assert report.num_passes == 2
    assert report.num_mosaics == len(mosaics)
    assert report.num_by_size == Counter(len(recipe.examples) for recipe in recipes)
    assert report.num_by_strategy == Counter(recipe.strategy for recipe in recipes)
    assert report.num_tokens == sum(each.num_tokens for each in mosaics)
    assert report.num_response_tokens == sum(each.num_response_tokens for each in mosaics)
    texts_there = sum(len(recipe.choices.get("answers", recipe.examples)) for recipe in recipes)
    assert report.num_masked == 600 - report.num_left_out - texts_there > 0


def test_prompts_are_joined_once_and_are_the_same_object_in_every_mosaic() -> None:
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    chat = make_example("test", [Message(role, text) for role, text in turns])  # type: ignore[arg-type]  # literals as str
    seen: list[str] = []

    def noted(turns: Turns) -> tuple[int, int]:
        seen.extend(piece for _, pieces in turns for piece in pieces if piece == "a\nb\nc")
        return words_in(turns)

    composer = composer_of([chat], count_rendered=noted)
    list(composer.compose(3, np.random.default_rng(0)))
    assert len(seen) == 3
    assert len({id(piece) for piece in seen}) == 1


# --- How many instructions.


def sizes_drawn(distribution: SizeDistribution, largest: int, count: int) -> list[int | None]:
    rng = np.random.default_rng(0)
    return list(islice(mosaic_sizes(distribution, largest=largest, rng=rng), count))


def test_uniform_sizes_are_equally_frequent() -> None:
    frequencies = Counter(sizes_drawn("uniform", 10, 20_000))
    assert sorted(map(int, filter(None, frequencies))) == list(range(1, 11))
    assert all(abs(n - 2000) < 4 * math.sqrt(1800) for n in frequencies.values())  # 4 sigma


def test_fixed_sizes_are_the_largest_and_fill_has_none() -> None:
    assert set(sizes_drawn("fixed", 7, 10)) == {7}
    assert set(sizes_drawn("fill", 7, 10)) == {None}


@pytest.mark.parametrize(
    ("distribution", "share_of_largest", "share_up_to_half"),
    [  # closed forms: a draw below 2, a draw of 6 or more
        ("exponential", 1 - math.exp(-1 / 2), math.exp(-5 / 2)),
        ("pareto", 1 - 2**-1.16, 6**-1.16),
        ("log_normal", 0.5, math.erfc(math.log(3) / 0.75 / math.sqrt(2)) / 2),
        ("logistic", 0.5, 1 / (1 + math.exp(4))),
    ],
)
def test_sizes_pile_up_near_the_largest(
    distribution: SizeDistribution, share_of_largest: float, share_up_to_half: float
) -> None:
    sizes = np.array(sizes_drawn(distribution, 10, 20_000))
    assert set(sizes.tolist()) == set(range(1, 11))
    assert Counter(sizes.tolist()).most_common(1)[0][0] == 10
    assert sizes.mean() > 7
    assert (sizes == 10).mean() == pytest.approx(share_of_largest, abs=0.015)
    assert (sizes <= 5).mean() == pytest.approx(share_up_to_half, abs=0.008)


@pytest.mark.parametrize("distribution", ["uniform", "fixed", *PILING])
def test_one_is_the_only_size_up_to_one(distribution: SizeDistribution) -> None:
    assert set(sizes_drawn(distribution, 1, 3000)) == {1}


@pytest.mark.parametrize("distribution", ["uniform", "fixed", *PILING])
def test_without_a_limit_mosaics_have_the_sizes_drawn(distribution: SizeDistribution) -> None:
    recipes = recipes_of(many(500), sizes=distribution, max_instructions=6)
    taken = [len(recipe.examples) for recipe in recipes]
    assert max(taken) == 6
    assert distribution != "fixed" or set(taken[:-1]) == {6}


# --- Who stands together.


def test_a_mosaic_of_a_task_holds_no_other() -> None:
    examples = [
        example(f"a{i}", f"b{i}", source="xy"[i % 2], task=None if i % 3 else "math")
        for i in range(120)
    ]
    known = by_id(examples)
    recipes = recipes_of(examples, grouping="task", max_instructions=8)
    kinds = [{task_of(known[key]) for key in recipe.examples} for recipe in recipes]
    assert {len(each) for each in kinds} == {1}
    assert set.union(*kinds) == {("task", "math"), ("source", "x"), ("source", "y")}


@pytest.mark.parametrize("grouping", ["random", "task", "similar"])
def test_a_pass_offers_each_example_once(grouping: Any) -> None:
    examples = [example(f"a{i}", "b", task=str(i % 7)) for i in range(200)]
    rows = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)
    rng = np.random.default_rng(1)
    first, second = (
        np.concatenate(list(pass_order(grouping, examples, embeddings=rows, rng=rng)))
        for _ in range(2)
    )
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(200))
    assert first.tolist() != second.tolist()


def test_similar_examples_stand_together() -> None:
    rng = np.random.default_rng(0)
    examples = many(1000)
    centres = np.eye(20, 32)[rng.integers(20, size=1000)]
    rows = (centres + 0.1 * rng.standard_normal((1000, 32))).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    row_of = {each.id: row for each, row in zip(examples, rows, strict=True)}

    def closeness(grouping: str) -> float:
        recipes = recipes_of(examples, grouping=grouping, embeddings=rows, max_instructions=6)
        stacks = [np.stack([row_of[key] for key in recipe.examples]) for recipe in recipes]
        return float(np.mean([(rows @ rows.T).mean() for rows in stacks if len(rows) > 1]))

    assert closeness("similar") > 0.7 > 0.5 > closeness("random")


# --- Which strategy.


def test_strategies_are_drawn_by_weight() -> None:
    weights: dict[Strategy, float] = {"maskout": 3.0, "primary": 1.0, "permute": 0.0}
    recipes = recipes_of(many(6000), strategies=weights)
    several = [recipe.strategy for recipe in recipes if len(recipe.examples) > 1]
    assert set(several) == {"maskout", "primary"}
    assert several.count("maskout") / len(several) == pytest.approx(0.75, abs=0.06)


@pytest.mark.parametrize("strategy", ["permute", "maskout", "permute_maskout"])
def test_one_instruction_is_format_only(strategy: Strategy) -> None:
    weights: dict[Strategy, float] = {strategy: 1.0, "primary": 1.0, "turns": 1.0}
    recipes = recipes_of(many(100), strategies=weights, max_instructions=2)
    alone = [recipe for recipe in recipes if len(recipe.examples) == 1]
    assert len(alone) > 20
    assert {recipe.strategy for recipe in alone} == {"format"}
    assert all(recipe.choices["rules"] == [] for recipe in alone)


@pytest.mark.parametrize("strategy", ["primary", "turns"])
def test_what_has_no_tags_stays_so_for_one(strategy: Strategy) -> None:
    (recipe,) = recipes_of([example("a", "b")], strategies={strategy: 1.0, "format": 0.0})
    assert (recipe.strategy, recipe.choices) == (strategy, {})


def test_equal_lengths_leave_no_longest_and_no_shortest() -> None:
    examples = [example(first + "x", first + str(i)) for i, first in enumerate("abcdefghij" * 20)]
    recipes = recipes_of(examples, strategies={"maskout": 1.0})
    names = {r.choices["rules"][0]["name"] for r in recipes if r.strategy == "maskout"}
    assert names == {"listed", "odd", "even"}


def test_every_order_mask_and_sentence_comes_up() -> None:
    recipes = recipes_of(many(6000), max_instructions=3, strategies={"permute_maskout": 1.0})
    seen = {
        (rule["masks"], rule["name"], rule["index"])
        for recipe in recipes
        for rule in recipe.choices["rules"]
    }
    possible = {
        (masks, name, index)
        for masks, names in ((False, ORDERS), (True, MASKS))
        for name in names
        for index in range(len(WORDING.rule_sentences(name, masks=masks)))
    }
    assert seen == possible


def test_a_mask_and_an_order_leave_some_in_that_order() -> None:
    examples = many(2000)
    known = by_id(examples)
    recipes = recipes_of(examples, strategies={"permute_maskout": 1.0}, max_instructions=8)
    several = [recipe for recipe in recipes if len(recipe.examples) > 1]
    assert len(several) > 200
    for recipe in several:
        mask, order = recipe.choices["rules"]
        answers = recipe.choices["answers"]
        assert (mask["masks"], order["masks"]) == (True, False)
        assert 0 < len(answers) < len(recipe.examples)
        if order["name"] == "listed":
            user = render(recipe, known, WORDING)[0].content
            assert WORDING.lists[order["list_shape"]].text(answers) in user
        else:
            prompts = [Instruction.of(known[key].prompt) for key in recipe.examples]
            assert answers == numbers_in_order(order["name"], prompts, sorted(answers))
        if mask["name"] in ("odd", "even"):
            assert order["name"] not in ("odd_then_even", "even_then_odd")


@pytest.mark.parametrize(
    ("order", "numbers"),
    [
        ("reverse", [5, 4, 2, 1]),
        ("alphabetical", [2, 4, 1, 5]),
        ("reverse_alphabetical", [5, 1, 2, 4]),  # equal ones as they stand
        ("fewest_words", [2, 4, 5, 1]),
        ("most_words", [1, 5, 2, 4]),
        ("fewest_characters", [2, 4, 1, 5]),
        ("most_characters", [5, 1, 2, 4]),
        ("odd_then_even", [1, 5, 2, 4]),
        ("even_then_odd", [2, 4, 1, 5]),
    ],
)
def test_numbers_are_put_in_order_as_by_hand(order: Any, numbers: list[int]) -> None:
    prompts = ["b b b", "A", "masked", "a", "c cccccc"]
    assert numbers_in_order(order, list(map(Instruction.of, prompts)), [1, 2, 4, 5]) == numbers


# --- How it is written.


def letters(text: str) -> list[Example]:
    return [example(letter, letter.upper()) for letter in text]


def recipe_of(examples: Sequence[Example], strategy: Strategy, **choices: Any) -> Mosaic:
    return Mosaic(tuple(each.id for each in examples), strategy, choices)


def test_primary_is_plain_concatenation() -> None:
    examples = letters("ca")
    expected = (("user", "c\n\na"), ("assistant", "C\n\nA"))
    assert render(recipe_of(examples, "primary"), by_id(examples), WORDING) == expected


def test_turns_are_one_conversation_without_additions() -> None:
    turns = [("system", "s"), ("user", "x"), ("assistant", "y"), ("user", "z")]
    messages = [Message(role, text) for role, text in turns]  # type: ignore[arg-type]  # literals as str
    chat = make_example("test", [*messages, Message("assistant", "last")])
    examples = [*letters("ca"), chat]
    assert render(recipe_of(examples, "turns"), by_id(examples), WORDING) == (
        ("user", "c"),
        ("assistant", "C"),
        ("user", "a"),
        ("assistant", "A"),
        ("user", "s\nx\ny\nz"),
        ("assistant", "last"),
    )


def test_a_mask_and_an_order_are_both_stated() -> None:
    examples = letters("abcd")
    recipe = recipe_of(
        examples,
        "permute_maskout",
        wording=WORDING.fingerprint,
        tag=WORDING.tags.index("[{n}]"),
        punctuation=WORDING.punctuation.index("."),
        new_line=False,
        marks=None,
        sentence={"index": 0, "at": "before"},
        rules=[
            {"index": 0, "at": "before", "name": "odd", "masks": True, "list_shape": None},
            {"index": 0, "at": "before", "name": "listed", "masks": False, "list_shape": 3},
        ],
        answers=[4, 2],
    )
    assert render(recipe, by_id(examples), WORDING) == (
        (
            "user",
            "Respond in this sequence of numbers: [4, 2].\n\n"
            "Skip each instruction whose number is odd.\n\n"
            "Respond to each instruction under its own number.\n\n"
            "[1]. a\n\n[2]. b\n\n[3]. c\n\n[4]. d",
        ),
        ("assistant", "[4]. D\n\n[2]. B"),
    )


def test_a_listed_mask_names_the_masked_and_stands_outside_the_marks_sentence() -> None:
    examples = letters("abc")
    recipe = recipe_of(
        examples,
        "maskout",
        wording=WORDING.fingerprint,
        tag=WORDING.tags.index("{n})"),
        punctuation=WORDING.punctuation.index(""),
        new_line=True,
        marks={"bracket": WORDING.brackets.index(("[", "]")), "words": 0, "lower": True},
        sentence={"index": 0, "at": "after"},
        rules=[{"index": 0, "at": "after", "name": "listed", "masks": True, "list_shape": 0}],
        answers=[2],
    )
    assert render(recipe, by_id(examples), WORDING) == (
        (
            "user",
            "1)\na\n\n2)\nb\n\n3)\nc\n\n"
            "Put [begin] in front of every response and [end] behind it.\n\n"
            "Skip the instructions with these numbers: 1, 3.",
        ),
        ("assistant", "2)\n[begin] B [end]"),
    )


def test_pieces_join_to_the_text_and_hold_the_examples_own_strings() -> None:
    examples = many(300)
    known = by_id(examples)
    for recipe in recipes_of(examples, strategies=ALL):
        turns = render_pieces(recipe, known, WORDING)
        joined = tuple(Message(role, "".join(pieces)) for role, pieces in turns)
        assert joined == render(recipe, known, WORDING)
        there = {id(piece) for _, pieces in turns for piece in pieces}
        answers = recipe.choices.get("answers", range(1, len(recipe.examples) + 1))
        assert {id(known[key].messages[0].content) for key in recipe.examples} <= there
        assert {id(known[recipe.examples[n - 1]].response) for n in answers} <= there


def test_tags_marks_and_blank_lines_are_pieces_of_their_own() -> None:
    examples = letters("ab")
    recipe = recipe_of(
        examples,
        "format",
        wording=WORDING.fingerprint,
        tag=WORDING.tags.index("[{n}]"),
        punctuation=WORDING.punctuation.index("."),
        new_line=False,
        marks={"bracket": 0, "words": 0, "lower": False},
        sentence={"index": 0, "at": "after"},
        rules=[],
        answers=[1, 2],
    )
    sentence = "Put (BEGIN) in front of every response and (END) behind it."
    user = ["[1]. ", "a", "\n\n", "[2]. ", "b", "\n\n", sentence]
    first = ["[1]. ", "(BEGIN) ", "A", " (END)"]
    second = ["[2]. ", "(BEGIN) ", "B", " (END)"]
    expected = [("user", user), ("assistant", [*first, "\n\n", *second])]
    assert render_pieces(recipe, by_id(examples), WORDING) == expected


def test_a_recipe_read_back_from_json_renders_alike() -> None:
    examples = many(60)
    known = by_id(examples)
    for recipe in recipes_of(examples, strategies=ALL):
        fields = json.loads(canonical_json(asdict(recipe)))
        again = Mosaic(**{**fields, "examples": tuple(fields["examples"])})
        assert again == recipe
        assert render(again, known, WORDING) == render(recipe, known, WORDING)


def test_a_conversation_gives_its_last_turn_as_response() -> None:
    turns = [("system", "be brief"), ("user", "a"), ("assistant", "b"), ("user", "c")]
    messages = [Message(role, text) for role, text in turns]  # type: ignore[arg-type]  # literals as str
    chat = make_example("test", [*messages, Message("assistant", "d")])
    recipe = Mosaic((chat.id,), "primary", {})
    expected = (("user", "be brief\na\nb\nc"), ("assistant", "d"))
    assert render(recipe, {chat.id: chat}, WORDING) == expected


def test_marks_of_code_stand_on_lines_of_their_own() -> None:
    code = example("a", "```\nb\n```")
    recipes = [recipes_of([code], seed=seed)[0] for seed in range(20)]
    written = [render(recipe, by_id([code]), WORDING)[1].content for recipe in recipes]
    marked = [text for text in written if not text.endswith("```")]
    assert marked
    assert all("\n```\nb\n```\n" in text for text in marked)


# --- Draws one at a time.


def test_draws_are_even_and_within_their_range() -> None:
    draws = Draws(np.random.default_rng(0))
    frequencies = Counter(draws.index(3) for _ in range(30_000))
    assert set(frequencies) == {0, 1, 2}
    assert all(abs(n - 10_000) < 4 * math.sqrt(10_000 * 2 / 3) for n in frequencies.values())
    orders = Counter(tuple(draws.shuffled("abc")) for _ in range(6000))
    assert len(orders) == 6
    assert all(abs(n - 1000) < 4 * math.sqrt(1000 * 5 / 6) for n in orders.values())


def test_the_largest_uniform_never_reaches_the_count() -> None:
    draws = Draws(np.random.default_rng(0))
    draws.uniform = lambda: 1 - 2**-53
    assert all(draws.index(count) == count - 1 for count in range(1, 5000))


# --- Wording.


def test_a_recipe_of_another_wording_is_refused(tmp_path: Path) -> None:
    examples = many(5)
    path = tmp_path / "other.yaml"
    path.write_text(OWN_WORDING.read_text(encoding="utf-8").replace("Item", "Part"), "utf-8")
    recipe = recipes_of(examples)[0]
    with pytest.raises(ConfigError, match="composed with the wording"):
        render(recipe, by_id(examples), load_wording(path))


def test_the_wording_is_as_rich_as_the_paper_s() -> None:
    lists = (WORDING.tags, WORDING.brackets, WORDING.words, WORDING.marked, WORDING.plain)
    assert [len(set(each)) for each in lists] == [10, 27, 17, 30, 7]
    orders = [WORDING.rule_sentences(order, masks=False) for order in ORDERS]
    masks = [WORDING.rule_sentences(mask, masks=True) for mask in MASKS]
    assert all(5 <= len(set(sentences)) <= 11 for sentences in (*orders, *masks))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("plain:", "plian:", "unknown key, allowed here: .* Did you mean 'plain'"),
        ("plain:", "plian:", "plain: is required but missing"),
        ('"({n})"', '"()"', r"line \d+: tags\.1: should hold {n} once, got '\(\)'"),
        ("  odd:", "  ood:", r"maskout\.ood: unknown key, .* Did you mean 'odd'"),
        ('separator: " > "', "separator: 3", r"lists\.1\.separator: .*got 3"),
        ("plain:", "plain: [", r"wording\.yaml:\d+: "),
        ("punctuation:", "tags:", r"line \d+: tags: is given twice"),
    ],
)
def test_a_fault_in_a_wording_names_file_and_key(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = tmp_path / "wording.yaml"
    path.write_text(OWN_WORDING.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as error:
        load_wording(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("plain:", "plain: maybe\nwas:", r"plain: should be a list, got 'maybe'"),
        ("plain:", "plain: []\nwas:", r"plain: should have at least 1 entry, got an empty list"),
        ('  - ["(", ")"]', "  - [1, 2]", r"brackets\.0\.0: should be text, got 1\. Put it in quo"),
        ('  - ["(", ")"]', "  - x", r"brackets\.0: should be a list, got 'x'"),
        ('  - ["(", ")"]', "  - [x]", r"brackets\.0\.1: is required but missing"),
        ('  - ["(", ")"]', "  - [x, y, z]", r"brackets\.0: should have at most 2 entries, got 3"),
        ('separator: " > "', 'separator: ""', r"lists\.1\.separator: should have at least 1 char"),
        ("maskout:", "maskout: 3\nwas:", r"maskout: should be a section of keys, got 3"),
        ('"({n})"', '"a\\n{n}"', r"tags\.1: should be one line of text, not empty, got 'a\\n"),
        ("plain:", "plain: null\nwas:", r"plain: should be a list, got null"),
    ],
)
def test_faults_of_a_wording_are_in_plain_english(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = OWN_WORDING.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path = tmp_path / "wording.yaml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as error:
        load_wording(path)
    said = str(error.value)
    line = text[: text.index(old)].count("\n") + 1
    assert re.search(rf"line {line}: {message}", said)
    assert not re.search("Input|valid|tuple|Tuple|dictionary|string|PermuteWording", said)


@pytest.mark.parametrize(
    ("old", "new", "where", "token"),
    [
        ('"Item {n}"', '"Item {n}</s>"', r"tags\.9", "</s>"),
        ('  - ["(", ")"]', '  - ["<|", "|>"]', r"brackets\.0", "<|end|>"),  # with the word END
        ('"Item {n}"', '"<extra_id_{n}>"', r"tags\.9", "<extra_id_7>"),
        ('separator: " > "', 'separator: "</s>"', r"lists\.1\.separator", "</s>"),
    ],
)
def test_a_wording_that_makes_a_special_token_is_refused_with_its_line(
    tmp_path: Path, old: str, new: str, where: str, token: str
) -> None:
    text = OWN_WORDING.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path = tmp_path / "wording.yaml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    special = SpecialTokens(("</s>", "<|end|>", "<extra_id_7>"))

    load_wording(path)
    with pytest.raises(ConfigError) as error:
        load_wording(path, special=special)

    line = text[: text.index(old)].count("\n") + 1
    token = re.escape(token)
    assert re.search(
        rf"^  line {line}: {where}: makes '{token}', which the tokenizer reads as a special token$",
        str(error.value),
        re.MULTILINE,
    )
    assert "1 fault(s)" in str(error.value)


def test_the_projects_own_wording_makes_no_usual_special_token() -> None:
    usual = ("<s>", "</s>", "<pad>", "<unk>", "<|im_start|>", "<|im_end|>", "<|endoftext|>")
    more = ("<|eot_id|>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]")
    assert load_wording(special=SpecialTokens(usual + more)) == WORDING


def test_without_mosaics_no_wording_is_refused() -> None:
    special = SpecialTokens(("1",))  # which every tag holds
    assert wording_of(None, special=special) == WORDING
    with pytest.raises(ConfigError, match="makes '1'"):
        wording_of(MosaicConfig(), special=special)


def test_a_wording_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_wording(tmp_path / "none.yaml")
