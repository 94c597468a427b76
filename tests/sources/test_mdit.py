"""Interpolations: who is paired with whom, how much of each, and which are kept.

Shapes: ``M`` examples, ``H`` hidden size, ``G`` generated pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from raise_mdit.candidates import make_example
from raise_mdit.core import Message
from raise_mdit.errors import DataError
from raise_mdit.sources import mdit
from raise_mdit.sources.mdit import (
    DRAWS_PER_PAIR,
    Interpolation,
    Lengths,
    Pairing,
    density,
    interpolate,
    nearest_neighbours,
    proportional_quotas,
    select_diverse,
)

M, H = 30, 8
EXAMPLES = [
    make_example("mine", [Message("user", f"q{i}"), Message("assistant", "a")]) for i in range(M)
]
NUMBERS = {example.id: i for i, example in enumerate(EXAMPLES)}
TASKS = np.arange(M) % 3
CONFIDENCE = np.random.default_rng(9).normal(size=M)
SHORT = Lengths(np.full(M, 10), np.full(M, 5))
PAIRINGS: tuple[Pairing, ...] = get_args(Pairing)


def embeddings() -> NDArray[np.float32]:
    rows = np.random.default_rng(0).normal(size=(M, H))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def interpolated(*, seed: int = 0, **changes: Any) -> Interpolation:
    settings: dict[str, Any] = {
        "tasks": TASKS,
        "lengths": SHORT,
        "num_kept": 20,
        "oversample": 2.0,
        "alpha": 1.0,
        "pairing": "across",
        "confidence": CONFIDENCE,
        "num_clusters": 3,
        "num_neighbours": 4,
        "max_length": 100,
    }
    settings |= changes
    tasks, lengths = settings.pop("tasks"), settings.pop("lengths")
    points = settings.pop("points", embeddings())
    rng = np.random.default_rng(seed)
    return interpolate(EXAMPLES[: len(points)], points, tasks, lengths, **settings, rng=rng)


def pairs(made: Interpolation) -> list[tuple[int, int]]:
    return [(NUMBERS[recipe.first], NUMBERS[recipe.second]) for recipe in made.recipes]


def longest(made: Interpolation, lengths: Lengths) -> int:
    return max(
        int(max(lengths.prompts[[i, j]]) + max(lengths.responses[[i, j]])) for i, j in pairs(made)
    )


def allowed_pairs(
    pairing: Pairing,
    points: NDArray[np.float32],
    tasks: Sequence[int],
    confidence: Sequence[float],
    num_neighbours: int,
) -> set[tuple[int, int]]:
    """Every (first, second) that a pairing may draw, by trying all of them."""
    confident = set(sorted(range(M), key=lambda i: confidence[i])[M // 2 :])
    wide = points.astype(np.float64)
    distances = np.sqrt(((wide[:, None] - wide[None]) ** 2).sum(axis=2))
    np.fill_diagonal(distances, np.inf)
    reach = np.sort(distances, axis=1)[:, min(num_neighbours, M - 1) - 1]

    def allowed(i: int, j: int) -> bool:
        match pairing:
            case "across":
                return tasks[i] != tasks[j]
            case "within":
                return tasks[i] == tasks[j]
            case "nearest":
                return bool(distances[i, j] <= reach[i])
            case "confidence":
                return (i in confident) != (j in confident)

    return {(i, j) for i in range(M) for j in range(M) if i != j and allowed(i, j)}


# --- Pairs.


@st.composite
def examples_and_limits(draw: st.DrawFn) -> dict[str, Any]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_tasks = draw(st.integers(2, M))
    tasks = np.append(rng.integers(num_tasks, size=M - 6), [-7] * 6)  # some may be alone
    lengths = Lengths(rng.integers(1, 60, M), rng.integers(1, 60, M))
    for each in lengths:
        each[-3:] = 30  # these three fit each other
    confidence = rng.integers(draw(st.sampled_from([1, 5, 1000])), size=M).astype(np.float64)
    return {
        "tasks": tasks,
        "lengths": lengths,
        "confidence": confidence,
        "max_length": draw(st.integers(80, 120)),
        "num_kept": draw(st.integers(M, 2 * M)),  # so that everyone is a first parent
        "oversample": draw(st.sampled_from([1.0, 1.5, 3.0])),
        "num_neighbours": draw(st.integers(1, M + 3)),
        "seed": draw(st.integers(0, 1000)),
    }


@pytest.mark.parametrize("pairing", PAIRINGS)
@settings(deadline=None, max_examples=15)
@given(examples_and_limits())
def test_pairs_keep_the_laws_of_their_pairing(pairing: Pairing, drawn: dict[str, Any]) -> None:
    tasks, confidence = drawn["tasks"].tolist(), drawn["confidence"].tolist()
    allowed = allowed_pairs(pairing, embeddings(), tasks, confidence, drawn["num_neighbours"])

    made = interpolated(pairing=pairing, **drawn)

    assert set(pairs(made)) <= allowed
    assert longest(made, drawn["lengths"]) <= drawn["max_length"]
    wanted = round(drawn["num_kept"] * drawn["oversample"])
    assert made.num_generated + made.num_too_long + made.num_alone == wanted
    assert len(made.recipes) == min(drawn["num_kept"], made.num_generated)


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_second_parents_are_drawn_evenly_from_all_that_a_pairing_allows(pairing: Pairing) -> None:
    tasks = np.arange(M) % 4
    allowed = allowed_pairs(pairing, embeddings(), tasks.tolist(), CONFIDENCE.tolist(), 4)
    per_first = Counter(first for first, _ in allowed)

    made = interpolated(pairing=pairing, tasks=tasks, num_kept=200 * M, oversample=1.0)

    counts = Counter(pairs(made))
    assert set(counts) == allowed
    expected = {pair: 200 / per_first[pair[0]] for pair in allowed}
    # The sum of squares has about as many degrees of freedom as pairs less first parents.
    squares = sum((counts[pair] - expected[pair]) ** 2 / expected[pair] for pair in allowed)
    freedom = len(allowed) - M
    assert abs(squares - freedom) < 5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_every_example_is_a_first_parent_before_any_is_one_again(pairing: Pairing) -> None:
    made = interpolated(pairing=pairing, num_kept=2 * M + M // 2, oversample=1.0)

    counts = Counter(first for first, _ in pairs(made))
    assert len(counts) == M
    assert set(counts.values()) == {2, 3}


def test_second_parents_that_fit_are_drawn_evenly() -> None:
    # Of the 20 examples of other tasks only the two shortest fit the longest one.
    prompts = np.full(M, 10)
    responses = np.full(M, 50)
    prompts[0], responses[[1, 2]] = 60, 5
    responses[0] = 5

    made = interpolated(
        lengths=Lengths(prompts, responses), max_length=65, num_kept=400 * M, oversample=1.0
    )

    counts = Counter(second for first, second in pairs(made) if first == 0)
    assert set(counts) == {1, 2}
    fitting = 1 - 0.9**DRAWS_PER_PAIR
    assert counts.total() == pytest.approx(400 * fitting, abs=5 * np.sqrt(400 * fitting * 0.13))
    assert counts[1] == pytest.approx(counts.total() / 2, abs=5 * np.sqrt(400 / 4))


def test_no_pair_is_longer_than_the_limit() -> None:
    rng = np.random.default_rng(1)
    lengths = Lengths(rng.integers(1, 60, M), rng.integers(1, 60, M))

    made = interpolated(lengths=lengths, max_length=70, num_kept=40)

    assert longest(made, lengths) <= 70
    assert made.num_generated + made.num_too_long == 80


def test_an_example_that_fits_with_none_is_given_up_each_time_and_counted() -> None:
    prompts = np.full(M, 10)
    prompts[4] = 99

    made = interpolated(lengths=Lengths(prompts, np.full(M, 5)), num_kept=3 * M, oversample=1.0)

    assert made.num_too_long == 3
    assert made.num_generated == 3 * M - 3
    assert all(4 not in pair for pair in pairs(made))


def test_an_example_alone_in_its_task_is_given_up_each_time_and_counted() -> None:
    tasks = np.append(np.zeros(M - 2, np.int64), [1, 2])

    made = interpolated(pairing="within", tasks=tasks, num_kept=3 * M, oversample=1.0)

    assert (made.num_alone, made.num_too_long, made.num_generated) == (6, 0, 3 * M - 6)
    assert all(i < M - 2 for pair in pairs(made) for i in pair)


def test_a_pair_may_be_as_long_as_the_limit() -> None:
    assert interpolated(max_length=15).num_too_long == 0


@pytest.mark.parametrize("num_neighbours", [1, 3, M + 10])
def test_copies_are_neighbours_but_an_example_is_never_its_own(num_neighbours: int) -> None:
    copies = np.repeat(embeddings()[: M // 2], 2, axis=0)

    made = interpolated(
        pairing="nearest",
        points=copies,
        num_neighbours=num_neighbours,
        num_kept=4 * M,
        oversample=1.0,
    )

    assert all(first != second for first, second in pairs(made))
    if num_neighbours == 1:
        assert all(first // 2 == second // 2 for first, second in pairs(made))


@pytest.mark.parametrize("count", [1, 4, M - 1, M + 10])
def test_the_nearest_are_those_of_every_distance_sorted(count: int) -> None:
    points = embeddings().astype(np.float64)
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    np.fill_diagonal(distances, np.inf)

    found = nearest_neighbours(embeddings(), count)

    np.testing.assert_array_equal(found, distances.argsort(axis=1)[:, : min(count, M - 1)])


def test_neighbours_that_were_kept_give_what_neighbours_found_give(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = nearest_neighbours(embeddings(), 4)
    found = interpolated(pairing="nearest")
    monkeypatch.delattr(mdit, "nearest_neighbours")  # nobody may look for them again

    assert interpolated(pairing="nearest", neighbours=kept) == found


def test_halves_are_equal_by_row_where_confidence_ties() -> None:
    made = interpolated(
        pairing="confidence", confidence=np.zeros(M), num_kept=20 * M, oversample=1.0
    )

    assert all((first < M // 2) != (second < M // 2) for first, second in pairs(made))


def test_only_pairing_by_confidence_reads_confidence() -> None:
    for pairing in ("across", "within", "nearest"):
        assert interpolated(pairing=pairing, confidence=None) == interpolated(pairing=pairing)


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_the_same_generator_gives_the_same_recipes_and_another_gives_others(
    pairing: Pairing,
) -> None:
    assert interpolated(pairing=pairing, seed=1) == interpolated(pairing=pairing, seed=1)
    assert interpolated(pairing=pairing, seed=1) != interpolated(pairing=pairing, seed=2)


# --- Pairings that cannot be.

ALONE = Lengths(np.full(1, 10), np.full(1, 5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": np.zeros(M, np.int64)}, r"^pools\.mdit\.tasks: every example is of one task"),
        (
            {"pairing": "within", "tasks": np.arange(M)},
            r"^pools\.mdit\.tasks: no task has two examples",
        ),
        (
            {"pairing": "confidence", "confidence": None},
            r"^pools\.mdit\.pairing: confidence needs .* features\.tier: model",
        ),
        ({"max_length": 14}, r"^pools\.mdit: no pair .* model\.max_length 14"),
        ({"max_length": 14, "pairing": "within"}, r"^pools\.mdit: no pair .*\.max_length 14"),
        ({"max_length": 14, "pairing": "nearest"}, r"^pools\.mdit: no pair .*\.max_length 14"),
        ({"max_length": 14, "pairing": "confidence"}, r"^pools\.mdit: no pair .*\.max_length 14"),
    ],
)
def test_an_impossible_pairing_names_its_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        interpolated(**changes)


@pytest.mark.parametrize(
    ("pairing", "message"),
    [
        ("across", r"^pools\.mdit\.tasks: every example is of one task"),
        ("within", r"^pools\.mdit\.tasks: no task has two examples"),
        ("nearest", r"^pools\.mdit\.pairing: nearest needs two examples at least, got 1"),
        ("confidence", r"^pools\.mdit\.pairing: confidence needs two examples at least, got 1"),
    ],
)
def test_one_example_cannot_be_paired(pairing: Pairing, message: str) -> None:
    one: dict[str, Any] = {
        "points": embeddings()[:1],
        "tasks": TASKS[:1],
        "confidence": CONFIDENCE[:1],
    }

    with pytest.raises(DataError, match=message):
        interpolated(pairing=pairing, lengths=ALONE, num_kept=1, **one)


def test_first_parents_that_are_all_alone_are_not_blamed_on_the_limit() -> None:
    tasks = np.append(np.arange(M - 2), [M, M])

    with pytest.raises(DataError, match=r"^pools\.mdit\.tasks: each of the 1 examples drawn"):
        interpolated(pairing="within", tasks=tasks, num_kept=1, oversample=1.0)


# --- Lambda.


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_lambda_has_the_moments_of_its_beta_distribution(alpha: float) -> None:
    made = interpolated(alpha=alpha, num_kept=4000, oversample=1.0)  # all are kept

    weights = np.array([recipe.weight for recipe in made.recipes])
    variance = 1 / (4 * (2 * alpha + 1))
    assert np.all((weights >= 0) & (weights <= 1))
    assert weights.mean() == pytest.approx(0.5, abs=4 * np.sqrt(variance / 4000))
    assert weights.var() == pytest.approx(variance, rel=0.1)


def test_every_pair_has_a_lambda_of_its_own() -> None:
    weights = [recipe.weight for recipe in interpolated().recipes]

    assert len(set(weights)) == len(weights)


# --- What is kept.


def test_selection_sees_the_parents_mixed_by_lambda(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[NDArray[np.float32]] = []

    def keep_all(points: NDArray[np.float32], *_: Any, **__: Any) -> NDArray[np.int64]:
        seen.append(points)
        return np.arange(len(points))

    monkeypatch.setattr(mdit, "select_diverse", keep_all)
    before = embeddings()

    made = interpolated(points=before)

    expected = [
        recipe.weight * embeddings()[i] + (1 - recipe.weight) * embeddings()[j]
        for recipe, (i, j) in zip(made.recipes, pairs(made), strict=True)
    ]
    np.testing.assert_allclose(seen[0], expected, atol=1e-6)
    np.testing.assert_array_equal(before, embeddings())  # the caller's are left alone


@pytest.mark.parametrize(("num_kept", "oversample"), [(1, 1.0), (7, 2.0), (20, 2.5), (45, 1.0)])
def test_as_many_are_kept_as_wanted(num_kept: int, oversample: float) -> None:
    made = interpolated(num_kept=num_kept, oversample=oversample)

    assert len(made.recipes) == len(set(made.recipes)) == num_kept
    assert made.num_generated == round(num_kept * oversample)


def test_all_are_kept_where_fewer_could_be_made_than_wanted() -> None:
    prompts = np.where(np.arange(M) < 20, 99, 10)

    made = interpolated(lengths=Lengths(prompts, np.full(M, 5)), num_kept=M, oversample=1.0)

    assert len(made.recipes) == made.num_generated == M - made.num_too_long < M


def test_the_densest_of_each_cluster_are_kept_in_proportion_to_its_size() -> None:
    # On a line: two crowds, each with a middle, of six and three points.
    far = [0.0, 3.0, 3.9, 4.1, 5.0, 9.0]
    near = [101.0, 100.0, 104.0]
    points = np.array([[x, 0.0] for x in [*far, *near]], np.float32)

    kept = select_diverse(points, 3, num_clusters=2, num_neighbours=2, rng=np.random.default_rng(0))

    # Mean distances to two neighbours: 3.45, .95, .55, .55, 1.0, 4.45 and 2, 2.5, 3.5.
    assert kept.tolist() == [2, 3, 6]


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_points_that_differ_by_rounding_are_selected_from() -> None:
    # A small alpha gives lambdas within rounding of 1, and so near-copies of a few parents.
    near = embeddings()[:3]
    points = np.concatenate([near, np.nextafter(near, np.float32(2)), np.nextafter(near, -near)])

    kept = select_diverse(points, 5, num_clusters=8, num_neighbours=2, rng=np.random.default_rng(0))

    assert len(set(kept.tolist())) == 5


# --- Density.


def mean_distances(points: NDArray[np.float64], num_neighbours: int) -> list[float]:
    means = []
    for i, point in enumerate(points):
        others = sorted(
            float(np.sqrt(((point - other) ** 2).sum())) for j, other in enumerate(points) if j != i
        )
        nearest = others[:num_neighbours]
        means.append(sum(nearest) / len(nearest))
    return means


@pytest.mark.parametrize("num_neighbours", [1, 3, 19, 50])
def test_density_is_the_inverse_mean_distance_to_the_nearest(num_neighbours: int) -> None:
    points = np.random.default_rng(4).normal(size=(20, 3))

    found = density(points.astype(np.float32), num_neighbours)

    np.testing.assert_allclose(1 / found, mean_distances(points, num_neighbours), rtol=1e-5)


def test_a_lone_point_has_no_density() -> None:
    assert density(np.ones((1, 3), np.float32), 5).tolist() == [0.0]


def test_copies_are_dense_but_finite() -> None:
    points = np.array([[0.0], [0.0], [1.0]], np.float32)

    found = density(points, 1)

    assert np.all(np.isfinite(found))
    assert found[0] == found[1] > found[2] == 1.0


# --- Quotas.


@pytest.mark.parametrize(
    ("sizes", "total", "quotas"),
    [
        pytest.param([6, 3], 3, [2, 1], id="exact"),
        pytest.param([5, 3, 2], 4, [2, 1, 1], id="the largest remainder first"),
        pytest.param([1, 1, 1], 2, [1, 1, 0], id="ties to the lower index"),
        # The shares are 4/3, 1/3 and 1/3; as floats the first remainder is the smallest.
        pytest.param([4, 1, 1], 2, [2, 0, 0], id="ties that floats would miss"),
        pytest.param([3, 0, 1], 2, [2, 0, 0], id="nothing for nobody"),
        pytest.param([2, 5], 7, [2, 5], id="all"),
    ],
)
def test_quotas_by_hand(sizes: list[int], total: int, quotas: list[int]) -> None:
    assert proportional_quotas(np.array(sizes), total).tolist() == quotas


@st.composite
def sizes_and_totals(draw: st.DrawFn) -> tuple[list[int], int]:
    sizes = draw(st.lists(st.integers(0, 50), min_size=1, max_size=8).filter(any))
    return sizes, draw(st.integers(0, sum(sizes)))


@settings(deadline=None)
@given(sizes_and_totals())
def test_quotas_keep_the_laws_of_a_fair_division(given_: tuple[list[int], int]) -> None:
    sizes, total = given_

    quotas = proportional_quotas(np.array(sizes), total).tolist()

    assert sum(quotas) == total
    assert all(0 <= quota <= size for quota, size in zip(quotas, sizes, strict=True))
    # |quota - size * total / sum| < 1, in whole numbers.
    whole = sum(sizes)
    assert all(
        abs(quota * whole - size * total) < whole for quota, size in zip(quotas, sizes, strict=True)
    )
    assert quotas == hamilton(sizes, total)


def hamilton(sizes: Sequence[int], total: int) -> list[int]:
    """Seat by seat: the next goes to whoever has the most of a seat left over."""
    whole = sum(sizes)
    quotas = [size * total // whole for size in sizes]
    left_over = [size * total % whole for size in sizes]
    while sum(quotas) < total:
        winner = left_over.index(max(left_over))
        quotas[winner] += 1
        left_over[winner] = -1
    return quotas
