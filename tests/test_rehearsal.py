"""What is measured before any policy learns: against the same measurements made by hand."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raise_mdit.config import ExperimentConfig
from raise_mdit.core import EncodedRow, UpdateStats
from raise_mdit.envs import TrainingPool
from raise_mdit.errors import DataError
from raise_mdit.learners.causal_lm import CausalLmLearner
from raise_mdit.learners.pretrained import Pretrained
from raise_mdit.learners.trunk_store import TrunkStore
from raise_mdit.ledger import MONITORING
from raise_mdit.progress import Silent
from raise_mdit.rehearsal import Rehearsal, RewardItems, choose_reward_items, rehearse
from raise_mdit.tuning import Tuning

Make = Callable[..., Any]

LEARNER = {
    "trainable": {"kind": "top_layers", "layers": 1},
    "learning_rate": 1e-2,
    "schedule": "linear",
}
PROXY = {**LEARNER, "learning_rate": 2e-2}


class Listener(Silent):
    """Remembers what it is told, in order."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def start(self, stage: str, total: int | None) -> None:
        self.told.append(stage)

    def finish(self) -> None:
        self.told.append("finished")

    def note(self, sentence: str) -> None:
        self.told.append(sentence)


def experiment(**settings: Any) -> ExperimentConfig:  # any section
    return ExperimentConfig.model_validate(
        {
            "name": "rehearsal",
            "data": {
                "sources": ({"name": "tasks", "kind": "playground"},),
                **{part: ({"source": "tasks"},) for part in ("pool", "reward_validation", "test")},
            },
            "learner": LEARNER,
            "environment": {"window": 8, "batch_size": 2, "budget": {"steps": 3}},
            "policies": ({"kind": "ppo"},),
            **settings,
        }
    )


@pytest.fixture
def tune(random_llama: Make, tokenizer: Any, tmp_path: Path) -> Make:
    def make(config: ExperimentConfig) -> Tuning:
        return Tuning(
            config,
            Pretrained(random_llama(), tokenizer, digest="random", context_length=128),
            precision="float32",
            store=TrunkStore(tmp_path / "trunk", max_bytes=10**8),
        )

    return make


def pool_of(rows: Sequence[EncodedRow]) -> TrainingPool:
    """Rows in two strata."""
    return TrainingPool(
        ids=[row.key for row in rows],
        rows=rows,
        kinds=np.zeros(len(rows), np.int64),
        features=np.zeros((len(rows), 0), np.float32),
        strata=np.arange(len(rows)) % 2,
    )


@pytest.fixture
def training(random_rows: Make) -> TrainingPool:
    return pool_of(random_rows(12))


@pytest.fixture
def items(random_rows: Make) -> Sequence[EncodedRow]:
    found: Sequence[EncodedRow] = random_rows(8, seed=1)
    return found


@pytest.mark.parametrize("asked", [None, 8, 9])
def test_all_items_are_measured_unless_fewer_are_asked_for(
    items: Sequence[EncodedRow], asked: int | None
) -> None:
    found = choose_reward_items(experiment(reward={"items": asked}), items, ["tasks"] * 8)

    assert found.rows == items
    assert not found.stand_for_others


def test_fewer_items_are_drawn_by_strata_and_are_the_same_for_every_policy_and_seed(
    items: Sequence[EncodedRow],
) -> None:
    strata = ["common"] * 6 + ["rare"] * 2
    reward = {"items": 4}

    found, same, other = (
        choose_reward_items(config, items, strata)
        for config in (
            experiment(reward=reward),
            experiment(reward=reward, seeds=(7,), policies=({"kind": "random"}, {"kind": "ppo"})),
            experiment(reward=reward, data={**experiment().data.model_dump(), "seed": 1}),
        )
    )

    assert Counter(strata[index] for index in found.chosen) == {"common": 3, "rare": 1}
    assert found.stand_for_others
    assert [row.key for row in found.rows] == [items[index].key for index in found.chosen]
    assert same.chosen.tolist() == found.chosen.tolist() != other.chosen.tolist()


def test_without_shortcuts_nothing_is_measured(
    tune: Make, training: TrainingPool, items: Sequence[EncodedRow]
) -> None:
    config, listener = experiment(), Listener()
    chosen = choose_reward_items(config, items, ["tasks"] * 8)

    found = rehearse(config, tune(config), training, chosen, listener)

    assert found == Rehearsal()
    assert listener.told == ["finished"]


def test_everything_is_told_when_the_bar_is_gone_and_every_learner_is_untuned(
    tune: Make, training: TrainingPool, items: Sequence[EncodedRow]
) -> None:
    config, listener = experiment(reward={"items": 4}, proxy_learner=PROXY), Listener()
    tuning = tune(config)
    before = [each.evaluate(items).loss for each in (tuning.learner, tuning.policy_learner)]

    found = rehearse(
        config, tuning, training, choose_reward_items(config, items, ["tasks"] * 8), listener
    )

    agreement, noise = found.notes
    assert agreement.startswith("Proxy learner: ")
    assert noise.startswith("Rewards are measured on 4 of 8 items")
    assert listener.told[-3:] == ["finished", agreement, noise]
    assert set(found.costs) == {"proxy_check", MONITORING}
    after = [each.evaluate(items).loss for each in (tuning.learner, tuning.policy_learner)]
    assert after == before


