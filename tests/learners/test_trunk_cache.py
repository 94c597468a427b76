"""The cache of frozen layers: bounded, shared, exact to rounding, and invisible in the ledger."""

from __future__ import annotations

import gc
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raise_mdit.core import Cost, EncodedRow
from raise_mdit.learners.batches import collate
from raise_mdit.learners.flops import flops_model
from raise_mdit.learners.forward import LayeredForward
from raise_mdit.learners.losses import score
from raise_mdit.learners.trunk_cache import TrunkCache
from raise_mdit.learners.trunk_store import StoreSection, TrunkStore

Make = Callable[..., Any]

SPLIT = 3
HIDDEN = 32  # of the small random model
LARGE = 10**9
SMALL = 3 * 12 * HIDDEN * 2  # a few rows
ONE_ROUNDING = 2.0**-7  # of bfloat16, to one side or the other


def new_cache(
    model: Any, *, max_bytes: int = LARGE, store: StoreSection | None = None
) -> TrunkCache:
    forward = LayeredForward(model, split=SPLIT, precision="float32")
    flops = flops_model(model, forward.layers)
    return TrunkCache(forward, flops, store=store, max_bytes=max_bytes)


def size_of(row: EncodedRow) -> int:
    return row.num_tokens * HIDDEN * 2  # bfloat16


def random_requests(rows: Sequence[EncodedRow], seed: int, count: int) -> list[list[EncodedRow]]:
    rng = np.random.default_rng(seed)
    draws = [rng.choice(len(rows), size=rng.integers(1, 4), replace=False) for _ in range(count)]
    return [[rows[i] for i in draw] for draw in draws]


