"""The learner against plain transformers, torch's own FLOP counter and the laws of restoring."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from raise_mdit.config import FullConfig, LearnerConfig, LoraConfig, TopLayersConfig
from raise_mdit.core import EncodedRow
from raise_mdit.encoding import plain_row
from raise_mdit.errors import ModelError
from raise_mdit.learners import causal_lm
from raise_mdit.learners.adamw import decay_factor
from raise_mdit.learners.causal_lm import CausalLmLearner, build_learner
from raise_mdit.learners.forward import Precision
from raise_mdit.learners.trunk_store import TrunkStore

Make = Callable[..., Any]

FULL = FullConfig(kind="full")
LORA = LoraConfig(kind="lora", rank=4)
LORA_ON_TOP = LoraConfig(kind="lora", rank=4, layers=2)
TOP = TopLayersConfig(kind="top_layers", layers=2)
PARTS = [
    pytest.param(FULL, id="full"),
    pytest.param(LORA, id="lora"),
    pytest.param(LORA_ON_TOP, id="lora-on-top"),
    pytest.param(TOP, id="top_layers"),
]
FROM_CACHE = [pytest.param(LORA_ON_TOP, id="lora-on-top"), pytest.param(TOP, id="top_layers")]

CACHED_LOSS_ERROR = 5e-5  # of the small random model; see the exactness laws of test_forward.py


def learner(
    model: Any, part: Any, *, precision: Precision = "float32", **settings: Any
) -> CausalLmLearner:
    config = LearnerConfig(trainable=part, learning_rate=1e-2, **settings)
    return build_learner(model, config, precision=precision, seed=0)


def reference_losses(model: Any, rows: Sequence[EncodedRow]) -> list[float]:
    """Each row alone through the model's own forward pass, all logits."""
    losses = []
    for row in rows:
        logits = model(input_ids=torch.tensor(row.ids)[None]).logits[0]
        log_probs = logits.log_softmax(-1)[row.scored]
        losses.append(-log_probs[range(row.num_scored), row.targets[:, 0]].mean().item())
    return losses


@pytest.mark.parametrize("part", PARTS)
def test_evaluation_equals_the_models_own_forward_pass(
    part: Any, random_llama: Make, random_rows: Make
) -> None:
    rows = random_rows(7)
    expected = reference_losses(random_llama(), rows)

    found = learner(random_llama(), part).evaluate(rows)

    np.testing.assert_allclose(found.item_losses, expected, rtol=CACHED_LOSS_ERROR)
    counts = [row.num_scored for row in rows]
    assert found.loss == pytest.approx(np.average(expected, weights=counts), rel=CACHED_LOSS_ERROR)


def test_exact_match_is_what_greedy_decoding_gives(random_llama: Make, random_text: Make) -> None:
    model = random_llama()
    rng = np.random.default_rng(0)
    prompt = random_text(rng, 5, 4)
    decoded = model.generate(
        torch.tensor(prompt.ids[:5])[None],
        attention_mask=torch.ones(1, 5, dtype=torch.long),
        max_new_tokens=4,
        min_new_tokens=4,
        do_sample=False,
    )[0].numpy()
    answered = plain_row("right", prompt._replace(ids=decoded))
    missed = plain_row("wrong", prompt._replace(ids=np.append(decoded[:-1], decoded[-1] ^ 1)))

    found = learner(model, TOP).evaluate([answered, missed])

    assert found.item_exact.tolist() == [True, False]
    assert found.exact_match == 0.5


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("part", PARTS)
def test_updates_lower_the_loss(
    part: Any, precision: Precision, random_llama: Make, random_rows: Make
) -> None:
    rows, tuned = random_rows(8), learner(random_llama(), part, precision=precision)
    before = tuned.evaluate(rows).loss

    for _ in range(5):
        tuned.update(rows, progress=0.0)

    assert tuned.evaluate(rows).loss < before - 0.02


@pytest.mark.parametrize("part", PARTS)
def test_restore_undoes_every_update_exactly(
    part: Any, random_llama: Make, random_rows: Make
) -> None:
    rows, tuned = random_rows(6), learner(random_llama(), part)
    tuned.update(rows, progress=0.0)
    saved = tuned.snapshot()
    first = [tuned.update(rows, progress=0.0).loss for _ in range(3)]
    first.append(tuned.evaluate(rows).loss)

    tuned.restore(saved)

    again = [tuned.update(rows, progress=0.0).loss for _ in range(3)]
    assert [*again, tuned.evaluate(rows).loss] == first


