"""Policies of the user's own making: what one is, how it is loaded, and how it is kept to it.

A policy is a class that :attr:`raise_mdit.policy_config.CustomPolicyConfig.kind` names. For
example, a file `nearest.py` in the working directory::

    import numpy as np

    class Nearest:
        def __init__(self, *, num_picks, rng, groups, weight=1.0):
            self.num_picks, self.rng = num_picks, rng
            self.values = weight * rng.random(groups.max() + 1)
            self.groups = groups

        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            values = self.values[self.groups[observation["window"]]]
            values = values - 10.0 * observation["selected"]
            values = np.where(observation["mask"] > 0, values, -np.inf)
            return np.argsort(-values, kind="stable")[: self.num_picks], state

        def learn(self, rows, gain):
            np.add.at(self.values, self.groups[rows], gain)

and in the experiment file::

    policies:
      - {kind: "nearest:Nearest", name: nearest, episodes: 4, options: {weight: 0.1}}

The class is called once for each seed, with `options` as keyword arguments and with:

- ``num_picks``: how many slots an action has; always given.
- ``rng``: a :class:`numpy.random.Generator`, the only source of chance; always given.
- ``features``: [N, F] float32 of the pool, read-only, standardised; only where the signature names
  it, as with the two below.
- ``feature_names``: F names.
- ``groups``: [N] source, kind and cluster of each candidate as one number from 0.

``predict`` is that of :class:`raise_mdit.core.SelectionPolicy`. It is given observations of
``raise_mdit/InstructionSelection-v0``, and ``deterministic`` is true in the final fine-tuning. A
class with ``learn``, as :class:`raise_mdit.core.OnlinePolicy` has it, is told of every step's
improvement, in the final fine-tuning and in `episodes` of learning before it. What the policy does
is looked at in every step; to see beforehand whether it keeps to all this, call
:func:`raise_mdit.agents.policy_contract.check_policy` in a test.

Shapes: ``N`` candidates of the pool, ``F`` features, ``W`` slots of a window, ``k`` picks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raise_mdit.agents.static import State
from raise_mdit.core import Observation, OnlinePolicy
from raise_mdit.errors import ConfigError, DataError
from raise_mdit.own_class import (
    Fault,
    check_arguments,
    find_class,
    has_method,
    make_own,
    told,
    type_name,
)
from raise_mdit.policy_config import CustomPolicyConfig

ALWAYS_GIVEN = ("num_picks", "rng")
"""Keyword arguments that every policy of the user's takes."""


class PolicyError(DataError):
    """A policy of the user's own that does not do what a selection policy does."""


class PoolFacts(NamedTuple):
    """What a class may ask for of the pool; its field names are those of the arguments."""

    features: NDArray[np.float32]
    """[N, F]"""
    feature_names: tuple[str, ...]
    """F names."""
    groups: NDArray[np.int64]
    """[N] numbers from 0."""


def load_policy_class(config: CustomPolicyConfig) -> type[Any]:  # Any: it is the user's
    """The class that a section names, sure to fit what the section asks of it.

    Args:
        config: The section.

    Raises:
        ConfigError: It cannot be found or imported, does not take what it is given, or is to learn
            in episodes and has no `learn`.
    """
    where = _where(config)
    found = find_class(config.kind, where, method="predict")
    faults = [f"{where}.{fault}" for fault in _class_faults(found, config)]
    if faults:
        raise ConfigError("\n".join(faults))
    given = dict.fromkeys((*ALWAYS_GIVEN, *_asked(found)))
    check_arguments(found, where, config.options, given=given)
    return found


class CustomPolicy:
    """A policy of the user's in use: what it does is checked, and named where it is wrong."""

    def __init__(
        self,
        config: CustomPolicyConfig,
        facts: PoolFacts,
        *,
        num_picks: int,
        rng: np.random.Generator,
    ) -> None:
        """Make the user's object.

        Args:
            config: The section.
            facts: Of the pool.
            num_picks: k.
            rng: Of its draws.

        Raises:
            ConfigError: It cannot be made.
        """
        self._where = _where(config)
        self._num_picks = num_picks
        self._num_calls = 0
        found = load_policy_class(config)
        given = arguments_of(found, facts, num_picks=num_picks, rng=rng)
        self._own = make_own(found, self._where, config.options, given=given)

    @property
    def online(self) -> OnlinePolicy | None:
        """This policy, where it learns from each step."""
        return self if has_method(self._own, "learn") else None

    def predict(
        self,
        observation: Observation,
        state: State = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.int64], State]:
        """The user's picks.

        Raises:
            PolicyError: They are no picks of this window, or the user's code raised, which is then
                the cause.
        """
        self._num_calls += 1
        try:
            given = self._own.predict(observation, state, episode_start, deterministic)
        except Exception as error:  # the user's code, which may raise anything
            raise PolicyError(
                f"{self._where}: `predict` raised {told(error)} in call {self._num_calls}; mend it"
            ) from error
        faults = list(pick_faults(given, observation, num_picks=self._num_picks))
        if faults:
            wrong = "; ".join(f"{fault.wrong}: {fault.mend}" for fault in faults)
            raise PolicyError(f"{self._where}: call {self._num_calls} of `predict`: {wrong}")
        action, next_state = given
        return np.asarray(action, np.int64), next_state

    def learn(self, rows: NDArray[np.int64], gain: float) -> None:
        """Pass on what the last action gave.

        Args:
            rows: [k] pool rows that were trained on.
            gain: Of the step.

        Raises:
            PolicyError: The user's code raised, which is the cause.
        """
        try:
            self._own.learn(rows.copy(), gain)
        except Exception as error:  # the user's code, which may raise anything
            raise PolicyError(
                f"{self._where}: `learn` raised {told(error)} after call {self._num_calls}; mend it"
            ) from error


