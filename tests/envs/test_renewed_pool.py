"""Synthesised candidates are on offer in their turn, and every turn comes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raise_mdit.core import Budget, Cost, EncodedRow, Evaluation
from raise_mdit.envs.episode import Episode, EpisodeRules, Renewal, TrainingPool
from raise_mdit.ledger import Ledger

GENERATIONS = np.array([0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4])
"""Three candidates that are always on offer, then two, three, two and one."""

ROW = EncodedRow(
    "row",
    np.arange(3),
    np.arange(2),
    np.zeros((2, 2), np.int64),
    np.tile(np.array([1.0, 0.0], np.float32), (2, 1)),
)


def pool(renewal: Renewal | None) -> TrainingPool:
    count = len(GENERATIONS)
    return TrainingPool(
        ids=[f"id-{i}" for i in range(count)],
        rows=[ROW] * count,
        kinds=np.minimum(GENERATIONS, 1),
        features=np.arange(count, dtype=np.float32)[:, None],
        strata=np.minimum(GENERATIONS, 1),
        renewal=renewal,
    )


def rules(renewal: Renewal | None, *, window: int | None, batch_size: int = 1) -> EpisodeRules:
    return EpisodeRules(
        pool=pool(renewal),
        batch_size=batch_size,
        budget=Budget(steps=6),
        window=window,
        reward_every=1,
        early_stopping=False,
        control=None,
        ledger=Ledger(),
        training_purpose="policy_training",
        evaluation_purpose="reward_evaluation",
        signal_purpose="features",
    )


def offered(episode_rules: EpisodeRules, episode: int, step: int, seed: int = 0) -> set[int]:
    rng = np.random.default_rng(seed)
    return set(episode_rules.draw_window(rng, episode=episode, step=step).tolist())


@pytest.mark.parametrize(
    ("episode", "expected"),
    [(0, {3, 4}), (1, {5, 6, 7}), (2, {8, 9}), (3, {10}), (4, {3, 4}), (9, {5, 6, 7})],
)
def test_each_episode_has_a_generation_and_they_take_turns(
    episode: int, expected: set[int]
) -> None:
    renewal = Renewal(GENERATIONS, per_episode=1)

    for step in (0, 3, 99):
        assert offered(rules(renewal, window=None), episode, step) == {0, 1, 2} | expected


@pytest.mark.parametrize(
    ("episode", "step", "generation"),
    [(0, 0, 1), (0, 1, 1), (0, 2, 2), (0, 3, 2), (0, 4, 2), (1, 0, 3), (1, 2, 4), (2, 0, 1)],
)
def test_an_episode_goes_through_generations_by_steps(
    episode: int, step: int, generation: int
) -> None:
    renewal = Renewal(GENERATIONS, per_episode=2, steps=2)  # the last stays to the end

    assert renewal.generation(episode=episode, step=step) == generation
    expected = np.flatnonzero((GENERATIONS == 0) | (generation == GENERATIONS))
    assert offered(rules(renewal, window=None), episode, step) == set(expected.tolist())


@given(st.integers(0, 20), st.integers(0, 5), st.integers(1, 4), st.integers(0, 2**16))
def test_a_window_holds_nothing_of_another_turn(
    episode: int, step: int, size: int, seed: int
) -> None:
    renewal = Renewal(GENERATIONS, per_episode=2, steps=3)

    found = offered(rules(renewal, window=size), episode, step, seed)

    on_offer = renewal.rows(renewal.generation(episode=episode, step=step))
    assert len(found) == min(size, len(on_offer))
    assert found <= set(on_offer.tolist())


def test_slots_suffice_for_the_largest_generation_and_a_batch_for_the_smallest() -> None:
    renewal = Renewal(GENERATIONS, per_episode=1)

    assert rules(renewal, window=None).num_slots == 6
    assert rules(renewal, window=None, batch_size=4).num_slots == 6
    with pytest.raises(ValueError, match="batch_size 5 is more than the 4 candidates"):
        rules(renewal, window=None, batch_size=5)


def test_without_renewal_everything_is_on_offer() -> None:
    assert offered(rules(None, window=None), 3, 5) == set(range(len(GENERATIONS)))


def test_an_episode_offers_by_its_number() -> None:
    renewal = Renewal(GENERATIONS, per_episode=1)

    episode = Episode(
        rules(renewal, window=None),
        number=2,
        base=Evaluation(1.0, np.ones(1), np.zeros(1, np.bool_), Cost()),
        rng=np.random.default_rng(0),
        signal=None,
    )

    observation = episode.observe()
    assert observation["window"][observation["mask"] == 1].tolist() == [0, 1, 2, 8, 9]
    assert observation["mask"].tolist() == [1, 1, 1, 1, 1, 0]


def test_candidates_out_of_turn_are_refused() -> None:
    with pytest.raises(ValueError, match="in the order of their generations"):
        Renewal(np.array([0, 2, 1]), per_episode=1)
