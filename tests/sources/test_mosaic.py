"""The laws of mosaics, held against a reader of the text that shares nothing with its writer."""

import importlib.util
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raise_mdit.candidates import Mosaic, Strategy, canonical_json, make_example
from raise_mdit.core import Example, Message
from raise_mdit.errors import ConfigError
from raise_mdit.sources.mosaic import Composition, compose, numbers_in_order
from raise_mdit.sources.mosaic_rendering import render
from raise_mdit.sources.mosaic_wording import ORDERS, OWN_WORDING, filled, load_wording

_spec = importlib.util.spec_from_file_location(
    "mosaic_parser", Path(__file__).with_name("mosaic_parser.py")
)
assert _spec
assert _spec.loader
parser = importlib.util.module_from_spec(_spec)  # tests are no package: import cannot find it
_spec.loader.exec_module(parser)

WORDING = load_wording()
THIRDS: Mapping[Strategy, float] = {"format": 1.0, "permute": 1.0, "maskout": 1.0}
NO_LIMIT = 100_000

# --- What the tests compose.


def length_of(messages: Sequence[Message]) -> tuple[int, int]:
    words = [len(message.content.split()) for message in messages]
    return sum(words), words[-1]


def composed(
    examples: Sequence[Example],
    *,
    seed: int = 0,
    passes: int = 1,
    max_instructions: int = 10,
    max_length: int = NO_LIMIT,
    strategies: Mapping[Strategy, float] = THIRDS,
    count_tokens: Callable[[Example], int] = lambda example: length_of(example.messages)[0],
) -> Composition:
    return compose(
        examples,
        passes=passes,
        max_instructions=max_instructions,
        max_length=max_length,
        strategies=strategies,
        count_tokens=count_tokens,
        count_rendered=length_of,
        rng=np.random.default_rng(seed),
        wording=WORDING,
    )


def example(prompt: str, response: str) -> Example:
    return make_example("test", [Message("user", prompt), Message("assistant", response)])


def by_id(examples: Sequence[Example]) -> dict[str, Example]:
    return {each.id: each for each in examples}


def many(count: int, seed: int = 0) -> list[Example]:
    rng = np.random.default_rng(seed)
    texts = {"".join(rng.choice(list("abc d\n"), 24)).strip() for _ in range(2 * count + 40)}
    pairs = zip(sorted(texts)[:count], sorted(texts)[::-1], strict=False)
    return [example(prompt, response) for prompt, response in pairs]


def rendered(
    composition: Composition, examples: Sequence[Example]
) -> list[tuple[Mosaic, tuple[Message, ...], list[Example]]]:
    """Each recipe, its text and its parents."""
    known = by_id(examples)
    return [
        (recipe, render(recipe, known, WORDING), [known[key] for key in recipe.examples])
        for recipe in composition.recipes
    ]


words = st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=6)
texts = st.builds(lambda parts, gap: gap.join(parts), words, st.sampled_from([" ", "\n", "\n\n"]))
corpora = st.lists(
    st.builds(example, texts, texts), min_size=1, max_size=16, unique_by=lambda each: each.response
)
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=60, deadline=None)


# --- Laws.


@quick
@given(corpora, seeds, st.integers(1, 10), st.integers(20, 150))
def test_what_a_mosaic_says_is_what_it_does(
    examples: list[Example], seed: int, max_instructions: int, max_length: int
) -> None:
    composition = composed(
        examples, seed=seed, max_instructions=max_instructions, max_length=max_length
    )
    for _, messages, parents in rendered(composition, examples):
        assert parser.faults(messages, parents) == []


@quick
@given(corpora, seeds)
def test_permute_answers_all_and_maskout_some(examples: list[Example], seed: int) -> None:
    for recipe, messages, parents in rendered(composed(examples, seed=seed), examples):
        reading = parser.read(messages)
        rules = [
            parser.stated_answers(each, [p.prompt for p in parents]) for each in reading.sentences
        ]
        num_rules = sum(rule is not None for rule in rules)
        assert num_rules == (recipe.strategy in ("permute", "maskout"))
        if recipe.strategy == "maskout":
            assert 0 < len(reading.answers) < len(parents)
        else:
            assert sorted(n for n, _ in reading.answers) == list(range(1, len(parents) + 1))


@quick
@given(corpora, seeds, st.integers(1, 3), st.integers(1, 10), st.integers(4, 80))
def test_a_pass_uses_or_reports_each_example_once(
    examples: list[Example], seed: int, passes: int, max_instructions: int, max_length: int
) -> None:
    composition = composed(
        examples,
        seed=seed,
        passes=passes,
        max_instructions=max_instructions,
        max_length=max_length,
        strategies={**THIRDS, "primary": 1.0},
    )
    report = composition.report
    uses = Counter(key for recipe in composition.recipes for key in recipe.examples)
    uses.update(report.left_out)
    assert uses == {each.id: passes for each in examples}
    assert report.num_mosaics == len(composition.recipes) == sum(report.num_by_size.values())