@pytest.fixture
def store(tmp_path: Path) -> StoreSection:
    """A store on disk with room for everything."""
    return TrunkStore(tmp_path, max_bytes=LARGE).section("model")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The token ids of every row that went through the frozen layers, in order, padded."""
    seen: list[list[int]] = []
    embed = LayeredForward.embed

    def note(self: LayeredForward, batch: Any) -> torch.Tensor:
        seen.extend(batch.ids_BT.tolist())
        return embed(self, batch)

    monkeypatch.setattr(LayeredForward, "embed", note)
    return seen


def test_states_are_the_models_own_rounded_and_padded_with_zeros(
    random_llama: Make, random_rows: Make
) -> None:
    model, rows = random_llama(), random_rows(5)

    states, _ = new_cache(model).states(rows)

    assert states.shape == (5, max(row.num_tokens for row in rows), HIDDEN)
    assert states.dtype == torch.float32
    assert torch.equal(states, states.bfloat16().float())
    for state, row in zip(states, rows, strict=True):
        ids = torch.tensor(row.ids)[None]
        own = model(input_ids=ids, output_hidden_states=True).hidden_states[SPLIT][0]
        torch.testing.assert_close(state[: row.num_tokens], own, rtol=ONE_ROUNDING, atol=1e-6)
        assert state[row.num_tokens :].eq(0).all()


@pytest.mark.parametrize("max_bytes", [1, SMALL, LARGE])
def test_states_depend_on_the_row_alone(
    max_bytes: int, random_llama: Make, random_rows: Make
) -> None:
    """To the bit, so that it does not matter who was the first to need a row, or with which."""
    model, rows = random_llama(), random_rows(8)
    alone = {row.key: new_cache(model).states([row])[0][0] for row in rows}
    used = new_cache(model, max_bytes=max_bytes)

    for request in random_requests(rows, seed=0, count=40):
        states, _ = used.states(request)
        for row, state in zip(request, states, strict=True):
            assert torch.equal(state[: row.num_tokens], alone[row.key])


@pytest.mark.parametrize("max_bytes", [1, SMALL, LARGE])
def test_whoever_shares_the_store_gets_the_same_states_from_the_first_time_on(
    max_bytes: int, random_llama: Make, random_rows: Make, store: StoreSection
) -> None:
    model, rows = random_llama(), random_rows(8)
    caches = [new_cache(model, max_bytes=max_bytes, store=store) for _ in range(2)]
    first: dict[str, torch.Tensor] = {}

    for turn, request in enumerate(random_requests(rows, seed=0, count=40)):
        states, _ = caches[turn % 2].states(request)
        for row, state in zip(request, states, strict=True):
            own = state[: row.num_tokens]
            assert torch.equal(first.setdefault(row.key, own), own)


def test_a_row_is_computed_once(
    random_llama: Make, random_rows: Make, computed: list[list[int]]
) -> None:
    rows, cache = random_rows(4), new_cache(random_llama())

    for _ in range(3):
        cache.states([*rows, rows[0]])

    assert sorted(map(sum, computed)) == sorted(int(row.ids.sum()) for row in rows)


def test_another_cache_over_the_same_store_computes_nothing(
    random_llama: Make, random_rows: Make, store: StoreSection, computed: list[list[int]]
) -> None:
    rows = random_rows(6)
    expected, owed = new_cache(random_llama(), store=store).states(rows)
    computed.clear()

    found, owed_again = new_cache(random_llama(), store=store).states(rows)

    assert computed == []
    assert torch.equal(found, expected)
    assert owed_again == owed


def cut_short(content: bytes) -> bytes:
    return content[:-1]


def altered(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("damage", [cut_short, altered])
def test_a_tampered_entry_is_computed_again(
    damage: Callable[[bytes], bytes],
    random_llama: Make,
    random_rows: Make,
    store: StoreSection,
    tmp_path: Path,
    computed: list[list[int]],
) -> None:
    model, (row,) = random_llama(), random_rows(1)
    expected = loss_from(new_cache(model, store=store), model, row)
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    file.write_bytes(damage(file.read_bytes()))
    computed.clear()

    found = loss_from(new_cache(model, store=store), model, row)

    assert computed == [row.ids.tolist()]
    assert torch.equal(found, expected)
    assert torch.equal(loss_from(new_cache(model, store=store), model, row), expected)
    assert len(computed) == 1  # the entry is whole again


def loss_from(cache: TrunkCache, model: Any, row: EncodedRow) -> torch.Tensor:
    forward = LayeredForward(model, split=SPLIT, precision="float32")
    states_BTH, _ = cache.states([row])
    final_BTH = forward.final(states_BTH, from_split=True)
    return score(forward, final_BTH, collate([row], device=torch.device("cpu"))).losses_R


# --- Memory.


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
    for row in (first, second, first, third):  # the third drives out the second
        cache.states([row])

    computed.clear()
    cache.states([first, third])
    assert computed == []
    cache.states([second])
    assert computed == [second.ids.tolist()]


def test_a_row_larger_than_the_memory_is_held_alone(random_llama: Make, random_rows: Make) -> None:
    rows, cache = random_rows(3), new_cache(random_llama(), max_bytes=1)

    cache.states(rows)

    assert cache.num_bytes in [size_of(row) for row in rows]


def test_what_left_memory_is_read_from_the_store(
    random_llama: Make, random_rows: Make, store: StoreSection, computed: list[list[int]]
) -> None:
    rows, cache = random_rows(8), new_cache(random_llama(), max_bytes=1, store=store)
    expected, _ = cache.states(rows)
    computed.clear()

    found, _ = cache.states(rows)

    assert computed == []
    assert torch.equal(found, expected)


# --- Filling the store.


def test_a_filled_store_has_every_row_and_told_of_each(
    random_llama: Make, random_rows: Make, store: StoreSection, computed: list[list[int]]
) -> None:
    rows, told = random_rows(30), list[int]()
    rows = [*rows, rows[3]]
    half = new_cache(random_llama(), store=store)
    half.states(rows[:10])

    cost = new_cache(random_llama(), store=store).fill(rows, advance=told.append)

    assert sum(told) == len(rows)
    assert sorted(map(sum, computed)) == sorted(int(row.ids.sum()) for row in rows[:30])
    computed.clear()
    assert new_cache(random_llama(), store=store).states(rows)[1].flops == cost.flops
    assert computed == []


def test_a_stopped_fill_goes_on_where_it_stopped(
    random_llama: Make,
    random_rows: Make,
    store: StoreSection,
    computed: list[list[int]],
) -> None:
    rows, done, told = random_rows(30), list[int](), list[int]()

    def stop_midway(amount: int) -> None:
        done.append(amount)
        if sum(done) >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        new_cache(random_llama(), store=store).fill(rows, advance=stop_midway)
    computed.clear()

    new_cache(random_llama(), store=store).fill(rows, advance=told.append)

    assert sum(done) == told[0] == 10
    assert len(computed) == 20
    assert sum(told) == 30


def test_a_fill_holds_no_more_than_a_row_beside_the_memory(
    random_llama: Make,
    random_rows: Make,
    store: StoreSection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, made, alive = random_rows(30), list[Any](), list[int]()
    put = TrunkStore.put

    def note(self: TrunkStore, key: str, states_TH: torch.Tensor) -> None:
        made.append(weakref.ref(states_TH))
        put(self, key, states_TH)

    def count(amount: int) -> None:
        gc.collect()
        alive.append(sum(reference() is not None for reference in made))

    monkeypatch.setattr(TrunkStore, "put", note)

    new_cache(random_llama(), store=store, max_bytes=1).fill(rows, advance=count)

    assert len(made) == 30
    assert max(alive) <= 2


# --- Costs.


@pytest.mark.parametrize("max_bytes", [1, SMALL])
def test_costs_do_not_depend_on_what_is_cached(
    max_bytes: int, random_llama: Make, random_rows: Make, store: StoreSection
) -> None:
    rows = random_rows(8)
    small, filled = new_cache(random_llama(), max_bytes=max_bytes), new_cache(random_llama())
    reading = new_cache(random_llama(), store=store)
    new_cache(random_llama(), store=store).states(rows)
    filled.states(rows)
    filled.open_account()

    for request in random_requests(rows, seed=1, count=30):
        owed = [cache.states(request)[1] for cache in (small, filled, reading)]
        assert owed[0] == owed[1] == owed[2]


def test_an_account_pays_for_each_row_once(random_llama: Make, random_rows: Make) -> None:
    model, rows = random_llama(), random_rows(3)
    cache = new_cache(model)
    flops = flops_model(model, LayeredForward(model, split=0, precision="float32").layers)
    price = [flops.layers(rows=1, length=row.num_tokens, num_layers=SPLIT) for row in rows]

    assert cache.states([rows[0], rows[1], rows[0]])[1] == Cost(flops=price[0] + price[1])
    assert cache.states([rows[1], rows[2]])[1] == Cost(flops=price[2])
    assert cache.states(list(rows))[1] == Cost()


def test_a_new_account_pays_anew(random_llama: Make, random_rows: Make) -> None:
    rows, cache = random_rows(3), new_cache(random_llama())
    first = cache.states(rows)[1]

    cache.open_account()

    assert cache.states(rows)[1] == first


# --- Ownership.


def test_states_carry_no_gradients(random_llama: Make, random_rows: Make) -> None:
    model = random_llama().requires_grad_(True)

    states, _ = new_cache(model).states(random_rows(2))

    assert not states.requires_grad


def test_a_changed_caller_cannot_change_what_is_cached(
    random_llama: Make, random_rows: Make
) -> None:
    (row,) = random_rows(1)
    cache = new_cache(random_llama())
    states, _ = cache.states([row])
    expected = states.clone()

    states.zero_()

    assert torch.equal(cache.states([row])[0], expected)
