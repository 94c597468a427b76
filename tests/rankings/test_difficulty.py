"""Rankings by length and difficulty against small cases by hand.

Shapes: ``N`` candidates.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest

from raise_mdit.rankings.difficulty import (
    by_ifd,
    by_length,
    by_perplexity,
    by_stage,
    instruction_following_difficulty,
)


def test_the_longest_response_comes_first() -> None:
    assert by_length(np.array([5, 9, 1, 9]), first="longest").tolist() == [2, 0, 3, 1]


def test_from_the_other_end_the_shortest_does() -> None:
    assert by_length(np.array([5, 9, 1, 5]), first="shortest").tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize(
    ("part", "order"),
    [
        ("low", [3, 0, 4, 1, 2]),
        ("high", [2, 1, 4, 0, 3]),
        # -3 has two below and two above; -2 and -8 have one and three, -1 and -9 none and four.
        ("middle", [4, 0, 1, 2, 3]),
    ],
)
def test_perplexities_are_ranked_from_the_wanted_part(
    part: Literal["low", "middle", "high"], order: list[int]
) -> None:
    ranks = by_perplexity(np.array([-2.0, -8.0, -9.0, -1.0, -3.0]), part)

    assert np.argsort(ranks).tolist() == order


def test_the_middle_is_a_range_of_percentiles() -> None:
    log_probs = -np.random.default_rng(0).exponential(size=100)

    middle = np.flatnonzero(by_perplexity(log_probs, "middle") < 20)

    assert sorted(middle) == sorted(np.argsort(log_probs)[40:60])


@pytest.mark.parametrize("part", ["low", "middle", "high"])
def test_perplexities_and_their_logarithms_are_ranked_alike(
    part: Literal["low", "middle", "high"],
) -> None:
    log_probs = np.random.default_rng(1).normal(size=31).round(1)

    by_values = by_perplexity(-np.exp(-log_probs), part)

    assert by_values.tolist() == by_perplexity(log_probs, part).tolist()


def test_ifd_is_the_ratio_of_two_perplexities() -> None:
    # Probabilities of the tokens of one response, with and without its prompt.
    given, alone = [0.5, 0.8, 0.4], [0.1, 0.4, 0.2]
    perplexity_given = (0.5 * 0.8 * 0.4) ** (-1 / 3)
    perplexity_alone = (0.1 * 0.4 * 0.2) ** (-1 / 3)

    found = instruction_following_difficulty(
        np.array([np.mean(np.log(given))]), np.array([np.mean(np.log(alone))])
    )

    assert found == pytest.approx([perplexity_given / perplexity_alone])
    assert found[0] < 1, "the prompt helps"


def test_ifd_from_one_on_comes_last() -> None:
    ifd = [0.5, 2.0, 0.9, 1.0, 0.1, 1.5]
    alone = np.full(6, -3.0)
    conditional = alone - np.array([math.log(each) for each in ifd])

    ranks = by_ifd(conditional, alone)

    assert [ifd[row] for row in np.argsort(ranks)] == [0.9, 0.5, 0.1, 1.0, 1.5, 2.0]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("count", "num_steps", "batch_size"), [(12, 3, 4), (23, 4, 3), (5, 5, 1)])
def test_each_stage_picks_from_its_part(
    seed: int, count: int, num_steps: int, batch_size: int
) -> None:
    rng = np.random.default_rng(seed)
    losses = rng.normal(size=count)

    ranks = by_stage(losses, num_steps=num_steps, batch_size=batch_size, rng=rng)

    order, by_loss = np.argsort(ranks), np.argsort(losses)
    sizes = [count // num_steps + (part < count % num_steps) for part in range(num_steps)]
    parts = np.split(by_loss, np.cumsum(sizes)[:-1])
    for step, part in enumerate(parts):
        assert set(order[step * batch_size : (step + 1) * batch_size]) <= set(part)
    left = order[num_steps * batch_size :]
    part_of = {row: step for step, part in enumerate(parts) for row in part}
    assert [part_of[row] for row in left] == sorted(part_of[row] for row in left)


def test_a_stage_draws_its_part_evenly() -> None:
    losses, draws = np.arange(10.0), 4000
    rng = np.random.default_rng(0)

    picked = np.zeros(10)
    for _ in range(draws):
        picked[by_stage(losses, num_steps=2, batch_size=2, rng=rng) < 4] += 1

    # Each of five is among the two that are picked with probability 2/5; 4 standard deviations.
    tolerance = 4 * math.sqrt(0.4 * 0.6 / draws)
    assert picked / draws == pytest.approx(np.full(10, 0.4), abs=tolerance)


def test_losses_alike_are_cut_by_row() -> None:
    ranks = by_stage(np.zeros(6), num_steps=3, batch_size=2, rng=np.random.default_rng(0))

    assert (ranks // 2).tolist() == [0, 0, 1, 1, 2, 2]
