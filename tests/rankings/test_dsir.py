"""DSIR against its formulas written out, and its draws against exact probabilities.

Shapes: ``N`` candidates.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare
from sklearn.utils import murmurhash3_32

from raise_mdit.rankings.dsir import by_importance, log_importance_weights

TEXTS = ["add two numbers", "write a poem!", "Add three: add", "", "a poem, a song"]
TARGETS = ["add four numbers", "Add two, then three"]


def ngrams(text: str) -> list[str]:
    words = re.findall(r"\w+|[^\w\s]+", text.lower())
    return words + [" ".join(pair) for pair in itertools.pairwise(words)]


def counted(text: str, num_buckets: int) -> Counter[int]:
    return Counter(abs(int(murmurhash3_32(each))) % num_buckets for each in ngrams(text))


def log_weight(text: str, num_buckets: int) -> float:
    """log prod_b (gamma_target[b] / gamma_raw[b])^z[b], one count added to each bucket."""
    target: Counter[int] = sum((counted(each, num_buckets) for each in TARGETS), Counter())
    raw: Counter[int] = sum((counted(each, num_buckets) for each in TEXTS), Counter())
    weight = 1.0
    for bucket, count in counted(text, num_buckets).items():
        in_target = (target[bucket] + 1) / (target.total() + num_buckets)
        in_raw = (raw[bucket] + 1) / (raw.total() + num_buckets)
        weight *= (in_target / in_raw) ** count
    return math.log(weight)


@pytest.mark.parametrize("num_buckets", [2, 7, 10_000])
def test_weights_follow_the_formula(num_buckets: int) -> None:
    found = log_importance_weights(TEXTS, TARGETS, num_buckets=num_buckets)

    assert found == pytest.approx([log_weight(each, num_buckets) for each in TEXTS])


def test_weights_by_hand() -> None:
    # "a" is 1 of 1 in the target and 1 of 2 in the pool; with one more for each of B buckets that
    # is 2 of 1 + B against 2 of 2 + B, and for "b" 1 of 1 + B against 2 of 2 + B.
    buckets = 1000
    found = log_importance_weights(["a", "b"], ["a"], num_buckets=buckets)

    ratio = (2 + buckets) / (1 + buckets)
    assert found == pytest.approx([math.log(ratio), math.log(ratio / 2)])


def test_target_and_pool_alike_weigh_all_alike() -> None:
    found = log_importance_weights(TEXTS, TEXTS, num_buckets=50)

    assert found == pytest.approx(np.zeros(len(TEXTS)))


def test_the_first_two_picks_have_the_probabilities_of_draws_without_replacement() -> None:
    texts, targets, draws = ["a", "b", "c", "c b"], ["a a b"], 3000
    weights = np.exp(log_importance_weights(texts, targets, num_buckets=20))
    shares = weights / weights.sum()
    rng = np.random.default_rng(0)

    orders = [
        np.argsort(by_importance(texts, targets, num_buckets=20, rng=rng)) for _ in range(draws)
    ]

    pairs = list(itertools.permutations(range(len(texts)), 2))
    expected = np.array([shares[i] * shares[j] / (1 - shares[i]) for i, j in pairs])
    found = Counter((int(order[0]), int(order[1])) for order in orders)
    assert shares.max() > 2 * shares.min(), "uniform draws would be told apart"
    assert (expected * draws).min() > 5, "enough for the test of each"
    assert chisquare([found[pair] for pair in pairs], draws * expected).pvalue > 0.01


def test_what_is_like_the_target_comes_first() -> None:
    sums = [f"add {i} and {i + 1}" for i in range(20)]
    poems = [f"write line {i} of a poem" for i in range(20)]
    rng = np.random.default_rng(0)

    ranks = by_importance(
        poems + sums, ["add 3 and 9", "add 5 and 7"] * 20, num_buckets=999, rng=rng
    )

    assert set(np.argsort(ranks)[:20]) == set(range(20, 40))
