"""Rankings by how long a response is and how hard it is for the untuned model.

A log-probability here is the mean over the tokens of a response, in nats: minus the model's loss.

Shapes: ``N`` candidates.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raise_mdit.rankings.order import highest_first, lowest_first, ranks_in

Part = Literal["low", "middle", "high"]
"""Which perplexities come first."""

HINDERED = 1.0
"""From this IFD on, the prompt does not help the response; arXiv 2308.12032 leaves such examples
out as misaligned."""


def by_length(
    num_response_tokens_N: NDArray[np.int64], *, first: Literal["longest", "shortest"]
) -> NDArray[np.int64]:
    """[N] ranks by tokens of the response, ties by row.

    Args:
        num_response_tokens_N: Of each candidate.
        first: ``longest`` as in arXiv 2402.04833, or the other end.
    """
    ranked = highest_first if first == "longest" else lowest_first
    return ranked(num_response_tokens_N)


def by_perplexity(log_probs_N: NDArray[np.float64], part: Part) -> NDArray[np.int64]:
    """[N] ranks by perplexity of the response, ties by row (arXiv 2309.04564).

    The paper keeps a range of percentiles, so what is nearest to the median is told by places and
    not by values: perplexities and their logarithms give the same ranks.

    Args:
        log_probs_N: Of the responses.
        part: ``low`` for the likeliest first, ``high`` for the unlikeliest, ``middle`` for those
            with the most even numbers of candidates below and above.
    """
    if part == "low":
        return highest_first(log_probs_N)
    if part == "high":
        return lowest_first(log_probs_N)
    ascending_N = np.sort(log_probs_N)
    num_below_N = np.searchsorted(ascending_N, log_probs_N, side="left")
    num_above_N = len(log_probs_N) - np.searchsorted(ascending_N, log_probs_N, side="right")
    return lowest_first(np.abs(num_below_N - num_above_N))


def instruction_following_difficulty(
    conditional_N: NDArray[np.float64], alone_N: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[N] IFD: perplexity of the response given the prompt over that of the response alone.

    With perplexity exp(-mean log p) that is exp(alone - conditional). It is the definition of arXiv
    2402.00530; arXiv 2308.12032, where IFD comes from, divides the losses. Both are below 1 for the
    same candidates.

    Args:
        conditional_N: Log-probabilities of the responses given the prompts.
        alone_N: Log-probabilities of the responses without the prompts.
    """
    return np.exp(alone_N - conditional_N)


def by_ifd(conditional_N: NDArray[np.float64], alone_N: NDArray[np.float64]) -> NDArray[np.int64]:
    """[N] ranks by IFD below 1, highest first; then those of 1 and more, lowest first.

    Ties go by row. The paper leaves the latter out; a ranking needs a place for them.

    Args:
        conditional_N: Log-probabilities of the responses given the prompts.
        alone_N: Log-probabilities of the responses without the prompts.
    """
    ifd_N = instruction_following_difficulty(conditional_N, alone_N)
    hindered_N = ifd_N >= HINDERED
    return ranks_in(np.lexsort((np.where(hindered_N, ifd_N, -ifd_N), hindered_N)))


def by_stage(
    losses_N: NDArray[np.float64], *, num_steps: int, batch_size: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """[N] ranks of SSPL, easy to hard: each step draws its batch from its part.

    It is the baseline of arXiv 2504.07282: sorted by loss, ties by row, and cut into as many equal
    parts as there are steps. Ranks ``t * batch_size`` to ``(t + 1) * batch_size - 1`` are drawn
    uniformly from part ``t``. What was not drawn comes after them, part by part in random order.

    Args:
        losses_N: Of the untuned model.
        num_steps: Parts; their sizes differ by one at most.
        batch_size: Candidates of a step. There are at least ``num_steps * batch_size`` candidates.
        rng: Of the draws.
    """
    assert num_steps * batch_size <= len(losses_N), "each part holds a batch"
    parts = np.array_split(np.argsort(losses_N, kind="stable"), num_steps)
    shuffled = [rng.permutation(part) for part in parts]
    drawn = [part[:batch_size] for part in shuffled]
    left = [part[batch_size:] for part in shuffled]
    return ranks_in(np.concatenate(drawn + left))
