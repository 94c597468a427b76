"""DSIR: resampling by hashed n-grams towards target data (arXiv 2302.03169).

A text is a bag of hashed n-grams, and counts ``z`` of a bag have the probability (section 4)

    P(z; gamma) = prod_b gamma[b]^z[b],    gamma = sum_i z_i / sum_i sum_b z_i[b].

With gamma of the target and of the raw data, the importance weight of a candidate is (section 3)

    w_i = P(z_i; gamma_target) / P(z_i; gamma_raw),

and candidates are drawn without replacement in proportion to it: by descending ``log w_i + g_i``
with ``g_i`` from the standard Gumbel distribution (the Gumbel top-k trick).

Shapes: ``N`` candidates, ``Q`` target texts, ``B`` hash buckets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import HashingVectorizer

from raise_mdit.rankings.order import highest_first

WORDS = r"\w+|[^\w\s]+"
"""A run of word characters or of punctuation, as the authors' code splits lowercased text."""

SMOOTHING = 1.0
"""Count added to each bucket. The authors' code adds 1e-8 to the probabilities of counts over
millions of texts; with a few hundred target texts, one n-gram that these do not have would then
weigh as much as all the others together."""


def by_importance(
    texts_N: Sequence[str],
    targets_Q: Sequence[str],
    *,
    num_buckets: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """[N] ranks in the order of a draw without replacement by importance weight.

    Args:
        texts_N: Of the candidates, which are the raw data.
        targets_Q: Of the target data.
        num_buckets: B, of words and pairs of words.
        rng: Of the draw.
    """
    log_weights_N = log_importance_weights(texts_N, targets_Q, num_buckets=num_buckets)
    return highest_first(log_weights_N + rng.gumbel(size=len(log_weights_N)))


def log_importance_weights(
    texts_N: Sequence[str], targets_Q: Sequence[str], *, num_buckets: int
) -> NDArray[np.float64]:
    """[N] natural logarithms of the importance weights.

    Args:
        texts_N: Of the candidates, which are the raw data.
        targets_Q: Of the target data.
        num_buckets: B, of words and pairs of words.
    """
    counts_NB = _hashed_ngrams(texts_N, num_buckets)
    counts_QB = _hashed_ngrams(targets_Q, num_buckets)
    log_ratios_B = _log_shares(counts_QB) - _log_shares(counts_NB)
    return np.asarray(counts_NB @ log_ratios_B, np.float64)


def _hashed_ngrams(texts: Sequence[str], num_buckets: int) -> csr_matrix:
    """[len(texts), B] counts of words and pairs of words; MurmurHash3, the same in every process.

    Lowercased, as by the authors.
    """
    vectorizer = HashingVectorizer(
        n_features=num_buckets,
        ngram_range=(1, 2),
        token_pattern=WORDS,
        norm=None,
        alternate_sign=False,
    )
    return vectorizer.transform(texts)


def _log_shares(counts: csr_matrix) -> NDArray[np.float64]:
    """[B] log gamma of counts, smoothed."""
    totals_B = np.asarray(counts.sum(axis=0), np.float64).ravel() + SMOOTHING
    return np.asarray(np.log(totals_B / totals_B.sum()), np.float64)
