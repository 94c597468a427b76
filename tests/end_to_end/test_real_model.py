"""The embedded SmolLM2-135M: real weights, real tokenizer, real text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from raise_mdit.config import LearnerConfig, TopLayersConfig
from raise_mdit.core import EncodedRow, Example, Message
from raise_mdit.encoding import ChatEncoder, TextRow, plain_row
from raise_mdit.learners import losses
from raise_mdit.learners.batches import collate
from raise_mdit.learners.causal_lm import CausalLmLearner, build_learner
from raise_mdit.learners.flops import flops_model
from raise_mdit.learners.forward import LayeredForward, Precision
from raise_mdit.learners.pretrained import EMBEDDED, Pretrained, load_pretrained
from raise_mdit.learners.trainable import make_trainable
from raise_mdit.learners.trunk_cache import TrunkCache
from raise_mdit.sources.playground import generate

pytestmark = pytest.mark.model

TOP_LAYERS = 4

# Three times what rounding the states of 26 layers to bfloat16 changes (CPU): 2.7e-4, and 3.3e-3
# under autocast, which itself is 5.2e-3 from float32. Cosines are 1 - 1.5e-6 and 1 - 3.6e-5.
CACHED_LOSS_ERRORS: dict[Precision, float] = {"float32": 8e-4, "bfloat16": 1e-2}

Load = Callable[[], Pretrained]


@pytest.fixture(scope="session")
def real(model_cache: Path) -> Pretrained:
    """The embedded model, for tests that leave it as it is."""
    return load_pretrained(EMBEDDED, cache=model_cache)


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    """One row of every family of the playground."""
    return generate(seed=0, rows_per_family=1)


@pytest.fixture(scope="session")
def rows(real: Pretrained, examples: list[Example]) -> list[EncodedRow]:
    """A few of them, encoded."""
    texts = ChatEncoder(real.tokenizer).encode([each.messages for each in examples[:6]])
    return [plain_row(example.id, text) for example, text in zip(examples[:6], texts, strict=True)]


def learner(pretrained: Pretrained) -> CausalLmLearner:
    part = TopLayersConfig(kind="top_layers", layers=TOP_LAYERS)
    config = LearnerConfig(trainable=part)
    return build_learner(pretrained.model, config, precision="float32", seed=0)


def greedy(pretrained: Pretrained, prompt: NDArray[np.int64], num_tokens: int) -> list[int]:
    """The new tokens of the model's own greedy decoding, to the end token at most."""
    ids = torch.tensor(prompt)[None]
    model: Any = pretrained.model  # transformers mixes its methods in where mypy does not see it
    decoded = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=num_tokens,
        do_sample=False,
        pad_token_id=pretrained.tokenizer.pad_token_id,
    )
    return [int(token) for token in decoded[0, len(prompt) :]]


def test_the_embedded_model_is_smollm2(real: Pretrained) -> None:
    config = real.model.config
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (30, 576, 49152)
    assert real.model.get_output_embeddings().weight is real.model.get_input_embeddings().weight
    assert real.context_length == 8192
    assert real.tokenizer.eos_token == "<|im_end|>"


