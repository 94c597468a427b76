"""The groups of what a policy sees: RAISE's four (arXiv 2504.07282, section 3) and the kind."""

from __future__ import annotations

from collections.abc import Iterable

from raise_mdit.core import KINDS
from raise_mdit.policy_config import FeatureGroup

SEMANTIC_PREFIX = "semantic_"
"""Begins the name of each principal component of the embeddings."""
KIND_COLUMNS = tuple(f"is_{kind}" for kind in KINDS)


def column_group(name: str) -> FeatureGroup:
    """The group of one of the pool's own columns, by its name."""
    if name.startswith(SEMANTIC_PREFIX):
        return "semantic"
    return "kind" if name in KIND_COLUMNS else "difficulty"


def columns_of(names: Iterable[str], groups: Iterable[FeatureGroup]) -> list[int]:
    """Positions of the pool's own columns that belong to any of the groups.

    Args:
        names: Of the columns, in order.
        groups: Any.
    """
    wanted = frozenset(groups)
    return [column for column, name in enumerate(names) if column_group(name) in wanted]
