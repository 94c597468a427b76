"""Episodes whose best return is known: the real environment, and no language model.

A candidate has a topic and a quality. What a learner knows of a topic is counted in units: a first
use gives as many as the candidate's quality, every later one half of that, and a topic that needs
another gives nothing while too little of that one is known. The loss is the sum over topics of
``weight * exp(-units / scale)``: each further unit gives less. Policies see neither topics nor
qualities, but random mixtures of them among features that say nothing.

Candidates of a group (one topic, one quality) are alike to the learner. So the states that can be
reached at all are few, and going through all of them gives the best return exactly.

Shapes: ``N`` candidates, ``M`` topics, ``G`` groups, ``S`` states, ``k`` picks of a step.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import combinations, combinations_with_replacement
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import comb
from sklearn.cluster import KMeans
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from raise_mdit.agents.first_weights import weights_of_regression
from raise_mdit.agents.group_policy import (
    exp3_policy,
    join_small_groups,
    thompson_policy,
    ucb_policy,
)
from raise_mdit.agents.influence import influence_policy
from raise_mdit.agents.ppo import build_ppo, learn
from raise_mdit.agents.raise_policy import build_raise
from raise_mdit.core import (
    Budget,
    Cost,
    EncodedRow,
    Evaluation,
    OnlinePolicy,
    SelectionPolicy,
    UpdateStats,
)
from raise_mdit.envs import InstructionSelectionEnv, TrainingPool
from raise_mdit.features import standardised
from raise_mdit.policy_config import PpoConfig, RaiseConfig

SHOWN_FEATURES = 8
"""Random mixtures of topic and quality."""

DISTRACTORS = 4
"""Features that say nothing."""

EMPTY_SLOTS = 4
"""Masked slots at the window's end; they repeat candidate 0, as masked slots do."""


class Topic(NamedTuple):
    """Something to know."""

    weight: float
    """Its loss before anything is known; 0 for what does not matter."""
    needs: int | None = None
    """Position of the topic that it builds on."""
    threshold: int = 0
    """Units of that one, before a step, without which the step teaches nothing here."""


class Group(NamedTuple):
    """Candidates that are alike to the learner."""

    topic: int
    quality: int
    """Units that a first use gives; even."""
    size: int


