"""What a policy of the user's own does: every fault is told, by the check and in use."""

from __future__ import annotations

import random
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from raise_mdit.agents import custom_policy
from raise_mdit.agents.custom_policy import (
    CustomPolicy,
    PolicyError,
    PoolFacts,
    load_policy_class,
)
from raise_mdit.agents.policy_contract import check_policy, made_observation
from raise_mdit.core import KINDS, Observation
from raise_mdit.envs.observation import Picks, Stage, observation_space, observe
from raise_mdit.errors import ConfigError
from raise_mdit.policy_config import CustomPolicyConfig

FACTS = PoolFacts(
    np.arange(60, dtype=np.float32).reshape(20, 3), ("a", "b", "c"), np.arange(20) % 4
)
MODULE = """
    class Good:
        def __init__(self, *, num_picks, rng, weight: float = 1.0):
            assert weight > 0, "weight is not above 0"
            self.num_picks = num_picks

        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return observation["mask"].argsort()[::-1][: self.num_picks], state

    class Online(Good):
        def learn(self, rows, gain):
            rows[:] = 0

    class Blind:
        def __init__(self, *, num_picks):
            pass

        def predict(self, observation):
            return None

    class Mute:
        pass

    class Raising(Online):
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return 1 / 0

        def learn(self, rows, gain):
            return [][0]

    class Masked(Good):
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return observation["mask"].argsort()[: self.num_picks], state
"""


