"""The cache of frozen layers: bounded, exact, and invisible in the ledger."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from raise_mdit.core import Cost, EncodedRow
from raise_mdit.learners.batches import collate
from raise_mdit.learners.flops import flops_model
from raise_mdit.learners.forward import LayeredForward
from raise_mdit.learners.trunk_cache import TrunkCache

Make = Callable[..., Any]

SPLIT = 3
HIDDEN = 32  # of the small random model
LARGE = 10**9


def new_cache(model: Any, *, max_bytes: int) -> TrunkCache:
    forward = LayeredForward(model, split=SPLIT, precision="float32")
    return TrunkCache(forward, flops_model(model, forward.layers), max_bytes=max_bytes)


def size_of(row: EncodedRow) -> int:
    return row.num_tokens * HIDDEN * 4  # float32


def random_requests(rows: Sequence[EncodedRow], seed: int, count: int) -> list[list[EncodedRow]]:
    rng = np.random.default_rng(seed)
    draws = [rng.choice(len(rows), size=rng.integers(1, 4), replace=False) for _ in range(count)]
    return [[rows[i] for i in draw] for draw in draws]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The token ids of every row that went through the frozen layers, in order."""
    seen: list[list[int]] = []
    embed = LayeredForward.embed

    def note(self: LayeredForward, batch: Any) -> torch.Tensor:
        seen.extend(batch.ids_BT.tolist())
        return embed(self, batch)

    monkeypatch.setattr(LayeredForward, "embed", note)
    return seen


def test_states_are_the_models_own_padded_with_zeros(random_llama: Make, random_rows: Make) -> None:
    model, rows = random_llama(), random_rows(5)

    states, _ = new_cache(model, max_bytes=LARGE).states(rows)

    assert states.shape == (5, max(row.num_tokens for row in rows), HIDDEN)
    for state, row in zip(states, rows, strict=True):
        ids = torch.tensor(row.ids)[None]
        own = model(input_ids=ids, output_hidden_states=True).hidden_states[SPLIT][0]
        torch.testing.assert_close(state[: row.num_tokens], own)
        assert state[row.num_tokens :].eq(0).all()


@pytest.mark.parametrize("max_bytes", [1, 3 * 12 * HIDDEN * 4, LARGE])
def test_states_do_not_depend_on_what_was_computed_before(
    max_bytes: int, random_llama: Make, random_rows: Make
) -> None:
    model, rows = random_llama(), random_rows(8)
    used = new_cache(model, max_bytes=max_bytes)

    for request in random_requests(rows, seed=0, count=40):
        states, _ = used.states(request)
        fresh, _ = new_cache(model, max_bytes=LARGE).states(request)
        assert torch.equal(states, fresh)


def test_a_row_is_computed_once(
    random_llama: Make, random_rows: Make, computed: list[list[int]]
) -> None:
    rows, cache = random_rows(4), new_cache(random_llama(), max_bytes=LARGE)

    for _ in range(3):
        cache.states([*rows, rows[0]])

    assert computed == [row.ids.tolist() for row in rows]


@pytest.mark.parametrize("seed", range(5))
def test_the_least_recently_used_rows_leave_when_memory_is_short(
    seed: int, random_llama: Make, random_rows: Make, computed: list[list[int]]
) -> None:
    rows = random_rows(8, seed)
    max_bytes = sum(size_of(row) for row in rows) // 2
    cache = new_cache(random_llama(), max_bytes=max_bytes)
    held: OrderedDict[str, int] = OrderedDict()  # the oracle: sizes by key, oldest first
    expected = []

    for row in (row for request in random_requests(rows, seed, 60) for row in request):
        if row.key not in held:
            expected.append(row.ids.tolist())
        held[row.key] = size_of(row)
        held.move_to_end(row.key)
        while sum(held.values()) > max_bytes:
            held.popitem(last=False)
        cache.states([row])
        assert cache.num_bytes == sum(held.values()) <= max_bytes

    assert computed == expected
    assert len(expected) > len(rows)  # some did leave


def test_use_keeps_a_row_from_leaving(
    random_llama: Make, random_rows: Make, computed: list[list[int]]
) -> None:
    first, second, third = random_rows(3)
    max_bytes = sum(size_of(row) for row in (first, second, third)) - 1
    cache = new_cache(random_llama(), max_bytes=max_bytes)
    cache.states([first, second])

    cache.states([first])
    cache.states([third])  # drives out the second

    computed.clear()
    cache.states([first, third])
    assert computed == []
    cache.states([second])
    assert computed == [second.ids.tolist()]


def test_a_row_larger_than_the_memory_is_held_alone(random_llama: Make, random_rows: Make) -> None:
    rows, cache = random_rows(3), new_cache(random_llama(), max_bytes=1)

    cache.states(rows)

    assert cache.num_bytes == size_of(rows[-1])


@pytest.mark.parametrize("max_bytes", [1, 3 * 12 * HIDDEN * 4])
def test_costs_do_not_depend_on_what_is_cached(
    max_bytes: int, random_llama: Make, random_rows: Make
) -> None:
    rows = random_rows(8)
    small, large = (new_cache(random_llama(), max_bytes=size) for size in (max_bytes, LARGE))
    large.states(rows)
    large.open_account()

    for request in random_requests(rows, seed=1, count=30):
        assert small.states(request)[1] == large.states(request)[1]


def test_an_account_pays_for_each_row_once(random_llama: Make, random_rows: Make) -> None:
    model, rows = random_llama(), random_rows(3)
    cache = new_cache(model, max_bytes=LARGE)
    flops = flops_model(model, LayeredForward(model, split=0, precision="float32").layers)
    price = [flops.layers(rows=1, length=row.num_tokens, num_layers=SPLIT) for row in rows]

    assert cache.states([rows[0], rows[1], rows[0]])[1] == Cost(flops=price[0] + price[1])
    assert cache.states([rows[1], rows[2]])[1] == Cost(flops=price[2])
    assert cache.states(list(rows))[1] == Cost()


def test_a_new_account_pays_anew(random_llama: Make, random_rows: Make) -> None:
    rows, cache = random_rows(3), new_cache(random_llama(), max_bytes=LARGE)
    first = cache.states(rows)[1]

    cache.open_account()

    assert cache.states(rows)[1] == first


def test_states_carry_no_gradients(random_llama: Make, random_rows: Make) -> None:
    model = random_llama().requires_grad_(True)

    states, _ = new_cache(model, max_bytes=LARGE).states(random_rows(2))

    assert not states.requires_grad


def test_a_changed_caller_cannot_change_what_is_cached(
    random_llama: Make, random_rows: Make
) -> None:
    (row,) = random_rows(1)
    cache = new_cache(random_llama(), max_bytes=LARGE)
    states, _ = cache.states([row])
    expected = states.clone()

    states.zero_()

    assert torch.equal(cache.states([row])[0], expected)


def test_a_score_from_the_cache_equals_the_models_own(
    random_llama: Make, random_rows: Make
) -> None:
    model, rows = random_llama(), random_rows(4)
    forward = LayeredForward(model, split=SPLIT, precision="float32")
    batch = collate(rows, device=torch.device("cpu"))

    states, _ = new_cache(model, max_bytes=LARGE).states(rows)
    found = forward.score(states, batch, from_split=True).logits_RV

    own = [model(input_ids=torch.tensor(row.ids)[None]).logits[0][row.scored] for row in rows]
    torch.testing.assert_close(found, torch.cat(own), rtol=1e-4, atol=1e-5)
