"""Scores of a whole pool by a trained policy, chunk by chunk.

In one piece, :class:`~raise_mdit.agents.scoring_policy.CandidateScorer` holds some hundred numbers
of each candidate at once. Here the pool passes twice, for the mean of the encoded candidates and
for the scores. The second pass encodes anew: the encoded pool would take 4 D bytes a candidate,
more than its features.

Shapes: ``N`` candidates, ``C`` candidates of a chunk, ``F`` features with the availability behind
the pool's own, ``G`` context, ``D`` hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import linear

if TYPE_CHECKING:
    from raise_mdit.agents.scoring_policy import CandidateScorer, SetScoringPolicy

Result = TypeVar("Result")

CHUNK = 4096
"""Candidates that a thread scores at a time: 2.8 MB of numbers with 42 features and D = 64, about a
core's second-level cache. Half as many take a fifth longer, twice as many the same time."""


def score_pool(
    policy: SetScoringPolicy,
    features: NDArray[np.float32],
    *,
    selected: NDArray[Any],
    context: NDArray[np.float32],
    mask: NDArray[Any] | None = None,
    chunk: int = CHUNK,
) -> NDArray[np.float32]:
    """[N] scores, those of a window that is the whole pool.

    Args:
        policy: On the CPU.
        features: [N, F - 1] `candidates` of the observation; may be a memory map.
        selected: [N] how often each candidate was picked in this episode.
        context: [G] the stage.
        mask: [N] not 0 where there is a candidate; None has one everywhere.
        chunk: Candidates scored at a time.
    """
    stream = _PoolStream(
        policy.scorer, features, selected_N=selected, context_G=context, mask_N=mask, chunk=chunk
    )
    return np.concatenate(stream.each_chunk(stream.scores))


def top_k_of_pool(
    policy: SetScoringPolicy,
    features: NDArray[np.float32],
    *,
    num_picks: int,
    selected: NDArray[Any],
    context: NDArray[np.float32],
    mask: NDArray[Any] | None = None,
    chunk: int = CHUNK,
) -> NDArray[np.int64]:
    """[k] rows of the highest scores, best first; of equal scores the earlier row.

    Args:
        policy: As of :func:`score_pool`, like all but ``num_picks``.
        features: [N, F - 1]
        num_picks: k, at most the number of candidates.
        selected: [N]
        context: [G]
        mask: [N] not 0 where a row may be picked.
        chunk: Candidates scored at a time.
    """
    stream = _PoolStream(
        policy.scorer, features, selected_N=selected, context_G=context, mask_N=mask, chunk=chunk
    )
    num_candidates = int(np.count_nonzero(stream.mask_N))
    assert num_candidates >= num_picks, f"{num_picks} picks of {num_candidates} candidates"

    def best_of_chunk(rows: slice) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        scores_C = np.where(stream.mask_N[rows], stream.scores(rows), np.float32(-np.inf))
        order = np.argsort(-scores_C, kind="stable")[:num_picks]
        return rows.start + order, scores_C[order]

    best_rows, best_scores = zip(*stream.each_chunk(best_of_chunk), strict=True)
    order = np.argsort(-np.concatenate(best_scores), kind="stable")[:num_picks]
    return np.asarray(np.concatenate(best_rows)[order], np.int64)


class _PoolStream:
    """A pool that passes a scorer chunk by chunk, its mean known."""

    def __init__(
        self,
        scorer: CandidateScorer,
        features: NDArray[np.float32],
        *,
        selected_N: NDArray[Any],
        context_G: NDArray[np.float32],
        mask_N: NDArray[Any] | None,
        chunk: int,
    ) -> None:
        self._network = _FoldedScorer(scorer, context_G)
        assert features.shape[1] + 1 == self._network.num_features, f"features {features.shape}"
        self._features = features
        self._selected_N = selected_N
        self.mask_N = np.ones(len(features), np.bool_) if mask_N is None else mask_N
        self._chunks = [slice(start, start + chunk) for start in range(0, len(features), chunk)]
        sums = torch.stack(self.each_chunk(self._sum_of_encoded)).double().sum(dim=0)
        self._network.see_mean((sums / int(np.count_nonzero(self.mask_N))).float())

    def each_chunk(self, work: Callable[[slice], Result]) -> list[Result]:
        """What ``work`` gives for the rows of each chunk, in their order.

        Each thread works on chunks of its own, so their number changes no bit. Torch's threads
        would share every operation and wait for each other after it, thousands of times a pool: a
        million candidates took 2 to 18 s instead of 1 to 3 s while others used the same cores.
        """
        num_threads = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(num_threads, initializer=_use_one_thread) as threads:
                return list(threads.map(work, self._chunks))
        finally:
            torch.set_num_threads(num_threads)  # the workers changed it for threads to come

    def scores(self, rows: slice) -> NDArray[np.float32]:
        """[C]."""
        return np.asarray(self._network.score(self._candidates(rows)).numpy(), np.float32)

    def _sum_of_encoded(self, rows: slice) -> torch.Tensor:
        """[D], masked rows left out."""
        mask_C = torch.tensor(self.mask_N[rows], dtype=torch.float32)
        return mask_C @ self._network.encode(self._candidates(rows))

    def _candidates(self, rows: slice) -> torch.Tensor:
        """[C, F] a copy, with the availability behind the features: memory maps are read-only."""
        features = self._features[rows]
        candidates_CF = torch.empty(len(features), self._network.num_features)
        candidates_CF.numpy()[:, :-1] = features
        candidates_CF[:, -1] = torch.tensor(self._selected_N[rows], dtype=torch.float32).log1p()
        return candidates_CF


def _use_one_thread() -> None:
    torch.set_num_threads(1)


class _FoldedScorer:
    """The scorer with all that is the same for every candidate in its biases.

    Weights are detached: threads do not inherit that no gradient is wanted.
    """

    def __init__(self, scorer: CandidateScorer, context_G: NDArray[np.float32]) -> None:
        self._linear_1F = scorer.linear.weight.detach()
        self.num_features = self._linear_1F.shape[1]
        weight, bias_D = _weights(scorer.encoder[0])
        num_hidden = len(bias_D)
        self._first_DF = weight[:, : self.num_features].contiguous()
        self._first_bias_D = bias_D + weight[:, self.num_features :] @ torch.tensor(context_G)
        self._second = _weights(scorer.encoder[2])
        weight, self._score_bias_D = _weights(scorer.score[0])
        self._encoded_DD, self._pooled_DD = weight.split(num_hidden, dim=1)
        self._last_1D = scorer.get_parameter("score.2.weight").detach()

    def see_mean(self, pooled_D: torch.Tensor) -> None:
        """Take the mean of all encoded candidates, which scores depend on."""
        self._score_bias_D = self._score_bias_D + self._pooled_DD @ pooled_D

    def encode(self, candidates_CF: torch.Tensor) -> torch.Tensor:
        """[C, D]."""
        hidden_CD = linear(candidates_CF, self._first_DF, self._first_bias_D).tanh_()
        return linear(hidden_CD, *self._second).tanh_()

    def score(self, candidates_CF: torch.Tensor) -> torch.Tensor:
        """[C], after :meth:`see_mean`."""
        hidden_CD = linear(self.encode(candidates_CF), self._encoded_DD, self._score_bias_D).tanh_()
        return (linear(hidden_CD, self._last_1D) + linear(candidates_CF, self._linear_1F))[:, 0]


def _weights(layer: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a linear layer."""
    assert isinstance(layer, nn.Linear)
    return layer.weight.detach(), layer.bias.detach()
