"""Statistics by hand and embeddings against a direct loop.

Shapes: ``M`` examples, ``V`` vocabulary, ``H`` hidden size.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from raise_mdit.core import EncodedRow
from raise_mdit.encoding import TextRow, plain_row
from raise_mdit.learners.static_features import (
    STATISTICS,
    count_tokens,
    sif_embeddings,
    static_features,
    statistics,
)

Make = Callable[..., Any]


def row(prompt: list[int], response: list[int]) -> EncodedRow:
    in_response = [False] * len(prompt) + [True] * len(response)
    return plain_row("row", TextRow(np.array(prompt + response), np.array(in_response)))


def columns_of(rows: Sequence[EncodedRow]) -> dict[str, list[float]]:
    found = statistics(count_tokens(rows, 10))
    return dict(zip(STATISTICS, found.T.tolist(), strict=True))


def by_the_paper(rows: Sequence[EncodedRow], table_VH: NDArray[np.float64]) -> NDArray[np.float64]:
    """Algorithm 1 of Arora et al. 2017, token by token, and then unit length."""
    counts = Counter(token for row in rows for token in row.ids.tolist())
    means = []
    for row in rows:
        total = np.zeros(table_VH.shape[1])
        for token in row.ids.tolist():
            share = counts[token] / counts.total()
            total += 1e-3 / (1e-3 + share) * table_VH[token]
        means.append(total / len(row.ids))
    first = np.linalg.svd(np.array(means))[2][0]
    kept = [mean - (mean @ first) * first for mean in means]
    return np.array([each / np.linalg.norm(each) for each in kept])


def test_statistics_of_two_rows_by_hand() -> None:
    # Ten tokens in all: 1 four times, 2 three times, 3 twice, 4 once.
    found = columns_of([row([1, 1, 2], [2, 2, 3]), row([3, 1], [1, 4])])

    log = {token: math.log(count / 10) for token, count in {1: 4, 2: 3, 3: 2, 4: 1}.items()}
    assert found["prompt_log_frequency"] == pytest.approx(
        [(log[1] + log[1] + log[2]) / 3, (log[3] + log[1]) / 2]
    )
    assert found["response_log_frequency"] == pytest.approx(
        [(log[2] + log[2] + log[3]) / 3, (log[1] + log[4]) / 2]
    )
    assert found["distinct_response"] == pytest.approx([2 / 3, 1.0])
    assert found["response_in_prompt"] == pytest.approx([2 / 3, 1 / 2])


def test_a_turn_in_between_belongs_to_the_prompt_and_an_earlier_answer_to_the_response() -> None:
    ids = np.array([1, 5, 2, 6])
    turns = plain_row("row", TextRow(ids, np.array([False, True, False, True])))

    prompts, responses = count_tokens([turns], 10)

    assert np.flatnonzero(prompts.toarray()).tolist() == [1, 2]
    assert np.flatnonzero(responses.toarray()).tolist() == [5, 6]


def test_embeddings_are_smooth_inverse_frequency_means_without_their_common_component(
    random_rows: Make,
) -> None:
    rows = random_rows(40)
    table_VH = np.random.default_rng(0).normal(0.5, 1.0, (107, 16))
    counts = count_tokens(rows, 107)

    found = sif_embeddings(counts.prompts + counts.responses, table_VH.astype(np.float32))

    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_the_paper(rows, table_VH), atol=1e-4)


def test_a_single_example_has_an_embedding_without_faults(
    random_llama: Make, random_rows: Make
) -> None:
    assert np.all(np.isfinite(static_features(random_llama(), random_rows(1)).embeddings))


def test_of_the_model_only_the_input_embeddings_are_read(
    random_llama: Make, random_rows: Make
) -> None:
    model, rows = random_llama(), random_rows(9)
    table = torch.nn.Embedding.from_pretrained(model.get_input_embeddings().weight.bfloat16())
    only_a_table: Any = SimpleNamespace(get_input_embeddings=lambda: table)

    found = static_features(only_a_table, rows)

    assert found.names == STATISTICS
    assert found.columns.shape == (9, len(STATISTICS))
    assert found.embeddings.shape == (9, 32)
    np.testing.assert_allclose(np.linalg.norm(found.embeddings, axis=1), 1.0, rtol=1e-5)
    expected = by_the_paper(rows, table.weight.double().numpy())
    np.testing.assert_allclose(found.embeddings, expected, atol=1e-3)


def test_features_are_the_same_each_time(random_llama: Make, random_rows: Make) -> None:
    first, second = (static_features(random_llama(), random_rows(9)) for _ in range(2))

    np.testing.assert_array_equal(first.columns, second.columns)
    np.testing.assert_array_equal(first.embeddings, second.embeddings)


def test_cost_is_that_of_the_sums_and_of_the_common_component(
    random_llama: Make, random_rows: Make
) -> None:
    rows = random_rows(9)

    cost = static_features(random_llama(), rows).cost

    tokens = sum(row.num_tokens for row in rows)
    sums = 2 * tokens * 32
    component = (2 * 7 + 2) * 2 * 9 * 32 * 11  # sixteen products of [9, 32] with eleven vectors
    removal = 2 * 2 * 9 * 32
    assert cost.tokens == cost.padded_tokens == tokens
    assert cost.flops == sums + component + removal
    assert cost.seconds > 0