@pytest.mark.parametrize("budget", [{"steps": 3}, {"tokens": 90}])
def test_noise_is_measured_in_one_episode_as_the_policy_will_live_it(
    tune: Make,
    training: TrainingPool,
    items: Sequence[EncodedRow],
    monkeypatch: pytest.MonkeyPatch,
    budget: dict[str, int],
) -> None:
    config = experiment(
        reward={"items": 4}, environment={"window": 8, "batch_size": 2, "budget": budget}
    )
    steps: list[tuple[Sequence[EncodedRow], float, UpdateStats]] = []
    update = CausalLmLearner.update

    def spied(self: CausalLmLearner, batch: Any, *, progress: float) -> UpdateStats:
        stats = update(self, batch, progress=progress)
        steps.append((batch, progress, stats))
        return stats

    with monkeypatch.context() as patch:
        patch.setattr(CausalLmLearner, "update", spied)
        chosen = choose_reward_items(config, items, ["tasks"] * 8)
        found = rehearse(config, tune(config), training, chosen, Silent())

    alone = tune(config).learner
    before = alone.evaluate(items)
    cost, spent = before.cost, 0.0
    for batch, progress, stats in steps:
        assert progress == pytest.approx(spent)
        again = alone.update(batch, progress=progress)
        assert len({row.key for row in batch}) == 2
        assert again.loss == stats.loss
        cost = cost.plus(again.cost)
        spent += 1 / 3 if "steps" in budget else again.cost.tokens / 90
    after = alone.evaluate(items)
    assert spent - (1 / 3 if "steps" in budget else again.cost.tokens / 90) < 1 <= spent + 1e-9
    assert f"return is {(before.loss - after.loss) / before.loss:.3f}," in found.notes[0]
    expected, paid = cost.plus(after.cost), found.costs[MONITORING]
    assert paid._replace(seconds=0) == expected._replace(seconds=0)


def ends_and_note(
    tune: Make, items: Sequence[EncodedRow], chosen: RewardItems
) -> tuple[Any, Any, str]:
    """Losses of the items before and after the episode, by item, and what was told of it."""
    budget = {"steps": 10}
    config = experiment(environment={"window": 8, "batch_size": 2, "budget": budget})
    ends: list[Any] = []
    evaluate = CausalLmLearner.evaluate

    def spied(self: CausalLmLearner, rows: Any) -> Any:
        ends.append(evaluate(self, rows))
        return ends[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CausalLmLearner, "evaluate", spied)
        (sentence,) = rehearse(config, tune(config), pool_of(items[:5]), chosen, Silent()).notes

    scored = np.array([item.num_scored for item in items])
    before, after = (scored * evaluation.item_losses for evaluation in ends)
    return before, after, sentence


def told_error(sentence: str) -> float:
    error = re.search(r"standard error of ([\d.]+)\.$", sentence)
    assert error
    return float(error[1])


def test_the_error_is_that_of_returns_on_every_subset(
    tune: Make, items: Sequence[EncodedRow]
) -> None:
    chosen = RewardItems(items, ["tasks"] * 8, np.arange(4))

    before, after, sentence = ends_and_note(tune, items, chosen)

    subsets = [list(subset) for subset in combinations(range(8), 4)]
    returns = [1 - after[subset].sum() / before[subset].sum() for subset in subsets]
    assert told_error(sentence) == pytest.approx(np.std(returns), abs=0.0008)


def test_the_error_of_targets_is_that_of_their_mean_on_every_subset(
    tune: Make, items: Sequence[EncodedRow]
) -> None:
    targets = np.array([0, 1, 1, 0, 0, 1, 1, 1])
    members = [np.flatnonzero(targets == target).tolist() for target in (0, 1)]
    strata = [str(target) for target in targets]
    chosen = RewardItems(items, strata, np.array([0, 3, 1, 2, 5]), targets)

    before, after, sentence = ends_and_note(tune, items, chosen)

    shares = [
        [after[[*subset]].sum() / before[[*subset]].sum() for subset in combinations(rows, drawn)]
        for rows, drawn in zip(members, (2, 3), strict=True)
    ]
    returns = [1 - (one + other) / 2 for one in shares[0] for other in shares[1]]
    whole = [after[rows].sum() / before[rows].sum() for rows in members]
    assert f"return is {1 - sum(whole) / 2:.3f}," in sentence
    assert told_error(sentence) == pytest.approx(np.std(returns), abs=0.0015)


def test_strata_are_divided_by_targets_that_count_alike(items: Sequence[EncodedRow]) -> None:
    targets = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    config = experiment(reward={"items": 4, "balance": "targets"})

    found = choose_reward_items(config, items, ["tasks"] * 8, targets=targets)

    assert found.chosen_targets is not None
    assert found.chosen_targets.tolist() == [0, 0, 1, 1]
    assert len(set(found.tasks.tolist())) == 2
    assert choose_reward_items(config, items, ["tasks"] * 8).chosen_targets is None


def test_items_that_leave_out_a_target_are_refused(items: Sequence[EncodedRow]) -> None:
    targets = np.array([0] * 7 + [1])
    config = experiment(reward={"items": 2, "balance": "targets"})

    with pytest.raises(DataError, match=r"reward\.items: 2 of 8 items leave a target"):
        choose_reward_items(config, items, ["tasks"] * 8, targets=targets)
