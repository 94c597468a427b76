"""Everything that the policies of an experiment share: model, splits, pool, features.

It is made once, and its costs are kept apart so that each policy is charged with what it needs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raise_mdit.agents.custom_policy import load_policy_class
from raise_mdit.clustering import cluster
from raise_mdit.config import ExperimentConfig
from raise_mdit.core import KINDS, Budget, Cost, EncodedRow, Example
from raise_mdit.corpus import Corpus
from raise_mdit.envs import Renewal, TrainingPool
from raise_mdit.errors import DataError
from raise_mdit.experiment_checks import pool_faults
from raise_mdit.features import (
    Basis,
    FeatureTable,
    build_features,
    candidate_embeddings,
    candidate_means,
    in_basis,
)
from raise_mdit.held_out import HeldOutData, held_out_split
from raise_mdit.inputs import Inputs
from raise_mdit.knowledge import Knowledge
from raise_mdit.learners.forward import Precision
from raise_mdit.learners.pretrained import Pretrained
from raise_mdit.learners.trunk_store import TrunkStore
from raise_mdit.policy_config import CustomPolicyConfig
from raise_mdit.policy_source import with_own_priors
from raise_mdit.pool import Pool
from raise_mdit.pool_building import build_pool
from raise_mdit.progress import Progress
from raise_mdit.rankings.reuse import num_different
from raise_mdit.rehearsal import Rehearsal, choose_reward_items, episode_budget, rehearse
from raise_mdit.renewal import generations_per_episode, steps_per_generation
from raise_mdit.sources.mosaic_wording import Wording
from raise_mdit.synthesis import CandidatePool
from raise_mdit.task_metrics import load_answer_metric
from raise_mdit.tuning import Tuning

FULL_EPOCHS = 3
"""Of the training that RAISE (arXiv 2504.07282) compares its costs with."""


class Ranking(NamedTuple):
    """An order of the pool."""

    ranks: NDArray[np.int64]
    """[N] rank of each candidate; 0 comes first."""
    cost: Cost = Cost()
    """Of making it, besides the passes of the untuned model that it is made from."""


@dataclass(frozen=True, eq=False)
class Preparation:
    """What every arm of an experiment starts from."""

    config: ExperimentConfig
    pretrained: Pretrained
    precision: Precision
    """Arithmetic of passes."""
    tuning: Tuning
    corpus: Corpus
    wording: Wording
    """With which mosaics were composed."""
    pool: Pool
    training: TrainingPool
    table: FeatureTable
    """What a policy sees of the candidates; no columns where none looks."""
    knowledge: Knowledge
    reward_items: list[EncodedRow]
    """Encoded items that rewards are measured on: reward-validation, or what stands for it."""
    reward_tasks: NDArray[np.int64]
    """Task, or source, of each of them, as a number from 0."""
    reward_targets: NDArray[np.int64] | None
    """Source of each of them, as a number from 0, where `reward.balance` makes sources count alike.
    """
    test: HeldOutData
    """Sealed until an arm has finished."""
    model_selection: HeldOutData | None
    """What hyper-parameters are chosen on, where there is such data."""
    rehearsal: Rehearsal
    synthesis_cost: Cost
    cache: Path
    """Folder of what is kept between runs."""
    notes: tuple[str, ...]
    """What was read, left out and made, in sentences."""
    transfer_costs: Mapping[tuple[str, int], Cost] = field(default_factory=dict)
    """Of comparing each policy that another run has trained with what training gains here, by
    label and seed."""
    transfer_features: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """[N, F] of the pool as each of those was taught to see it, by label."""

    @cached_property
    def examples(self) -> dict[str, Example]:
        """The pool's examples by id."""
        return {each.example.id: each.example for each in self.corpus.splits["pool"]}

    @cached_property
    def example_rows(self) -> dict[str, int]:
        """Row of each of the pool's examples, by its id, in everything that is known of them."""
        return _example_rows(self.corpus)

    @property
    def budget(self) -> Budget:
        """Of an episode."""
        return episode_budget(self.config)

    @cached_property
    def steps_per_episode(self) -> int:
        """Exact for a budget in steps; by the pool's mean length for one in tokens."""
        if self.budget.steps is not None:
            return self.budget.steps
        assert self.budget.tokens is not None, "a budget has a limit"
        batch_size = self.config.environment.batch_size
        return max(1, round(self.budget.tokens / float(self.pool.num_tokens.mean()) / batch_size))

    def num_different_picks(self, repeat: int, *, ranks: NDArray[np.int64] | None = None) -> int:
        """How many candidates the budget takes when each is used so often; at least a batch.

        Args:
            repeat: Uses of each.
            ranks: [N] in whose order they are used. Without it the answer for a budget in tokens
                is a guess, by the pool's mean length.
        """
        batch_size = self.config.environment.batch_size
        if ranks is not None and self.budget.tokens is not None:
            num_tokens = self.pool.num_tokens[np.argsort(ranks)]
            budget = self.budget.tokens
            return num_different(num_tokens, repeat=repeat, budget=budget, batch_size=batch_size)
        needed = -(-self.steps_per_episode * batch_size // repeat)
        return max(batch_size, min(len(self.pool), needed))

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        """[N] source, kind and cluster of each candidate, as one number from 0."""
        labels = np.stack([np.unique(self.pool.sources, return_inverse=True)[1], self.table.strata])
        return np.asarray(np.unique(labels, axis=1, return_inverse=True)[1].ravel(), np.int64)

    @cached_property
    def printed_columns(self) -> NDArray[np.int64]:
        """Columns of RAISE's printed state: all but the kind."""
        kinds = {f"is_{kind}" for kind in KINDS}
        names = enumerate(self.table.names)
        return np.array([column for column, name in names if name not in kinds], np.int64)

    def classes(self, num_classes: int) -> NDArray[np.int64]:
        """[N] K-means class of each candidate by its semantic columns, from 0."""
        semantic = [i for i, name in enumerate(self.table.names) if name.startswith("semantic_")]
        return cluster(self.table.values[:, semantic], num_classes, self.config.data.seed)

    def table_in(self, basis: Basis | None) -> FeatureTable:
        """What a policy sees whose semantic columns lie along the axes of another pool.

        Args:
            basis: Of the same embeddings; None leaves those columns out.
        """
        assert self.knowledge.features is not None, "a policy looks at features"
        embeddings = self.knowledge.features.embeddings
        return in_basis(self.table, basis, self.pool, embeddings, self.example_rows)

    def candidate_means(self, columns: NDArray[np.float64]) -> NDArray[np.float64]:
        """[N] or [N, C] what is known of examples, averaged over each candidate's parents.

        Args:
            columns: [M] or [M, C] of the pool's examples.
        """
        return candidate_means(self.pool, columns, self.example_rows)

    def candidate_embeddings(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """[N, H] at unit length, averaged over each candidate's parents.

        Args:
            embeddings: [M, H] of the pool's examples.
        """
        return candidate_embeddings(self.pool, embeddings, self.example_rows)

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


def prepare(
    config: ExperimentConfig,
    *,
    cache: Path,
    progress: Progress,
    rehearsal: Rehearsal | None = None,
) -> Preparation:
    """Load, read, measure, synthesise and encode what an experiment needs.

    Args:
        config: The experiment.
        cache: Folder for converted models, measurements and outputs of frozen layers.
        progress: Told of long work.
        rehearsal: Of the same experiment; None rehearses.

    Raises:
        UserError: Of any kind, for what cannot be had or does not fit together.
    """
    config = with_own_priors(config)
    _load_own_classes(config)
    answers = load_answer_metric(config.evaluation)
    built = build_pool(config, policies=config.policies, cache=cache, progress=progress)
    inputs, knowledge, candidates = built.inputs, built.knowledge, built.candidates
    corpus = inputs.corpus
    _check_pool(config, candidates.pool)
    store = TrunkStore(cache / "trunk", max_bytes=config.cache.max_bytes)
    tuning = Tuning(config, inputs.pretrained, precision=inputs.precision, store=store)
    table = _feature_table(config, candidates.pool, knowledge, _example_rows(corpus))
    training = _training_pool(config, candidates, table)
    held_out = partial(held_out_split, config, inputs, answers=answers)
    items = choose_reward_items(
        config,
        corpus.encoded("reward_validation"),
        _strata(corpus),
        targets=_reward_targets(config, corpus),
    )
    if rehearsal is None:
        rehearsal = rehearse(config, tuning, training, items, progress)
    return Preparation(
        config=config,
        pretrained=inputs.pretrained,
        precision=inputs.precision,
        tuning=tuning,
        corpus=corpus,
        wording=inputs.wording,
        pool=candidates.pool,
        training=training,
        table=table,
        knowledge=knowledge,
        reward_items=items.rows,
        reward_tasks=items.tasks,
        reward_targets=items.chosen_targets,
        test=held_out("test"),
        model_selection=held_out("model_selection") if config.data.model_selection else None,
        rehearsal=rehearsal,
        synthesis_cost=built.synthesis_cost,
        cache=cache,
        notes=_notes(config, inputs, candidates, rehearsal),
    )


def _notes(
    config: ExperimentConfig, inputs: Inputs, candidates: CandidatePool, rehearsal: Rehearsal
) -> tuple[str, ...]:
    """What was read, left out and made, in sentences."""
    return (
        *inputs.corpus.notes,
        *candidates.notes,
        _arithmetic(config, inputs.pretrained, inputs.precision),
        *_balance_notes(config, inputs.corpus),
        *rehearsal.notes,
    )


def _load_own_classes(config: ExperimentConfig) -> None:
    """Fail for a policy that cannot be had before anything is spent."""
    for policy in config.policies:
        if isinstance(policy, CustomPolicyConfig):
            load_policy_class(policy)


def _training_pool(
    config: ExperimentConfig, candidates: CandidatePool, table: FeatureTable
) -> TrainingPool:
    return TrainingPool(
        ids=candidates.pool.ids,
        rows=candidates.rows,
        kinds=candidates.pool.kinds,
        features=table.values,
        strata=table.strata,
        renewal=_renewal(config, candidates.pool),
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


def _balance_notes(config: ExperimentConfig, corpus: Corpus) -> list[str]:
    """What rewards count alike, where that is not tokens."""
    if config.reward.balance == "tokens":
        return []
    counts = Counter(each.example.source for each in corpus.splits["reward_validation"])
    named = ", ".join(f"{source} ({count:,} items)" for source, count in counts.items())
    return [f"In rewards the targets {named} count alike, each as its loss over that before."]


def _strata(corpus: Corpus) -> list[str]:
    """Task, or source, of each reward-validation item."""
    examples = (each.example for each in corpus.splits["reward_validation"])
    return [example.task or example.source for example in examples]


def _reward_targets(config: ExperimentConfig, corpus: Corpus) -> NDArray[np.int64] | None:
    """Source of each reward-validation item, where sources count alike."""
    if config.reward.balance == "tokens":
        return None
    sources = [each.example.source for each in corpus.splits["reward_validation"]]
    return np.asarray(np.unique(sources, return_inverse=True)[1], np.int64)


def _example_rows(corpus: Corpus) -> dict[str, int]:
    """Row of each of the pool's examples, by its id, in everything that is known of them."""
    return {each.example.id: row for row, each in enumerate(corpus.splits["pool"])}


def _feature_table(
    config: ExperimentConfig,
    pool: Pool,
    knowledge: Knowledge,
    example_rows: dict[str, int],
) -> FeatureTable:
    if knowledge.features is None:  # no policy of this experiment looks at features
        return FeatureTable((), np.zeros((len(pool), 0), np.float32), pool.kinds)
    return build_features(
        pool,
        knowledge.features,
        example_rows,
        semantic_size=config.features.semantic_size,
        num_clusters=config.features.clusters,
        seed=config.data.seed,
    )


def _renewal(config: ExperimentConfig, pool: Pool) -> Renewal | None:
    per_episode = generations_per_episode(config)
    if per_episode == 0:
        return None
    return Renewal(pool.generations, per_episode, steps_per_generation(config))