@pytest.mark.parametrize("part", PARTS)
def test_buckets_of_rows_step_as_one_padded_batch(
    part: Any, random_llama: Make, random_rows: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = random_rows(8)
    parameters, stats = [], []
    for overhead in (0, 10**9):  # a group for each length, and one for all
        monkeypatch.setattr(causal_lm, "BUCKET_OVERHEAD", {"cpu": overhead})
        model = random_llama()
        stats.append(learner(model, part).update(rows, progress=0.0))
        parameters.append([p.detach() for p in model.parameters() if p.requires_grad])

    bucketed, padded = stats
    assert bucketed.loss == pytest.approx(padded.loss, rel=1e-5)
    assert bucketed.cost.tokens == bucketed.cost.padded_tokens == padded.cost.tokens
    assert padded.cost.padded_tokens == 8 * max(row.num_tokens for row in rows)
    for found, expected in zip(*parameters, strict=True):
        # Measured 3e-5 of a step of 1e-2: Adam divides even the smallest gradients by themselves.
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_dropout_of_adapters_is_repeated_after_restoring(
    random_llama: Make, random_rows: Make
) -> None:
    part = LoraConfig(kind="lora", rank=4, dropout=0.5)
    rows, tuned = random_rows(6), learner(random_llama(), part)
    saved = tuned.snapshot()
    first = [tuned.update(rows, progress=0.0).loss for _ in range(3)]
    torch.rand(7)

    tuned.restore(saved)

    assert [tuned.update(rows, progress=0.0).loss for _ in range(3)] == first


@pytest.mark.parametrize("part", FROM_CACHE)
def test_updates_from_the_cache_equal_those_without_it(
    part: Any, random_llama: Make, random_rows: Make
) -> None:
    rows, model = random_rows(6), random_llama()
    cached = learner(random_llama(), part)
    learner(model, part)  # marks and adds what is trained
    model.eval()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    plain = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
    for _ in range(4):
        losses = [
            model(input_ids=torch.tensor(row.ids)[None])
            .logits[0]
            .log_softmax(-1)[row.scored, row.targets[:, 0]]
            for row in rows
        ]
        (-torch.cat(losses).mean()).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        plain.step()
        plain.zero_grad()

    for _ in range(4):
        cached.update(rows, progress=0.0)

    with torch.no_grad():
        expected = reference_losses(model, rows)
        # Measured 8e-4: each of the large steps adds to the error of the rounded states.
        assert cached.evaluate(rows).item_losses == pytest.approx(expected, rel=2.4e-3)


@pytest.mark.parametrize("part", FROM_CACHE)
def test_learners_that_share_a_store_are_tuned_alike(
    part: Any, random_llama: Make, random_rows: Make, tmp_path: Path
) -> None:
    rows, store = random_rows(6), TrunkStore(tmp_path, max_bytes=10**9)
    config = LearnerConfig(trainable=part, learning_rate=1e-2)

    def tuned(order: Sequence[EncodedRow]) -> list[float]:
        one = build_learner(
            random_llama(),
            config,
            precision="float32",
            seed=0,
            store=lambda split: store.section(f"frozen-{split}"),
        )
        one.evaluate(order)  # the first one computes the states, in this order
        return [one.update(rows, progress=0.0).loss for _ in range(3)]

    assert tuned(rows[2:4]) == tuned(rows[::-1])


@pytest.mark.parametrize("part", PARTS)
def test_only_frozen_layers_have_a_cache(part: Any, random_llama: Make) -> None:
    cache = learner(random_llama(), part).trunk_cache

    assert (cache is not None) == (part in (LORA_ON_TOP, TOP))


def test_frozen_layers_never_change(random_llama: Make, random_rows: Make) -> None:
    model = random_llama()
    frozen = {k: v.clone() for k, v in model.state_dict().items() if "layers.0" in k}

    learner(model, TOP).update(random_rows(4), progress=0.0)

    assert all(torch.equal(model.state_dict()[key], value) for key, value in frozen.items())


def test_a_non_finite_loss_is_reported_and_changes_nothing(
    random_llama: Make, random_rows: Make
) -> None:
    model, rows = random_llama(), random_rows(4)
    tuned = learner(model, TOP)
    with torch.no_grad():
        model.model.norm.weight[0] = math.nan
    before = [parameter.clone() for parameter in model.model.layers[3].parameters()]

    stats = tuned.update(rows, progress=0.0)

    assert math.isnan(stats.loss)
    after = model.model.layers[3].parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("part", PARTS)
def test_flops_agree_with_the_counter_of_torch(
    part: Any, random_llama: Make, random_rows: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causal_lm, "BUCKET_OVERHEAD", {"cpu": 0})
    model, rows = random_llama(), random_rows(4)
    model.set_attn_implementation("eager")  # torch does not count the fused one on a CPU
    tuned = learner(model, part)
    tuned.update(rows, progress=0.0)  # fills the cache of frozen layers

    with FlopCounterMode(display=False) as counted_update:
        update = tuned.update(rows, progress=0.0)
    with FlopCounterMode(display=False) as counted_evaluation:
        evaluation = tuned.evaluate(rows)

    assert evaluation.cost.flops == pytest.approx(counted_evaluation.get_total_flops(), rel=0.001)
    assert update.cost.flops == pytest.approx(counted_update.get_total_flops(), rel=0.001)


def test_a_new_account_pays_for_cached_rows_again(random_llama: Make, random_rows: Make) -> None:
    rows, tuned = random_rows(4), learner(random_llama(), TOP)
    first, second = (tuned.evaluate(rows).cost.flops for _ in range(2))

    tuned.open_account()

    assert second < first
    assert tuned.evaluate(rows).cost.flops == first


def test_more_layers_than_the_model_has_is_the_users_mistake(random_llama: Make) -> None:
    with pytest.raises(ModelError, match=r"learner.trainable.layers: 9 .* has 4"):
        learner(random_llama(), TopLayersConfig(kind="top_layers", layers=9))


@pytest.mark.parametrize(("decay", "half"), [("constant", 1.0), ("linear", 0.5), ("cosine", 0.5)])
def test_the_learning_rate_decays_as_named(decay: Any, half: float) -> None:
    assert decay_factor(decay, 0.0) == 1.0
    assert decay_factor(decay, 0.5) == pytest.approx(half)
    assert decay_factor(decay, 1.0) == pytest.approx(1.0 if decay == "constant" else 0.0)
