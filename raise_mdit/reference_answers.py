"""Whether held-out data have the answers that `evaluation.task_metric: answer_match` looks for.

Told before a run is begun, from files alone: no model is loaded, so texts are not tokenised.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from raise_mdit.config import DataConfig, ExperimentConfig, PlaygroundSource, SourceConfig
from raise_mdit.core import Example
from raise_mdit.errors import ConfigError, DataError
from raise_mdit.results import HELD_OUT, HeldOutSplit
from raise_mdit.sources.reading import read_rows
from raise_mdit.splits import SPLITS, allot, shares_of
from raise_mdit.task_metrics import AnswerMetric, load_answer_metric


def check_reference_answers(config: ExperimentConfig) -> None:
    """Nothing, if the extractor finds an answer in every reference of the held-out data.

    Reads the sources that those are drawn from, and draws them as a run does. Left to the run are
    sources on the hub, and with `data.on_long_row: drop` data of which some references have an
    answer: which rows are too long, the tokenizer says. So does the model which texts hold its
    special tokens and are left out; without an answer they are told here all the same.

    Raises:
        ConfigError: References have no answer; the message begins with the key to mend.
        DataError: The data are missing, broken or too little, or an extractor of the user's fails.
    """
    if config.evaluation.task_metric != "answer_match":
        return
    metric = load_answer_metric(config.evaluation)
    assert metric is not None, "answers are generated"
    data = _held_out_alone(config.data)
    named = {share.source for split in SPLITS for share in getattr(data, split)}
    sources = [each for each in data.sources if each.name in named]
    if not all(_is_here(each, data) for each in sources):
        return
    splits = allot({each.name: read_rows(each, data).examples for each in sources}, data)
    for split in HELD_OUT:
        _check(getattr(splits, split), metric, split, leaves_rows_out=data.on_long_row == "drop")


def _check(
    examples: Sequence[Example], metric: AnswerMetric, split: HeldOutSplit, *, leaves_rows_out: bool
) -> None:
    faults = list(_faults(examples, metric))
    if not faults or (leaves_rows_out and len(faults) < len(examples)):
        return
    raise ConfigError(
        f"{faults[0]} (likewise {len(faults)} of {len(examples)} references of data.{split}), or "
        f"give data.{split} rows that have answers, or evaluation another task_metric"
    ) from faults[0]


def _faults(examples: Sequence[Example], metric: AnswerMetric) -> Iterator[DataError]:
    """What is wrong with each reference that has no answer."""
    for each in examples:
        try:
            metric.score(each.prompt, each.response, each.response)
        except DataError as fault:
            yield fault


def _held_out_alone(data: DataConfig) -> DataConfig:
    """The data section with the sources of held-out shares alone.

    What is drawn from these sources for other splits stays: it decides what is left for `all`.
    """
    return shares_of({share.source for split in HELD_OUT for share in getattr(data, split)}, data)


def _is_here(source: SourceConfig, data: DataConfig) -> bool:
    """Whether a source can be read without the hub."""
    if isinstance(source, PlaygroundSource):
        return True
    return source.file is not None and (data.root is not None or source.hub is None)
