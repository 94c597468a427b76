"""Sentence embeddings against plain transformers, their cost, their cache, and every mistake."""

from __future__ import annotations

import functools
import gc
import json
import re
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5Model,
)

from raise_mdit.errors import ModelError
from raise_mdit.learners.causal_lm import EVALUATION_TOKENS
from raise_mdit.learners.sentence_encoder import Embedded, encode_sentences, mean_over_tokens

VOCABULARY, HIDDEN, INNER, LAYERS, HEADS, POSITIONS = 107, 32, 64, 2, 4, 64
LENGTHS = (5, 1, 12, 3, 9, 2, 7)
TEXTS = [
    " ".join(f"w{(7 * i + j) % 100}" for j in range(length)) for i, length in enumerate(LENGTHS)
]

Spoil = Callable[[Path], object]


def bert_config(**settings: Any) -> BertConfig:
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": POSITIONS,
        "initializer_range": 0.3,  # with BERT's 0.02 every token attends to all alike
    }
    return BertConfig(**{**sizes, **settings})


def save_model(folder: Path, kind: type[Any], config: Any, seed: int = 0) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind(config).save_pretrained(folder)


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Any) -> Path:
    """A small BERT with random weights and its tokenizer."""
    save_model(tmp_path / "encoder", BertModel, bert_config())
    tokenizer.save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.fixture
