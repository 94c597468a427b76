"""From an experiment file to its candidates: model, data, what is known of it, synthesis."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raise_mdit.config import ExperimentConfig
from raise_mdit.core import Cost, Example
from raise_mdit.inputs import Inputs, load_inputs
from raise_mdit.knowledge import Knowledge, find_out
from raise_mdit.policy_config import PolicyConfig
from raise_mdit.progress import Progress
from raise_mdit.synthesis import CandidatePool, synthesise


@dataclass(frozen=True, slots=True, eq=False)
class BuiltPool:
    """Candidates, and what they were made with."""

    inputs: Inputs
    knowledge: Knowledge
    candidates: CandidatePool
    synthesis_cost: Cost

    @property
    def examples(self) -> dict[str, Example]:
        """The pool's examples by id."""
        return {each.example.id: each.example for each in self.inputs.corpus.splits["pool"]}


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
    inputs = load_inputs(config, cache=cache, progress=progress)
    pretrained, precision, corpus = inputs.pretrained, inputs.precision, inputs.corpus
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
        encoder=inputs.encoder,
        pad=int(pretrained.tokenizer.pad_token_id),
        wording=inputs.wording,
        features=knowledge.features,
    )
    cost = Cost(seconds=time.perf_counter() - started)
    return BuiltPool(inputs, knowledge, candidates, cost)
