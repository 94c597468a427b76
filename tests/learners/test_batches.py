"""Batches: padding leaves no trace, and every row is in one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raise_mdit.core import EncodedRow
from raise_mdit.encoding import TextRow, mixed_row, plain_row
from raise_mdit.learners.batches import collate, length_buckets, length_sorted_batches
from raise_mdit.learners.forward import LayeredForward
from raise_mdit.learners.losses import row_sums, score

Make = Callable[..., Any]
CPU = torch.device("cpu")

row_lengths = st.lists(st.integers(2, 30), min_size=1, max_size=25)


def rows_of(lengths: Sequence[int]) -> list[EncodedRow]:
    return [
        plain_row(f"row-{i}", TextRow(np.arange(length), np.arange(length) > 0))
        for i, length in enumerate(lengths)
    ]


@pytest.fixture
def mixture(random_rows: Make, random_text: Make) -> list[EncodedRow]:
    """Plain rows and an interpolated one, all of different lengths."""
    rng = np.random.default_rng(1)
    mixed = mixed_row("mixed", random_text(rng, 3, 4), random_text(rng, 9, 8), weight=0.3, pad=0)
    return [*random_rows(5), mixed]


def losses(model: Any, rows: Sequence[EncodedRow]) -> np.ndarray:
    forward = LayeredForward(model, split=0, precision="float32")
    batch = collate(rows, device=CPU)
    final_BTH = forward.final(forward.embed(batch), from_split=False)
    return row_sums(score(forward, final_BTH, batch).losses_R, batch, len(rows))


def test_a_rows_loss_does_not_depend_on_its_neighbours(
    random_llama: Make, mixture: list[EncodedRow]
) -> None:
    model = random_llama()

    together = losses(model, mixture)

    alone = [losses(model, [row])[0] for row in mixture]
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_the_order_of_rows_does_not_matter(random_llama: Make, mixture: list[EncodedRow]) -> None:
    model = random_llama()

    backwards = losses(model, mixture[::-1])[::-1]

    np.testing.assert_allclose(backwards, losses(model, mixture), rtol=1e-6)


def test_collate_keeps_every_rows_numbers(mixture: list[EncodedRow]) -> None:
    batch = collate(mixture, device=CPU)

    width = max(row.num_tokens for row in mixture)
    assert batch.num_padded_tokens == len(mixture) * width
    assert batch.partner_ids_BT is not None
    for index, row in enumerate(mixture):
        here = batch.row_R == index
        partner = row.ids if row.partner_ids is None else row.partner_ids
        assert batch.ids_BT[index, : row.num_tokens].tolist() == row.ids.tolist()
        assert batch.ids_BT[index, row.num_tokens :].eq(0).all()
        assert batch.partner_ids_BT[index, : row.num_tokens].tolist() == partner.tolist()
        assert (batch.scored_R[here] - index * width).tolist() == row.scored.tolist()
        assert batch.targets_R2[here].tolist() == row.targets.tolist()
        assert batch.weights_R2[here].tolist() == row.target_weights.tolist()
        assert batch.mix_B[index].item() == pytest.approx(row.mix)


def test_plain_rows_have_no_partners(random_rows: Make) -> None:
    assert collate(random_rows(3), device=CPU).partner_ids_BT is None


@given(lengths=row_lengths, max_tokens=st.integers(1, 200))
def test_length_sorted_batches_hold_every_row_once(lengths: list[int], max_tokens: int) -> None:
    batches = list(length_sorted_batches(rows_of(lengths), max_tokens=max_tokens))

    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(batches)


@given(lengths=row_lengths, max_tokens=st.integers(1, 200))
def test_a_batch_exceeds_the_limit_only_when_it_is_one_row(
    lengths: list[int], max_tokens: int
) -> None:
    for batch in length_sorted_batches(rows_of(lengths), max_tokens=max_tokens):
        padded = len(batch) * max(lengths[index] for index in batch)
        assert padded <= max_tokens or len(batch) == 1


@given(lengths=row_lengths, max_tokens=st.integers(1, 200))
def test_rows_of_similar_length_share_a_batch(lengths: list[int], max_tokens: int) -> None:
    batches = length_sorted_batches(rows_of(lengths), max_tokens=max_tokens)

    flat = [lengths[index] for batch in batches for index in batch]
    assert flat == sorted(lengths)


@given(lengths=row_lengths, max_tokens=st.integers(1, 200))
def test_a_repeated_pass_makes_the_same_batches(lengths: list[int], max_tokens: int) -> None:
    first, second = (
        list(length_sorted_batches(rows_of(lengths), max_tokens=max_tokens)) for _ in range(2)
    )

    assert first == second


def test_no_rows_are_no_batches() -> None:
    assert list(length_sorted_batches([], max_tokens=10)) == []


def all_cuts(lengths: Sequence[int]) -> Iterator[list[Sequence[int]]]:
    """Every way to cut a sequence into groups of neighbours."""
    if not lengths:
        yield []
    for size in range(1, len(lengths) + 1):
        for rest in all_cuts(lengths[size:]):
            yield [lengths[:size], *rest]


def price(groups: Sequence[Sequence[int]], overhead: int) -> int:
    """Padded tokens of all groups, and what each costs besides."""
    return sum(len(group) * max(group) + overhead for group in groups)


@given(lengths=st.lists(st.integers(2, 30), min_size=1, max_size=9), overhead=st.integers(0, 40))
def test_buckets_are_the_cheapest_of_all_cuts(lengths: list[int], overhead: int) -> None:
    buckets = length_buckets(rows_of(lengths), overhead=overhead)

    found = [[lengths[index] for index in bucket] for bucket in buckets]
    least = min(price(cut, overhead) for cut in all_cuts(sorted(lengths)))
    assert price(found, overhead) == least
    assert [length for bucket in found for length in bucket] == sorted(lengths)


@given(lengths=row_lengths, overhead=st.integers(0, 40))
def test_buckets_hold_every_row_once_and_the_same_each_time(
    lengths: list[int], overhead: int
) -> None:
    first, again = (length_buckets(rows_of(lengths), overhead=overhead) for _ in range(2))

    assert sorted(index for bucket in first for index in bucket) == list(range(len(lengths)))
    assert first == again
