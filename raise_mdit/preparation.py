"""Everything that the policies of an experiment share: model, splits, pool, features.

It is made once, and its costs are kept apart so that each policy is charged with what it needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raise_mdit.config import ExperimentConfig
from raise_mdit.core import Cost, EncodedRow, Example
from raise_mdit.corpus import Corpus
from raise_mdit.envs import Renewal, TrainingPool
from raise_mdit.errors import DataError
from raise_mdit.experiment_checks import pool_faults
from raise_mdit.features import build_features, candidate_embeddings, nearest_first
from raise_mdit.knowledge import Knowledge
from raise_mdit.learners.pretrained import Pretrained
from raise_mdit.learners.trunk_store import TrunkStore
from raise_mdit.pool import Pool
from raise_mdit.pool_building import build_pool
from raise_mdit.progress import Progress
from raise_mdit.rehearsal import Rehearsal, choose_reward_items, rehearse
from raise_mdit.renewal import generations_per_episode, steps_per_generation
from raise_mdit.sources.mosaic_wording import Wording
from raise_mdit.synthesis import CandidatePool
from raise_mdit.tuning import Tuning

FULL_EPOCHS = 3
"""Of the training that RAISE (arXiv 2504.07282) compares its costs with."""


@dataclass(frozen=True, eq=False)
class Preparation:
    """What every arm of an experiment starts from."""

    config: ExperimentConfig
    pretrained: Pretrained
    tuning: Tuning
    corpus: Corpus
    wording: Wording
    """With which mosaics were composed."""
    pool: Pool
    training: TrainingPool
    knowledge: Knowledge
    reward_items: list[EncodedRow]
    """Encoded items that rewards are measured on: reward-validation, or what stands for it."""
    rehearsal: Rehearsal
    synthesis_cost: Cost
    notes: tuple[str, ...]
    """What was read, left out and made, in sentences."""

    @cached_property
    def test(self) -> list[EncodedRow]:
        """Encoded items of the sealed test."""
        return self.corpus.encoded("test")

    @cached_property
    def examples(self) -> dict[str, Example]:
        """The pool's examples by id."""
        return {each.example.id: each.example for each in self.corpus.splits["pool"]}

    @cached_property
    def nearest_ranks(self) -> NDArray[np.int64]:
        """[N] rank of each candidate by RDS+ towards reward-validation."""
        measured = self.knowledge.measured
        assert measured is not None, "nearest_to_target needs measurements"
        rows = _example_rows(self.corpus)
        candidates = candidate_embeddings(self.pool, measured.pool.embeddings, rows)
        return nearest_first(candidates, measured.reward_validation.embeddings)

    @cached_property
    def full_training(self) -> Cost:
        """Of three epochs over the pool's examples with LoRA through the whole model, unpadded.

        It is counted, not run: what the costs of choosing are compared with.
        """
        rows = self.corpus.encoded("pool")
        update = self.tuning.whole_lora.update
        flops = sum(update(rows=1, length=row.num_tokens, scored=row.num_scored) for row in rows)
        tokens = FULL_EPOCHS * sum(row.num_tokens for row in rows)
        return Cost(tokens=tokens, padded_tokens=tokens, flops=FULL_EPOCHS * flops)


def prepare(config: ExperimentConfig, *, cache: Path, progress: Progress) -> Preparation:
    """Load, read, measure, synthesise and encode what an experiment needs.

    Args:
        config: The experiment.
        cache: Folder for converted models, measurements and outputs of frozen layers.
        progress: Told of long work.

    Raises:
        UserError: Of any kind, for what cannot be had or does not fit together.
    """
    built = build_pool(config, policies=config.policies, cache=cache, progress=progress)
    corpus, knowledge, candidates = built.corpus, built.knowledge, built.candidates
    _check_pool(config, candidates.pool)
    store = TrunkStore(cache / "trunk", max_bytes=config.cache.max_bytes)
    tuning = Tuning(config, built.pretrained, precision=built.precision, store=store)
    training = _training_pool(config, candidates, knowledge, _example_rows(corpus))
    items = choose_reward_items(config, corpus.encoded("reward_validation"), _strata(corpus))
    rehearsal = rehearse(config, tuning, training, items, progress)
    return Preparation(
        config=config,
        pretrained=built.pretrained,
        tuning=tuning,
        corpus=corpus,
        wording=built.wording,
        pool=candidates.pool,
        training=training,
        knowledge=knowledge,
        reward_items=items.rows,
        rehearsal=rehearsal,
        synthesis_cost=built.synthesis_cost,
        notes=(
            *corpus.notes,
            *candidates.notes,
            _arithmetic(config, built.pretrained, built.precision),
            *rehearsal.notes,
        ),
    )


def _arithmetic(config: ExperimentConfig, pretrained: Pretrained, precision: str) -> str:
    chosen = " (chosen for this device)" if config.model.precision == "auto" else ""
    return f"Passes are computed in {precision}{chosen} on {pretrained.model.device.type}."


def _check_pool(config: ExperimentConfig, pool: Pool) -> None:
    """What the file alone could not tell: shares may take all rows, and rows may be left out."""
    faults = [
        f"{'.'.join(map(str, fault.where))}: {fault.message}"
        for fault in pool_faults(config, len(pool))
    ]
    if faults:
        raise DataError("\n".join(faults))


def _strata(corpus: Corpus) -> list[str]:
    """Task, or source, of each reward-validation item."""
    examples = (each.example for each in corpus.splits["reward_validation"])
    return [example.task or example.source for example in examples]


def _example_rows(corpus: Corpus) -> dict[str, int]:
    """Row of each of the pool's examples, by its id, in everything that is known of them."""
    return {each.example.id: row for row, each in enumerate(corpus.splits["pool"])}


def _training_pool(
    config: ExperimentConfig,
    candidates: CandidatePool,
    knowledge: Knowledge,
    example_rows: dict[str, int],
) -> TrainingPool:
    pool = candidates.pool
    if knowledge.features is None:  # no policy of this experiment looks at features
        features, strata = np.zeros((len(pool), 0), np.float32), pool.kinds
    else:
        table = build_features(
            pool,
            knowledge.features,
            example_rows,
            semantic_size=config.features.semantic_size,
            num_clusters=config.features.clusters,
            seed=config.data.seed,
        )
        features, strata = table.values, table.strata
    return TrainingPool(
        ids=pool.ids,
        rows=candidates.rows,
        kinds=pool.kinds,
        features=features,
        strata=strata,
        renewal=_renewal(config, pool),
    )


def _renewal(config: ExperimentConfig, pool: Pool) -> Renewal | None:
    per_episode = generations_per_episode(config)
    if per_episode == 0:
        return None
    return Renewal(pool.generations, per_episode, steps_per_generation(config))
