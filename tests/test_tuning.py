"""The learners of an experiment: what they share, what they keep apart, and where they start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raise_mdit import tuning as module
from raise_mdit.agreement import Agreement, Probe, rank_agreement
from raise_mdit.config import ExperimentConfig
from raise_mdit.core import Cost, EncodedRow
from raise_mdit.learners.causal_lm import CausalLmLearner
from raise_mdit.learners.forward import LayeredForward
from raise_mdit.learners.pretrained import Pretrained
from raise_mdit.learners.trunk_store import TrunkStore
from raise_mdit.tuning import PROBE_STEPS, PROBES, Tuning

Make = Callable[..., Any]

TOP_TWO = {"trainable": {"kind": "top_layers", "layers": 2}, "learning_rate": 1e-2}
TOP_ONE = {"trainable": {"kind": "top_layers", "layers": 1}, "learning_rate": 1e-2}


def experiment(**settings: Any) -> ExperimentConfig:  # any section
    """A policy that learns, on a learner of two layers."""
    policy = {"kind": "ppo", "episodes": 4, "parallel_episodes": settings.pop("together", 1)}
    return ExperimentConfig.model_validate(
        {
            "name": "tuning",
            "data": {
                "sources": ({"name": "tasks", "kind": "playground"},),
                **{part: ({"source": "tasks"},) for part in ("pool", "reward_validation", "test")},
            },
            "learner": TOP_TWO,
            "environment": {"window": 8, "batch_size": 2, "budget": {"steps": 2}},
            "policies": (policy,),
            **settings,
        }
    )


@pytest.fixture
def tune(random_llama: Make, tokenizer: Any, tmp_path: Path) -> Make:
    """Makes the learners of an experiment."""

    def make(**settings: Any) -> Tuning:
        return Tuning(
            experiment(**settings),
            Pretrained(random_llama(), tokenizer, digest="random", context_length=128),
            precision="float32",
            store=TrunkStore(tmp_path / "trunk", max_bytes=10**8),
        )

    return make


@pytest.fixture
def rows(random_rows: Make) -> Sequence[EncodedRow]:
    """Twelve plain rows."""
    found: Sequence[EncodedRow] = random_rows(12)
    return found


def train(learner: CausalLmLearner, rows: Sequence[EncodedRow]) -> Cost:
    """What a step cost."""
    return learner.update(rows[:4], progress=0.0).cost


def test_without_a_proxy_policies_learn_from_the_learner_itself(tune: Make) -> None:
    found = tune()

    assert found.policy_learner is found.learner
    assert not found.has_proxy


def test_a_proxy_and_the_learner_train_apart(tune: Make, rows: Sequence[EncodedRow]) -> None:
    found = tune(proxy_learner=TOP_ONE)
    learners = (found.learner, found.policy_learner)
    before = [learner.evaluate(rows).loss for learner in learners]

    train(found.policy_learner, rows)
    after_proxy = [learner.evaluate(rows).loss for learner in learners]
    train(found.learner, rows)
    after_both = [learner.evaluate(rows).loss for learner in learners]

    assert found.has_proxy
    assert found.policy_learner.num_trainable < found.learner.num_trainable
    assert before[0] == after_proxy[0] != after_both[0]
    assert before[1] != after_proxy[1] == after_both[1]


def test_the_learner_beside_a_proxy_is_the_one_without(
    tune: Make, rows: Sequence[EncodedRow]
) -> None:
    losses = []
    for found in (tune(), tune(proxy_learner=TOP_ONE)):
        train(found.learner, rows)
        losses.append(found.learner.evaluate(rows).item_losses)

    np.testing.assert_array_equal(*losses)


@pytest.mark.parametrize("proxy", [None, TOP_ONE])
def test_starting_over_undoes_all_training_and_opens_new_accounts(
    tune: Make, rows: Sequence[EncodedRow], proxy: Any
) -> None:
    found = tune(proxy_learner=proxy)
    learners = (found.learner, found.policy_learner)
    before = [learner.evaluate(rows).loss for learner in learners]
    found.start_over()
    first = [train(learner, rows) for learner in learners]
    found.start_over()

    again = [train(learner, rows) for learner in learners]
    found.start_over()

    assert [cost.flops for cost in again] == [cost.flops for cost in first]
    assert [learner.evaluate(rows).loss for learner in learners] == before


def test_learners_that_step_together_are_like_the_policys_own(
    tune: Make, rows: Sequence[EncodedRow]
) -> None:
    found = tune(proxy_learner=TOP_ONE, together=2)
    proxy = found.policy_learner.evaluate(rows)
    train(found.policy_learner, rows)
    trained = found.policy_learner.evaluate(rows)

    stacked = found.stacked(2)
    at_start = stacked.evaluate(rows, learners=[0, 1])
    stacked.update([rows[:4], None], progress=[0.0, 0.0])
    afterwards = stacked.evaluate(rows, learners=[0, 1])

    for evaluation in (*at_start, afterwards[1]):
        np.testing.assert_allclose(evaluation.item_losses, proxy.item_losses, rtol=1e-5)
    np.testing.assert_allclose(afterwards[0].item_losses, trained.item_losses, rtol=1e-5)


def test_learners_that_were_left_within_an_episode_come_back_untuned(
    tune: Make, rows: Sequence[EncodedRow]
) -> None:
    found = tune(together=2)
    stacked = found.stacked(2)
    (before,) = stacked.evaluate(rows, learners=[1])
    stacked.update([rows[:4], rows[4:8]], progress=[0.0, 0.0])

    again = found.stacked(2)

    assert again is stacked
    for evaluation in again.evaluate(rows, learners=[0, 1]):
        np.testing.assert_array_equal(evaluation.item_losses, before.item_losses)


def test_learners_with_the_same_frozen_layers_compute_them_once(
    tune: Make, rows: Sequence[EncodedRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tune(proxy_learner={**TOP_TWO, "schedule": "linear"}, together=2)
    found.learner.evaluate(rows)

    def refuse(*_args: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(LayeredForward, "trunk", refuse)
    found.policy_learner.evaluate(rows)
    found.stacked(2).evaluate(rows, learners=[0, 1])


def test_full_training_is_counted_before_anything_is_added_to_the_model(tune: Make) -> None:
    adapted = tune(learner={"trainable": {"kind": "lora", "rank": 2}})

    assert adapted.whole_lora == tune().whole_lora


def test_a_probe_takes_its_rows_from_one_stratum_and_repeats_where_it_is_small(
    tune: Make, rows: Sequence[EncodedRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Probe] = []

    def spied(first: Any, second: Any, probes: Any, items: Any, *, rng: Any) -> Agreement:
        asked.extend(probes)
        return rank_agreement(first, second, probes[:3], items, rng=rng)

    monkeypatch.setattr(module, "rank_agreement", spied)
    found = tune(proxy_learner=TOP_ONE)
    strata = np.array([0] * 9 + [1] * 3)
    before = [learner.evaluate(rows).loss for learner in (found.learner, found.policy_learner)]

    found.proxy_agreement(rows, strata, rows[:4], batch_size=2, rng=np.random.default_rng(0))

    after = [learner.evaluate(rows).loss for learner in (found.learner, found.policy_learner)]
    assert after == before
    stratum = {row.key: int(label) for row, label in zip(rows, strata, strict=True)}
    seen = set()
    for probe in asked:
        keys = [row.key for batch in probe for row in batch]
        (label,) = {stratum[key] for key in keys}
        seen.add(label)
        assert [len(batch) for batch in probe] == [2] * PROBE_STEPS
        assert len(set(keys)) == len(keys) or label == 1  # 3 rows for 4 places
    assert len(asked) == PROBES
    assert seen == {0, 1}


def test_a_proxy_that_is_the_learner_agrees_with_it_at_the_same_cost(
    tune: Make, rows: Sequence[EncodedRow]
) -> None:
    found = tune(proxy_learner=TOP_TWO)

    agreement = found.proxy_agreement(
        rows, np.zeros(12, np.int64), rows[:4], batch_size=2, rng=np.random.default_rng(0)
    )

    assert agreement.correlation.mean == 1.0
    assert agreement.first_cost._replace(seconds=0) == agreement.second_cost._replace(seconds=0)
