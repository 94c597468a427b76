"""The check that a policy of the user's keeps its contract, for the tests of whoever writes one.

:mod:`raise_mdit.agents.custom_policy` says what the contract is. A policy that is in use is checked
too, step by step; here it is run on made observations, and all that is wrong is told at once.

Shapes: ``N`` candidates of the pool, ``F`` features, ``W`` slots of a window, ``k`` picks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raise_mdit.agents.custom_policy import PolicyError, PoolFacts, arguments_of, pick_faults
from raise_mdit.core import KINDS, Observation, SelectionPolicy
from raise_mdit.own_class import Fault, has_method, told, watched_generators

NUM_STEPS = 6
"""Of each fine-tuning that is made up; windows are small, so candidates come back used."""

NUM_GROUPS = 4


def check_policy(
    policy: Callable[..., SelectionPolicy],
    *,
    num_candidates: int = 40,
    num_features: int = 6,
    feature_names: Sequence[str] | None = None,
    window: int = 12,
    num_picks: int = 3,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> None:
    """Nothing, if a policy keeps its contract.

    It is made and run twice, on two fine-tunings that are made up: windows with masked slots, down
    to as many candidates as it picks, and the whole pool. What stands in masked slots is as good
    as what is offered, though in a run it is always row 0. Candidates that it picked come back as
    used, and one with `learn` is told of gains. Global generators are left as they were.

    Args:
        policy: The class, called as a run calls it.
        num_candidates: N, above ``window``.
        num_features: F, where they have no names.
        feature_names: F names, of a policy that looks for columns by theirs; None calls them
            ``feature_0`` and so on.
        window: W, at least ``num_picks`` and 2 more.
        num_picks: k.
        options: Keyword arguments of the class, as in the experiment file.
        seed: Of all that is drawn, and of the generators that both runs are given.

    Raises:
        PolicyError: With all faults; calls of `predict` are counted from 1.
    """
    assert num_picks + 2 <= window < num_candidates, "slots can be masked, and the pool is larger"
    names = feature_names or [f"feature_{i}" for i in range(num_features)]
    world = _World(num_candidates, tuple(names), window, num_picks, seed)
    with watched_generators() as touched:
        first, second = (_run(policy, world, options or {}) for _ in range(2))
        faults = [*first.faults, *touched()]
    faults += _differences(first, second)
    if faults:
        name = getattr(policy, "__name__", type(policy).__name__)
        lines = dict.fromkeys(f"{fault.wrong}; {fault.mend}" for fault in faults)
        title = f"{name} breaks the contract of a selection policy:"
        raise PolicyError("\n  ".join([title, *lines])) from first.cause


def made_observation(
    facts: PoolFacts,
    rows: NDArray[np.int64],
    *,
    masked: NDArray[np.int64],
    picks: NDArray[np.int64],
    kinds: NDArray[np.int64],
    stage: tuple[float, float, float],
) -> Observation:
    """An observation as ``raise_mdit/InstructionSelection-v0`` gives it.

    Args:
        facts: Of the pool.
        rows: Pool rows on offer, in the first slots.
        masked: What stands in the slots beyond, which are masked; in a run row 0.
        picks: [N] how often each candidate was picked.
        kinds: [N] positions in :data:`raise_mdit.core.KINDS`.
        stage: Loss ratio, share of the budget spent, last reward.
    """
    window = np.concatenate([rows, masked])
    mask = np.zeros(len(window), np.int8)
    mask[: len(rows)] = 1
    of_kinds = np.bincount(kinds, weights=picks, minlength=len(KINDS)) / max(1, picks.sum())
    return {
        "candidates": facts.features[window],
        "context": np.array([*stage, *of_kinds], np.float32),
        "selected": picks[window].astype(np.float32),
        "mask": mask,
        "window": window,
    }


class _World(NamedTuple):
    """What the two runs have in common."""

    num_candidates: int
    feature_names: tuple[str, ...]
    window: int
    num_picks: int
    seed: int

    @property
    def facts(self) -> PoolFacts:
        """Of a pool that is drawn afresh each time, alike."""
        rng = np.random.default_rng([self.seed, 0])
        shape = (self.num_candidates, len(self.feature_names))
        features = rng.standard_normal(shape, np.float32)
        groups = np.arange(self.num_candidates) % NUM_GROUPS
        return PoolFacts(features, self.feature_names, groups)

    def num_offered(self, window: int, step: int) -> int:
        """Slots that hold a candidate: all, or all but two, or no more than are picked."""
        if window == self.num_candidates or step % 2 == 0:
            return window
        return window - 2 if step == 1 else self.num_picks


class _Run(NamedTuple):
    """What a policy did."""

    actions: list[list[int]]
    faults: list[Fault]
    cause: BaseException | None
    """What its code raised."""


class _Stopped(Exception):
    """The policy's code raised, which is the cause."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.wrong)
        self.fault = fault