def encode(folder: Path, tmp_path: Path) -> Callable[..., Embedded]:
    """Encodes by the encoder in the folder, with a cache of this test's own."""
    return functools.partial(
        encode_sentences,
        str(folder),
        device="cpu",
        cache=tmp_path / "cache",
        advance=lambda _done: None,
        max_length=POSITIONS,
    )


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, no BERT may be run."""

    def forbid(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the model was run")

    return lambda: monkeypatch.setattr(BertModel, "forward", forbid)


def by_hand(folder: Path, texts: Sequence[str], tokenizer: Any) -> Any:
    """Each text by itself, without padding, by a model that is loaded plainly."""
    model = AutoModel.from_pretrained(folder).eval()
    embeddings = []
    for text in texts:
        ids = torch.tensor(tokenizer(text)["input_ids"])[None]
        with torch.no_grad():
            mean = model(input_ids=ids).last_hidden_state[0].mean(dim=0).numpy()
        embeddings.append(mean / np.linalg.norm(mean))
    return np.stack(embeddings)


def complaint(name: str | Path, cache: Path) -> str:
    """What a user reads who asked for an encoder that cannot be had."""
    with pytest.raises(ModelError) as caught:
        encode_sentences(
            str(name),
            TEXTS,
            device="cpu",
            cache=cache,
            advance=lambda _done: None,
            max_length=POSITIONS,
        )
    message = str(caught.value)
    assert message.startswith("features.sentence_encoder: ")
    assert str(name) in message
    assert "\n" not in message
    return message


def cached_files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def change_config(folder: Path, **settings: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def add_special_tokens(folder: Path) -> None:
    """Let the tokenizer put a token before and one behind every text."""
    file = folder / "tokenizer.json"
    processor = {"type": "BertProcessing", "cls": ["<s>", 1], "sep": ["</s>", 2]}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"post_processor": processor}))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def test_an_embedding_is_the_mean_of_the_last_states_at_unit_length(
    encode: Callable[..., Embedded], folder: Path, tokenizer: Any
) -> None:
    embeddings = encode(TEXTS).embeddings

    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, by_hand(folder, TEXTS, tokenizer), atol=1e-5)


def test_embeddings_follow_the_order_of_texts_over_many_batches(
    encode: Callable[..., Embedded], folder: Path, tokenizer: Any
) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 40, 200)
    texts = [" ".join(f"w{word}" for word in rng.integers(0, 100, size)) for size in lengths]
    assert lengths.sum() > 1.5 * EVALUATION_TOKENS

    embeddings = encode(texts).embeddings

    np.testing.assert_allclose(embeddings, by_hand(folder, texts, tokenizer), atol=1e-5)


def test_masked_states_have_no_part_in_the_mean() -> None:
    states = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [9.0, -9.0]]])

    embedding = mean_over_tokens(states, torch.tensor([[True, True, False]]))

    torch.testing.assert_close(embedding, torch.tensor([[1.0, 1.0]]) / 2**0.5)


def test_special_tokens_of_the_tokenizer_are_read(
    encode: Callable[..., Embedded], folder: Path, tokenizer: Any
) -> None:
    add_special_tokens(folder)

    embedded = encode(["w1 w2"])

    assert embedded.cost.tokens == 4
    expected = by_hand(folder, ["<s> w1 w2 </s>"], tokenizer)
    np.testing.assert_allclose(embedded.embeddings, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("max_length", "kept"),
    [pytest.param(16, 16, id="by the limit"), pytest.param(500, POSITIONS, id="by the context")],
)
def test_a_long_text_is_cut(
    max_length: int,
    kept: int,
    encode: Callable[..., Embedded],
    folder: Path,
    tokenizer: Any,
) -> None:
    words = [f"w{i % 90}" for i in range(300)]

    embedded = encode([" ".join(words)], max_length=max_length)

    assert embedded.cost.tokens == kept
    expected = by_hand(folder, [" ".join(words[:kept])], tokenizer)
    np.testing.assert_allclose(embedded.embeddings, expected, atol=1e-5)


def test_positions_that_begin_behind_the_padding_row_are_not_overrun(
    encode: Callable[..., Embedded], folder: Path
) -> None:
    settings = bert_config().to_dict() | {"model_type": "roberta", "pad_token_id": 1}
    save_model(folder, RobertaModel, RobertaConfig(**settings))

    embedded = encode([" ".join(["w1"] * 300)])

    assert embedded.cost.tokens == POSITIONS - 2  # rows 0 and 1 of the table are no positions


def test_cost_counts_real_and_padded_tokens_and_time(encode: Callable[..., Embedded]) -> None:
    cost = encode(TEXTS).cost

    assert cost.tokens == sum(LENGTHS)
    assert cost.padded_tokens == len(LENGTHS) * max(LENGTHS)  # they fit one batch
    assert cost.seconds > 0


def test_flops_are_those_of_torchs_counter_and_of_the_architecture(
    encode: Callable[..., Embedded],
) -> None:
    rows, length = len(LENGTHS), max(LENGTHS)
    model = BertModel._from_config(bert_config(), attn_implementation="eager").eval()
    model.pooler = None
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.ones(rows, length, dtype=torch.int64))

    flops = encode(TEXTS).cost.flops

    matrices = 4 * HIDDEN * HIDDEN + 2 * HIDDEN * INNER
    attention = 2 * length * HIDDEN
    assert flops == counter.get_total_flops()
    assert flops == LAYERS * 2 * rows * length * (matrices + attention)


def test_every_batch_of_a_repeated_shape_is_counted(encode: Callable[..., Embedded]) -> None:
    length = 32
    in_a_batch = EVALUATION_TOKENS // length
    text = " ".join(["w1"] * length)

    one, three = (encode([text] * (in_a_batch * times)).cost for times in (1, 3))

    assert three.flops == 3 * one.flops
    assert three.padded_tokens == 3 * one.padded_tokens == 3 * EVALUATION_TOKENS


def test_a_second_call_does_not_run_the_model_and_tells_the_same_cost(
    encode: Callable[..., Embedded], unread: Callable[[], None]
) -> None:
    first = encode(TEXTS)
    unread()

    again = encode(TEXTS)

    np.testing.assert_array_equal(again.embeddings, first.embeddings)
    assert again.embeddings.dtype == first.embeddings.dtype
    assert again.cost == first.cost


def test_neither_the_name_nor_a_limit_that_cuts_nothing_matters_to_the_cache(
    encode: Callable[..., Embedded], folder: Path, tmp_path: Path, unread: Callable[[], None]
) -> None:
    first = encode(TEXTS)
    unread()

    moved = folder.rename(folder.with_name("moved"))
    again = encode_sentences(
        str(moved),
        TEXTS,
        device="cpu",
        cache=tmp_path / "cache",
        advance=lambda _done: None,
        max_length=max(LENGTHS),
    )

    np.testing.assert_array_equal(again.embeddings, first.embeddings)


@pytest.mark.parametrize(
    ("texts", "max_length"),
    [
        pytest.param([*TEXTS[:-1], "w1"], POSITIONS, id="another text"),
        pytest.param(TEXTS[:-1], POSITIONS, id="fewer texts"),
        pytest.param(TEXTS[::-1], POSITIONS, id="another order"),
        pytest.param(TEXTS, 4, id="a limit that cuts"),
    ],
)
def test_other_content_is_read_anew(
    texts: list[str],
    max_length: int,
    encode: Callable[..., Embedded],
    unread: Callable[[], None],
) -> None:
    encode(TEXTS)
    unread()

    with pytest.raises(AssertionError, match="the model was run"):
        encode(texts, max_length=max_length)


def _other_weights(folder: Path) -> None:
    save_model(folder, BertModel, bert_config(), seed=1)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_other_weights, id="weights"),
        pytest.param(lambda folder: change_config(folder, num_attention_heads=2), id="heads"),
        pytest.param(add_special_tokens, id="tokenizer"),
    ],
)
def test_another_encoder_reads_anew(
    change: Spoil, encode: Callable[..., Embedded], folder: Path, tmp_path: Path
) -> None:
    first = encode(TEXTS)
    change(folder)

    second = encode(TEXTS)

    assert len(cached_files(tmp_path)) == 2
    assert np.abs(second.embeddings - first.embeddings).max() > 1e-4


@pytest.mark.parametrize("damage", [b"", b"garbage" * 100])
def test_a_damaged_cache_is_computed_again_and_mended(
    damage: bytes, encode: Callable[..., Embedded], tmp_path: Path, unread: Callable[[], None]
) -> None:
    first = encode(TEXTS)
    (file,) = cached_files(tmp_path)
    file.write_bytes(damage)

    again = encode(TEXTS)
    unread()
    cached = encode(TEXTS)

    assert again.cost._replace(seconds=0) == first.cost._replace(seconds=0)
    np.testing.assert_array_equal(again.embeddings, first.embeddings)
    np.testing.assert_array_equal(cached.embeddings, first.embeddings)


def test_progress_counts_every_text_once_cached_or_not(encode: Callable[..., Embedded]) -> None:
    done = list[int]()

    encode(TEXTS, advance=done.append)
    assert sum(done) == len(TEXTS)

    done.clear()
    encode(TEXTS, advance=done.append)
    assert sum(done) == len(TEXTS)


def test_the_encoder_is_gone_afterwards(
    encode: Callable[..., Embedded], monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[weakref.ref[Any]] = []
    original = BertModel.forward

    def remembered(self: Any, *args: Any, **kwargs: Any) -> Any:
        models.append(weakref.ref(self))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(BertModel, "forward", remembered)
    encode(TEXTS)

    gc.collect()
    assert {model() for model in models} == {None}


def test_an_encoder_saved_without_its_pooler_will_do_and_leaves_torchs_generator(
    encode: Callable[..., Embedded], folder: Path, tokenizer: Any, unread: Callable[[], None]
) -> None:
    save_model(folder, BertForMaskedLM, bert_config())
    before = torch.random.get_rng_state()

    first = encode(TEXTS)

    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_allclose(first.embeddings, by_hand(folder, TEXTS, tokenizer), atol=1e-5)
    unread()
    np.testing.assert_array_equal(encode(TEXTS).embeddings, first.embeddings)


def test_weights_in_half_precision_are_read_as_float32(
    encode: Callable[..., Embedded], folder: Path, tokenizer: Any
) -> None:
    BertModel.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)

    embeddings = encode(TEXTS).embeddings

    BertModel.from_pretrained(folder, dtype=torch.float32).save_pretrained(folder)
    np.testing.assert_allclose(embeddings, by_hand(folder, TEXTS, tokenizer), atol=1e-5)


def test_a_missing_folder_is_told_with_the_nearest(folder: Path, tmp_path: Path) -> None:
    message = complaint(folder.with_name("encodr"), tmp_path)

    assert "there is no folder" in message
    assert message.endswith("Did you mean 'encoder'?")


@pytest.mark.parametrize("name", ["no/such/folder", "nobody/no-such-model", "bad name!"])
def test_an_unknown_name_is_the_users_mistake(name: str, tmp_path: Path) -> None:
    assert "could not be loaded" in complaint(name, tmp_path)


def test_a_folder_without_a_model_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    assert "holds no config.json" in complaint(tmp_path / "empty", tmp_path)


def test_a_file_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "encoder.gguf").write_bytes(b"")

    assert "is a file; give a folder" in complaint(tmp_path / "encoder.gguf", tmp_path)


def _pickled(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _cut_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:3000])


def _own_code(folder: Path) -> None:
    (folder / "mine.py").write_text("raise SystemExit('the code of the model was run')\n")
    change_config(folder, model_type="mine", auto_map={"AutoConfig": "mine.Config"})


def _one_weight_less(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.pop("encoder.layer.1.output.dense.bias"))


def _with_a_decoder(folder: Path) -> None:
    config = T5Config(vocab_size=VOCABULARY, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    save_model(folder, T5Model, config)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param(_pickled, "could not be loaded", id="pickled weights"),
        pytest.param(_cut_weights, "could not be loaded", id="cut weights"),
        pytest.param(_own_code, "could not be loaded", id="code of its own"),
        pytest.param(
            lambda folder: (folder / "tokenizer.json").write_text("{"),
            "could not be loaded",
            id="damaged tokenizer",
        ),
        pytest.param(
            _one_weight_less,
            "lacks 1 of the weights .* such as 'encoder.layer.1.output.dense.bias'",
            id="one weight less",
        ),
        pytest.param(
            lambda folder: change_config(folder, intermediate_size=INNER * 2),
            "lacks 6 of the weights",
            id="another shape",
        ),
        pytest.param(
            _with_a_decoder, "gives no state for each token of a text", id="with a decoder"
        ),
    ],
)
def test_a_folder_that_is_no_whole_encoder_is_the_users_mistake(
    spoil: Spoil, reason: str, folder: Path, tmp_path: Path
) -> None:
    spoil(folder)

    message = complaint(folder, tmp_path)

    assert re.search(reason, message)


def test_a_text_without_tokens_is_told(encode: Callable[..., Embedded]) -> None:
    with pytest.raises(ModelError, match=r"^features.sentence_encoder: .* no token in '   '"):
        encode(["w1", "   "])


def test_a_gpu_that_is_not_there_is_told(
    encode: Callable[..., Embedded], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    with pytest.raises(ModelError, match=r"^model\.device: cuda is asked for"):
        encode(TEXTS, device="cuda")
