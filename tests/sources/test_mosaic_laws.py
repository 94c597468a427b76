"""The laws of mosaics on thousands of random ones, and a planted fault of each kind."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from raise_mdit.candidates import Mosaic, make_example
from raise_mdit.config import MosaicConfig
from raise_mdit.core import Example, Message
from raise_mdit.encoding import ChatEncoder
from raise_mdit.learners.pretrained import EMBEDDED, load_pretrained
from raise_mdit.sources.mosaic import Composed, Composer
from raise_mdit.sources.mosaic_rendering import render
from raise_mdit.sources.mosaic_wording import load_wording
from raise_mdit.sources.playground import generate
from raise_mdit.token_counts import TokenCounter

if TYPE_CHECKING:
    import mosaic_parser as parser
else:
    _spec = importlib.util.spec_from_file_location(
        "mosaic_parser", Path(__file__).with_name("mosaic_parser.py")
    )
    parser = importlib.util.module_from_spec(_spec)  # tests are no package: import cannot find it
    _spec.loader.exec_module(parser)

WORDING = load_wording()
PHRASES = parser.Phrases(WORDING)
EVERY_STRATEGY = {
    name: 1.0 for name in ("primary", "format", "permute", "maskout", "permute_maskout", "turns")
}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

Turns = Sequence[tuple[Any, Sequence[str]]]
Count = Callable[[Sequence[Message]], tuple[int, int]]


# --- What is composed, and by which measure.


def num_words(messages: Sequence[Message]) -> tuple[int, int]:
    """Words of a conversation, and of its responses."""
    words = [len(message.content.split()) for message in messages]
    return sum(words), sum(words[1::2])


def num_words_of_turns(turns: Turns) -> tuple[int, int]:
    return num_words([Message(role, "".join(pieces)) for role, pieces in turns])


def embeddings_of(examples: Sequence[Example]) -> NDArray[np.float32]:
    """Directions that go by an example's id alone."""
    rows = [np.frombuffer(bytes.fromhex(each.id), np.int8) for each in examples]
    matrix = np.stack(rows).astype(np.float32)
    unit: NDArray[np.float32] = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    return unit


def composer_of(
    examples: Sequence[Example],
    max_length: int,
    count_rendered: Callable[[Turns], tuple[int, int]] = num_words_of_turns,
    **options: Any,
) -> Composer:
    return Composer(
        examples,
        settings=MosaicConfig(**{"strategies": EVERY_STRATEGY, **options}),
        max_length=max_length,
        count_tokens=lambda each: count_rendered([(m.role, [m.content]) for m in each.messages])[0],
        count_rendered=count_rendered,
        wording=WORDING,
        embeddings=embeddings_of(examples) if options.get("grouping") == "similar" else None,
    )


def composed(
    examples: Sequence[Example], *, seed: int = 0, max_length: int = 200, **options: Any
) -> list[Composed]:
    """One pass, measured in words."""
    composer = composer_of(examples, max_length, **options)
    return list(composer.compose(1, np.random.default_rng(seed)))


def example(prompt: str, response: str) -> Example:
    return make_example("test", [Message("user", prompt), Message("assistant", response)])


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


# --- The laws.


class Text(NamedTuple):
    """A mosaic as its reader and its recipe have it."""

    messages: tuple[Message, ...]
    claim: parser.Claim