class Choosing:
    """A policy that takes its slots from a function."""

    def __init__(self, choose: Callable[..., Any], num_picks: int, rng: np.random.Generator):
        self.choose, self.num_picks, self.rng = choose, num_picks, rng

    def predict(
        self,
        observation: Observation,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> Any:
        return self.choose(self, observation)


def best_of_the_offered(policy: Choosing, observation: Observation) -> Any:
    slots = np.flatnonzero(observation["mask"])
    return policy.rng.permutation(slots)[: policy.num_picks], None


def check(choose: Callable[[Choosing, Observation], Any]) -> None:
    def made(*, num_picks: int, rng: np.random.Generator) -> Any:
        return Choosing(choose, num_picks, rng)

    check_policy(made)


def broken(choose: Callable[[Choosing, Observation], Any]) -> list[str]:
    """The faults that the check finds."""
    with pytest.raises(PolicyError) as caught:
        check(choose)
    title, *faults = str(caught.value).split("\n  ")
    assert title == "made breaks the contract of a selection policy:"
    return faults


def test_a_good_policy_passes() -> None:
    check(best_of_the_offered)


def test_the_example_in_the_guide_keeps_the_contract() -> None:
    guide = custom_policy.__doc__ or ""
    listing = guide[guide.index("    import numpy") : guide.index("and in the experiment file")]
    names: dict[str, Any] = {}
    exec(textwrap.dedent(listing), names)

    check_policy(names["Nearest"], options={"weight": 0.1})
    made = names["Nearest"](num_picks=2, rng=np.random.default_rng(0), groups=np.array([0, 0, 1]))
    made.learn(np.array([2, 2]), 5.0)
    action, _ = made.predict(
        {
            "window": np.array([0, 2, 1, 2]),
            "mask": np.array([1, 1, 1, 0]),
            "selected": np.zeros(4, np.float32),
        }
    )
    assert action[0] == 1


def test_made_observations_are_those_of_the_environment() -> None:
    rows, kinds = np.array([7, 3, 12]), np.arange(20) % len(KINDS)
    counts = np.zeros(20, np.int64)
    counts[[3, 5]] = 1
    picks = Picks(kinds)
    picks.add(np.array([3, 5]))

    made = made_observation(
        FACTS, rows, masked=np.zeros(2, np.int64), picks=counts, kinds=kinds, stage=(0.9, 0.25, 0.1)
    )

    real = observe(
        rows,
        num_slots=5,
        features=FACTS.features,
        picks=picks,
        stage=Stage(loss_ratio=0.9, budget_share=0.25, last_reward=0.1),
    )
    assert observation_space(5, 3, 20).contains(made)
    assert made.keys() == real.keys()
    for key in real:
        np.testing.assert_array_equal(made[key], real[key])


@pytest.mark.parametrize(
    ("choose", "fault"),
    [
        (lambda policy, seen: None, r"call 1 of `predict`: `predict` gives a value None; return"),
        (
            lambda policy, seen: (np.arange(3), None, None),
            r"call 1 of `predict`: `predict` gives a tuple of 3; return `\(action, state\)`",
        ),
        (
            lambda policy, seen: ([0, 1, 2], None),
            r"call 1 of `predict`: the action is of type list; give \[3\] whole numbers as a",
        ),
        (lambda policy, seen: (np.arange(3.0), None), r"call 1 .* the action is of float64; give"),
        (lambda policy, seen: (np.arange(2), None), r"call 1 .* the action has shape \[2\]; give"),
        (
            lambda policy, seen: (np.array([0, 1, 0]), None),
            r"call 1 of `predict`: slot 0 is picked more than once; pick different slots",
        ),
        (
            lambda policy, seen: (np.array([0, 1, len(seen["mask"]) - 1]), None),
            r"call 2 of `predict`: slot 11 holds no candidate and is picked; pick only where",
        ),
        (
            lambda policy, seen: (seen["window"][:3], None),
            r"call 1 of `predict`: there are slots 0 to 11, and it picks \d+; give positions",
        ),
    ],
)
def test_each_fault_of_an_action_is_told(choose: Callable[..., Any], fault: str) -> None:
    (told,) = [line for line in broken(choose) if re.match(fault, line)]
    assert told


@pytest.mark.parametrize("avoids_used", [False, True])
@pytest.mark.parametrize("sizes", [(3, 12, 40), (2, 8, 20), (4, 32, 400)], ids=str)
def test_a_ranking_that_ignores_the_mask_is_found_whatever_it_ranks_first(
    sizes: tuple[int, int, int], avoids_used: bool
) -> None:
    num_picks, window, num_candidates = sizes
    for seed in range(20):
        worth = np.random.default_rng(seed).random(num_candidates)

        def choose(policy: Choosing, seen: Observation, worth: NDArray[Any] = worth) -> Any:
            scores = worth[seen["window"]] - avoids_used * seen["selected"]
            return np.argsort(-scores)[: policy.num_picks], None

        def made(choose: Any = choose, **given: Any) -> Any:
            return Choosing(choose, given["num_picks"], given["rng"])

        with pytest.raises(PolicyError, match="holds no candidate and is picked"):
            check_policy(made, num_picks=num_picks, window=window, num_candidates=num_candidates)


def in_place(policy: Choosing, observation: Observation) -> Any:
    observation["selected"] += 1
    return best_of_the_offered(policy, observation)


def with_a_key(policy: Choosing, observation: Observation) -> Any:
    observation["mine"] = np.zeros(1)
    return best_of_the_offered(policy, observation)


def test_changing_the_observation_is_a_fault() -> None:
    assert broken(in_place) == [
        "call 1 of `predict` changes the observation in place (selected); work on a copy"
    ]
    assert broken(with_a_key) == [
        "call 1 of `predict` changes the observation in place (its keys); work on a copy"
    ]


def test_chance_of_its_own_is_a_fault() -> None:
    own = np.random.default_rng()

    def choose(policy: Choosing, observation: Observation) -> Any:
        return own.permutation(np.flatnonzero(observation["mask"]))[: policy.num_picks], None

    (fault,) = broken(choose)
    assert re.match(r"two runs with the same seed differ, first in call [12] of `predict`;", fault)


def test_global_generators_are_watched_and_set_back() -> None:
    def choose(policy: Choosing, observation: Observation) -> Any:
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002  # the fault
        return best_of_the_offered(policy, observation)

    before = random.getstate()

    assert broken(choose) == [
        "it uses the global generator of `random`; draw from `rng`, and seed no global generator",
        "it uses the global generator of `numpy.random`; draw from `rng`, and seed no global "
        "generator",
    ]
    assert random.getstate() == before


def test_all_that_is_wrong_is_told_at_once() -> None:
    def choose(policy: Choosing, observation: Observation) -> Any:
        observation["mask"][:] = 1
        random.random()
        return np.zeros(3, np.int64), None

    assert [line.split(";")[0] for line in broken(choose)] == [
        "call 1 of `predict`: slot 0 is picked more than once",
        "call 2 of `predict` changes the observation in place (mask)",
        "it uses the global generator of `random`",
    ]


def test_what_the_users_code_raises_ends_the_check_and_is_the_cause() -> None:
    def at_once(*, num_picks: int, rng: np.random.Generator) -> Any:
        raise KeyError("no")

    with pytest.raises(PolicyError, match=r"making it raised KeyError: 'no' .*; mend the policy"):
        check_policy(at_once)
    with pytest.raises(PolicyError) as caught:
        check(lambda policy, seen: (seen["no"], None))
    assert isinstance(caught.value.__cause__, KeyError)


def test_what_has_no_predict_is_no_policy() -> None:
    with pytest.raises(PolicyError, match=r"it has no method `predict`; write `def predict\(self"):
        check_policy(lambda **given: object())  # type: ignore[arg-type]  # the fault


def test_learn_is_told_of_what_was_picked() -> None:
    told: list[tuple[list[int], list[int]]] = []

    class Recording(Choosing):
        def __init__(self, *, num_picks: int, rng: np.random.Generator) -> None:
            super().__init__(best_of_the_offered, num_picks, rng)

        def predict(self, observation: Observation, *rest: Any, **named: Any) -> Any:
            action, state = super().predict(observation)
            self.rows = observation["window"][action].tolist()
            return action, state

        def learn(self, rows: NDArray[np.int64], gain: float) -> None:
            told.append((self.rows, rows.tolist()))

    check_policy(Recording, num_candidates=30, window=8, num_picks=4)

    assert len(told) == 2 * 2 * 6
    assert all(picked == learned for picked, learned in told)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Makes a section that names a class of :data:`MODULE`, in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_policies.py").write_text(textwrap.dedent(MODULE))

    def make(name: str, *, episodes: int = 0, **options: Any) -> CustomPolicyConfig:
        return CustomPolicyConfig(
            kind=f"mine_policies:{name}", name="mine", episodes=episodes, options=options
        )

    yield make
    sys.modules.pop("mine_policies", None)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "Goood",
            {},
            r"\.kind: module 'mine_policies' has no class 'Goood' with a method `predict`; its "
            r"classes with `predict` are Good, Online, Blind, Raising, Masked\. Did you mean",
        ),
        ("Mute", {}, r"\.kind: class 'Mute' of module 'mine_policies' has no method `predict`"),
        ("Blind", {}, r"\.kind: Blind does not take rng, which every policy is given; write"),
        ("Good", {"rng": 1}, r"\.options\.rng: is given by the run; leave it out"),
        ("Good", {"features": 1}, r"\.options\.features: is given by the run; leave it out"),
        ("Good", {"wieght": 1}, r"\.options: .*'wieght'; allowed: Good\(.*Did you mean 'weight'\?"),
        (
            "Good",
            {"episodes": 2},
            r"\.episodes: Good has no method `learn`, so there is nothing to learn from 2",
        ),
    ],
)
def test_a_class_that_does_not_fit_names_its_key(
    name: str, settings: dict[str, Any], message: str, config: Callable[..., CustomPolicyConfig]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_policy_class(config(name, **settings))
    assert re.match(rf"policies\.mine{message}", str(caught.value))


def test_what_fits_is_loaded(config: Callable[..., CustomPolicyConfig]) -> None:
    assert load_policy_class(config("Online", episodes=2, weight=0.5)).__name__ == "Online"


def in_use(config: CustomPolicyConfig) -> CustomPolicy:
    return CustomPolicy(config, FACTS, num_picks=2, rng=np.random.default_rng(0))


def seen() -> Observation:
    return made_observation(
        FACTS,
        np.array([4, 9, 2]),
        masked=np.zeros(2, np.int64),
        picks=np.zeros(20, np.int64),
        kinds=np.zeros(20, np.int64),
        stage=(1.0, 0.0, 0.0),
    )


def test_a_policy_in_use_gives_its_picks(config: Callable[..., CustomPolicyConfig]) -> None:
    policy = in_use(config("Online"))
    rows = np.array([1, 2])

    action, _ = policy.predict(seen(), deterministic=True)
    assert policy.online is policy
    policy.learn(rows, 0.5)

    assert action.tolist() == [2, 1]
    assert rows.tolist() == [1, 2]  # what it is told of is its own
    assert in_use(config("Good")).online is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "Masked",
            r"policies\.mine: call 1 of `predict`: slot 3 holds no candidate and is picked: pick",
        ),
        (
            "Raising",
            r"policies\.mine: `predict` raised ZeroDivisionError: division by zero "
            r"\(mine_policies\.py:\d+\) in call 1; mend it",
        ),
    ],
)
def test_a_policy_in_use_that_breaks_the_contract_is_named(
    name: str, message: str, config: Callable[..., CustomPolicyConfig]
) -> None:
    with pytest.raises(PolicyError, match=message):
        in_use(config(name)).predict(seen())