def test_the_second_load_reads_safetensors(
    real: Pretrained, model_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = AutoModelForCausalLM.from_pretrained
    places: list[Path] = []

    def note(place: str, **options: Any) -> Any:
        assert "gguf_file" not in options
        places.append(Path(place))
        return read(place, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", note)
    again = load_pretrained(EMBEDDED, cache=model_cache)

    assert again.digest == real.digest
    assert [sorted(place.glob("*.safetensors")) != [] for place in places] == [True]


def test_a_simple_question_gets_a_sane_answer(real: Pretrained) -> None:
    turns = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = real.tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]

    answer = greedy(real, np.array(prompt), 12)

    assert "Paris" in real.tokenizer.decode(answer)


def test_ids_are_the_real_tokenizers_own(real: Pretrained, examples: list[Example]) -> None:
    (newline,) = real.tokenizer("\n").input_ids  # what the template writes behind the last turn

    texts = ChatEncoder(real.tokenizer).encode([each.messages for each in examples])

    for text, example in zip(texts, examples, strict=True):
        turns = [message._asdict() for message in example.messages]
        own = real.tokenizer.apply_chat_template(turns)["input_ids"]
        assert [*text.ids.tolist(), newline] == own
        learned = real.tokenizer.decode(text.ids[text.in_response])
        assert learned == f"{example.response}<|im_end|>"


def test_both_responses_of_a_real_conversation_are_learned(real: Pretrained) -> None:
    turns = [
        Message("system", "Be brief."),
        Message("user", "Name a colour."),
        Message("assistant", "Blue."),
        Message("user", "Another!"),
        Message("assistant", "Dark red."),
    ]

    (text,) = ChatEncoder(real.tokenizer).encode([turns])

    own = real.tokenizer.apply_chat_template([turn._asdict() for turn in turns])["input_ids"]
    assert text.ids.tolist() == own[:-1]
    learned = real.tokenizer.decode(text.ids[text.in_response])
    assert learned == "Blue.<|im_end|>Dark red.<|im_end|>"


def test_from_the_top_layers_the_logits_are_the_models_own(
    real: Pretrained, rows: list[EncodedRow]
) -> None:
    model = real.model
    split = model.config.num_hidden_layers - TOP_LAYERS
    forward = LayeredForward(model, split=split, precision="float32")
    batch = collate(rows[:3], device=model.device)

    final_BTH = forward.final(forward.trunk(forward.embed(batch)), from_split=True)

    own = [model(input_ids=torch.tensor(row.ids)[None]).logits[0][row.scored] for row in rows[:3]]
    found = forward.logits(final_BTH.flatten(0, 1)[batch.scored_R])
    torch.testing.assert_close(found, torch.cat(own), rtol=0, atol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_losses_and_gradients_from_cached_states_are_exact_to_bfloat16(
    precision: Precision, model_cache: Path, rows: list[EncodedRow]
) -> None:
    model = load_pretrained(EMBEDDED, cache=model_cache).model
    part = TopLayersConfig(kind="top_layers", layers=TOP_LAYERS)
    trained = make_trainable(model, part, precision=precision, seed=0)
    forward, batch = trained.forward, collate(rows[:3], device=model.device)

    def learned(hidden_BTH: torch.Tensor, *, from_split: bool) -> tuple[float, torch.Tensor]:
        final_BTH = forward.final(hidden_BTH, from_split=from_split)
        loss = losses.backward(forward, final_BTH, batch, label_mass=float(len(batch.scored_R)))
        gradients = [weight.grad for weight in trained.parameters if weight.grad is not None]
        for weight in trained.parameters:
            weight.grad = None
        return loss.item(), torch.cat([each.flatten() for each in gradients]).double()

    loss, gradient = learned(forward.embed(batch), from_split=False)
    states, _ = TrunkCache(forward, flops_model(model, forward.layers), store=None).states(rows[:3])

    cached_loss, cached_gradient = learned(states, from_split=True)

    cosine = torch.nn.functional.cosine_similarity(gradient, cached_gradient, dim=0).item()
    assert cached_loss == pytest.approx(loss, rel=CACHED_LOSS_ERRORS[precision])
    assert 0.999 < cosine < 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_cached_states_do_not_depend_on_who_asks_for_them(
    precision: Precision, real: Pretrained, rows: list[EncodedRow]
) -> None:
    """To the bit: in a batch with longer ones the shortest would round otherwise."""
    ids = np.concatenate([row.ids for row in rows])
    cut = [dataclasses.replace(rows[0], ids=ids[:length]) for length in (20, 33, 47, 64, 120)]
    forward = LayeredForward(real.model, split=6, precision=precision)

    def asked_for(*wanted: EncodedRow) -> list[torch.Tensor]:
        cache = TrunkCache(forward, flops_model(real.model, forward.layers), store=None)
        return list(cache.states(wanted)[0])

    together = asked_for(*cut)

    for row, state in zip(cut, together, strict=True):
        (alone,) = asked_for(row)
        assert torch.equal(state[: row.num_tokens], alone), f"{row.num_tokens} tokens"


def test_one_update_lowers_the_loss_of_its_batch(model_cache: Path, rows: list[EncodedRow]) -> None:
    tuned = learner(load_pretrained(EMBEDDED, cache=model_cache))
    before = tuned.evaluate(rows).loss

    stats = tuned.update(rows, progress=0.0)

    assert stats.loss == pytest.approx(before, rel=1e-4)  # the same states, other batches
    assert tuned.evaluate(rows).loss < before


def test_exact_match_is_what_real_greedy_decoding_gives(
    model_cache: Path, rows: list[EncodedRow]
) -> None:
    pretrained = load_pretrained(EMBEDDED, cache=model_cache)
    answered = [_with_own_answer(pretrained, row) for row in rows[:3]]
    expected = []
    for row in (*rows, *answered):
        start = int(row.scored[0]) + 1
        response = row.ids[start:].tolist()
        expected.append(greedy(pretrained, row.ids[:start], len(response)) == response)

    found = learner(pretrained).evaluate([*rows, *answered])

    assert found.item_exact.tolist() == expected
    assert set(expected) == {True, False}


def _with_own_answer(pretrained: Pretrained, row: EncodedRow) -> EncodedRow:
    """The row with the response that the model itself gives."""
    prompt = row.ids[: int(row.scored[0]) + 1]
    ids = np.array([*prompt, *greedy(pretrained, prompt, 8)])
    return plain_row(f"own {row.key}", TextRow(ids, np.arange(len(ids)) >= len(prompt)))
