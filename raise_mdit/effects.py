"""Effects of policies against references: differences, intervals, p-values and one word each.

Differences are paired, by seed and by held-out item; each gives an interval and a p-value
(:mod:`raise_mdit.bootstrap`). A policy is told from its reference only where both do: where other
seeds would say the same, and other test items, too. The larger of the two p-values counts. Those of
all policies against one reference are corrected together (Holm), and the word follows the corrected
one; two references are compared once, and the word holds both ways. So a 95 % interval may leave
out zero where the word is *inconclusive*: of many policies one looks good by chance.

Where a comparison is open, :func:`what_it_takes` says what would settle it. Every page and table
that tells it asks there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from raise_mdit.bootstrap import bootstrap_interval, holm, samples_to_settle, zero_mean_p_value
from raise_mdit.item_differences import ByItem
from raise_mdit.statistics import Interval

SIGNIFICANCE = 0.05
"""Probability of any false *better* or *worse* against one reference."""

MOST_SEEDS = 1000
MOST_ITEMS = 100_000
"""More than that are not told: the comparison is as good as hopeless."""

FEWEST_SEEDS_WITH_SPREAD = 3
"""From fewer no number of seeds is told. The spread of two is off by a factor of 2 or more in two
experiments of five (normal samples), and the number of seeds goes with its square."""
SEEDS_TO_BEGIN_WITH = 5
"""What is asked for where there are fewer than that minimum: with five seeds the interval is 2.8
times its error wide on either side, with three 4.3 times, with two 12.7 times (Student)."""

ALIKE = "alike with every seed"
"""Said of policies between which there is no difference at all."""

Verdict = Literal["better", "worse", "inconclusive", "reference", "one seed", "not compared"]
Role = Literal["random", "base", "full", "best_static", "named"]
"""Why a policy is compared with; `named` was asked for by its name."""

ROLES: Mapping[Role, str] = {
    "random": "random picks",
    "base": "the untrained model",
    "full": "training on all of it",
    "best_static": "the best policy that ranks the pool once, chosen without the test",
}
"""What policies are compared with unasked, in words."""


class Reference(NamedTuple):
    """A policy that the others are compared with."""

    role: Role
    policy: str
    """Its label."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One policy against a reference."""

    reference: Reference
    difference: Interval
    """What the policy is compared by minus that of the reference with the same seed: below zero is
    better."""
    over_items: Interval | None
    """The same difference with the interval over held-out items; None in results without these."""
    p_value: float | None
    """Of no difference, the larger of that over seeds and that over items; None with one seed or a
    loss that is not finite."""
    adjusted_p: float | None
    """The same, corrected for all policies compared with this reference."""
    verdict: Verdict
    more_seeds: int | None
    """Where it is inconclusive: how many more seeds it would take, were mean and spread as now,
    0 where seeds agree enough already; None where that is above :data:`MOST_SEEDS` or unknown, as
    with fewer than :data:`FEWEST_SEEDS_WITH_SPREAD` seeds that differ."""
    more_items: int | None
    """The same of held-out items, up to :data:`MOST_ITEMS`."""

    @property
    def seeds_first(self) -> int:
        """Seeds to add before a number of them can be told; 0 where there is no need."""
        low, high, size = self.difference.low, self.difference.high, self.difference.num_samples
        if self.verdict == "one seed":
            return SEEDS_TO_BEGIN_WITH - size if math.isfinite(self.difference.mean) else 0
        if not self._is_open or low == high or size >= FEWEST_SEEDS_WITH_SPREAD:
            return 0
        return SEEDS_TO_BEGIN_WITH - size

    @property
    def _is_open(self) -> bool:
        """Undecided, and not for want of a number."""
        return self.verdict == "inconclusive" and self.adjusted_p is not None

    @property
    def is_alike(self) -> bool:
        """Whether the two ended alike with every seed, to the last digit."""
        low, high = self.difference.low, self.difference.high
        return self.verdict == "inconclusive" and self.difference.mean == 0 == low == high

    @property
    def can_be_settled(self) -> bool:
        """Whether it is open, and a number of seeds or items is known that would settle it."""
        if not self._is_open or self.seeds_first or self.is_alike:
            return False
        lacks_items = self.over_items is not None and self.more_items is None
        return self.more_seeds is not None and not lacks_items

    @property
    def is_out_of_reach(self) -> bool:
        """Whether it is open, and no number of seeds or items within reason would settle it."""
        return self._is_open and not (self.seeds_first or self.is_alike or self.can_be_settled)


def what_it_takes(effect: Effect) -> str:
    """What would settle an open comparison, such as `5 more seeds and 8 more held-out items`.

    It supposes that difference and spread stay as they are. The spread of fewer than three seeds
    says too little for a number: then it is `at least 3 more seeds first`. It is `out of reach`
    where no number within reason would do, `alike with every seed` where there is no difference,
    and nothing where the comparison is settled or a loss is not finite.
    """
    if effect.is_alike:
        return ALIKE
    if effect.seeds_first:
        return f"at least {effect.seeds_first} more seeds first"
    if effect.is_out_of_reach:
        return "out of reach"
    wanted = {"seeds": effect.more_seeds or 0, "held-out items": effect.more_items or 0}
    return " and ".join(
        f"{number:,} more {name if number > 1 else name.removesuffix('s')}"
        for name, number in wanted.items()
        if number
    )


def spread_says_too_little(effect: Effect) -> str:
    """Why no number is told of a comparison for which seeds are to be added first."""
    size = effect.difference.num_samples
    has = "one seed has no spread" if size == 1 else f"a spread over {size} seeds tells too little"
    return f"{has} to say what would settle it"


