"""Which group a column belongs to."""

from __future__ import annotations

import pytest

from raise_mdit.feature_groups import columns_of
from raise_mdit.policy_config import FeatureGroup

NAMES = ("prompt_tokens", "distinct_response", "semantic_0", "semantic_1", "is_original", "is_mdit")


@pytest.mark.parametrize(
    ("groups", "columns"),
    [
        ((), []),
        (("difficulty",), [0, 1]),
        (("semantic",), [2, 3]),
        (("kind",), [4, 5]),
        (("kind", "difficulty"), [0, 1, 4, 5]),
        (("stage", "availability"), []),  # no columns of the pool
    ],
)
def test_columns_are_found_by_their_names(
    groups: tuple[FeatureGroup, ...], columns: list[int]
) -> None:
    assert columns_of(NAMES, groups) == columns
