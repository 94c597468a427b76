"""Greedy generation: against one token at a time without a cache, transformers, and by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from raise_mdit.config import FullConfig, LearnerConfig, LoraConfig, TopLayersConfig
from raise_mdit.core import EncodedRow
from raise_mdit.encoding import TextRow, plain_row
from raise_mdit.learners import generation
from raise_mdit.learners.causal_lm import CausalLmLearner, build_learner
from raise_mdit.learners.flops import FlopsModel

Make = Callable[..., Any]

NEVER = 107  # the first id behind the vocabulary
LENGTHS = (3, 9, 1, 5, 5, 12)
NUM_NEW = 10

TRAINABLE: dict[str, Any] = {
    "full": FullConfig(kind="full"),
    "lora": LoraConfig(kind="lora", rank=4),
    "lora-top": LoraConfig(kind="lora", rank=4, layers=2, dropout=0.5),
    "top_layers": TopLayersConfig(kind="top_layers", layers=2),
}


def prompt(ids: Sequence[int]) -> EncodedRow:
    return plain_row("prompt", TextRow(np.array(ids, np.int64), np.zeros(len(ids), np.bool_)))


PROMPTS = [
    prompt(np.random.default_rng(index).integers(7, 107, length).tolist())
    for index, length in enumerate(LENGTHS)
]


@pytest.fixture
def lively(random_llama: Make) -> Make:
    """Makes a model with larger weights, so that it does not repeat one token."""

    def make(seed: int = 0) -> Any:
        model = random_llama(seed, tied=False)
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.mul_(8)
        return model

    return make


def build(model: Any, kind: str = "top_layers", precision: Any = "float32") -> CausalLmLearner:
    config = LearnerConfig(trainable=TRAINABLE[kind], learning_rate=3e-2)
    return build_learner(model, config, precision=precision, seed=0)


def one_by_one(model: Any, ids: NDArray[np.int64], num_new: int) -> list[int]:
    """The likeliest next token, read anew with all before it."""
    context, new = ids.tolist(), []
    for _ in range(num_new):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([context]), use_cache=False).logits[0, -1]
        new.append(int(logits.argmax()))
        context.append(new[-1])
    return new


def written(learner: CausalLmLearner, end_ids: Sequence[int] = (NEVER,)) -> list[list[int]]:
    found = learner.generate(PROMPTS, max_new_tokens=NUM_NEW, end_ids=end_ids)
    return [ids.tolist() for ids in found.ids]


@pytest.mark.parametrize("kind", TRAINABLE)
def test_a_batch_with_a_cache_writes_what_each_prompt_gives_token_by_token(
    kind: str, lively: Make, random_rows: Make
) -> None:
    model = lively()
    learner = build(model, kind)
    before = written(learner)
    for step in range(3):
        learner.update(random_rows(4, seed=step), progress=0.0)

    found = written(learner)

    model.eval()
    expected = [one_by_one(model, row.ids, NUM_NEW) for row in PROMPTS]
    assert found == expected
    assert found != before  # what was trained has an effect
    assert len({token for ids in found for token in ids}) > 10


def test_positions_that_are_learned_count_from_the_first_token_of_each_prompt() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=107, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2
        )
        model = GPT2LMHeadModel(config).requires_grad_(False).eval()

    found = written(build(model))

    assert found == [one_by_one(model, row.ids, NUM_NEW) for row in PROMPTS]


def test_small_batches_write_the_same(lively: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = build(lively())
    at_once = written(learner)
    monkeypatch.setattr(generation, "GENERATION_TOKENS", 2 * (max(LENGTHS) + NUM_NEW))

    in_pairs = learner.generate(PROMPTS, max_new_tokens=NUM_NEW, end_ids=[NEVER])

    assert [ids.tolist() for ids in in_pairs.ids] == at_once
    # Sorted and in pairs: 1 and 3, 5 and 5, 9 and 12 tokens.
    assert in_pairs.cost.padded_tokens == 2 * (3 + 5 + 12) + len(LENGTHS) * NUM_NEW


def test_a_response_ends_with_its_first_end_token(lively: Make) -> None:
    learner = build(lively())
    unended = written(learner)
    ends = [unended[0][4], unended[3][2]]

    found = written(learner, ends)

    expected = []
    for ids in unended:
        places = [place for place, token in enumerate(ids) if token in ends]
        expected.append(ids[: places[0] + 1] if places else ids)
    assert found == expected
    lengths = {len(ids) for ids in found}
    assert NUM_NEW in lengths
    assert len(lengths) > 1


def test_it_agrees_with_the_library_on_each_prompt_alone(lively: Make) -> None:
    model = lively()
    config = GenerationConfig(
        max_new_tokens=NUM_NEW, do_sample=False, eos_token_id=NEVER, pad_token_id=0
    )
    expected = []
    for row in PROMPTS:
        ids = torch.from_numpy(row.ids)[None]
        whole = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        expected.append(whole[0, row.num_tokens :].tolist())

    assert written(build(model)) == expected


def test_settings_that_a_model_comes_with_have_no_effect_and_stay(lively: Make) -> None:
    plain = written(build(lively()))
    model = lively()
    model.generation_config.repetition_penalty = 50.0
    model.generation_config.min_new_tokens = 3

    assert written(build(model)) == plain
    assert model.generation_config.repetition_penalty == 50.0


def test_half_precision_writes_what_its_own_passes_give(lively: Make) -> None:
    model = lively()
    learner = build(model, "lora-top", "bfloat16")

    found = written(learner)

    # Rounding moves a near tie, so the first token is compared, which no earlier one leads astray.
    model.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = [one_by_one(model, row.ids, 1)[0] for row in PROMPTS]
    assert [ids[0] for ids in found] == first


def test_writing_changes_nothing(lively: Make, random_rows: Make) -> None:
    rows = random_rows(6)
    first, second = build(lively(), "lora-top"), build(lively(), "lora-top")
    state = torch.get_rng_state()

    written(first)

    assert torch.equal(torch.get_rng_state(), state)
    for learner in (first, second):
        learner.update(rows, progress=0.0)
    assert first.evaluate(rows).item_losses.tolist() == second.evaluate(rows).item_losses.tolist()


def test_tokens_are_those_read_and_those_written(lively: Make) -> None:
    learner = build(lively())
    ends = [written(learner)[0][4]]

    found = learner.generate(PROMPTS, max_new_tokens=NUM_NEW, end_ids=ends)

    assert found.cost.tokens == sum(LENGTHS) + sum(map(len, found.ids))
    assert found.cost.padded_tokens == len(LENGTHS) * (max(LENGTHS) + NUM_NEW)
    assert found.cost.seconds > 0


@pytest.mark.parametrize("num_new", [1, 2, NUM_NEW])
@pytest.mark.parametrize("kind", ["full", "lora", "lora-top"])
def test_operations_agree_with_the_counter_of_torch(kind: str, num_new: int, lively: Make) -> None:
    model = lively()
    model.set_attn_implementation("eager")
    learner = build(model, kind)

    with FlopCounterMode(display=False) as counter:
        found = learner.generate(PROMPTS, max_new_tokens=num_new, end_ids=[NEVER])

    # Rotations, which we leave out, are products of eight entries here and weigh little.
    assert found.cost.flops == pytest.approx(counter.get_total_flops(), rel=0.005)


def test_operations_of_three_tokens_by_hand() -> None:
    flops = FlopsModel(layer_weights=10, head_weights=7, attention_width=3)

    found = generation.generation_flops(flops, num_layers=2, rows=4, prompt=5, new=3)

    weights = 2 * 10 * 2 * 4 * (5 + 2)  # each prompt token, and two of the three new ones
    attention = 4 * 3 * 2 * 4 * (5 * 5 + 6 + 7)
    assert found == weights + attention + 2 * 7 * 4 * 3
