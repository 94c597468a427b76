"""From an experiment file to its candidates: model, data, what is known of it, synthesis."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raise_mdit.config import ExperimentConfig
from raise_mdit.core import Cost, Example
from raise_mdit.corpus import Corpus, read_corpus
from raise_mdit.encoding import ChatEncoder
from raise_mdit.errors import ModelError
from raise_mdit.knowledge import Knowledge, find_out
from raise_mdit.learners.forward import Precision, resolve_precision
from raise_mdit.learners.pretrained import Pretrained, load_pretrained
from raise_mdit.policy_config import PolicyConfig
from raise_mdit.progress import Progress
from raise_mdit.sources.mosaic_wording import Wording, wording_of
from raise_mdit.synthesis import CandidatePool, synthesise


@dataclass(frozen=True, slots=True, eq=False)
class BuiltPool:
    """Candidates, and what they were made with."""

    pretrained: Pretrained
    precision: Precision
    corpus: Corpus
    knowledge: Knowledge
    wording: Wording
    candidates: CandidatePool
    synthesis_cost: Cost

    @property
    def examples(self) -> dict[str, Example]:
        """The pool's examples by id."""
        return {each.example.id: each.example for each in self.corpus.splits["pool"]}


def build_pool(
    config: ExperimentConfig,
    *,
    policies: Sequence[PolicyConfig],
    cache: Path,
    progress: Progress,
) -> BuiltPool:
    """Load, read, find out and synthesise.

    Args:
        config: The experiment.
        policies: Those whose needs are found out besides what the pools need.
        cache: Folder for converted models and measurements.
        progress: Told of long work.

    Raises:
        UserError: Of any kind, for what cannot be had or does not fit together.
    """
    progress.start("loading the model", None)
    pretrained = load_pretrained(config.model.name, cache=cache, device=config.model.device)
    _check_context(config, pretrained)
    precision = resolve_precision(config.model.precision, pretrained.model.device)
    encoder = ChatEncoder(pretrained.tokenizer, system_prompt=config.model.system_prompt)
    wording = wording_of(config.pools.mosaic, special=encoder.special_tokens)
    progress.start("reading the data", None)
    corpus = read_corpus(config.data, encoder, max_length=config.model.max_length, cache=cache)
    knowledge = find_out(
        config,
        pretrained,
        corpus,
        policies=policies,
        precision=precision,
        cache=cache,
        progress=progress,
    )
    progress.start("making candidates", None)
    started = time.perf_counter()
    candidates = synthesise(
        config,
        corpus,
        encoder=encoder,
        pad=int(pretrained.tokenizer.pad_token_id),
        wording=wording,
        features=knowledge.features,
    )
    cost = Cost(seconds=time.perf_counter() - started)
    return BuiltPool(pretrained, precision, corpus, knowledge, wording, candidates, cost)


def _check_context(config: ExperimentConfig, pretrained: Pretrained) -> None:
    if config.model.max_length > pretrained.context_length:
        raise ModelError(
            f"model.max_length: {config.model.max_length} is longer than the context of "
            f"{config.model.name!r}, {pretrained.context_length} tokens; give at most that"
        )
