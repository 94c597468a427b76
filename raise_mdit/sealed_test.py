"""The sealed test of an experiment: what it is measured on, and what a learner reaches on it.

Shapes: ``I`` items of the test.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from raise_mdit.config import TaskMetric
from raise_mdit.core import Cost, EncodedRow, Learner
from raise_mdit.corpus import Corpus
from raise_mdit.encoding import ChatEncoder
from raise_mdit.option_likelihood import OptionRows, encode_options
from raise_mdit.rewards import Targets


@dataclass(frozen=True)
class SealedTest:
    """What arms are measured on when they have finished."""

    items: tuple[EncodedRow, ...]
    """Encoded items."""
    sources: tuple[str, ...]
    """[I] target of each item: the source that its share is of."""
    metric: TaskMetric | None
    """What is measured besides loss."""
    options: OptionRows | None
    """Options of the items, where their likelihoods are the metric."""

    @property
    def targets(self) -> tuple[str, ...]:
        """Sources in the order in which they first appear."""
        return tuple(dict.fromkeys(self.sources))

    @cached_property
    def groups(self) -> Targets:
        """The same as numbers, in that order."""
        return Targets.of(self.items, np.array([self.targets.index(each) for each in self.sources]))


class TestedModel(NamedTuple):
    """What a learner reached on the sealed test."""

    loss: float
    """Mean loss per scored token, in nats."""
    target_losses: dict[str, float]
    """The same of each target."""
    metric: float | None
    """Share of items that are right by the test's metric, where it has one."""
    cost: Cost


def sealed_test(
    corpus: Corpus, encoder: ChatEncoder, *, metric: TaskMetric | None, max_length: int
) -> SealedTest:
    """The test of a corpus, ready to be opened.

    Args:
        corpus: What was read.
        encoder: Of conversations.
        metric: What is measured besides loss.
        max_length: Longest row in tokens.

    Raises:
        DataError: Options are to be scored, and an item has none or one that is too long.
    """
    examples = [each.example for each in corpus.splits["test"]]
    options = None
    if metric == "option_likelihood":
        options = encode_options(examples, encoder, max_length=max_length, split="test")
    sources = tuple(example.source for example in examples)
    return SealedTest(tuple(corpus.encoded("test")), sources, metric, options)


def open_test(test: SealedTest, learner: Learner) -> TestedModel:
    """What the learner reaches on the test as it is now."""
    evaluation = learner.evaluate(test.items)
    losses = map(float, test.groups.losses(evaluation))
    found = TestedModel(
        loss=evaluation.loss,
        target_losses=dict(zip(test.targets, losses, strict=True)),
        metric=evaluation.exact_match if test.metric == "exact_match" else None,
        cost=evaluation.cost,
    )
    if test.options is None:
        return found
    scored = learner.evaluate(test.options.rows)
    accuracy = test.options.accuracy(scored.item_losses)
    return found._replace(metric=accuracy, cost=found.cost.plus(scored.cost))
