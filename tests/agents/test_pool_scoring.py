"""Scores in chunks against the scorer in one piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from raise_mdit.agents.pool_scoring import score_pool, top_k_of_pool
from raise_mdit.agents.scoring_policy import SetScoringPolicy
from raise_mdit.envs.observation import CONTEXT, DistinctSlots, observation_space

NUM_CANDIDATES = 1_000
NUM_FEATURES = 5
CONTEXT_NUMBERS = np.linspace(-1, 1, len(CONTEXT)).astype(np.float32)


class Watched(np.ndarray[Any, np.dtype[np.float32]]):
    """A table that notes how many rows each reading takes."""

    read: list[int]

    def __getitem__(self, key: Any) -> Any:
        part = np.asarray(self)[key]
        self.read.append(len(part))
        return part


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of torch's threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def policy(*, seed: int = 1, trained: bool = True) -> SetScoringPolicy:
    """With weights that leave no part of the network without effect."""
    made = SetScoringPolicy(
        observation_space(8, NUM_FEATURES, NUM_CANDIDATES),
        DistinctSlots(8, 2),
        lambda _progress: 1e-3,
        hidden_size=16,
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.5 * noise if trained else torch.zeros_like(noise))
    return made


def pool(seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features, and how often each candidate was picked."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(NUM_CANDIDATES, NUM_FEATURES)).astype(np.float32)
    return features, rng.integers(0, 3, NUM_CANDIDATES)


def some_masked() -> NDArray[np.int8]:
    return (np.random.default_rng(2).random(NUM_CANDIDATES) < 0.7).astype(np.int8)


@torch.no_grad()
def scores_in_one_piece(
    made: SetScoringPolicy, mask: NDArray[np.int8] | None = None
) -> NDArray[np.float32]:
    """The scorer's own, on one window that is the whole pool."""
    features, selected = pool()
    available = np.log1p(selected.astype(np.float32))
    candidates = torch.tensor(np.column_stack([features, available]))[None]
    weights = torch.ones(1, NUM_CANDIDATES) if mask is None else torch.tensor(mask)[None].float()
    scores, _ = made.scorer(candidates, torch.tensor(CONTEXT_NUMBERS)[None], weights)
    return np.asarray(scores[0].numpy(), np.float32)


def best(scores: NDArray[np.float32], num_picks: int) -> list[int]:
    rows: list[int] = np.argsort(-scores, kind="stable")[:num_picks].tolist()
    return rows


@pytest.mark.parametrize("chunk", [1, 7, 500, 999, 1_000, 5_000])
def test_scores_are_the_scorers_own_for_any_chunk(chunk: int) -> None:
    made, (features, selected) = policy(), pool()

    scores = score_pool(made, features, selected=selected, context=CONTEXT_NUMBERS, chunk=chunk)

    assert scores.dtype == np.float32
    assert scores.std() > 0.5
    np.testing.assert_allclose(scores, scores_in_one_piece(made), rtol=0, atol=1e-5)


def test_a_masked_row_has_no_part_in_the_mean() -> None:
    made, (features, selected), mask = policy(), pool(), some_masked()

    scores = score_pool(
        made, features, selected=selected, context=CONTEXT_NUMBERS, mask=mask, chunk=300
    )

    expected = scores_in_one_piece(made, mask)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5)
    assert np.abs(expected - scores_in_one_piece(made)).max() > 1e-3


def test_a_memory_map_is_scored_like_an_array(tmp_path: Path) -> None:
    made, (features, selected) = policy(), pool()
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")

    scores = score_pool(made, mapped, selected=selected, context=CONTEXT_NUMBERS)

    expected = score_pool(made, features, selected=selected, context=CONTEXT_NUMBERS)
    assert isinstance(mapped, np.memmap)
    assert scores.tolist() == expected.tolist()


def test_two_passes_read_the_pool_a_chunk_at_a_time() -> None:
    features, selected = pool()
    watched = features.view(Watched)
    watched.read = []

    score_pool(policy(), watched, selected=selected, context=CONTEXT_NUMBERS, chunk=300)

    assert sorted(watched.read) == [100] * 2 + [300] * 6


def test_the_number_of_threads_changes_no_bit(set_threads: Callable[[int], None]) -> None:
    made, (features, selected) = policy(), pool()
    scores = []

    for num_threads in (1, 3):
        set_threads(num_threads)
        scores.append(
            score_pool(made, features, selected=selected, context=CONTEXT_NUMBERS, chunk=70)
        )

    assert scores[0].tolist() == scores[1].tolist()


def test_torch_keeps_its_number_of_threads(set_threads: Callable[[int], None]) -> None:
    set_threads(3)
    features, selected = pool()

    score_pool(policy(), features, selected=selected, context=CONTEXT_NUMBERS)

    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == 3
    assert torch.get_num_threads() == 3


def test_scoring_leaves_no_gradient_and_no_weight_changed() -> None:
    made, (features, selected) = policy(), pool()
    before = {key: part.clone() for key, part in made.state_dict().items()}

    score_pool(made, features, selected=selected, context=CONTEXT_NUMBERS, chunk=300)

    assert all(torch.equal(part, before[key]) for key, part in made.state_dict().items())
    assert all(parameter.grad is None for parameter in made.parameters())


@pytest.mark.parametrize("chunk", [3, 300, 5_000])
@pytest.mark.parametrize("num_picks", [1, 8, 400, NUM_CANDIDATES])
def test_the_best_rows_are_those_of_a_full_sort(num_picks: int, chunk: int) -> None:
    made, (features, selected) = policy(), pool()
    scores = score_pool(made, features, selected=selected, context=CONTEXT_NUMBERS, chunk=chunk)

    rows = top_k_of_pool(
        made,
        features,
        num_picks=num_picks,
        selected=selected,
        context=CONTEXT_NUMBERS,
        chunk=chunk,
    )

    assert rows.dtype == np.int64
    assert rows.tolist() == best(scores, num_picks)


def test_a_masked_row_is_not_among_the_best() -> None:
    made, (features, selected), mask = policy(), pool(), some_masked()

    rows = top_k_of_pool(
        made, features, num_picks=50, selected=selected, context=CONTEXT_NUMBERS, mask=mask
    )

    expected = np.where(mask == 1, scores_in_one_piece(made, mask), -np.inf)
    assert rows.tolist() == best(expected, 50)
    assert mask[rows].all()


def test_of_equal_scores_the_earlier_row_is_better() -> None:
    features, selected = pool()

    rows = top_k_of_pool(
        policy(trained=False),
        features,
        num_picks=5,
        selected=selected,
        context=CONTEXT_NUMBERS,
        chunk=3,
    )

    assert rows.tolist() == [0, 1, 2, 3, 4]


def test_more_picks_than_candidates_are_refused() -> None:
    features, selected = pool()
    mask = np.arange(NUM_CANDIDATES) < 3

    with pytest.raises(AssertionError, match="4 picks of 3 candidates"):
        top_k_of_pool(
            policy(), features, num_picks=4, selected=selected, context=CONTEXT_NUMBERS, mask=mask
        )


def test_features_of_another_width_are_refused() -> None:
    features, selected = pool()

    with pytest.raises(AssertionError, match=r"features \(1000, 4\)"):
        score_pool(policy(), features[:, :4], selected=selected, context=CONTEXT_NUMBERS)
