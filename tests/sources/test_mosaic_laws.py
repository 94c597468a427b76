"""The laws of mosaics on thousands of random ones, and what every sentence asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import mosaic_laws as laws
from helpers import mosaic_parser as parser
from hypothesis import given, settings
from hypothesis import strategies as st

from raise_mdit.core import Example
from raise_mdit.encoding import ChatEncoder
from raise_mdit.learners.pretrained import EMBEDDED, load_pretrained
from raise_mdit.sources.mosaic import Composed, Composer
from raise_mdit.sources.playground import generate
from raise_mdit.token_counts import TokenCounter

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def playground() -> list[Example]:
    return generate(seed=0, rows_per_family=60)


@pytest.fixture(scope="module")
def encoder(playground: list[Example]) -> ChatEncoder:
    """A small byte-level tokenizer of the playground's text, with the ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|im_start|>", "<|im_end|>"]
    byte_pairs = Tokenizer(models.BPE())
    byte_pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_pairs.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [text for each in playground[::7] for text in (each.prompt, each.response)]
    byte_pairs.train_from_iterator(texts, trainer)
    return ChatEncoder(
        PreTrainedTokenizerFast(
            tokenizer_object=byte_pairs,
            bos_token=special[0],
            eos_token=special[1],
            pad_token=special[1],
            chat_template=CHATML,
        )
    )


# --- Ten thousand mosaics.

NUM_MOSAICS = 10_000
DEFAULT_STRATEGIES = {"strategies": {"format": 1.0, "permute": 1.0, "maskout": 1.0}}
IN_WORDS: list[dict[str, Any]] = [
    {"sizes": "uniform"},
    {"sizes": "uniform", "max_instructions": 7, **DEFAULT_STRATEGIES},
    {"sizes": "fixed", "max_instructions": 7},
    {"sizes": "fill"},
    {"sizes": "exponential"},
    {"sizes": "pareto"},
    {"sizes": "log_normal"},
    {"sizes": "logistic", "grouping": "task"},
    {"sizes": "uniform", "grouping": "similar"},
]
IN_TOKENS: list[dict[str, Any]] = [{"sizes": "uniform", "max_instructions": 6}]


def option_id(options: dict[str, Any]) -> str:
    return "-".join(str(each) for each in options.values() if not isinstance(each, dict))


NUM_EACH = NUM_MOSAICS // (len(IN_WORDS) + len(IN_TOKENS))


def check_many(
    examples: Sequence[Example],
    composer: Composer,
    *,
    num_mosaics: int,
    count: laws.Count,
    max_length: int,
    weights: Mapping[str, float],
) -> set[str]:
    """Check all laws of so many mosaics, some of which come near the limit; what they look like."""
    corpus = laws.Corpus(examples)
    seen = set()
    stream: Iterator[Composed] = composer.compose(1_000, np.random.default_rng(3))
    mosaics = list(islice(stream, num_mosaics))
    assert max(mosaic.num_tokens for mosaic in mosaics) > 0.9 * max_length
    assert len(mosaics) == num_mosaics
    for mosaic in mosaics:
        text = corpus.text_of(mosaic.recipe)
        seen.add(corpus.read(text).strategy)
        laws.check_strategy(mosaic.recipe, weights)
        laws.check_length(mosaic, text, count, max_length)
    return seen


@pytest.mark.parametrize("options", IN_WORDS, ids=option_id)
def test_the_laws_hold_on_thousands_of_mosaics(
    options: dict[str, Any], playground: list[Example]
) -> None:
    weights = options.get("strategies", laws.EVERY_STRATEGY)
    seen = check_many(
        playground,
        laws.composer_of(playground, 120, **options),
        num_mosaics=NUM_EACH,
        count=laws.num_words,
        max_length=120,
        weights=weights,
    )
    assert seen == {*weights}


@pytest.mark.parametrize("options", IN_TOKENS)
def test_the_laws_hold_by_tokens_of_the_chat_template(
    options: dict[str, Any], playground: list[Example], encoder: ChatEncoder
) -> None:
    some = playground[::4]
    check_many(
        some,
        laws.composer_of(some, 160, TokenCounter(encoder).count, **options),
        num_mosaics=NUM_EACH,
        count=encoder.count,
        max_length=160,
        weights=laws.EVERY_STRATEGY,
    )


@pytest.mark.model
def test_the_laws_hold_by_tokens_of_the_real_model(
    playground: list[Example], model_cache: Path
) -> None:
    encoder = ChatEncoder(load_pretrained(EMBEDDED, cache=model_cache).tokenizer)
    some = playground[::4]
    check_many(
        some,
        laws.composer_of(some, 200, TokenCounter(encoder).count),
        num_mosaics=200,
        count=encoder.count,
        max_length=200,
        weights=laws.EVERY_STRATEGY,
    )


@pytest.mark.parametrize("options", IN_WORDS, ids=option_id)
def test_each_pass_uses_each_example_once_or_reports_it(
    options: dict[str, Any], playground: list[Example]
) -> None:
    examples = [*playground[:300], laws.example("too long " * 40, "by far")]
    composer = laws.composer_of(examples, 60, **options)
    rng = np.random.default_rng(0)
    reported = 0
    for _ in range(2):
        recipes = [mosaic.recipe for mosaic in composer.compose(1, rng)]
        left_out = composer.report.left_out[reported:]
        laws.check_uses(examples, recipes, left_out, 1)
        assert examples[-1].id in left_out
        reported += len(left_out)
    recipes = [mosaic.recipe for mosaic in composer.compose(3, rng)]  # passes run together
    laws.check_uses(examples, recipes, composer.report.left_out[reported:], 3)