@quick
@given(corpora, seeds, st.integers(4, 80), st.sampled_from([0, 1]))
def test_a_mosaic_keeps_the_limit_whatever_was_planned(
    examples: list[Example], seed: int, max_length: int, planned: int
) -> None:
    composition = composed(
        examples, seed=seed, max_length=max_length, count_tokens=lambda each: planned
    )
    lengths = [length_of(messages) for _, messages, _ in rendered(composition, examples)]
    assert lengths == list(composition.token_counts)
    assert all(num_tokens <= max_length for num_tokens, _ in lengths)


@quick
@given(corpora, seeds, st.sampled_from(["permute", "maskout"]))
def test_a_single_instruction_is_format_only(
    examples: list[Example], seed: int, strategy: Strategy
) -> None:
    weights: dict[Strategy, float] = {strategy: 1.0, "primary": 1.0}
    for recipe in composed(examples, seed=seed, strategies=weights).recipes:
        assert len(recipe.examples) > 1 or recipe.strategy == "format"


@quick
@given(st.lists(texts, min_size=2, max_size=10), seeds)
def test_every_sentence_states_its_order(prompts: list[str], seed: int) -> None:
    order = [int(n) + 1 for n in np.random.default_rng(seed).permutation(len(prompts))]
    for name in ORDERS:
        expected = order if name == "listed" else numbers_in_order(name, prompts)
        for sentence in WORDING.rule_sentences(name, masks=False):
            said = filled(sentence, list=str(order))
            assert parser.stated_answers(said, prompts) == expected, said


def test_other_sentences_state_no_rule() -> None:
    for sentence in (*WORDING.plain, *WORDING.marked):
        assert parser.stated_answers(sentence, ["a", "b", "c"]) is None


def test_every_rule_and_sentence_is_followed_to_the_letter() -> None:
    examples = many(3000)
    seen = set()
    for recipe, messages, parents in rendered(composed(examples, max_instructions=4), examples):
        assert parser.faults(messages, parents) == []
        if recipe.choices["rule"]:
            seen.add(
                (recipe.strategy, recipe.choices["rule"]["name"], recipe.choices["rule"]["index"])
            )
    assert len(seen) == 4 * (10 + 5)


# --- The reader finds faults that are planted.


def _swap(blocks: list[str]) -> list[str]:
    return [blocks[1], blocks[0], *blocks[2:]]


def _drop(blocks: list[str]) -> list[str]:
    return blocks[:-1]


def _repeat(blocks: list[str]) -> list[str]:
    return [*blocks, blocks[0]]


def _cross(blocks: list[str]) -> list[str]:
    """The first two responses under each other's numbers."""
    first, second = (re.findall(r"\d+", block)[0] for block in blocks[:2])
    crossed = [blocks[0].replace(first, second, 1), blocks[1].replace(second, first, 1)]
    return [*crossed[::-1], *blocks[2:]]


def _damaged(
    messages: tuple[Message, ...], damage: Callable[[list[str]], list[str]]
) -> list[Message]:
    user, assistant = messages
    starts = [hit.start() for hit in parser.tag_in(assistant.content).finditer(assistant.content)]
    ends = [*starts[1:], len(assistant.content)]
    blocks = [assistant.content[a:b].strip() for a, b in zip(starts, ends, strict=True)]
    return [user, Message("assistant", "\n\n".join(damage(blocks)))]


@pytest.mark.parametrize("damage", [_swap, _drop, _repeat, _cross])
def test_the_reader_sees_damage(damage: Callable[[list[str]], list[str]]) -> None:
    examples = many(400)
    mosaics = rendered(composed(examples), examples)
    long_ones = [(m, parents) for _, m, parents in mosaics if len(parser.read(m).answers) > 1]
    assert len(long_ones) > 30
    assert all(
        parser.faults(_damaged(messages, damage), parents) for messages, parents in long_ones
    )


def test_the_reader_sees_a_response_that_should_be_masked() -> None:
    examples = many(200)
    for recipe, messages, parents in rendered(composed(examples), examples):
        if recipe.strategy == "maskout":
            answered = [number for number, _ in parser.read(messages).answers]
            masked = next(n for n in range(1, len(parents) + 1) if n not in answered)
            block = _damaged(messages, lambda blocks: blocks[:1])[1].content
            extra = block.replace(str(answered[0]), str(masked), 1)
            extra = extra.replace(parents[answered[0] - 1].response, parents[masked - 1].response)
            spoilt = [messages[0], Message("assistant", f"{messages[1].content}\n\n{extra}")]
            assert "order or mask" in parser.faults(spoilt, parents)


# --- Single facts.


def test_the_same_seed_gives_the_same_mosaics_in_any_order_of_examples() -> None:
    examples = many(60)
    assert composed(examples) == composed(examples[::-1])
    assert composed(examples).recipes != composed(examples, seed=1).recipes


