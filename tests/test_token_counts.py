"""Counts put together from pieces, against tokenising the whole conversation."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from raise_mdit import joined_texts, token_counts
from raise_mdit.core import Message, Role
from raise_mdit.encoding import PLAIN_TEMPLATE, ChatEncoder
from raise_mdit.errors import ModelError
from raise_mdit.joined_texts import NASTY
from raise_mdit.learners.pretrained import EMBEDDED, load_pretrained
from raise_mdit.sources.playground import generate
from raise_mdit.token_counts import TokenCounter

Turns = list[tuple[Role, list[str]]]

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_2 = LLAMA_3.replace("{1,3}", "")
THOUSANDS = r"\d{1,3}(?=(?:\d{3})*(?!\d))|[^\d\s]+|\s+"
LETTERS_WITH_SPACE = r"\p{L}+\s?|[^\p{L}]+"
LOOKS_BACK = r"(?<=a)b|[^\s]+|\s+"

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
STRIPPING = CHATML.replace("m['content']", "(m['content'] | trim)")
WITH_DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    + CHATML
)
TEMPLATES = {
    "ChatML": CHATML,
    "stripping": STRIPPING,
    "default system": WITH_DEFAULT_SYSTEM,
    "plain": PLAIN_TEMPLATE,
}
ALPHABET = " \n\t\r.'\"\u2019sSreRvldtm1234ab!/_-\u00e9\u6f22\u5b57\u3002\u0301\U0001f44d"
GLUE = ["[1]. ", "Item 2:\n", "\n\n", "\n", " ", " [END]", "```", "Yes", "12", ""]
SHAPES: list[tuple[Role, ...]] = [
    ("user", "assistant"),
    ("system", "user", "assistant"),
    ("user", "assistant", "user", "assistant"),
]


check = joined_texts.additive_texts
check_once = cache(check)  # 0.4 s each time


@pytest.fixture(autouse=True)
def tokenizers_are_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_counts, "additive_texts", check_once)


def split_by(pattern: str) -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def byte_level() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


CUTS: dict[str, Callable[[], Any]] = {
    "GPT-2": byte_level,
    "Llama 3": lambda: split_by(LLAMA_3),
    "Qwen 2": lambda: split_by(QWEN_2),
    "SmolLM2": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), byte_level()]
    ),
    "Metaspace": pre_tokenizers.Metaspace,
    "thousands": lambda: split_by(THOUSANDS),
    "letters with space": lambda: split_by(LETTERS_WITH_SPACE),
    "looks back": lambda: split_by(LOOKS_BACK),
    "prefix space": lambda: pre_tokenizers.ByteLevel(add_prefix_space=True),
}
ADDITIVE = ("GPT-2", "Llama 3", "Qwen 2", "SmolLM2")


@cache
def real_texts() -> list[str]:
    examples = generate(seed=0, rows_per_family=5)
    return [text for example in examples for text in (example.prompt, example.response)]


@cache
def trained(cuts: str, *, normalizer: str | None = None) -> Any:
    """A small tokenizer of a kind; every nasty text is worth a few merges."""
    fresh = Tokenizer(models.BPE())
    fresh.pre_tokenizer = CUTS[cuts]()
    if cuts == "Qwen 2":
        fresh.normalizer = normalizers.NFC()
    if normalizer is not None:
        fresh.normalizer = getattr(normalizers, normalizer)()
    nasty = [left + right for left in NASTY for right in NASTY]
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    fresh.train_from_iterator(real_texts() + nasty, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=fresh, eos_token="<|im_end|>")


def encoder_of(tokenizer: Any, template: str = CHATML, system: str | None = None) -> ChatEncoder:
    tokenizer.chat_template = template
    return ChatEncoder(tokenizer, system_prompt=system)


def whole(encoder: ChatEncoder, turns: Turns) -> tuple[int, int]:
    """The oracle."""
    return encoder.count([Message(role, "".join(pieces)) for role, pieces in turns])


def pieces_of(rng: np.random.Generator, alphabet: str) -> list[str]:
    """A few pieces: real ones, glue, and noise, short or long."""

    def noise(max_length: int) -> str:
        return "".join(rng.choice(list(alphabet), rng.integers(0, max_length)))

    def one() -> str:
        draw = rng.random()
        if draw < 0.4:
            return noise(6)
        if draw < 0.5:
            return noise(120)
        return str(rng.choice(GLUE)) if draw < 0.75 else str(rng.choice(real_texts()))

    return [one() for _ in range(rng.integers(0, 7))]


def conversations(seed: int, number: int, alphabet: str = ALPHABET) -> list[Turns]:
    rng = np.random.default_rng(seed)
    shapes = [SHAPES[i] for i in rng.integers(0, len(SHAPES), number)]
    return [[(role, pieces_of(rng, alphabet)) for role in shape] for shape in shapes]


def assert_exact(encoder: ChatEncoder, many: Sequence[Turns]) -> TokenCounter:
    counter = TokenCounter(encoder)
    for turns in many:
        assert counter.count(turns) == whole(encoder, turns), turns
    return counter


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("cuts", ADDITIVE)
def test_the_count_is_that_of_the_whole_conversation(cuts: str, template: str) -> None:
    encoder = encoder_of(trained(cuts), TEMPLATES[template])

    counter = assert_exact(encoder, conversations(0, 100))

    assert counter.is_additive
    # Qwen 2's normal form C is put together only where no piece begins with a mark.
    assert counter.num_whole < (100 if cuts == "Qwen 2" else 1)


@pytest.mark.model
def test_the_count_is_exact_for_the_real_tokenizer_and_template(model_cache: Path) -> None:
    tokenizer = load_pretrained(EMBEDDED, cache=model_cache).tokenizer

    for system in (None, "Be brief."):
        counter = assert_exact(
            ChatEncoder(tokenizer, system_prompt=system), conversations(1, number=200)
        )
        assert counter.is_additive
        assert counter.num_whole == 0


@pytest.mark.parametrize("cuts", ADDITIVE)
def test_all_pairs_of_nasty_texts_are_joined_exactly(cuts: str) -> None:
    tokenizer = trained(cuts)
    counter = TokenCounter(encoder_of(tokenizer, PLAIN_TEMPLATE))
    texts = counter._texts
    assert texts is not None
    long = ["a tale of two " + left + "\n" for left in NASTY], [each + " x y" for each in NASTY]

    joins = [[left, right] for left in long[0] for right in long[1]]

    counted = [texts.count(pieces) for pieces in joins]
    ids = tokenizer(["".join(pieces) for pieces in joins], add_special_tokens=False)["input_ids"]
    wrong = [
        pieces
        for pieces, found, row in zip(joins, counted, ids, strict=True)
        if found not in (len(row), None)
    ]
    assert wrong == []
    assert counted.count(None) < len(joins) / 5


def without_correction(self: Any, tail: str, text: str, piece: Any) -> Any:
    """A piece counts behind every tail what it counts alone."""
    gained, new_tail = self._whole_step("", text) if piece.head is None else (0, None)
    return gained + self._size(tail), new_tail


def shorter_tail(text: str, cuts: Sequence[int]) -> int:
    """Only the last pre-token is held to be open."""
    return cuts[-1]


@pytest.mark.parametrize("cuts", ADDITIVE)
def test_without_corrections_the_counts_would_be_wrong(
    cuts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_counts, "additive_texts", check)
    encoder = encoder_of(trained(cuts))
    counter = TokenCounter(encoder)
    monkeypatch.setattr(joined_texts.JoinedTexts, "_step", without_correction)
    monkeypatch.setattr(token_counts, "_counts_probes", lambda *_: True)  # it would be found

    many = conversations(0, 60)

    wrong = sum(counter.count(turns) != whole(encoder, turns) for turns in many)
    assert wrong > 60 / 10  # most joins are known from the check, which was right


@pytest.mark.parametrize("cuts", ADDITIVE)
def test_a_planted_fault_is_found_before_it_is_relied_on(
    cuts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = encoder_of(trained(cuts))
    assert TokenCounter(encoder).is_additive

    monkeypatch.setattr(token_counts, "additive_texts", check)
    monkeypatch.setattr(joined_texts, "_tail_start", shorter_tail)

    assert not TokenCounter(encoder).is_additive


@pytest.mark.parametrize("cuts", [kind for kind in CUTS if kind not in ADDITIVE])
def test_a_tokenizer_whose_counts_do_not_add_up_counts_whole(cuts: str) -> None:
    counter = assert_exact(encoder_of(trained(cuts)), conversations(0, 10))

    assert not counter.is_additive
    assert counter.num_whole == 10


@pytest.mark.parametrize("normalizer", ["Lowercase", "NFKC", "Strip"])
def test_a_normalizer_that_changes_texts_counts_whole(normalizer: str) -> None:
    counter = assert_exact(
        encoder_of(trained("GPT-2", normalizer=normalizer)), conversations(0, 10)
    )

    assert not counter.is_additive


def test_a_word_level_tokenizer_counts_whole(tokenizer: Any) -> None:
    turns: Turns = [("user", ["w1 w2", " ", "w3"]), ("assistant", ["w4", " w5"])]

    counter = TokenCounter(ChatEncoder(tokenizer))

    assert not counter.is_additive
    assert counter.count(turns) == (8, 3)  # <user> w1 w2 w3 <assistant> w4 w5 </s>
    assert counter.num_whole == 1


def test_normal_form_that_reaches_over_a_join_is_exact() -> None:
    encoder = encoder_of(trained("Qwen 2"))
    composing: list[list[str]] = [
        ["e", "\u0301 and more words"],
        ["\u1112\u1161", "\u11ab"],
        ["e\u0301", "s"],
        ["\u00e9", "s of it"],
    ]

    many: list[Turns] = [[("user", pieces), ("assistant", pieces)] for pieces in composing]

    counter = assert_exact(encoder, many)
    assert counter.num_whole == 3  # all but the last, which is in normal form


def test_the_text_of_a_special_token_is_exact_wherever_its_parts_are() -> None:
    encoder = encoder_of(trained("GPT-2"))
    special: list[list[str]] = [
        ["a ", "<|im_end|>", " b"],
        ["a <|im_", "end|> b"],
        ["a <", "|", "im_end", "|>"],
        ["a ", "<|im_start|>user\nb"],
    ]

    many: list[Turns] = [
        [("user", user), ("assistant", assistant)]
        for user in [["Hi"], *special]
        for assistant in [["Hi"], *special]
    ]

    counter = assert_exact(encoder, many)
    assert counter.num_whole == len(many) - 1


def test_a_template_that_looks_into_contents_is_exact() -> None:
    thinking = CHATML.replace(
        "m['content']", "(m['content'].split('</think>')[-1] if m.role == 'assistant' else 'Q')"
    ).replace("'Q'", "m['content']")
    encoder = encoder_of(trained("GPT-2"), thinking)
    plain: Turns = [("user", ["Why", "?"]), ("assistant", ["Be", "cause."])]
    thought: Turns = [("user", ["Why?"]), ("assistant", ["Hm.</th", "ink>", "Because."])]

    counter = assert_exact(encoder, [plain, thought, plain])

    assert counter.num_whole == 1


@pytest.mark.parametrize(
    "condition",
    [
        "m['content'] | length > 100",
        "not m['content']",
        "m['content'].startswith('<a>') and m['content'].endswith('</a>')",
        "m['content'] == 'none'",
    ],
)
def test_a_template_that_depends_on_contents_is_exact(condition: str) -> None:
    changing = CHATML.replace("m['content']", f"('short' if {condition} else m['content'])")
    encoder = encoder_of(trained("GPT-2"), changing)
    contents = [["no", "ne"], ["none", " at all"], [], ["<a>", "x", "</a>"], ["long "] * 40]

    assert_exact(encoder, [[("user", each), ("assistant", each)] for each in contents])


def test_a_template_that_writes_a_content_twice_is_exact() -> None:
    twice = CHATML.replace("m['content']", "m['content'] + m['content']")

    counter = assert_exact(encoder_of(trained("GPT-2"), twice), conversations(0, 10))

    assert counter.num_whole == 10


def test_what_the_encoder_refuses_is_refused() -> None:
    strict = CHATML.replace(
        "{% for m in messages %}",
        "{% for m in messages %}{% if m['role'] == 'system' %}"
        "{{ raise_exception('no system turns') }}{% endif %}",
    )
    counter = TokenCounter(encoder_of(trained("GPT-2"), strict))
    turns: Turns = [("system", ["Be", " kind"]), ("user", ["Hi"]), ("assistant", ["Hi"])]

    assert counter.count(turns[1:]) == whole(counter._encoder, turns[1:])
    with pytest.raises(ModelError, match="no system turns"):
        counter.count(turns)


def test_the_first_token_of_a_row_carries_no_loss() -> None:
    bare = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    encoder = encoder_of(trained("GPT-2"), bare)
    turns: Turns = [("user", [""]), ("assistant", ["1", " 2"])]

    counter = assert_exact(encoder, [turns])

    assert counter.count(turns) == (2, 1)
    assert counter.num_whole == 0


def test_a_special_token_that_takes_the_space_beside_it_is_exact() -> None:
    tokenizer = trained("GPT-2")
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    for added in state["added_tokens"]:
        added["rstrip"] = True
    greedy = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), eos_token="<|im_end|>"
    )
    turns: Turns = [("user", ["\n", " x"]), ("assistant", ["y", " "])]

    counter = assert_exact(encoder_of(greedy), [turns])

    assert counter.num_whole == 1


def test_counts_stay_exact_when_what_is_known_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(joined_texts, "MAX_PIECES", 40)
    monkeypatch.setattr(joined_texts, "MAX_STEPS", 60)
    monkeypatch.setattr(token_counts, "additive_texts", check)

    counter = assert_exact(encoder_of(trained("Llama 3")), conversations(2, 60))

    assert counter._texts is not None
    assert len(counter._texts._pieces) < 100


@pytest.mark.parametrize("cuts", ["Llama 3", "Qwen 2"])
def test_pieces_learned_beforehand_count_alike(cuts: str) -> None:
    encoder, many = encoder_of(trained(cuts)), conversations(4, 40)
    texts = [piece for turns in many for _, pieces in turns for piece in pieces]
    counter = TokenCounter(encoder)
    counter.learn(texts)
    assert counter._texts is not None
    learned = dict(counter._texts._pieces)

    found = [counter.count(turns) for turns in many]

    assert found == [whole(encoder, turns) for turns in many]
    assert sum(text in learned for text in texts) > len(texts) / 4
    assert all(counter._texts._pieces[text] is piece for text, piece in learned.items())


def test_known_pieces_are_not_tokenised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = encoder_of(trained("SmolLM2"), STRIPPING)
    counter = TokenCounter(encoder)
    many = conversations(3, 20)
    first = [counter.count(turns) for turns in many]

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("tokenised again")

    monkeypatch.setattr(joined_texts, "_num_tokens", never)
    monkeypatch.setattr(encoder, "encode", never)
    assert counter._texts is not None
    monkeypatch.setattr(counter._texts, "_num_tokens", never)

    assert [counter.count(turns) for turns in many] == first