class Corpus:
    """Examples by id, and all that may stand in a text."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.by_id = {each.id: each for each in examples}
        self.known = parser.known_texts(examples)

    def text_of(self, recipe: Mosaic) -> Text:
        parents = [self.by_id[key] for key in recipe.examples]
        answers = recipe.choices.get("answers", range(1, len(parents) + 1))
        claim = parser.Claim(
            recipe.strategy,
            tuple(parent.prompt for parent in parents),
            tuple(parents[number - 1].response for number in answers),
        )
        return Text(render(recipe, self.by_id, WORDING), claim)

    def read(self, text: Text) -> parser.Reading:
        return parser.checked(text.messages, self.known, PHRASES, text.claim)


def check_length(mosaic: Composed, text: Text, count: Count, max_length: int) -> None:
    """The numbers of tokens are right, and the limit is kept."""
    measured = count(text.messages)
    if measured != (mosaic.num_tokens, mosaic.num_response_tokens):
        raise parser.LawBroken(f"{measured} tokens were counted otherwise")
    if measured[0] > max_length:
        raise parser.LawBroken(f"{measured[0]} tokens exceed the limit of {max_length}")


def check_uses(
    examples: Sequence[Example], recipes: Sequence[Mosaic], left_out: Sequence[str], passes: int
) -> None:
    """Each pass uses each example once, or reports it."""
    uses = Counter(key for recipe in recipes for key in recipe.examples)
    uses.update(left_out)
    for each in examples:
        if uses.pop(each.id, 0) != passes:
            raise parser.LawBroken(f"{each.id} is not used or reported once a pass")
    if uses:
        raise parser.LawBroken("something else than the examples is used")


def check_same(first: Sequence[Composed], second: Sequence[Composed]) -> None:
    """Two runs with one seed made the same mosaics in the same order."""
    if list(first) != list(second):
        raise parser.LawBroken("the mosaics are not the same")


def check_strategy(recipe: Mosaic, weights: Mapping[str, float]) -> None:
    """The strategy is one with weight; one instruction alone has Format, where that makes sense."""
    possible = {name for name, weight in weights.items() if weight}
    if len(recipe.examples) == 1:
        possible = possible if possible <= {"primary", "turns"} else {"format"}
    if recipe.strategy not in possible:
        raise parser.LawBroken(f"{recipe.strategy} of {len(recipe.examples)} instructions")


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
    count: Count,
    max_length: int,
    weights: Mapping[str, float],
) -> set[str]:
    """Check all laws of so many mosaics, some of which come near the limit; what they look like."""
    corpus = Corpus(examples)
    seen = set()
    stream: Iterator[Composed] = composer.compose(1_000, np.random.default_rng(3))
    mosaics = list(islice(stream, num_mosaics))
    assert max(mosaic.num_tokens for mosaic in mosaics) > 0.9 * max_length
    assert len(mosaics) == num_mosaics
    for mosaic in mosaics:
        text = corpus.text_of(mosaic.recipe)
        seen.add(corpus.read(text).strategy)
        check_strategy(mosaic.recipe, weights)
        check_length(mosaic, text, count, max_length)
    return seen


@pytest.mark.parametrize("options", IN_WORDS, ids=option_id)
def test_the_laws_hold_on_thousands_of_mosaics(
    options: dict[str, Any], playground: list[Example]
) -> None:
    weights = options.get("strategies", EVERY_STRATEGY)
    seen = check_many(
        playground,
        composer_of(playground, 120, **options),
        num_mosaics=NUM_EACH,
        count=num_words,
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
        composer_of(some, 160, TokenCounter(encoder).count, **options),
        num_mosaics=NUM_EACH,
        count=encoder.count,
        max_length=160,
        weights=EVERY_STRATEGY,
    )


@pytest.mark.model
def test_the_laws_hold_by_tokens_of_the_real_model(
    playground: list[Example], model_cache: Path
) -> None:
    encoder = ChatEncoder(load_pretrained(EMBEDDED, cache=model_cache).tokenizer)
    some = playground[::4]
    check_many(
        some,
        composer_of(some, 200, TokenCounter(encoder).count),
        num_mosaics=200,
        count=encoder.count,
        max_length=200,
        weights=EVERY_STRATEGY,
    )


@pytest.mark.parametrize("options", IN_WORDS, ids=option_id)
def test_each_pass_uses_each_example_once_or_reports_it(
    options: dict[str, Any], playground: list[Example]
) -> None:
    examples = [*playground[:300], example("too long " * 40, "by far")]
    composer = composer_of(examples, 60, **options)
    rng = np.random.default_rng(0)
    reported = 0
    for _ in range(2):
        recipes = [mosaic.recipe for mosaic in composer.compose(1, rng)]
        left_out = composer.report.left_out[reported:]
        check_uses(examples, recipes, left_out, 1)
        assert examples[-1].id in left_out
        reported += len(left_out)
    recipes = [mosaic.recipe for mosaic in composer.compose(3, rng)]  # passes run together
    check_uses(examples, recipes, composer.report.left_out[reported:], 3)


@pytest.mark.parametrize("options", IN_WORDS, ids=option_id)
def test_the_same_seed_gives_the_same_mosaics_in_any_order_of_examples(
    options: dict[str, Any], playground: list[Example]
) -> None:
    some = playground[:200]
    check_same(composed(some, **options), composed(some[::-1], **options))


@pytest.mark.parametrize("weights", [{"primary": 1.0}, {"turns": 1.0}, {"turns": 1, "primary": 1}])
def test_where_nothing_else_has_weight_one_instruction_has_no_format(
    weights: dict[str, float],
) -> None:
    for mosaic in composed(distinct(), strategies=weights, max_instructions=2):
        check_strategy(mosaic.recipe, weights)
        distinct_corpus().read(distinct_corpus().text_of(mosaic.recipe))


# --- Odd texts.

ODD_PARTS = (
    *("1", "2.", "(1)", "#2 ", "Item 3:", "{1}", "1\n", "0", "³", "٣"),
    *("(BEGIN)", "(END)", "[open] ", " [close]", "<<", "a", "b", " ", "\n", "\n\n", "\t"),
    *("ß", "SS", "İ", "日本", "🙂", "\u2028", "\x00", "{n}", "{list}", "\\1"),
    *(WORDING.plain[0], WORDING.permute.reverse[0], WORDING.maskout.odd[0], "Skip all of it."),
)
odd_texts = st.lists(st.sampled_from(ODD_PARTS), max_size=4).map("".join)
equal_texts = st.text("ab1", min_size=2, max_size=2)
seeds = st.integers(0, 2**32 - 1)


def corpora(texts: st.SearchStrategy[str]) -> st.SearchStrategy[list[Example]]:
    rows = st.builds(example, texts, texts)
    return st.lists(rows, min_size=1, max_size=10, unique_by=lambda each: each.id)


@settings(max_examples=120, deadline=None)
@given(corpora(odd_texts) | corpora(equal_texts), seeds, st.integers(1, 6), st.integers(0, 60))
def test_the_laws_hold_on_odd_texts(
    examples: list[Example], seed: int, max_instructions: int, max_length: int
) -> None:
    corpus = Corpus(examples)
    composer = composer_of(examples, max_length, max_instructions=max_instructions)
    mosaics = list(composer.compose(1, np.random.default_rng(seed)))
    for mosaic in mosaics:
        text = corpus.text_of(mosaic.recipe)
        corpus.read(text)
        check_length(mosaic, text, num_words, max_length)
    check_uses(examples, [each.recipe for each in mosaics], composer.report.left_out, 1)


# --- Planted faults.


@cache
def distinct() -> tuple[Example, ...]:
    """Examples no two of which share a text, so that a text can be told from any other."""
    texts: set[str] = set()
    kept = []
    for each in generate(seed=1, rows_per_family=30):
        if texts.isdisjoint({each.prompt, each.response}):
            texts |= {each.prompt, each.response}
            kept.append(each)
    return tuple(kept)


@cache
def distinct_corpus() -> Corpus:
    return Corpus(distinct())


@cache
def unharmed() -> dict[Text, parser.Reading]:
    """Mosaics as they were made, and how they read."""
    mosaics = [
        mosaic for seed in (0, 1) for mosaic in composed(distinct(), seed=seed, max_instructions=5)
    ]
    texts = [distinct_corpus().text_of(mosaic.recipe) for mosaic in mosaics]
    return {text: distinct_corpus().read(text) for text in texts}


def written(reading: parser.Reading) -> tuple[Message, ...]:
    if reading.num_turns > 1:
        turns = [Message("user", block.written) for block in reading.user]
        for i, block in enumerate(reading.assistant):
            turns.insert(2 * i + 1, Message("assistant", block.written))
        return tuple(turns)
    user = "\n\n".join(block.written for block in reading.user)
    return (
        Message("user", user),
        Message("assistant", "\n\n".join(block.written for block in reading.assistant)),
    )


def test_a_mosaic_written_again_is_the_same_and_lawful() -> None:
    for text, reading in unharmed().items():
        assert written(reading) == text.messages
        parser.checked(written(reading), distinct_corpus().known, PHRASES)
    assert {reading.strategy for reading in unharmed().values()} == {*EVERY_STRATEGY}


def with_sentence(
    reading: parser.Reading, kind: str, reworded: Callable[[str, parser.Rule], str]
) -> parser.Reading | None:
    """The reading with its order's or mask's sentence reworded; None where it has none."""
    prompts = [block.text for block in reading.instructions]
    for i, block in enumerate(reading.user):
        rule = parser.stated_rule(block.text, prompts) if block.is_sentence else None
        if rule and rule.kind == kind:
            said = block._replace(text=reworded(block.text, rule))
            if said == block:
                return None
            return reading._replace(user=(*reading.user[:i], said, *reading.user[i + 1 :]))
    return None


def renumbered(block: parser.Block, number: int) -> parser.Block:
    opening = block.opening.replace(str(block.number), str(number), 1)
    return block._replace(number=number, opening=opening)


def shifted(block: parser.Block) -> parser.Block:
    assert block.number is not None
    return renumbered(block, block.number + 1)


def untagged(block: parser.Block) -> parser.Block:
    if not block.shape:
        return block
    tag = len(block.shape) - 1 + len(str(block.number))
    return block._replace(opening=block.opening[tag:], number=None, shape="")


def unmarked(block: parser.Block) -> parser.Block:
    if block.marks is None:
        return block
    gap = 1
    opening = block.opening[: -len(block.marks[0]) - gap]
    return block._replace(opening=opening, closing="", marks=None)


def replaced(blocks: Sequence[parser.Block], i: int, block: parser.Block) -> tuple[Any, ...]:
    return (*blocks[:i], block, *blocks[i + 1 :])


Damage = Callable[[parser.Reading], parser.Reading | None]
FAULTS: dict[str, tuple[str, Damage]] = {}
"""How each fault is planted, None where a mosaic has no room for it, and what the reader says."""


def fault(says: str) -> Callable[[Damage], Damage]:
    def enter(damage: Damage) -> Damage:
        FAULTS[damage.__name__] = (says, damage)
        return damage

    return enter


def is_tagged(reading: parser.Reading) -> bool:
    return bool(reading.instructions[0].shape)


def several(reading: parser.Reading) -> bool:
    return reading.num_turns == 1 and len(reading.assistant) > 1


@fault(r"response \d+ is missing")
def a_response_missing(reading: parser.Reading) -> parser.Reading | None:
    return reading._replace(assistant=reading.assistant[:-1]) if several(reading) else None


@fault(r"response \d+ is there 2 times")
def a_response_doubled(reading: parser.Reading) -> parser.Reading | None:
    if not is_tagged(reading):
        return None
    return reading._replace(assistant=(*reading.assistant, reading.assistant[0]))


@fault(r"response \d+ is that of another instruction")
def two_texts_swapped(reading: parser.Reading) -> parser.Reading | None:
    if len(reading.assistant) < 2:
        return None
    first, *between, last = reading.assistant
    swapped = first._replace(text=last.text), *between, last._replace(text=first.text)
    return reading._replace(assistant=swapped)


@fault("stand in the order")
def two_responses_swapped(reading: parser.Reading) -> parser.Reading | None:
    if not (is_tagged(reading) and several(reading)):
        return None
    first, second, *others = reading.assistant
    return reading._replace(assistant=(second, first, *others))


@fault("is there but was masked")
def a_masked_response_present(reading: parser.Reading) -> parser.Reading | None:
    for number, block in enumerate(reading.instructions, 1):
        if reading.num_turns == 1 and number not in reading.numbers:
            extra = renumbered(reading.assistant[0], number)
            [response] = distinct_corpus().known.responses_of[block.text]
            extra = extra._replace(text=response)
            return reading._replace(assistant=(*reading.assistant, extra))
    return None


@fault("stand in the order")
def a_sentence_of_another_order(reading: parser.Reading) -> parser.Reading | None:
    prompts = [block.text for block in reading.instructions]

    def another(sentence: str, rule: parser.Rule) -> str:
        for name in ("reverse", "odd_then_even", "fewest_words", "alphabetical"):
            for other in WORDING.rule_sentences(name, masks=False):
                stated = parser.stated_rule(other, prompts)
                assert stated
                order = [number for number in stated.numbers if number in reading.numbers]
                if order != reading.numbers:
                    return other
        return sentence

    return with_sentence(reading, "order", another) if several(reading) else None


@fault("was masked|is missing")
def a_sentence_of_another_mask(reading: parser.Reading) -> parser.Reading | None:
    def another(sentence: str, rule: parser.Rule) -> str:
        is_odd = 1 in rule.numbers and 2 not in rule.numbers
        return (WORDING.maskout.even if is_odd else WORDING.maskout.odd)[0]

    return with_sentence(reading, "mask", another)


@fault("was masked|is missing|is open")
def longest_said_for_shortest(reading: parser.Reading) -> parser.Reading | None:
    def another(sentence: str, rule: parser.Rule) -> str:
        return sentence.replace("longest", "shortest")

    return with_sentence(reading, "mask", another)


@fault("no response stays")
def all_responses_masked(reading: parser.Reading) -> parser.Reading | None:
    numbers = ", ".join(str(n) for n in range(1, len(reading.instructions) + 1))
    sentence = WORDING.maskout.listed[0].replace("{list}", numbers)
    found = with_sentence(reading, "mask", lambda *_: sentence)
    return found._replace(assistant=()) if found else None


@fault("the share masked is")
def too_many_masked(reading: parser.Reading) -> parser.Reading | None:
    kept = reading.assistant[-1].number
    masked = [n for n in range(1, len(reading.instructions) + 1) if n != kept]
    sentence = WORDING.maskout.listed[0].replace("{list}", ", ".join(map(str, masked)))
    found = with_sentence(reading, "mask", lambda *_: sentence)
    return found._replace(assistant=found.assistant[-1:]) if found and len(masked) > 2 else None


@fault("the order names")
def an_order_without_one_number(reading: parser.Reading) -> parser.Reading | None:
    if len(reading.assistant) < 3:
        return None
    numbers = ", ".join(map(str, reading.numbers[1:]))
    sentence = WORDING.permute.listed[0].replace("{list}", numbers)
    return with_sentence(reading, "order", lambda *_: sentence)


@fault("instructions are numbered")
def numbers_of_instructions_shifted(reading: parser.Reading) -> parser.Reading | None:
    if not is_tagged(reading):
        return None
    user = tuple(block if block.is_sentence else shifted(block) for block in reading.user)
    return reading._replace(user=user)


@fault(r"response \d+ (has no instruction|is missing|is there but was masked)")
def numbers_of_responses_shifted(reading: parser.Reading) -> parser.Reading | None:
    if not is_tagged(reading):
        return None
    return reading._replace(assistant=tuple(map(shifted, reading.assistant)))


@fault("the instruction .* has no tag")
def an_instruction_without_tag(reading: parser.Reading) -> parser.Reading | None:
    if not is_tagged(reading) or len(reading.instructions) < 2:
        return None
    i = reading.user.index(reading.instructions[1])
    return reading._replace(user=replaced(reading.user, i, untagged(reading.user[i])))


@fault("the response .* has no tag")
def a_response_without_tag(reading: parser.Reading) -> parser.Reading | None:
    if not is_tagged(reading):
        return None
    bare = untagged(reading.assistant[0])
    return reading._replace(assistant=(bare, *reading.assistant[1:]))


@fault("the tags of responses have several shapes")
def a_tag_of_another_shape(reading: parser.Reading) -> parser.Reading | None:
    if not is_tagged(reading):
        return None
    block = untagged(reading.assistant[0])
    number = reading.assistant[0].number
    tag = f"#{number}: " if reading.assistant[0].shape != "#n: " else f"({number}) "
    other = block._replace(opening=tag + block.opening)
    return reading._replace(assistant=(other, *reading.assistant[1:]))


@fault(r"response \d+ has the marks None")
def a_response_without_marks(reading: parser.Reading) -> parser.Reading | None:
    block = reading.assistant[-1]
    if block.marks is None:
        return None
    return reading._replace(assistant=(*reading.assistant[:-1], unmarked(block)))


@fault("nothing known stands at")
def a_response_without_its_end_mark(reading: parser.Reading) -> parser.Reading | None:
    block = reading.assistant[-1]
    if block.marks is None:
        return None
    return reading._replace(assistant=(*reading.assistant[:-1], block._replace(closing="")))


@fault(r"response \d+ has the marks \(.*asked were \(")
def marks_other_than_stated(reading: parser.Reading) -> parser.Reading | None:
    if reading.assistant[0].marks is None:
        return None
    begin, end = ("<<OPEN>>", "<<CLOSE>>")
    if reading.assistant[0].marks == (begin, end):
        return None
    other = [
        bare._replace(opening=f"{bare.opening}{begin} ", closing=f" {end}")
        for bare in map(unmarked, reading.assistant)
    ]
    return reading._replace(assistant=tuple(other))


@fault(r"response \d+ has the marks \(.*asked were None")
def marks_that_no_sentence_names(reading: parser.Reading) -> parser.Reading | None:
    if reading.assistant[0].marks is None:
        return None
    user = [block for block in reading.user if not PHRASES.marks_named(block.text)]
    return reading._replace(user=tuple(user))


@fault("no numbers are shown")
def a_rule_without_numbers(reading: parser.Reading) -> parser.Reading | None:
    if not reading.rules:
        return None
    return reading._replace(
        user=tuple(map(untagged, reading.user)), assistant=tuple(map(untagged, reading.assistant))
    )


@fault("a single instruction is more than Format")
def a_rule_for_one_instruction(reading: parser.Reading) -> parser.Reading | None:
    if not is_tagged(reading) or len(reading.instructions) > 1:
        return None
    rule = parser.Block(WORDING.permute.reverse[1], is_sentence=True)
    return reading._replace(user=(rule, *reading.user))


@fault("two sentences ask for the same kind of thing")
def a_second_rule_of_the_kind(reading: parser.Reading) -> parser.Reading | None:
    if not reading.rules:
        return None
    kind = reading.rules[0].kind
    second = WORDING.rule_sentences("listed", masks=kind == "mask")[0].replace("{list}", "1")
    return reading._replace(user=(parser.Block(second, is_sentence=True), *reading.user))


@fault("sentences do not stand round")
def a_sentence_among_instructions(reading: parser.Reading) -> parser.Reading | None:
    if not is_tagged(reading) or len(reading.instructions) < 2:
        return None
    i = reading.user.index(reading.instructions[1])
    stray = parser.Block(WORDING.plain[0], is_sentence=True)
    return reading._replace(user=(*reading.user[:i], stray, *reading.user[i:]))


@fault("nothing known stands at")
def an_instruction_altered(reading: parser.Reading) -> parser.Reading | None:
    if reading.num_turns > 1:
        return None
    i = reading.user.index(reading.instructions[-1])
    altered = reading.user[i]._replace(text=reading.user[i].text + "!")
    return reading._replace(user=replaced(reading.user, i, altered))


@fault("the turns are those of")
def a_turn_missing(reading: parser.Reading) -> parser.Reading | None:
    return reading._replace(assistant=reading.assistant[:-1]) if reading.num_turns > 1 else None


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_named(name: str) -> None:
    says, damage = FAULTS[name]
    damaged = [spoilt for reading in unharmed().values() if (spoilt := damage(reading))]
    assert len(damaged) >= 5
    for spoilt in damaged:
        with pytest.raises(parser.LawBroken, match=says):
            parser.checked(written(spoilt), distinct_corpus().known, PHRASES)


@pytest.mark.parametrize(
    ("says", "planted"),
    [
        ("the recipe says", lambda claim: claim._replace(strategy="none")),
        ("other instructions", lambda claim: claim._replace(prompts=claim.prompts[::-1])),
        ("other responses", lambda claim: claim._replace(responses=claim.responses[::-1])),
    ],
    ids=["another strategy", "another order of instructions", "another order of responses"],
)
def test_a_recipe_that_says_otherwise_is_found(
    says: str, planted: Callable[[parser.Claim], parser.Claim]
) -> None:
    for text in unharmed():
        if len(text.claim.responses) > 1:
            with pytest.raises(parser.LawBroken, match=says):
                distinct_corpus().read(text._replace(claim=planted(text.claim)))


def test_a_length_mask_among_equal_lengths_is_open() -> None:
    known = parser.known_texts([example("aa", "a"), example("bb", "b")])
    user = f"1. aa\n\n2. bb\n\n{WORDING.maskout.longest[0].replace('{count}', '1')}"
    text = [Message("user", user), Message("assistant", "1. a")]
    with pytest.raises(parser.LawBroken, match="which instructions are meant is open"):
        parser.checked(text, known, PHRASES)


def test_one_token_over_the_limit_or_counted_otherwise_is_found() -> None:
    mosaic = composed(distinct())[0]
    text = distinct_corpus().text_of(mosaic.recipe)
    check_length(mosaic, text, num_words, mosaic.num_tokens)
    with pytest.raises(parser.LawBroken, match="exceed the limit"):
        check_length(mosaic, text, num_words, mosaic.num_tokens - 1)
    with pytest.raises(parser.LawBroken, match="counted otherwise"):
        check_length(mosaic, text, lambda _: (mosaic.num_tokens + 1, 1), 10_000)


def test_an_example_dropped_or_used_again_is_found() -> None:
    recipes = [mosaic.recipe for mosaic in composed(distinct())]
    check_uses(distinct(), recipes, [], 1)
    for spoilt in (recipes[1:], [*recipes, recipes[0]]):
        with pytest.raises(parser.LawBroken, match="not used or reported once"):
            check_uses(distinct(), spoilt, [], 1)
    with pytest.raises(parser.LawBroken, match="something else"):
        check_uses(distinct(), recipes, ["another"], 1)


def test_another_seed_taken_for_the_same_is_found() -> None:
    with pytest.raises(parser.LawBroken, match="not the same"):
        check_same(composed(distinct(), seed=0), composed(distinct(), seed=1))


def test_a_strategy_that_was_not_asked_for_is_found() -> None:
    two, one = Mosaic(("a", "b"), "permute", {}), Mosaic(("a",), "permute", {})
    check_strategy(two, {"permute": 1.0})
    for recipe, weights in ((two, {"permute": 0.0, "format": 1.0}), (one, {"permute": 1.0})):
        with pytest.raises(parser.LawBroken, match="permute of"):
            check_strategy(recipe, weights)


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
    section = WORDING.permute if kind == "order" else WORDING.maskout
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
    for sentence in (*WORDING.plain, *WORDING.marked):
        assert parser.stated_rule(sentence, PROMPTS) is None, sentence


def test_equal_keys_keep_the_order_in_which_they_stand() -> None:
    for name in ("most_words", "fewest_characters", "reverse_alphabetical"):
        for sentence in WORDING.permute.model_dump()[name]:
            rule = parser.stated_rule(sentence, ["b b", "B b", "b b"])
            assert rule
            assert rule.numbers == [1, 2, 3]
