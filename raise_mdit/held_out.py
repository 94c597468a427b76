"""Held-out data: what models are measured on when they have finished, and what they reach on it.

That is the sealed test, and the data by which hyper-parameters are chosen.

Shapes: ``I`` items of the split.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from raise_mdit.answer_prompts import AnswerPrompts, encode_prompts
from raise_mdit.config import ExperimentConfig, TaskMetric
from raise_mdit.core import Cost, EncodedRow, Evaluation
from raise_mdit.corpus import Corpus
from raise_mdit.encoding import ChatEncoder
from raise_mdit.inputs import Inputs
from raise_mdit.learners.generation import AnsweringLearner
from raise_mdit.option_likelihood import OptionRows, encode_options
from raise_mdit.results import HeldOut, HeldOutSplit
from raise_mdit.rewards import Targets
from raise_mdit.task_metrics import Answered, AnswerMetric


@dataclass(frozen=True)
class HeldOutData:
    """A split on which arms are measured when they have finished."""

    split: HeldOutSplit
    items: tuple[EncodedRow, ...]
    """Encoded items."""
    sources: tuple[str, ...]
    """[I] target of each item: the source that its share is of."""
    metric: TaskMetric | None
    """What is measured besides loss."""
    options: OptionRows | None
    """Options of the items, where their likelihoods are the metric."""
    answers: AnswerMetric | None
    """What generated responses are worth, where they are the metric."""
    prompts: AnswerPrompts | None
    """What those responses are generated from."""

    @property
    def targets(self) -> tuple[str, ...]:
        """Sources in the order in which they first appear."""
        return tuple(dict.fromkeys(self.sources))

    @cached_property
    def groups(self) -> Targets:
        """The same as numbers, in that order."""
        return Targets.of(self.items, np.array([self.targets.index(each) for each in self.sources]))


class Measured(NamedTuple):
    """What a learner reached on held-out data."""

    held_out: HeldOut
    cost: Cost
    """Of losses, and of options or responses where there are any."""


def held_out_data(
    corpus: Corpus,
    encoder: ChatEncoder,
    split: HeldOutSplit,
    *,
    metric: TaskMetric | None,
    max_length: int,
    answers: AnswerMetric | None = None,
) -> HeldOutData:
    """A split of a corpus, ready to be measured on.

    Args:
        corpus: What was read.
        encoder: Of conversations.
        split: Which.
        metric: What is measured besides loss.
        max_length: Longest row in tokens.
        answers: As :func:`raise_mdit.task_metrics.load_answer_metric` gives it; None for a metric
            that generates nothing.

    Raises:
        DataError: Options are to be scored, and an item has none or one that is too long; or
            responses are to be generated, and a prompt leaves no room or a reference cannot be
            scored.
        ModelError: Nothing says where a generated response ends.
    """
    assert (answers is None) == (metric in (None, "exact_match", "option_likelihood")), metric
    examples = [each.example for each in corpus.splits[split]]
    options, prompts = None, None
    if metric == "option_likelihood":
        options = encode_options(examples, encoder, max_length=max_length, split=split)
    if answers is not None:
        answers.scores([Answered(each.prompt, each.response, each.response) for each in examples])
        prompts = encode_prompts(
            examples,
            encoder,
            max_length=max_length,
            max_new_tokens=answers.max_new_tokens,
            split=split,
        )
    return HeldOutData(
        split=split,
        items=tuple(corpus.encoded(split)),
        sources=tuple(example.source for example in examples),
        metric=metric,
        options=options,
        answers=answers,
        prompts=prompts,
    )


def held_out_split(
    config: ExperimentConfig, inputs: Inputs, split: HeldOutSplit, answers: AnswerMetric | None
) -> HeldOutData:
    """A split as an experiment asks for it; see :func:`held_out_data`.

    Args:
        config: The experiment.
        inputs: Its model and data.
        split: Which.
        answers: Its metric of generated responses, loaded before anything is spent.
    """
    return held_out_data(
        inputs.corpus,
        inputs.encoder,
        split,
        metric=config.evaluation.task_metric,
        max_length=config.model.max_length,
        answers=answers,
    )


def measure(data: HeldOutData, learner: AnsweringLearner) -> Measured:
    """What the learner reaches as it is now.

    Raises:
        DataError: The user's metric or extractor fails on a generated response.
    """
    evaluation = learner.evaluate(data.items)
    losses = map(float, data.groups.losses(evaluation))
    item_metrics, cost = _item_metrics(data, learner, evaluation)
    held_out = HeldOut(
        loss=evaluation.loss,
        target_losses=dict(zip(data.targets, losses, strict=True)),
        metric=None if item_metrics is None else float(np.mean(item_metrics)),
        item_losses=tuple(evaluation.item_losses.tolist()),
        item_tokens=tuple(item.num_scored for item in data.items),
        item_targets=tuple(data.groups.numbers.tolist()),
        item_metrics=item_metrics,
    )
    return Measured(held_out, evaluation.cost.plus(cost))


def _item_metrics(
    data: HeldOutData, learner: AnsweringLearner, evaluation: Evaluation
) -> tuple[tuple[float, ...] | None, Cost]:
    """[I] metric of each item, and what it cost besides the losses."""
    if data.metric == "exact_match":
        return tuple(map(float, evaluation.item_exact)), Cost()
    if data.options is not None:
        scored = learner.evaluate(data.options.rows)
        right = data.options.items_right(scored.item_losses)
        return tuple(map(float, right)), scored.cost
    if data.prompts is not None and data.answers is not None:
        written = learner.generate(
            data.prompts.rows,
            max_new_tokens=data.answers.max_new_tokens,
            end_ids=data.prompts.end_ids,
        )
        return data.answers.scores(data.prompts.answered(written.ids)), written.cost
    return None, Cost()
