"""Observations by hand, and windows by the laws of even shares."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.stats import chisquare

from raise_mdit.core import Observation
from raise_mdit.envs.observation import (
    CONTEXT,
    DistinctSlots,
    Picks,
    Stage,
    WindowSampler,
    observation_space,
    observe,
)

FEATURES = np.array([[0.5, 1.0], [-1.0, 2.0], [3.0, 0.0], [4.0, 5.0]], np.float32)
KINDS = np.array([0, 1, 0, 2])

STRATA = arrays(np.int64, st.integers(1, 40), elements=st.integers(0, 6))


def picks_of(selected: list[int]) -> Picks:
    """Each row picked as often as is said, in batches of different rows."""
    picks = Picks(KINDS)
    for turn in range(max(selected)):
        picks.add(np.flatnonzero(np.array(selected) > turn))
    return picks


def observed(
    window: list[int], selected: list[int], num_slots: int, signal: list[float] | None = None
) -> Observation:
    return observe(
        np.array(window),
        num_slots=num_slots,
        features=FEATURES,
        picks=picks_of(selected),
        stage=Stage(loss_ratio=0.75, budget_share=0.5, last_reward=0.125),
        signal=None if signal is None else np.array(signal, np.float32),
    )


def stop_and_tell_peak() -> int:
    """Bytes held at most since ``tracemalloc.start()``."""
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def drawn(strata: NDArray[np.int64], size: int, seed: int) -> NDArray[np.int64]:
    return WindowSampler(strata).draw(size, np.random.default_rng(seed))


def test_the_context_is_stage_and_shares_of_picks_by_kind() -> None:
    found = observed([0, 1], selected=[2, 1, 1, 0], num_slots=2)["context"]

    expected = {
        "loss_ratio": 0.75,
        "budget_share": 0.5,
        "last_reward": 0.125,
        "share_original": 0.75,
        "share_mosaic": 0.25,
        "share_mdit": 0.0,
        "share_custom": 0.0,
    }
    assert dict(zip(CONTEXT, found.tolist(), strict=True)) == expected


def test_shares_are_zero_before_the_first_pick() -> None:
    assert observed([0, 1], [0, 0, 0, 0], num_slots=2)["context"][3:].tolist() == [0, 0, 0, 0]


def test_an_episode_starts_at_the_losses_own_level() -> None:
    assert Stage() == Stage(loss_ratio=1.0, budget_share=0.0, last_reward=0.0)


def test_each_slot_shows_its_own_candidate() -> None:
    found = observed([3, 0, 2], selected=[5, 0, 1, 0], num_slots=3)

    assert found["window"].tolist() == [3, 0, 2]
    assert found["candidates"].tolist() == [[4.0, 5.0], [0.5, 1.0], [3.0, 0.0]]
    assert found["selected"].tolist() == [0, 5, 1]
    assert found["mask"].tolist() == [1, 1, 1]


def test_slots_beyond_the_window_are_masked_and_repeat_row_zero() -> None:
    found = observed([2, 1], selected=[5, 0, 1, 0], num_slots=4)

    assert found["mask"].tolist() == [1, 1, 0, 0]
    assert found["window"].tolist() == [2, 1, 0, 0]
    assert found["candidates"][2:].tolist() == [FEATURES[0].tolist()] * 2


def test_a_signal_is_the_last_feature_and_zero_where_masked() -> None:
    found = observed([2, 1], [0, 0, 0, 0], num_slots=3, signal=[0.25, -1.5])["candidates"]

    assert found.tolist() == [[3.0, 0.0, 0.25], [-1.0, 2.0, -1.5], [0.5, 1.0, 0.0]]
    assert found.dtype == np.float32


@given(batches=st.lists(st.sets(st.integers(0, 3), min_size=1)))
def test_picks_count_as_a_table_of_all_candidates_would(batches: list[set[int]]) -> None:
    picks, table = Picks(KINDS), np.zeros(4, np.int64)

    for batch in batches:
        picks.add(np.array(sorted(batch)))
        table[sorted(batch)] += 1

    by_kind = np.bincount(KINDS, weights=table, minlength=4)
    assert picks.counts(np.arange(4)).tolist() == table.tolist()
    assert picks.shares().tolist() == (by_kind / max(1, table.sum())).tolist()


@pytest.mark.parametrize("num_slots", [2, 4])
def test_observations_are_of_their_space(num_slots: int) -> None:
    space = observation_space(num_slots, num_features=2, num_candidates=4)

    assert space.contains(observed([3, 1], [1, 0, 0, 2], num_slots))


def test_observations_share_no_memory_with_the_pool() -> None:
    found = observed([0, 1], [0, 0, 0, 0], num_slots=2)

    assert not np.shares_memory(found["candidates"], FEATURES)


def test_sampled_actions_are_distinct_slots_of_the_space() -> None:
    space = DistinctSlots(5, 4)
    space.seed(0)

    samples = [space.sample() for _ in range(200)]

    assert all(sample in space for sample in samples)
    assert {slot for sample in samples for slot in sample.tolist()} == set(range(5))


def test_sampled_actions_repeat_with_the_seed() -> None:
    first, second = DistinctSlots(50, 8), DistinctSlots(50, 8)
    first.seed(3)
    second.seed(3)

    assert first.sample().tolist() == second.sample().tolist()


@pytest.mark.parametrize(
    "action", [[0, 0], [0, 5], [-1, 2], [0], [0, 1, 2], [[0, 1]]], ids=lambda action: str(action)
)
def test_the_action_space_holds_nothing_else(action: object) -> None:
    assert np.array(action) not in DistinctSlots(5, 2)


def test_the_action_space_has_no_masks_of_its_own() -> None:
    with pytest.raises(AssertionError, match="masked by the observation"):
        DistinctSlots(3, 1).sample(mask=(np.ones(3, np.int8),))


@given(strata=STRATA, size=st.integers(1, 50), seed=st.integers(0, 99))
def test_a_window_has_its_size_and_no_row_twice(
    strata: NDArray[np.int64], size: int, seed: int
) -> None:
    window = drawn(strata, size, seed)

    assert len(window) == len(set(window.tolist())) == min(size, len(strata))
    assert set(window.tolist()) <= set(range(len(strata)))


@given(strata=STRATA, size=st.integers(1, 50), seed=st.integers(0, 99))
def test_strata_share_a_window_as_equally_as_their_sizes_allow(
    strata: NDArray[np.int64], size: int, seed: int
) -> None:
    """Water-filling: who has rows left over is at most one behind anybody."""
    sizes = np.bincount(strata, minlength=7)

    shares = np.bincount(strata[drawn(strata, size, seed)], minlength=7)

    with_rows_left = shares[shares < sizes]
    assert (shares <= sizes).all()
    assert with_rows_left.size == 0 or with_rows_left.min() >= shares.max() - 1


@given(strata=STRATA, size=st.integers(1, 50), seed=st.integers(0, 99))
def test_a_window_repeats_with_its_generator(
    strata: NDArray[np.int64], size: int, seed: int
) -> None:
    assert drawn(strata, size, seed).tolist() == drawn(strata, size, seed).tolist()


def test_other_seeds_give_other_windows() -> None:
    strata = np.repeat([0, 1, 2], 20)

    assert len({tuple(drawn(strata, 12, seed).tolist()) for seed in range(20)}) == 20


def test_shares_of_a_small_stratum_go_to_the_others() -> None:
    strata = np.array([0] * 2 + [1] * 20 + [2] * 20)

    window = drawn(strata, 12, seed=0)

    assert np.bincount(strata[window]).tolist() == [2, 5, 5]


def test_every_candidate_of_a_stratum_appears_equally_often() -> None:
    """Stratum 0 has 4 rows and stratum 1 has 16; each gives 4 of the 8, so 1 and 1/4 a window."""
    strata, rng, num_windows = np.array([0] * 4 + [1] * 16), np.random.default_rng(0), 2000
    sampler = WindowSampler(strata)

    windows = [sampler.draw(8, rng) for _ in range(num_windows)]

    counts = np.bincount(np.concatenate(windows), minlength=20)
    assert (counts[:4] == num_windows).all()
    assert chisquare(counts[4:]).pvalue > 0.001


def test_every_subset_of_a_stratum_is_equally_likely() -> None:
    """Three of five: ten subsets, in six orders each."""
    rng, sampler = np.random.default_rng(0), WindowSampler(np.zeros(5, np.int64))

    draws = Counter(tuple(sampler.draw(3, rng).tolist()) for _ in range(12_000))

    assert len(draws) == 60
    assert chisquare(list(draws.values())).pvalue > 0.001


@pytest.mark.parametrize("size", [64, 600])
def test_every_part_of_a_large_stratum_is_equally_likely(size: int) -> None:
    """Of 11,000 rows: NumPy draws 64 by Floyd's algorithm and 600 by a shuffle."""
    rng, sampler = np.random.default_rng(0), WindowSampler(np.zeros(11_000, np.int64))

    rows = np.concatenate([sampler.draw(size, rng) for _ in range(12_000 // size)])

    assert chisquare(np.bincount(rows // 1000, minlength=11)).pvalue > 0.001


def test_the_memory_of_a_draw_does_not_grow_with_the_pool() -> None:
    """At the sizes on either side of which NumPy changes its algorithm, too."""

    def peak(num_candidates: int, size: int) -> int:
        sampler = WindowSampler(np.arange(num_candidates) % 3)
        rng = np.random.default_rng(0)
        sampler.draw(size, rng)
        tracemalloc.start()
        sampler.draw(size, rng)
        return stop_and_tell_peak()

    for size in (8, 64, 1000):
        small, *larger = [peak(count, size) for count in (2000, 30_003, 200_000, 1_000_000)]
        assert max(larger) < small + 20 * 8 * size


def test_every_stratum_can_get_the_remainder() -> None:
    strata, rng = np.arange(5), np.random.default_rng(0)
    sampler = WindowSampler(strata)

    counts = np.bincount(np.concatenate([sampler.draw(2, rng) for _ in range(2000)]))

    assert chisquare(counts).pvalue > 0.001


def test_slots_say_nothing_about_strata() -> None:
    """Slots are shuffled: the first one holds either stratum equally often."""
    strata, rng = np.repeat([0, 1], 10), np.random.default_rng(0)
    sampler = WindowSampler(strata)

    first = [int(strata[sampler.draw(4, rng)[0]]) for _ in range(2000)]

    assert chisquare(np.bincount(first)).pvalue > 0.001