class Instance(NamedTuple):
    """What there is to know, who teaches it, and for how long."""

    topics: tuple[Topic, ...]
    groups: tuple[Group, ...]
    scale: float
    picks: int
    steps: int

    @property
    def members(self) -> NDArray[np.int64]:
        """[N] group of each candidate."""
        return np.repeat(np.arange(len(self.groups)), [group.size for group in self.groups])

    @property
    def weights(self) -> NDArray[np.float64]:
        """[M] of the topics."""
        return np.array([topic.weight for topic in self.topics])

    def gain(self, units: NDArray[np.int64]) -> NDArray[np.float64]:
        """Undiscounted return of an episode that ends with so many units [..., M]."""
        left = np.exp(-units / self.scale) @ self.weights
        return np.asarray(1 - left / self.weights.sum(), np.float64)

    def teaches(self, units: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which topics can be learned by one who has so many units, both [..., M]."""
        needs = [0 if topic.needs is None else topic.needs for topic in self.topics]
        return units[..., needs] >= [topic.threshold for topic in self.topics]


STAGES = Instance(
    topics=(Topic(1), Topic(3, needs=0, threshold=8), Topic(2), Topic(0)),
    groups=(
        Group(0, 8, 2), Group(0, 2, 2), Group(1, 8, 1), Group(1, 2, 2),
        Group(2, 8, 1), Group(2, 2, 2), Group(3, 8, 12),
    ),
    scale=12.0,
    picks=2,
    steps=6,
)  # fmt: skip
"""The heaviest topic teaches nothing before the lightest is begun, good candidates are few, so that
reuse pays, and more than half of the pool looks as good and is worth nothing."""


class KnownLearner:
    """A learner with the dynamics of an instance; a row's key is its candidate's number."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._members = instance.members
        self._units = np.zeros(len(instance.topics), np.int64)
        self._uses: Counter[int] = Counter()

    def update(self, batch: Sequence[EncodedRow], *, progress: float) -> UpdateStats:
        """Learn from each row by what was known before the batch."""
        loss = self._loss
        teaches = self._instance.teaches(self._units)
        for candidate in (int(row.key) for row in batch):
            group = self._instance.groups[self._members[candidate]]
            given = group.quality // 2 if self._uses[candidate] else group.quality
            self._units[group.topic] += given * teaches[group.topic]
            self._uses[candidate] += 1
        return UpdateStats(loss, Cost(tokens=len(batch)))

    def evaluate(self, items: Sequence[EncodedRow]) -> Evaluation:
        """The loss as it is now."""
        return Evaluation(self._loss, np.zeros(0), np.zeros(0, np.bool_), Cost())

    def snapshot(self) -> object:
        """Units and uses."""
        return self._units.copy(), self._uses.copy()

    def restore(self, snapshot: object) -> None:
        """Return to earlier units and uses."""
        assert isinstance(snapshot, tuple)
        self._units, self._uses = (part.copy() for part in snapshot)

    @property
    def _loss(self) -> float:
        left = np.exp(-self._units / self._instance.scale)
        return float(self._instance.weights @ left)


def known_environment(instance: Instance, *, seed: int = 0) -> InstructionSelectionEnv:
    """The environment of an instance, the whole pool on offer; ``seed`` is that of the features."""
    num_candidates = len(instance.members)
    return InstructionSelectionEnv(
        learner=KnownLearner(instance),
        pool=TrainingPool(
            ids=[f"candidate-{i}" for i in range(num_candidates)],
            rows=known_rows(instance),
            kinds=np.zeros(num_candidates, np.int64),
            features=known_features(instance, seed=seed),
            strata=np.zeros(num_candidates, np.int64),
        ),
        reward_validation=[_row("validation")],
        batch_size=instance.picks,
        budget=Budget(steps=instance.steps),
        window=num_candidates + EMPTY_SLOTS,
    )


def known_rows(instance: Instance) -> list[EncodedRow]:
    """[N] what the learner is given of each candidate."""
    return [_row(str(i)) for i in range(len(instance.members))]


def known_features(instance: Instance, *, seed: int) -> NDArray[np.float32]:
    """[N, SHOWN_FEATURES + DISTRACTORS] of the pool."""
    rng = np.random.default_rng(seed)
    groups = [instance.groups[group] for group in instance.members]
    topics = np.eye(len(instance.topics))[[group.topic for group in groups]]
    hidden = standardised(np.column_stack([topics, [group.quality for group in groups]]))
    shown = hidden @ rng.normal(size=(hidden.shape[1], SHOWN_FEATURES))
    features = np.column_stack([shown, rng.normal(size=(len(groups), DISTRACTORS))])
    return standardised(features).astype(np.float32)


class Optimum(NamedTuple):
    """The best that can be done."""

    gain: float
    """Undiscounted return."""
    batches: NDArray[np.int64]
    """[T, k] candidates of each step, one way to reach it."""


@cache
def optimum(instance: Instance, *, reuse: bool = True) -> Optimum:
    """The best return of all sequences of k-subsets, by visiting every state.

    Args:
        instance: Whose worthless candidates are enough for every pick to be one of them.
        reuse: Whether a candidate may be used more than once. Without, this is also the best of all
            static rankings: a sequence without reuse is the order of one.
    """
    num_idle = len(instance.members) - sum(group.size for group in useful_groups(instance))
    assert num_idle >= instance.picks * (1 if reuse else instance.steps), "idle picks run out"
    states = _States(instance)
    choices = _choices(instance, reuse=reuse)
    codes, trail = states.start, []
    for _ in range(instance.steps):
        moves = states.moves(codes, choices)
        codes, first = np.unique(moves.codes, return_index=True)
        trail.append((moves.sources[first], moves.choices[first]))
    gains = instance.gain(states.decode(codes)[:, : len(instance.topics)])
    best = place = int(gains.argmax())
    path = []
    for sources, taken in reversed(trail):
        path.append(choices[taken[place]])
        place = sources[place]
    return Optimum(float(gains[best]), _as_batches(instance, path[::-1]))


def random_gain(instance: Instance) -> float:
    """Expected return of uniform picks without replacement, exactly."""
    states = _States(instance)
    choices = _choices(instance, reuse=False)
    codes = states.start
    chances: NDArray[np.float64] = np.ones(1)
    for step in range(instance.steps):
        moves = states.moves(codes, choices)
        fresh = states.decode(codes)[:, len(instance.topics) :]
        drawn = _draw_chances(instance, fresh, choices[:, 0], step=step)
        codes, place = np.unique(moves.codes, return_inverse=True)
        parts = chances[moves.sources] * drawn[moves.sources, moves.choices]
        chances = np.bincount(place, weights=parts).astype(np.float64)
    return float(chances @ instance.gain(states.decode(codes)[:, : len(instance.topics)]))


def best_repeated_batch(instance: Instance) -> float:
    """The best return of taking the same k candidates at every step: fixed scores."""
    rows = known_rows(instance)
    gains, tried = [], set()
    for batch in combinations(range(len(rows)), instance.picks):
        alike = tuple(instance.members[list(batch)])
        if alike not in tried:
            tried.add(alike)
            gains.append(gain_of(instance, [[rows[i] for i in batch]] * instance.steps))
    return max(gains)


def gain_of(instance: Instance, batches: Sequence[Sequence[EncodedRow]]) -> float:
    """Return of a learner that trains on these, one after another."""
    learner = KnownLearner(instance)
    start = learner.evaluate([]).loss
    for batch in batches:
        learner.update(batch, progress=0.0)
    return (start - learner.evaluate([]).loss) / start


def played_gain(instance: Instance, policy: SelectionPolicy) -> float:
    """Return of one episode of greedy picks in the environment."""
    env = known_environment(instance)
    observation, _ = env.reset(seed=0)
    total, is_over = 0.0, False
    while not is_over:
        action, _ = policy.predict(observation, deterministic=True)
        observation, reward, _, is_over, _ = env.step(action)
        total += float(reward)
    return total


class Scale(NamedTuple):
    """Two returns that others are measured by."""

    random: float
    best: float

    def share(self, gain: float) -> float:
        """0 for what random picks give, 1 for the best there is."""
        return (gain - self.random) / (self.best - self.random)


@cache
def scale_of(instance: Instance) -> Scale:
    """What random picks give and the best there is."""
    return Scale(random=random_gain(instance), best=optimum(instance).gain)


STEADY: dict[str, Any] = {"learning_rate": 1e-3, "entropy_coefficient": 0.01}
"""Of a PPO that finds the optimum of `STAGES` with every seed. Its steps are smaller than the
default's, which are faster at first; but with these, ten seeds need 28 to 196 episodes on one
processor, and on another, whose roundings differ, 28 to 236 and once more than 240."""


def ppo(instance: Instance, *, seed: int, **settings: Any) -> PPO:
    """Our PPO on an instance, with its defaults where nothing else is said."""
    return build_ppo(
        known_environment(instance),
        PpoConfig(kind="ppo", **settings),
        steps_per_episode=instance.steps,
        seed=seed,
    )


def ppo_after_influence(instance: Instance, *, seed: int, before: int, **settings: Any) -> PPO:
    """Our PPO that begins as what the regression has learned from so many episodes."""
    features = known_features(instance, seed=0)
    rng = np.random.default_rng(seed)
    learned = influence_policy(num_features=features.shape[1], num_picks=instance.picks, rng=rng)
    play_online(instance, learned, episodes=before)
    prior = {"ranking": {"kind": "influence", "episodes": before}}
    config = PpoConfig.model_validate({"kind": "ppo", "prior": prior, **settings})
    assert config.prior is not None, "given above"
    weights = learned.gains.mean()[: features.shape[1] + 1]
    return build_ppo(
        known_environment(instance),
        config,
        steps_per_episode=instance.steps,
        seed=seed,
        first_weights=weights_of_regression(weights, features, strength=config.prior.strength),
    )


def raise_as_printed(instance: Instance, *, seed: int, **settings: Any) -> PPO:
    """RAISE's policy on an instance; one class unless said, so that every batch can be chosen."""
    config = RaiseConfig(kind="raise", **{"classes": 1, **settings})
    features = known_features(instance, seed=0)
    return build_raise(
        known_environment(instance),
        config,
        steps_per_episode=instance.steps,
        seed=seed,
        classes=_clusters(features, config.classes),
        columns=np.arange(features.shape[1]),
    )


def online_policies(instance: Instance, *, seed: int) -> dict[str, OnlinePolicy]:
    """Bandits over eight clusters of features, and the regression, with their defaults."""
    features = known_features(instance, seed=0)
    clusters = join_small_groups(_clusters(features, 8), num_picks=instance.picks)
    given: dict[str, Any] = {
        "num_picks": instance.picks,
        "rng": np.random.default_rng(seed),
    }
    return {
        "exp3": exp3_policy(clusters, exploration=0.1, **given),
        "ucb": ucb_policy(clusters, exploration=2.0, **given),
        "thompson": thompson_policy(clusters, **given),
        "influence": influence_policy(num_features=features.shape[1], **given),
    }


def learned_shares(
    instance: Instance, algorithm: OnPolicyAlgorithm, *, episodes: int, until: float = np.inf
) -> list[float]:
    """Share of the optimum that greedy picks reach after each update.

    Args:
        instance: That the algorithm was built for.
        algorithm: Not yet trained.
        episodes: To learn from.
        until: A share at which to stop early.
    """
    per_update = algorithm.n_steps // instance.steps
    shares: list[float] = []
    for _ in range(episodes // per_update):
        learn(
            algorithm,
            episodes=per_update,
            steps_per_episode=instance.steps,
            callback=CallbackList([]),
        )
        shares.append(scale_of(instance).share(played_gain(instance, algorithm)))
        if shares[-1] >= until:
            break
    return shares


def online_share(instance: Instance, policy: OnlinePolicy, *, episodes: int) -> float:
    """Share of the optimum of a greedy episode after as many that it learned from."""
    play_online(instance, policy, episodes=episodes)
    return scale_of(instance).share(played_gain(instance, policy))


def play_online(instance: Instance, policy: OnlinePolicy, *, episodes: int) -> None:
    """Episodes that a policy learns from as they go on."""
    env = known_environment(instance)
    for seed in range(episodes):
        observation, _ = env.reset(seed=seed)
        is_over = False
        while not is_over:
            action, _ = policy.predict(observation)
            observation, _, _, is_over, info = env.step(action)
            policy.learn(info["rows"], info["gain"])


class _Moves(NamedTuple):
    """Every choice from every state; not yet which of them end alike."""

    codes: NDArray[np.int64]
    sources: NDArray[np.int64]
    choices: NDArray[np.int64]


class _States:
    """Numbers states: one digit for the units of each topic, one for the unused of each group.

    Worthless groups are left out: there is always an unused one, and which it is does not matter.
    """

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._useful = useful_groups(instance)
        self._sizes = np.array([group.size for group in self._useful])
        most = instance.picks * instance.steps * max(group.quality for group in self._useful)
        self._bases = np.array([*[most + 1] * len(instance.topics), *(self._sizes + 1)])
        self._digits = np.concatenate([[1], np.cumprod(self._bases[:-1])])

    @property
    def start(self) -> NDArray[np.int64]:
        """[1] nothing known, nothing used."""
        return np.array([self._digits[len(self._instance.topics) :] @ self._sizes])

    def decode(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """[S, M + G] units of each topic, then unused of each useful group."""
        return np.asarray(codes[:, None] // self._digits % self._bases, np.int64)

    def moves(self, codes: NDArray[np.int64], choices: NDArray[np.int64]) -> _Moves:
        """What each state becomes by each choice that it has the candidates for.

        Args:
            codes: [S] states.
            choices: [C, 2, G] of :func:`_choices`.
        """
        num_topics = len(self._instance.topics)
        units, fresh = np.split(self.decode(codes), [num_topics], axis=1)
        teaches = self._instance.teaches(units)
        qualities = np.array([group.quality for group in self._useful])
        topics = np.eye(num_topics, dtype=np.int64)[[group.topic for group in self._useful]]
        parts = []
        for number, (first, again) in enumerate(choices):
            fits = (fresh >= first).all(axis=1) & (self._sizes - fresh >= again).all(axis=1)
            sources = np.flatnonzero(fits)
            given = (first * qualities + again * (qualities // 2)) @ topics
            ended = codes[sources] + teaches[sources] @ (given * self._digits[:num_topics])
            ended -= first @ self._digits[num_topics:]
            parts.append((ended, sources, np.full(len(sources), number)))
        return _Moves(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def useful_groups(instance: Instance) -> list[Group]:
    """Those whose topic matters."""
    return [group for group in instance.groups if instance.topics[group.topic].weight > 0]


def _choices(instance: Instance, *, reuse: bool) -> NDArray[np.int64]:
    """[C, 2, G] first and later uses of each useful group; worthless ones make up k."""
    num_ways = (2 if reuse else 1) * len(useful_groups(instance))
    idle = num_ways
    taken = combinations_with_replacement(range(num_ways + 1), instance.picks)
    counts = np.array([np.bincount(each, minlength=idle + 1)[:idle] for each in taken])
    both = np.zeros((len(counts), 2 * len(useful_groups(instance))), np.int64)
    both[:, :num_ways] = counts
    return both.reshape(len(counts), 2, -1)


def _draw_chances(
    instance: Instance, fresh_SG: NDArray[np.int64], first_CG: NDArray[np.int64], *, step: int
) -> NDArray[np.float64]:
    """[S, C] chance that a uniform draw of k unused candidates takes so many of each group."""
    left = len(instance.members) - step * instance.picks
    idle_S = left - fresh_SG.sum(axis=1)
    idle_picks_C = instance.picks - first_CG.sum(axis=1)
    ways_SC = comb(fresh_SG[:, None], first_CG).prod(axis=2) * comb(idle_S[:, None], idle_picks_C)
    return np.asarray(ways_SC / comb(left, instance.picks), np.float64)


def _as_batches(instance: Instance, path: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """[T, k] candidates that make such choices."""
    useful = [instance.topics[group.topic].weight > 0 for group in instance.groups]
    of_group = [np.flatnonzero(instance.members == i).tolist() for i in np.flatnonzero(useful)]
    idle = np.flatnonzero(~np.array(useful)[instance.members]).tolist()
    used = [0] * len(of_group)
    batches = []
    for first, again in path:
        batch = []
        for group, members in enumerate(of_group):
            batch += members[used[group] : used[group] + first[group]]
            batch += members[: again[group]]
            used[group] += first[group]
        batches.append(batch + idle[: instance.picks - len(batch)])
    return np.array(batches)


def _clusters(features: NDArray[np.float32], number: int) -> NDArray[np.int64]:
    """[N] K-means cluster of each candidate."""
    labels = KMeans(number, n_init=4, random_state=0).fit_predict(features)
    return np.asarray(labels, np.int64)


def _row(key: str) -> EncodedRow:
    ids = np.arange(2)
    return EncodedRow(key, ids, ids[:1], np.array([[1, 1]]), np.array([[1.0, 0.0]], np.float32))


def _print_shares(instance: Instance, *, episodes: int, seeds: Sequence[int]) -> None:
    """A line for each policy: its share of the optimum's gain over random picks."""
    scale = scale_of(instance)
    print(f"random {scale.random:.4f}, optimum {scale.best:.4f}")
    print(f"best ranking {scale.share(optimum(instance, reuse=False).gain):.2f}")
    print(f"best batch, repeated {scale.share(best_repeated_batch(instance)):.2f}")
    mild: dict[str, Any] = {"actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3}
    makers: dict[str, Callable[..., PPO]] = {
        "ppo": ppo,
        "ppo, steady": partial(ppo, **STEADY),
        "ppo, after 12 of influence": partial(ppo_after_influence, before=12),
        "raise": raise_as_printed,
        "raise, 2 classes": partial(raise_as_printed, classes=2),
        "raise, rates 1e-3": partial(raise_as_printed, **mild),
    }
    for seed in seeds:
        for name, make in makers.items():
            shares = learned_shares(instance, make(instance, seed=seed), episodes=episodes)
            early = shares[: len(shares) // 3]
            print(
                f"seed {seed}, {name}: after {episodes // 3} and {episodes} episodes "
                f"{early[-1]:.2f} and {shares[-1]:.2f}, best {max(early):.2f} and {max(shares):.2f}"
            )
        for name, policy in online_policies(instance, seed=seed).items():
            share = online_share(instance, policy, episodes=episodes)
            print(f"seed {seed}, {name}: after {episodes} episodes {share:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Print which share of the best schedule's gain over random picks each policy "
        "reaches in an environment whose best schedule is known exactly. Half a minute."
    )
    parser.add_argument("--episodes", type=int, default=60, help="to learn from (default: 60)")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 (default: 3)")
    asked = parser.parse_args()
    torch.set_num_threads(1)  # sums in another order are other roundings, and other picks
    _print_shares(STAGES, episodes=asked.episodes, seeds=range(asked.seeds))