def test_what_learn_and_the_class_itself_raise_is_told(
    config: Callable[..., CustomPolicyConfig],
) -> None:
    with pytest.raises(PolicyError, match=r"policies\.mine: `learn` raised IndexError: .* call 0"):
        in_use(config("Raising")).learn(np.array([1, 2]), 0.0)
    with pytest.raises(
        ConfigError, match=r"policies\.mine\.options: Good raised AssertionError: weight is not"
    ):
        in_use(config("Good", weight=-1))


def test_the_pool_is_handed_out_read_only() -> None:
    given: dict[str, Any] = {}

    class Greedy(Choosing):
        def __init__(
            self,
            *,
            num_picks: int,
            rng: np.random.Generator,
            features: Any,
            feature_names: Any,
            groups: Any,
        ) -> None:
            super().__init__(best_of_the_offered, num_picks, rng)
            given.update(features=features, names=feature_names, groups=groups)

    check_policy(Greedy, num_candidates=30, num_features=5)
    assert given["names"] == tuple(f"feature_{i}" for i in range(5))

    check_policy(Greedy, num_candidates=30, feature_names=["a", "b"])

    assert given["features"].shape == (30, 2)
    assert given["names"] == ("a", "b")
    assert given["groups"].shape == (30,)
    with pytest.raises(ValueError, match="read-only"):
        given["features"][0] = 0
