"""The rollout without features, against Stable-Baselines3's own buffer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import DictRolloutBuffer

from raise_mdit.agents.rollout_buffer import PoolRolloutBuffer
from raise_mdit.core import Observation
from raise_mdit.envs.observation import CONTEXT, DistinctSlots, observation_space

NUM_STEPS = 5
NUM_ENVS = 2
NUM_SLOTS = 6
NUM_PICKS = 2


@pytest.fixture(autouse=True)
def _same_permutations() -> None:
    """Minibatches are drawn from NumPy's global generator, which Stable-Baselines3 seeds."""
    np.random.seed(0)  # noqa: NPY002  # as the library does


def table(num_candidates: int = 20, num_features: int = 3) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(num_candidates, num_features)).astype(np.float32)


def space(num_features: int, num_candidates: int) -> spaces.Dict[Any]:
    return observation_space(NUM_SLOTS, num_features, num_candidates)


def buffers(
    features: NDArray[np.float32], *, dynamic: int = 0
) -> tuple[DictRolloutBuffer, PoolRolloutBuffer]:
    """The library's and ours, empty."""
    num_candidates, num_static = features.shape
    offered = space(num_static + dynamic, num_candidates)
    actions = DistinctSlots(NUM_SLOTS, NUM_PICKS)
    settings: dict[str, Any] = {"device": "cpu", "n_envs": NUM_ENVS}
    return (
        DictRolloutBuffer(NUM_STEPS, offered, actions, **settings),
        PoolRolloutBuffer(NUM_STEPS, offered, actions, features=features, **settings),
    )


def offers(
    features: NDArray[np.float32], rng: np.random.Generator, *, dynamic: int, masked: int
) -> Observation:
    """One window for each environment; masked slots repeat row 0."""
    rows = np.stack([rng.permutation(len(features))[:NUM_SLOTS] for _ in range(NUM_ENVS)])
    mask = np.ones((NUM_ENVS, NUM_SLOTS), np.int8)
    rows[:, NUM_SLOTS - masked :], mask[:, NUM_SLOTS - masked :] = 0, 0
    signal = rng.normal(size=(NUM_ENVS, NUM_SLOTS, dynamic)).astype(np.float32)
    return {
        "candidates": np.concatenate([features[rows], signal], axis=2),
        "context": rng.normal(size=(NUM_ENVS, len(CONTEXT))).astype(np.float32),
        "selected": rng.integers(0, 3, (NUM_ENVS, NUM_SLOTS)).astype(np.float32),
        "mask": mask,
        "window": rows,
    }


def fill(
    buffer: DictRolloutBuffer, features: NDArray[np.float32], *, dynamic: int = 0, masked: int = 0
) -> None:
    """A rollout that is the same for every buffer."""
    rng = np.random.default_rng(1)
    buffer.reset()
    for _ in range(NUM_STEPS):
        observation = offers(features, rng, dynamic=dynamic, masked=masked)
        action = rng.integers(0, NUM_SLOTS, (NUM_ENVS, NUM_PICKS))
        reward, start = rng.normal(size=NUM_ENVS), np.zeros(NUM_ENVS)
        value, log_prob = torch.tensor(rng.normal(size=(2, NUM_ENVS)).astype(np.float32))
        buffer.add(observation, action, reward, start, value, log_prob)
    buffer.compute_returns_and_advantage(torch.ones(NUM_ENVS), np.ones(NUM_ENVS))


def minibatches(buffer: DictRolloutBuffer) -> Iterator[dict[str, torch.Tensor]]:
    np.random.seed(2)  # noqa: NPY002  # as the library does
    for batch in buffer.get(4):
        numbers = batch._asdict()
        yield {**numbers.pop("observations"), **numbers}


def arrays(buffer: DictRolloutBuffer) -> list[NDArray[Any]]:
    """All that a buffer holds of its own: not the table, which the pool has anyway."""
    parts = [*vars(buffer).values(), *buffer.observations.values()]
    shared = vars(buffer).get("features_NS")
    return [part for part in parts if isinstance(part, np.ndarray) and part is not shared]


def num_bytes(buffer: DictRolloutBuffer) -> int:
    return sum(part.nbytes for part in arrays(buffer))


@pytest.mark.parametrize("masked", [0, 2])
@pytest.mark.parametrize("dynamic", [0, 1, 2])
def test_minibatches_are_those_of_the_library_to_the_bit(dynamic: int, masked: int) -> None:
    features = table()
    theirs, ours = buffers(features, dynamic=dynamic)
    for buffer in (theirs, ours):
        fill(buffer, features, dynamic=dynamic, masked=masked)

    pairs = list(zip(minibatches(theirs), minibatches(ours), strict=True))

    assert len(pairs) == 3
    for expected, found in pairs:
        assert set(found) == set(expected)
        for key, part in expected.items():
            assert found[key].dtype == part.dtype
            assert torch.equal(found[key], part), key


def test_a_second_rollout_replaces_the_first() -> None:
    features = table()
    theirs, ours = buffers(features)
    for buffer in (theirs, ours):
        fill(buffer, features, masked=3)
        list(minibatches(buffer))
        fill(buffer, features)

    first_expected, first_found = next(minibatches(theirs)), next(minibatches(ours))

    assert torch.equal(first_found["candidates"], first_expected["candidates"])


@pytest.mark.parametrize("shape", [(2_000, 3), (20, 300)])
def test_memory_depends_neither_on_features_nor_on_the_pool(shape: tuple[int, int]) -> None:
    _, small = buffers(table())
    _, large = buffers(table(*shape))
    fill(large, table(*shape))

    assert num_bytes(large) == num_bytes(small)


def test_a_slot_costs_its_row_its_count_its_mask_and_its_signal() -> None:
    _, plain = buffers(table())
    _, signalled = buffers(table(), dynamic=1)
    slots = NUM_STEPS * NUM_ENVS * NUM_SLOTS

    per_slot = ("window", "selected", "mask", "candidates")

    assert sum(plain.observations[key].nbytes for key in per_slot) == slots * (8 + 4 + 1)
    assert sum(signalled.observations[key].nbytes for key in per_slot) == slots * (8 + 4 + 1 + 4)


def test_the_table_is_shared() -> None:
    features = table()

    _, ours = buffers(features)

    assert ours.features_NS is features


def test_a_table_wider_than_an_observation_is_refused() -> None:
    with pytest.raises(AssertionError, match="4 static features of 3"):
        PoolRolloutBuffer(
            NUM_STEPS,
            space(3, 20),
            DistinctSlots(NUM_SLOTS, NUM_PICKS),
            features=table(num_features=4),
        )
