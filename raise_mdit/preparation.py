"""Everything that the policies of an experiment share: model, splits, pool, features.

It is made once, and its costs are kept apart so that each policy is charged with what it needs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raise_mdit.candidates import (
    Candidate,
    Mdit,
    Mosaic,
    Original,
    Pool,
    Recipe,
    content_hash,
    parents_of,
)
from raise_mdit.config import ExperimentConfig, MditConfig, MosaicConfig
from raise_mdit.core import Cost, EncodedRow, Example
from raise_mdit.corpus import Corpus, read_corpus
from raise_mdit.encoding import ChatEncoder, TextRow, mixed_row, plain_row
from raise_mdit.envs import TrainingPool
from raise_mdit.errors import DataError, ModelError
from raise_mdit.experiment_checks import pool_faults
from raise_mdit.features import (
    Measurements,
    build_features,
    candidate_embeddings,
    cluster,
    nearest_first,
)
from raise_mdit.learners.causal_lm import CausalLmLearner, build_learner
from raise_mdit.learners.pretrained import Pretrained, load_pretrained
from raise_mdit.learners.probe import measure
from raise_mdit.progress import Progress
from raise_mdit.sources.mdit import Lengths, interpolate
from raise_mdit.sources.mosaic import compose
from raise_mdit.sources.mosaic_rendering import render
from raise_mdit.sources.mosaic_wording import load_wording

NEED_MEASUREMENTS = ("ppo", "nearest_to_target")
"""Policies that look at what the model makes of an example."""


@dataclass(frozen=True, eq=False)
class Preparation:
    """What every arm of an experiment starts from."""

    config: ExperimentConfig
    pretrained: Pretrained
    learner: CausalLmLearner
    base: object
    """Snapshot of the learner before any training."""
    corpus: Corpus
    pool: Pool
    training: TrainingPool
    measured: Measured | None
    synthesis_cost: Cost
    notes: tuple[str, ...]
    """What was read, left out and made, in sentences."""

    @cached_property
    def reward_validation(self) -> list[EncodedRow]:
        """Encoded items that rewards are measured on."""
        return self.corpus.encoded("reward_validation")

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
        assert self.measured is not None, "nearest_to_target needs measurements"
        rows = self.measured.rows
        targets = [rows[each.example.id] for each in self.corpus.splits["reward_validation"]]
        embeddings = self.measured.measurements.embeddings
        return nearest_first(candidate_embeddings(self.pool, embeddings, rows), embeddings[targets])

    @property
    def features_cost(self) -> Cost:
        """Of reading the pool with the untuned model."""
        return Cost() if self.measured is None else self.measured.cost


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Measurements of pool and reward-validation examples."""

    measurements: Measurements
    rows: dict[str, int]
    """Row of each example in the measurements, by its id."""
    cost: Cost


def prepare(config: ExperimentConfig, *, cache: Path, progress: Progress) -> Preparation:
    """Load, read, measure, synthesise and encode what an experiment needs.

    Args:
        config: The experiment.
        cache: Folder for converted models and measurements.
        progress: Told of long work.

    Raises:
        UserError: Of any kind, for what cannot be had or does not fit together.
    """
    progress.start("loading the model", None)
    pretrained = load_pretrained(config.model.name, cache=cache, device=config.model.device)
    _check_context(config, pretrained)
    encoder = ChatEncoder(pretrained.tokenizer, system_prompt=config.model.system_prompt)
    progress.start("reading the data", None)
    corpus = read_corpus(config.data, encoder, max_length=config.model.max_length)
    measured = None
    if _needs_measurements(config):
        measured = _measure(config, pretrained, corpus, cache, progress)
    progress.start("making candidates", None)
    started = time.perf_counter()
    synthesis = _Synthesis(config, corpus, encoder, pretrained, measured)
    pool, rows = synthesis.pool()
    synthesis_cost = Cost(seconds=time.perf_counter() - started)
    _check_pool(config, pool)
    learner = build_learner(
        pretrained.model, config.learner, precision=config.model.precision, seed=config.data.seed
    )
    progress.finish()
    return Preparation(
        config=config,
        pretrained=pretrained,
        learner=learner,
        base=learner.snapshot(),
        corpus=corpus,
        pool=pool,
        training=_training_pool(config, pool, rows, measured),
        measured=measured,
        synthesis_cost=synthesis_cost,
        notes=(*corpus.notes, *synthesis.notes),
    )