@pytest.mark.parametrize("options", IN_WORDS, ids=option_id)
def test_the_same_seed_gives_the_same_mosaics_in_any_order_of_examples(
    options: dict[str, Any], playground: list[Example]
) -> None:
    some = playground[:200]
    laws.check_same(laws.composed(some, **options), laws.composed(some[::-1], **options))


@pytest.mark.parametrize("weights", [{"primary": 1.0}, {"turns": 1.0}, {"turns": 1, "primary": 1}])
def test_where_nothing_else_has_weight_one_instruction_has_no_format(
    weights: dict[str, float],
) -> None:
    for mosaic in laws.composed(laws.distinct(), strategies=weights, max_instructions=2):
        laws.check_strategy(mosaic.recipe, weights)
        laws.distinct_corpus().read(laws.distinct_corpus().text_of(mosaic.recipe))


# --- Odd texts.

ODD_PARTS = (
    *("1", "2.", "(1)", "#2 ", "Item 3:", "{1}", "1\n", "0", "³", "٣"),
    *("(BEGIN)", "(END)", "[open] ", " [close]", "<<", "a", "b", " ", "\n", "\n\n", "\t"),
    *("ß", "SS", "İ", "日本", "🙂", "\u2028", "\x00", "{n}", "{list}", "\\1"),
    *(
        laws.WORDING.plain[0],
        laws.WORDING.permute.reverse[0],
        laws.WORDING.maskout.odd[0],
        "Skip all of it.",
    ),
)
odd_texts = st.lists(st.sampled_from(ODD_PARTS), max_size=4).map("".join)
equal_texts = st.text("ab1", min_size=2, max_size=2)
seeds = st.integers(0, 2**32 - 1)


def corpora(texts: st.SearchStrategy[str]) -> st.SearchStrategy[list[Example]]:
    rows = st.builds(laws.example, texts, texts)
    return st.lists(rows, min_size=1, max_size=10, unique_by=lambda each: each.id)


@settings(max_examples=120, deadline=None)
@given(corpora(odd_texts) | corpora(equal_texts), seeds, st.integers(1, 6), st.integers(0, 60))
def test_the_laws_hold_on_odd_texts(
    examples: list[Example], seed: int, max_instructions: int, max_length: int
) -> None:
    corpus = laws.Corpus(examples)
    composer = laws.composer_of(examples, max_length, max_instructions=max_instructions)
    mosaics = list(composer.compose(1, np.random.default_rng(seed)))
    for mosaic in mosaics:
        text = corpus.text_of(mosaic.recipe)
        corpus.read(text)
        laws.check_length(mosaic, text, laws.num_words, max_length)
    laws.check_uses(examples, [each.recipe for each in mosaics], composer.report.left_out, 1)


# --- The wording.

PROMPTS = ["delta x y z", "alpha", "Charlie goes", "bo at b"]
ORDERS = {
    "listed": [3, 1, 4, 2],
    "reverse": [4, 3, 2, 1],
    "alphabetical": [2, 4, 3, 1],
    "reverse_alphabetical": [1, 3, 4, 2],
    "fewest_words": [2, 3, 4, 1],
    "most_words": [1, 4, 3, 2],
    "fewest_characters": [2, 4, 1, 3],
    "most_characters": [3, 1, 4, 2],
    "odd_then_even": [1, 3, 2, 4],
    "even_then_odd": [2, 4, 1, 3],
}
MASKS = {"listed": [1, 3, 4], "longest": [1, 3], "shortest": [2, 4], "odd": [1, 3], "even": [2, 4]}


@pytest.mark.parametrize("kind", ["order", "mask"])
def test_every_sentence_asks_for_what_its_key_says(kind: str) -> None:
    section = laws.WORDING.permute if kind == "order" else laws.WORDING.maskout
    expected = ORDERS if kind == "order" else MASKS
    sentences = section.model_dump()
    assert {*sentences} == {*expected}
    for name, numbers in expected.items():
        for sentence in sentences[name]:
            listed = sentence.replace("{list}", str(numbers)).replace("{count}", "2")
            rule = parser.stated_rule(listed, PROMPTS)
            assert rule, sentence
            stated = rule.numbers if kind == "order" else sorted(rule.numbers)
            assert (rule.kind, stated) == (kind, numbers), sentence


def test_sentences_that_ask_for_no_rule_state_none() -> None:
    for sentence in (*laws.WORDING.plain, *laws.WORDING.marked):
        assert parser.stated_rule(sentence, PROMPTS) is None, sentence


def test_equal_keys_keep_the_order_in_which_they_stand() -> None:
    for name in ("most_words", "fewest_characters", "reverse_alphabetical"):
        for sentence in laws.WORDING.permute.model_dump()[name]:
            rule = parser.stated_rule(sentence, ["b b", "B b", "b b"])
            assert rule
            assert rule.numbers == [1, 2, 3]