def arguments_of(
    found: Callable[..., Any], facts: PoolFacts, *, num_picks: int, rng: np.random.Generator
) -> dict[str, Any]:
    """What a class is given besides its options.

    Args:
        found: The user's class.
        facts: Of the pool; those that its signature names are handed over.
        num_picks: k.
        rng: Of its draws.
    """
    features = facts.features.view()
    features.flags.writeable = False
    offered = facts._replace(features=features, groups=facts.groups.copy())._asdict()
    return {"num_picks": num_picks, "rng": rng, **{name: offered[name] for name in _asked(found)}}


def pick_faults(given: object, observation: Observation, *, num_picks: int) -> Iterator[Fault]:
    """All that is wrong with what `predict` gave for an observation.

    Args:
        given: Anything.
        observation: Of one window.
        num_picks: k.
    """
    if not (isinstance(given, tuple) and len(given) == 2):
        yield Fault(f"`predict` gives {_shape_of(given)}", "return `(action, state)`")
        return
    mend = f"give [{num_picks}] whole numbers as a NumPy array"
    action = given[0]
    if not isinstance(action, np.ndarray):
        yield Fault(f"the action is {type_name(action)}", mend)
        return
    if action.dtype.kind not in "iu":
        yield Fault(f"the action is of {action.dtype}", mend)
        return
    if action.shape != (num_picks,):
        yield Fault(f"the action has shape {list(action.shape)}", mend)
        return
    yield from _slot_faults(action, np.asarray(observation["mask"]))


def _slot_faults(action_k: NDArray[Any], mask_W: NDArray[Any]) -> Iterator[Fault]:
    num_slots = len(mask_W)
    outside = sorted({int(slot) for slot in action_k if not 0 <= slot < num_slots})
    if outside:
        wrong = f"there are slots 0 to {num_slots - 1}, and it picks {outside[0]}"
        yield Fault(wrong, 'give positions in the window, not rows of `observation["window"]`')
    slots, counts = np.unique(action_k, return_counts=True)
    if (counts > 1).any():
        wrong = f"slot {int(slots[counts > 1][0])} is picked more than once"
        yield Fault(wrong, "pick different slots")
    masked = [int(slot) for slot in slots if 0 <= slot < num_slots and not mask_W[slot]]
    if masked:
        wrong = f"slot {masked[0]} holds no candidate and is picked"
        yield Fault(wrong, 'pick only where `observation["mask"]` is 1')


def _asked(found: Callable[..., Any]) -> list[str]:
    """Facts of the pool that a signature names."""
    named = inspect.signature(found).parameters
    return [name for name in PoolFacts._fields if name in named]


def _class_faults(found: type[Any], config: CustomPolicyConfig) -> Iterator[str]:
    parameters = inspect.signature(found).parameters
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    missing = [name for name in ALWAYS_GIVEN if not takes_any and name not in parameters]
    if missing:
        yield (
            f"kind: {found.__name__} does not take {' and '.join(missing)}, which every policy is "
            "given; write `def __init__(self, *, num_picks, rng, ...)`"
        )
    own = {*ALWAYS_GIVEN, *PoolFacts._fields}
    for name in sorted(own.intersection(config.options)):
        yield f"options.{name}: is given by the run; leave it out"
    if config.episodes and not has_method(found, "learn"):
        yield (
            f"episodes: {found.__name__} has no method `learn`, so there is nothing to learn from "
            f"{config.episodes} episodes; write `def learn(self, rows, gain)`, or 0"
        )


def _shape_of(given: object) -> str:
    return f"a tuple of {len(given)}" if isinstance(given, tuple) else f"a value {type_name(given)}"


def _where(config: CustomPolicyConfig) -> str:
    return f"policies.{config.label}"