def test_strategies_are_drawn_by_weight() -> None:
    weights: dict[Strategy, float] = {"maskout": 3.0, "primary": 1.0, "permute": 0.0}
    composition = composed(many(6000), strategies=weights)
    several = [r.strategy for r in composition.recipes if len(r.examples) > 1]
    assert set(several) == {"maskout", "primary"}
    assert several.count("maskout") / len(several) == pytest.approx(0.75, abs=0.06)


def test_sizes_are_uniform_without_a_limit() -> None:
    sizes = composed(many(6000), max_instructions=4).report.num_by_size
    assert sorted(sizes) == [1, 2, 3, 4]
    assert min(sizes.values()) / max(sizes.values()) > 0.8


def test_primary_is_plain_concatenation() -> None:
    examples = [example("a", "b"), example("c", "d")]
    recipe = Mosaic((examples[1].id, examples[0].id), "primary", {})
    assert render(recipe, by_id(examples), WORDING) == (("user", "c\n\na"), ("assistant", "d\n\nb"))


def test_only_primary_stays_primary_for_one() -> None:
    composition = composed([example("a", "b")], strategies={"primary": 1.0, "format": 0.0})
    assert composition.recipes[0].strategy == "primary"


def test_an_example_too_long_alone_is_reported_in_each_pass() -> None:
    long = example("a " * 50, "b")
    report = composed([example("a", "b"), long], passes=2, max_length=40).report
    assert report.left_out == (long.id, long.id)
    assert report.num_left_out == 2


def test_what_does_not_fit_is_given_back() -> None:
    composition = composed(many(100), max_length=40, count_tokens=lambda each: 0)
    assert composition.report.num_given_back > 0
    assert composition.report.num_left_out == 0


@pytest.mark.parametrize("seed", range(20))
def test_a_sentence_never_costs_a_single_example_its_place(seed: int) -> None:
    only = example("a " * 6, "b")  # 7 words and a tag of at most 2, said twice
    assert composed([only], seed=seed, max_length=11).report.num_left_out == 0


def test_equal_lengths_leave_no_longest_and_no_shortest() -> None:
    examples = [example(first + "x", first) for first in "abcdefghij" * 20]
    recipes = composed(examples, strategies={"maskout": 1.0}).recipes
    names = {r.choices["rule"]["name"] for r in recipes if r.strategy == "maskout"}
    assert names == {"listed", "odd", "even"}


def test_the_rule_is_the_outer_sentence_on_either_side() -> None:
    examples = many(600)
    for recipe, messages, parents in rendered(composed(examples), examples):
        rule, sentence = recipe.choices["rule"], recipe.choices["sentence"]
        if rule and sentence and rule["at"] == sentence["at"]:
            outer = messages[0].content.split("\n\n")[0 if rule["at"] == "before" else -1]
            assert parser.stated_answers(outer, [p.prompt for p in parents]) is not None


def test_masked_responses_are_counted() -> None:
    examples = many(300)
    composition = composed(examples)
    texts_there = sum(len(parser.read(m).answers) for _, m, _ in rendered(composition, examples))
    assert composition.report.num_masked == len(examples) - texts_there


def test_a_recipe_read_back_from_json_renders_alike() -> None:
    examples = many(40)
    for recipe, messages, _ in rendered(composed(examples), examples):
        fields = json.loads(canonical_json(asdict(recipe)))
        again = Mosaic(**{**fields, "examples": tuple(fields["examples"])})
        assert render(again, by_id(examples), WORDING) == messages


def test_a_conversation_gives_its_last_turn_as_response() -> None:
    turns = [("system", "be brief"), ("user", "a"), ("assistant", "b"), ("user", "c")]
    messages = [Message(role, text) for role, text in turns]  # type: ignore[arg-type]
    chat = make_example("test", [*messages, Message("assistant", "d")])
    recipe = Mosaic((chat.id,), "primary", {})
    expected = (("user", "be brief\na\nb\nc"), ("assistant", "d"))
    assert render(recipe, {chat.id: chat}, WORDING) == expected


def test_a_recipe_of_another_wording_is_refused(tmp_path: Path) -> None:
    examples = many(5)
    path = tmp_path / "other.yaml"
    path.write_text(OWN_WORDING.read_text(encoding="utf-8").replace("Item", "Part"), "utf-8")
    recipe = composed(examples).recipes[0]
    with pytest.raises(ConfigError, match="composed with the wording"):
        render(recipe, by_id(examples), load_wording(path))


def test_marks_of_code_stand_on_lines_of_their_own() -> None:
    code = example("a", "```\nb\n```")
    recipes = [composed([code], seed=seed).recipes[0] for seed in range(20)]
    texts = [render(recipe, by_id([code]), WORDING)[1].content for recipe in recipes]
    marked = [text for text in texts if not text.endswith("```")]
    assert marked
    assert all("\n```\nb\n```\n" in text for text in marked)


def test_the_wording_is_as_rich_as_the_paper_s() -> None:
    lists = (WORDING.tags, WORDING.brackets, WORDING.words, WORDING.marked, WORDING.plain)
    assert [len(set(each)) for each in lists] == [10, 27, 17, 30, 7]


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


def test_a_wording_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_wording(tmp_path / "none.yaml")