def _check_context(config: ExperimentConfig, pretrained: Pretrained) -> None:
    if config.model.max_length > pretrained.context_length:
        raise ModelError(
            f"model.max_length: {config.model.max_length} is longer than the context of "
            f"{config.model.name!r}, {pretrained.context_length} tokens; give at most that"
        )


def _check_pool(config: ExperimentConfig, pool: Pool) -> None:
    """What the file alone could not tell: shares may take all rows, and rows may be left out."""
    faults = [
        f"{'.'.join(map(str, fault.where))}: {fault.message}"
        for fault in pool_faults(config, len(pool))
    ]
    if faults:
        raise DataError("\n".join(faults))


def _needs_measurements(config: ExperimentConfig) -> bool:
    return config.pools.mdit is not None or any(
        policy.kind in NEED_MEASUREMENTS for policy in config.policies
    )


def _measure(
    config: ExperimentConfig,
    pretrained: Pretrained,
    corpus: Corpus,
    cache: Path,
    progress: Progress,
) -> Measured:
    encoded = corpus.splits["pool"] + corpus.splits["reward_validation"]
    progress.start("reading the pool with the untuned model", len(encoded))
    measurements, cost = measure(
        pretrained.model,
        [each.row for each in encoded],
        digest=pretrained.digest,
        start_token=_start_token(pretrained),
        precision=config.model.precision,
        cache=cache,
        advance=progress.advance,
    )
    return Measured(measurements, {each.example.id: row for row, each in enumerate(encoded)}, cost)


def _start_token(pretrained: Pretrained) -> int:
    """What stands before a response that is read alone."""
    bos, eos = pretrained.tokenizer.bos_token_id, pretrained.tokenizer.eos_token_id
    return int(eos if bos is None else bos)