def _run(policy: Callable[..., SelectionPolicy], world: _World, options: Mapping[str, Any]) -> _Run:
    actions: list[list[int]] = []
    faults: list[Fault] = []
    cause = None
    try:
        made = _made(policy, world, options)
        for window in (world.window, world.num_candidates):
            for action, found in _fine_tuning(made, world, window, len(actions)):
                actions.append(action)
                faults += found
    except _Stopped as stop:
        faults.append(stop.fault)
        cause = stop.__cause__
    return _Run(actions, _first_of_each(faults), cause)


def _made(
    policy: Callable[..., SelectionPolicy], world: _World, options: Mapping[str, Any]
) -> SelectionPolicy:
    rng = np.random.default_rng([world.seed, 1])
    given = arguments_of(policy, world.facts, num_picks=world.num_picks, rng=rng)
    made = _of_the_user(lambda: policy(**options, **given), "making it")
    if not has_method(made, "predict"):
        raise _Stopped(
            Fault(
                "it has no method `predict`",
                "write `def predict(self, observation, state=None, episode_start=None, "
                "deterministic=False)`",
            )
        )
    own: SelectionPolicy = made
    return own


def _fine_tuning(
    policy: SelectionPolicy, world: _World, window: int, num_calls: int
) -> Iterator[tuple[list[int], list[Fault]]]:
    """The action of each step, and what is wrong with it."""
    rng = np.random.default_rng([world.seed, window])
    facts = world.facts
    kinds = np.arange(world.num_candidates) % len(KINDS)
    picks = np.zeros(world.num_candidates, np.int64)
    gain = 0.0
    for step in range(NUM_STEPS):
        rows, masked = np.split(
            rng.permutation(world.num_candidates)[:window], [world.num_offered(window, step)]
        )
        stage = (1.0 - step / 10, step / NUM_STEPS, gain)
        observation = made_observation(
            facts, rows, masked=masked, picks=picks, kinds=kinds, stage=stage
        )
        call = f"call {num_calls + step + 1} of `predict`"
        action, faults = _step(policy, observation, world.num_picks, call, is_final=step % 2 == 0)
        taken = rows[action] if not faults else rows[: world.num_picks]
        picks[taken] += 1
        gain = float(rng.normal(0.0, 0.01))
        learn = getattr(policy, "learn", None)
        if callable(learn):
            told_rows = taken.copy()
            _of_the_user(lambda: learn(told_rows, gain), "`learn`")  # noqa: B023  # called at once
        yield action, faults


def _step(
    policy: SelectionPolicy,
    observation: Observation,
    num_picks: int,
    call: str,
    *,
    is_final: bool,
) -> tuple[list[int], list[Fault]]:
    before = {key: part.copy() for key, part in observation.items()}
    given: Any = _of_the_user(lambda: policy.predict(observation, None, None, is_final), call)
    faults = [
        fault._replace(wrong=f"{call}: {fault.wrong}")
        for fault in pick_faults(given, before, num_picks=num_picks)
    ]
    action = [] if faults else given[0].tolist()
    changed = [key for key in before if not _same(before[key], observation.get(key))]
    if changed or observation.keys() != before.keys():
        wrong = f"{call} changes the observation in place ({', '.join(changed) or 'its keys'})"
        faults.append(Fault(wrong, "work on a copy"))
    return action, faults


def _same(before: NDArray[Any], after: object) -> bool:
    return isinstance(after, np.ndarray) and np.array_equal(before, after)


def _of_the_user(call: Callable[[], Any], what: str) -> Any:  # Any: to be checked
    try:
        return call()
    except Exception as error:  # the user's code, which may raise anything
        raise _Stopped(Fault(f"{what} raised {told(error)}", "mend the policy")) from error


def _first_of_each(faults: list[Fault]) -> list[Fault]:
    """A fault of every kind, the earliest."""
    found: dict[str, Fault] = {}
    for fault in faults:
        found.setdefault(fault.mend, fault)
    return list(found.values())


def _differences(first: _Run, second: _Run) -> list[Fault]:
    pairs = enumerate(zip_longest(first.actions, second.actions), start=1)
    number = next((number for number, (one, other) in pairs if one != other), None)
    if number is None:
        return []
    wrong = f"two runs with the same seed differ, first in call {number} of `predict`"
    mend = "draw from `rng` alone, sort sets, and keep nothing outside the object"
    return [Fault(wrong, mend)]