Losses = Mapping[tuple[str, int], float]
"""What arms are compared by, by policy and seed; less is better."""


class _Pairs(NamedTuple):
    """How one policy differs from a reference."""

    by_seed: list[float]
    """Of the seeds that both have."""
    by_item: list[float]
    """Mean over these seeds of the difference on each item; empty where items are not known."""

    @property
    def p_value(self) -> float | None:
        over_seeds = zero_mean_p_value(self.by_seed)
        over_items = zero_mean_p_value(self.by_item) if self.by_item else over_seeds
        if over_seeds is None or over_items is None:
            return None
        return max(over_seeds, over_items)


def effects_of(
    losses: Losses, by_item: ByItem, references: Sequence[Reference]
) -> dict[str, tuple[Effect, ...]]:
    """Effects of each policy against each reference with which it shares seeds, itself left out.

    Args:
        losses: Of every arm.
        by_item: The same item by item, as far as it is known.
        references: Each policy in one role.
    """
    policies = dict.fromkeys(policy for policy, _ in losses)
    effects: dict[str, list[Effect]] = {policy: [] for policy in policies}
    judged: dict[tuple[str, str], Effect] = {}
    for reference in references:
        known = {
            policy: _mirrored(judged[reference.policy, policy], reference, policy)
            for policy in policies
            if (reference.policy, policy) in judged
        }
        pairs = {
            policy: pairs_of
            for policy in policies
            if policy != reference.policy
            and policy not in known
            and (pairs_of := _pairs(policy, reference.policy, losses, by_item)) is not None
        }
        found = _effects_against(reference, pairs)
        judged |= {(policy, reference.policy): effect for policy, effect in found.items()}
        for policy in policies:
            effect = known.get(policy) or found.get(policy)
            if effect is not None:
                effects[policy].append(effect)
    return {policy: tuple(each) for policy, each in effects.items()}


_OPPOSITE: Mapping[Verdict, Verdict] = {"better": "worse", "worse": "better"}


def _mirrored(effect: Effect, reference: Reference, policy: str) -> Effect:
    """What was found of two policies, told of the other: they get one verdict, not two.

    Args:
        effect: Of what is the reference now.
        reference: What it is.
        policy: What was the reference then.
    """
    assert effect.reference.policy == policy, f"{policy} was the reference"
    return replace(
        effect,
        reference=reference,
        difference=_negated(effect.difference),
        over_items=None if effect.over_items is None else _negated(effect.over_items),
        verdict=_OPPOSITE.get(effect.verdict, effect.verdict),
    )


def _negated(interval: Interval) -> Interval:
    low, high = interval.high, interval.low
    return Interval(
        -interval.mean,
        None if low is None else -low,
        None if high is None else -high,
        interval.num_samples,
    )


def _pairs(policy: str, reference: str, losses: Losses, by_item: ByItem) -> _Pairs | None:
    seeds = [seed for owner, seed in losses if owner == policy and (reference, seed) in losses]
    if not seeds:
        return None
    differences = [losses[policy, seed] - losses[reference, seed] for seed in seeds]
    if not all((name, seed) in by_item for name in (policy, reference) for seed in seeds):
        return _Pairs(differences, [])
    items = [by_item[policy, seed] - by_item[reference, seed] for seed in seeds]
    return _Pairs(differences, np.mean(items, axis=0).tolist())


def _effects_against(reference: Reference, pairs: Mapping[str, _Pairs]) -> dict[str, Effect]:
    p_values = {policy: pairs_of.p_value for policy, pairs_of in pairs.items()}
    known = {policy: p for policy, p in p_values.items() if p is not None}
    adjusted = dict(zip(known, holm([*known.values()]), strict=True))
    return {
        policy: _effect(reference, pairs_of, p_values[policy], adjusted.get(policy), len(known))
        for policy, pairs_of in pairs.items()
    }


def _effect(
    reference: Reference,
    pairs: _Pairs,
    p_value: float | None,
    adjusted: float | None,
    num_compared: int,
) -> Effect:
    interval = bootstrap_interval(pairs.by_seed)
    verdict = _verdict(interval, adjusted)
    more_seeds = more_items = None
    if verdict == "inconclusive" and adjusted is not None:
        level = SIGNIFICANCE / num_compared
        more_seeds = _more_seeds(pairs.by_seed, level)
        more_items = _more(pairs.by_item, level, MOST_ITEMS) if pairs.by_item else None
        enough_items = more_items == 0 if pairs.by_item else True
        if more_seeds == 0 and enough_items:  # the two ways of counting differ by a hair
            more_seeds = 1
    return Effect(
        reference=reference,
        difference=interval,
        over_items=bootstrap_interval(pairs.by_item) if pairs.by_item else None,
        p_value=p_value,
        adjusted_p=adjusted,
        verdict=verdict,
        more_seeds=more_seeds,
        more_items=more_items,
    )


def _more_seeds(values: list[float], level: float) -> int | None:
    if len(values) < FEWEST_SEEDS_WITH_SPREAD and min(values) < max(values):
        return None
    return _more(values, level, MOST_SEEDS)


def _more(values: list[float], level: float, most: int) -> int | None:
    wanted = samples_to_settle(values, level=level, most=most)
    return None if wanted is None else max(0, wanted - len(values))


def _verdict(difference: Interval, adjusted: float | None) -> Verdict:
    if difference.num_samples == 1:
        return "one seed"
    if adjusted is None or adjusted >= SIGNIFICANCE:
        return "inconclusive"
    return "better" if difference.mean < 0 else "worse"
