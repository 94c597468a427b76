"""What a pool costs: by hand on six candidates, by plain loops on random ones."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from raise_mdit.candidates import Candidate, Custom, Mdit, Mosaic, Original, Recipe, parents_of
from raise_mdit.core import Message
from raise_mdit.pool import Pool
from raise_mdit.pool_report import KindReport, mosaic_savings, pool_report, renewal_note

TURNS = (Message("user", "w1"), Message("assistant", "w2"))

SIX = (
    Candidate(Original("a"), "toy", 10, 4),
    Candidate(Original("b"), "toy", 20, 8),
    Candidate(Mosaic(("a", "b", "c"), "primary", {}), "toy", 55, 20),
    Candidate(Mosaic(("d",), "format", {}), "toy", 41, 15),
    Candidate(Mdit("a", "d", 0.25), "toy", 44, 16),
    Candidate(Custom(("b", "c"), TURNS), "mine", 33, 12),
)

PLAIN_TOKENS = {"a": 10, "b": 20, "c": 30, "d": 40, "e": 999}


def plain_tokens(pool: Pool) -> NDArray[np.int64]:
    return np.array([PLAIN_TOKENS[example] for example in pool.parents.example_ids])


def in_batches(lengths: list[int], batch_size: int, seed: int) -> int:
    """Tokens and padding, row by row, of the order that numpy draws."""
    order = np.random.default_rng(seed).permutation(len(lengths))
    padded = 0
    for start in range(0, len(order), batch_size):
        batch = [lengths[row] for row in order[start : start + batch_size]]
        padded += sum(max(batch) for _ in batch)
    return padded


def random_pool(seed: int, count: int) -> tuple[Pool, list[Candidate]]:
    rng = np.random.default_rng(seed)
    candidates = []
    for number in range(count):
        parents = tuple(f"e{i}" for i in rng.choice(40, rng.integers(1, 6), replace=False))
        recipes: list[Recipe] = [
            Original(f"original {number}"),
            Mosaic(parents, "primary", {"number": number}),
            Mdit(f"e{rng.integers(40)}", f"f{number}", 0.5),
            Custom(parents, (Message("user", str(number)), *TURNS[1:])),
        ]
        tokens = int(rng.integers(2, 500))
        recipe = recipes[rng.integers(4)]
        candidates.append(Candidate(recipe, "toy", tokens, int(rng.integers(1, tokens))))
    return Pool.of(candidates), candidates


def by_kind(reports: tuple[KindReport, ...]) -> dict[str, KindReport]:
    return {report.kind: report for report in reports}


def test_every_number_of_six_candidates_is_the_one_counted_by_hand() -> None:
    reports = pool_report(Pool.of(SIX), batch_size=4, max_length=64, seed=0)

    in_all = in_batches([10, 20, 55, 41, 44, 33], 4, 0)
    assert reports == (
        KindReport("original", 2, 2, 2, 30, 12, 1, 40, 128),
        KindReport("mosaic", 2, 4, 4, 96, 35, 1, 110, 128),
        KindReport("mdit", 1, 2, 2, 44, 16, 1, 44, 64),
        KindReport("custom", 1, 2, 2, 33, 12, 1, 33, 64),
        KindReport("all", 6, 4, 10, 203, 75, 2, in_all, 384),
    )
    assert reports[1].mean_parents == 2.0
    assert reports[0].supervised_share == 0.4


def test_only_kinds_that_are_there_have_a_line() -> None:
    reports = pool_report(Pool.of([SIX[4], SIX[0]]), batch_size=4, max_length=64, seed=0)

    assert [report.kind for report in reports] == ["original", "mdit", "all"]


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_figures_are_those_of_plain_loops(batch_size: int) -> None:
    pool, candidates = random_pool(3, 300)

    found = by_kind(pool_report(pool, batch_size=batch_size, max_length=500, seed=5))

    for kind, report in found.items():
        mine = [each for each in candidates if kind in ("all", type(each.recipe).__name__.lower())]
        parents = [example for each in mine for example, _ in parents_of(each.recipe)]
        lengths = [each.num_tokens for each in mine]
        assert report == KindReport(
            report.kind,
            len(mine),
            len(set(parents)),
            len(parents),
            sum(lengths),
            sum(each.num_response_tokens for each in mine),
            len(range(0, len(mine), batch_size)),
            in_batches(lengths, batch_size, 5),
            500 * len(mine),
        )


def test_padding_in_batches_lies_between_none_and_all() -> None:
    pool, candidates = random_pool(1, 200)
    longest = max(each.num_tokens for each in candidates)

    def padded(batch_size: int) -> int:
        reports = pool_report(pool, batch_size=batch_size, max_length=longest, seed=0)
        return reports[-1].num_batch_padded_tokens

    assert padded(1) == sum(each.num_tokens for each in candidates) < padded(4)
    assert padded(4) < padded(1000) == 200 * longest


def test_savings_of_one_pass_are_those_counted_by_hand() -> None:
    pool = Pool.of([*SIX, Candidate(Original("e"), "toy", 999, 9)])

    savings = mosaic_savings(pool, plain_tokens(pool), batch_size=4, seed=0)

    # 2 mosaics of 96 tokens for 4 examples of 100; batches of 2 x 55 against 4 x 40.
    assert savings is not None
    assert (savings.num_mosaics, savings.num_examples, savings.num_passes) == (2, 4, 1.0)
    assert savings.samples == pytest.approx(0.5)
    assert savings.tokens == pytest.approx(0.04)
    assert savings.batch_padded_tokens == pytest.approx(1 - 110 / 160)
    assert "2 mosaics in 1 passes over 4 examples" in savings.sentence
    assert "50.0% fewer samples, and so steps" in savings.sentence
    assert "4.0% fewer tokens without padding" in savings.sentence
    assert "31.2% fewer tokens where batches are padded" in savings.sentence


def test_several_passes_are_compared_with_as_many_over_the_originals() -> None:
    more = (
        Candidate(Mosaic(("b", "a"), "primary", {}), "toy", 36, 9),
        Candidate(Mosaic(("d", "c"), "primary", {}), "toy", 84, 9),
    )
    pool = Pool.of([*SIX, *more])

    savings = mosaic_savings(pool, plain_tokens(pool), batch_size=4, seed=0)

    # Each pass: 2 mosaics of 108 tokens for 4 examples of 100; half of 4 x 84 against 4 x 40.
    assert savings is not None
    assert savings.num_passes == 2.0
    assert savings.samples == pytest.approx(0.5)
    assert savings.tokens == pytest.approx(-0.08)
    assert savings.batch_padded_tokens == pytest.approx(-0.05)
    assert "8.0% more tokens without padding" in savings.sentence
    assert "5.0% more tokens where batches are padded" in savings.sentence


def test_without_mosaics_nothing_is_saved() -> None:
    pool = Pool.of(SIX[:2])

    assert mosaic_savings(pool, plain_tokens(pool), batch_size=4, seed=0) is None


def test_of_renewed_candidates_the_first_generation_counts() -> None:
    later = [
        Candidate(Mosaic(("a", "b"), "primary", {"n": generation}), "toy", 30, 9, generation)
        for generation in (1, 2, 3)
    ]
    pool = Pool.of([*SIX[:2], *later])

    found = by_kind(pool_report(pool, batch_size=4, max_length=64, seed=0))

    savings = mosaic_savings(pool, plain_tokens(pool), batch_size=4, seed=0)
    note = renewal_note(pool)
    assert (found["original"].num_candidates, found["mosaic"].num_candidates) == (2, 1)
    assert found["all"].num_tokens == 60
    assert savings is not None
    assert savings.num_mosaics == 1
    assert note is not None
    assert "3 generations, 5 candidates in all" in note
    assert "at first, 3 of them" in note


def test_what_is_never_renewed_needs_no_note() -> None:
    assert renewal_note(Pool.of(SIX)) is None