class _Synthesis:
    """Makes the candidates of every kind, and encodes them."""

    def __init__(
        self,
        config: ExperimentConfig,
        corpus: Corpus,
        encoder: ChatEncoder,
        pretrained: Pretrained,
        measured: Measured | None,
    ) -> None:
        self.notes: list[str] = []
        self._config = config
        self._encoder = encoder
        self._pad = int(pretrained.tokenizer.pad_token_id)
        self._measured = measured
        self._wording = load_wording()
        encoded = corpus.splits["pool"]
        self._examples = {each.example.id: each.example for each in encoded}
        self._texts: dict[str, TextRow] = {each.example.id: each.text for each in encoded}

    def pool(self) -> tuple[Pool, list[EncodedRow]]:
        """The candidates, and each as a learner takes it."""
        pools = self._config.pools
        recipes: list[Recipe] = []
        if pools.original:
            recipes += [Original(example) for example in self._examples]
        if pools.mosaic is not None:
            recipes += self._mosaics(pools.mosaic)
        if pools.mdit is not None:
            recipes += self._interpolations(pools.mdit)
        pairs = [(recipe, self._encode(recipe)) for recipe in recipes]
        rows = {row.key: row for _, row in pairs}
        pool = Pool.of([self._candidate(recipe, row) for recipe, row in pairs])
        return pool, [rows[key] for key in pool.ids]

    def _mosaics(self, config: MosaicConfig) -> Sequence[Recipe]:
        composed = compose(
            list(self._examples.values()),
            passes=config.passes,
            max_instructions=config.max_instructions,
            max_length=config.max_length or self._config.model.max_length,
            strategies=config.strategies,
            count_tokens=lambda example: len(self._texts[example.id].ids),
            count_rendered=self._encoder.count,
            rng=_rng(self._config, "mosaic"),
            wording=self._wording,
        )
        report = composed.report
        self.notes.append(
            f"Mosaic-IT: {report.num_mosaics} mosaics of {report.num_examples} examples in "
            f"{report.num_passes} passes, {report.num_tokens:,} tokens; {report.num_masked} "
            f"responses masked; {report.num_left_out} times an example was too long even alone."
        )
        return composed.recipes

    def _interpolations(self, config: MditConfig) -> Sequence[Recipe]:
        examples = list(self._examples.values())
        embeddings = self._embeddings(examples)
        made = interpolate(
            examples,
            embeddings,
            self._tasks(config, examples, embeddings),
            _lengths([self._texts[example.id] for example in examples]),
            num_kept=max(1, round(config.ratio * len(examples))),
            oversample=config.oversample,
            alpha=config.alpha,
            num_clusters=config.clusters,
            num_neighbours=config.neighbours,
            max_length=self._config.model.max_length,
            rng=_rng(self._config, "mdit"),
        )
        self.notes.append(
            f"MDIT: {len(made.recipes)} interpolations kept of {made.num_generated} generated; "
            f"{made.num_too_long} pairs given up for their length."
        )
        return made.recipes

    def _tasks(
        self, config: MditConfig, examples: Sequence[Example], embeddings: NDArray[np.float32]
    ) -> NDArray[np.int64]:
        if config.across == "cluster":
            return cluster(embeddings, config.clusters, self._config.data.seed)
        names = [example.source for example in examples]
        return np.asarray(np.unique(names, return_inverse=True)[1], np.int64)

    def _embeddings(self, examples: Sequence[Example]) -> NDArray[np.float32]:
        assert self._measured is not None, "MDIT needs embeddings"
        rows = [self._measured.rows[example.id] for example in examples]
        return self._measured.measurements.embeddings[rows]

    def _encode(self, recipe: Recipe) -> EncodedRow:
        key = _candidate_id(recipe)
        match recipe:
            case Original(example):
                return plain_row(key, self._texts[example])
            case Mosaic():
                (text,) = self._encoder.encode([render(recipe, self._examples, self._wording)])
                return plain_row(key, text)
            case Mdit(first, second, weight):
                texts = (self._texts[first], self._texts[second])
                return mixed_row(key, *texts, weight=weight, pad=self._pad)

    def _candidate(self, recipe: Recipe, row: EncodedRow) -> Candidate:
        sources = {self._examples[example].source for example, _ in parents_of(recipe)}
        return Candidate(recipe, "+".join(sorted(sources)), row.num_tokens, row.num_scored)


def _candidate_id(recipe: Recipe) -> str:
    return Candidate(recipe, "", 0, 0).id


def _lengths(texts: Sequence[TextRow]) -> Lengths:
    prompts = np.array([int(np.argmax(text.in_response)) for text in texts])
    totals = np.array([len(text.ids) for text in texts])
    return Lengths(prompts, totals - prompts)


def _rng(config: ExperimentConfig, purpose: str) -> np.random.Generator:
    """A generator of its own for each purpose, the same for every policy and seed."""
    return np.random.default_rng([config.data.seed, int(content_hash(purpose), 16)])


def _training_pool(
    config: ExperimentConfig, pool: Pool, rows: list[EncodedRow], measured: Measured | None
) -> TrainingPool:
    if measured is None:  # no policy of this experiment looks at features
        features, strata = np.zeros((len(pool), 0), np.float32), pool.kinds
    else:
        table = build_features(
            pool,
            measured.measurements,
            measured.rows,
            semantic_size=config.features.semantic_size,
            num_clusters=config.features.clusters,
            seed=config.data.seed,
        )
        features, strata = table.values, table.strata
    return TrainingPool(ids=pool.ids, rows=rows, kinds=pool.kinds, features=features, strata=strata)
