"""What the tokens of an example tell without a forward pass: statistics and mean input embeddings.

Everything is a product of a sparse matrix of token counts, so a pool of 50,000 examples takes
seconds. How frequent a token is, is counted in the pool itself.

Shapes: ``M`` examples, ``V`` vocabulary, ``H`` hidden size.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.utils.extmath import randomized_svd
from transformers import PreTrainedModel

from raise_mdit.core import Cost, EncodedRow
from raise_mdit.features import ExampleFeatures, unit_rows

STATISTICS = (
    "prompt_log_frequency",
    "response_log_frequency",
    "distinct_response",
    "response_in_prompt",
)
"""Mean log share of the pool that the prompt's tokens have, in nats (rarer words are lower), and
the response's likewise; distinct tokens of the response over its tokens (repetition is lower);
share of the response's tokens that the prompt has too (copying and extraction are higher). What
carries no loss is prompt: system turn and template included."""

SMOOTHING = 1e-3
"""The `a` of a / (a + p): Arora et al. 2017, section 3, give 1e-3 to 1e-4 and run 1e-3."""

COMPONENT_ITERATIONS, COMPONENT_OVERSAMPLES = 7, 10
"""Of the randomised singular vector, as in the code that the authors published."""


def static_features(model: PreTrainedModel, rows: Sequence[EncodedRow]) -> ExampleFeatures:
    """Statistics and embeddings of every row; of the model only the input embeddings are read.

    Args:
        model: Untuned.
        rows: Plain rows: the pool, and nothing else.
    """
    started = time.perf_counter()
    table = model.get_input_embeddings().get_parameter("weight")
    table_VH = table.detach().float().cpu().numpy()
    counts = count_tokens(rows, len(table_VH))
    columns = statistics(counts)
    embeddings = sif_embeddings(counts.prompts + counts.responses, table_VH)
    num_tokens = sum(row.num_tokens for row in rows)
    cost = Cost(
        tokens=num_tokens,
        padded_tokens=num_tokens,
        flops=_flops(num_tokens, *embeddings.shape),
        seconds=time.perf_counter() - started,
    )
    return ExampleFeatures(STATISTICS, columns, embeddings, cost)


class TokenCounts(NamedTuple):
    """How often each example has each token."""

    prompts: csr_array
    """[M, V] among the tokens that carry no loss."""
    responses: csr_array
    """[M, V] among those that do."""


def count_tokens(rows: Sequence[EncodedRow], vocabulary_size: int) -> TokenCounts:
    """Counts of every row."""
    lengths = np.array([row.num_tokens for row in rows])
    starts = np.cumsum(lengths) - lengths
    ids = np.concatenate([row.ids for row in rows])
    scored = [start + row.scored for start, row in zip(starts, rows, strict=True)]
    in_response = np.zeros(len(ids), np.bool_)
    in_response[np.concatenate(scored) + 1] = True
    owners = np.repeat(np.arange(len(rows)), lengths)
    shape = (len(rows), vocabulary_size)
    return TokenCounts(
        *(_counted(owners[part], ids[part], shape) for part in (~in_response, in_response))
    )


def statistics(counts: TokenCounts) -> NDArray[np.float64]:
    """[M, 4] the numbers that :data:`STATISTICS` names."""
    prompts, responses = counts
    log_shares_V = np.log(np.maximum(_totals(prompts + responses), 1))
    log_shares_V -= np.log(prompts.sum() + responses.sum())
    num_prompt, num_response = prompts.sum(axis=1), responses.sum(axis=1)
    return np.stack(
        [
            prompts @ log_shares_V / num_prompt,
            responses @ log_shares_V / num_response,
            np.diff(responses.indptr) / num_response,
            responses.multiply(prompts.astype(np.bool_)).sum(axis=1) / num_response,
        ],
        axis=1,
    )


def sif_embeddings(counts: csr_array, table_VH: NDArray[np.float32]) -> NDArray[np.float32]:
    """[M, H] smooth inverse frequency embeddings, unit length (Arora et al. 2017, algorithm 1).

    The mean of the tokens' embeddings weighted by a / (a + p), p being a token's share of all,
    less its part along the first singular vector of all such means. Unit length is ours: cosine
    similarity, which the paper compares by, then is the inner product.

    Args:
        counts: [M, V] tokens of each example.
        table_VH: Input embeddings.
    """
    weights_V = SMOOTHING / (SMOOTHING + _totals(counts) / counts.sum())
    weighted = counts.astype(np.float32)
    weighted.data *= weights_V[counts.indices]
    means_MH = weighted @ table_VH / counts.sum(axis=1, dtype=np.float32)[:, None]
    _, _, first_1H = randomized_svd(
        means_MH,
        1,
        n_oversamples=COMPONENT_OVERSAMPLES,
        n_iter=COMPONENT_ITERATIONS,
        random_state=0,
    )
    return unit_rows(means_MH - means_MH @ first_1H.T * first_1H)


def _counted(
    owners: NDArray[np.int64], ids: NDArray[np.int64], shape: tuple[int, int]
) -> csr_array:
    return csr_array((np.ones(len(ids), np.int64), (owners, ids)), shape=shape)


def _totals(counts: csr_array) -> NDArray[np.int64]:
    """[V] how often each token occurs."""
    return np.asarray(counts.sum(axis=0), np.int64)


def _flops(num_tokens: int, num_examples: int, width: int) -> float:
    """Weighted sums, the singular vector's products with all examples, and its removal."""
    products = (2 * COMPONENT_ITERATIONS + 2) * (COMPONENT_OVERSAMPLES + 1) + 2
    return 2.0 * width * (num_tokens + num_examples * products)
