"""From examples to candidates: as they are, composed, interpolated, and of the user's making.

Candidates come generation by generation (`pools.renew`): those of generation 0 are always on offer,
those of others in their turn. All of them are made beforehand, so that a run is reproducible, a
schedule names what is in the pool, and a fresh generation costs nothing when its turn comes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from raise_mdit.candidate_encoding import CandidateEncoder, CandidateRows
from raise_mdit.candidates import Candidate, Custom, Original, Recipe, content_hash, parents_of
from raise_mdit.clustering import cluster
from raise_mdit.config import CustomSourceConfig, ExperimentConfig, MditConfig, MosaicConfig
from raise_mdit.core import Kind
from raise_mdit.corpus import Corpus
from raise_mdit.encoding import ChatEncoder, TextRow
from raise_mdit.errors import DataError
from raise_mdit.features import ExampleFeatures
from raise_mdit.pool import Pool
from raise_mdit.renewal import (
    generations_per_episode,
    num_generations,
    num_learning_episodes,
)
from raise_mdit.sources.custom import candidates_of, load_source
from raise_mdit.sources.mdit import Lengths, interpolate, nearest_neighbours
from raise_mdit.sources.mosaic import Composer
from raise_mdit.sources.mosaic_wording import Wording
from raise_mdit.synthesis_checks import replays_nothing
from raise_mdit.token_counts import TokenCounter

CONFIDENCE = "conditional_log_prob"
"""Feature that tells how sure a model is of an example, where one has read it."""

CUSTOM_BATCH = 256
"""Candidates of the user's making that are tokenised together."""


@dataclass(frozen=True, slots=True, eq=False)
class CandidatePool:
    """The candidates of an experiment."""

    pool: Pool
    rows: CandidateRows
    encoder: CandidateEncoder
    notes: tuple[str, ...]
    """What was made and left out, in sentences."""


def synthesise(
    config: ExperimentConfig,
    corpus: Corpus,
    *,
    encoder: ChatEncoder,
    pad: int,
    wording: Wording,
    features: ExampleFeatures | None,
) -> CandidatePool:
    """The candidates that the experiment asks for.

    Args:
        config: The experiment.
        corpus: Its examples.
        encoder: Of conversations.
        pad: Id of the pad token.
        wording: What mosaics can say.
        features: What is known of the examples, in their order; None where no pool needs it.

    Raises:
        UserError: Pools cannot be made as asked.
    """
    synthesis = _Synthesis(config, corpus, encoder, pad, wording, features)
    pool = Pool.of(synthesis.candidates())
    synthesis.tell(len(pool))
    rows = CandidateRows(pool, synthesis.candidate_encoder)
    return CandidatePool(pool, rows, synthesis.candidate_encoder, tuple(synthesis.notes))


def made_by_embeddings(config: ExperimentConfig) -> set[Kind]:
    """Kinds of candidates that are made by the embeddings of examples."""
    pools = config.pools
    kinds: set[Kind] = set() if pools.mdit is None else {"mdit"}
    if pools.mosaic is not None and pools.mosaic.grouping == "similar":
        kinds.add("mosaic")
    return kinds


def purpose_rng(config: ExperimentConfig, purpose: str) -> np.random.Generator:
    """A generator of its own for each purpose, the same for every policy and seed."""
    return np.random.default_rng([config.data.seed, int(content_hash(purpose), 16)])


class _Synthesis:
    """Makes the candidates of every kind, and tells what became of the examples."""

    def __init__(
        self,
        config: ExperimentConfig,
        corpus: Corpus,
        encoder: ChatEncoder,
        pad: int,
        wording: Wording,
        features: ExampleFeatures | None,
    ) -> None:
        self.notes: list[str] = []
        self._num_made = 0
        self._config = config
        self._encoder = encoder
        self._wording = wording
        self._embeddings = None if features is None else features.embeddings
        self._confidence = _confidence(features)
        encoded = corpus.splits["pool"]
        self._examples = {each.example.id: each.example for each in encoded}
        self._texts: dict[str, TextRow] = {each.example.id: each.text for each in encoded}
        self.candidate_encoder = CandidateEncoder(
            self._examples, self._texts, encoder=encoder, wording=wording, pad=pad
        )

    def candidates(self) -> Iterator[Candidate]:
        """The candidates of all generations, in the order of these."""
        for candidate in self._made():
            self._num_made += 1
            yield candidate

    def _made(self) -> Iterator[Candidate]:
        yield from map(self._candidate, self._plain())
        pools = self._config.pools
        mosaics = None if pools.mosaic is None else self._composer(pools.mosaic)
        interpolated: Counter[str] = Counter()
        customs = [(source, load_source(source)) for source in pools.custom]
        too_long: Counter[str] = Counter()
        for generation in self._generations():
            if mosaics is not None and pools.mosaic is not None:
                yield from self._mosaics(mosaics, pools.mosaic, generation)
            if pools.mdit is not None:
                yield from self._interpolations(pools.mdit, generation, interpolated)
            for config, source in customs:
                rng = self._rng(f"custom {config.name}", generation)
                examples = list(self._examples.values())
                special = self._encoder.special_tokens
                made = candidates_of(source, config, examples, rng, special=special)
                yield from self._customs(config, made, generation, too_long)
        self._report(mosaics, interpolated, too_long)

    def _generations(self) -> range:
        made = num_generations(self._config)
        return range(1, made + 1) if made else range(1)

    def _rng(self, purpose: str, generation: int) -> np.random.Generator:
        return purpose_rng(self._config, f"{purpose} {generation}" if generation else purpose)

    def _plain(self) -> Iterator[Recipe]:
        pools, examples = self._config.pools, list(self._examples)
        if pools.original:
            yield from map(Original, examples)
        elif pools.mosaic is not None and pools.mosaic.replay:
            if message := replays_nothing(pools.mosaic.replay, len(examples)):
                raise DataError(f"pools.mosaic.replay: {message}")
            count = round(pools.mosaic.replay * len(examples))
            chosen = self._rng("replay", 0).choice(len(examples), count, replace=False)
            yield from (Original(examples[row]) for row in np.sort(chosen))

    def _composer(self, settings: MosaicConfig) -> Composer:
        counter = TokenCounter(self._encoder)
        examples = self._examples.values()
        counter.learn(text for each in examples for text in (each.prompt, each.response))
        return Composer(
            list(examples),
            settings=settings,
            max_length=settings.max_length or self._config.model.max_length,
            count_tokens=lambda example: len(self._texts[example.id].ids),
            count_rendered=counter.count,
            wording=self._wording,
            embeddings=self._embeddings,
        )

    def _mosaics(
        self, composer: Composer, settings: MosaicConfig, generation: int
    ) -> Iterator[Candidate]:
        for made in composer.compose(settings.passes, self._rng("mosaic", generation)):
            source = self._sources(made.recipe)
            yield Candidate(
                made.recipe, source, made.num_tokens, made.num_response_tokens, generation
            )

    def _interpolations(
        self,
        config: MditConfig,
        generation: int,
        counts: Counter[str],
    ) -> Iterator[Candidate]:
        assert self._embeddings is not None, "MDIT needs embeddings"
        examples = list(self._examples.values())  # in the order of the features
        made = interpolate(
            examples,
            self._embeddings,
            self._tasks,
            self._lengths,
            num_kept=max(1, round(config.ratio * len(examples))),
            oversample=config.oversample,
            alpha=config.alpha,
            pairing=config.pairing,
            confidence=self._confidence,
            num_clusters=config.clusters,
            num_neighbours=config.neighbours,
            max_length=self._config.model.max_length,
            rng=self._rng("mdit", generation),
            neighbours=self._neighbours if config.pairing == "nearest" else None,
        )
        counts.update(
            kept=len(made.recipes),
            generated=made.num_generated,
            too_long=made.num_too_long,
            alone=made.num_alone,
        )
        for recipe in made.recipes:
            yield self._candidate(recipe, generation)

    def _customs(
        self,
        config: CustomSourceConfig,
        made: Iterator[Custom],
        generation: int,
        too_long: Counter[str],
    ) -> Iterator[Candidate]:
        for recipes in _batches(made, CUSTOM_BATCH):
            texts = self._encoder.encode([recipe.messages for recipe in recipes])
            for recipe, text in zip(recipes, texts, strict=True):
                if len(text.ids) > self._config.model.max_length:
                    too_long[config.name] += 1
                    continue
                counts = (len(text.ids), text.num_response_tokens)
                yield Candidate(recipe, config.name, *counts, generation)

    def _candidate(self, recipe: Recipe, generation: int = 0) -> Candidate:
        row = self.candidate_encoder.row("", recipe)
        return Candidate(recipe, self._sources(recipe), row.num_tokens, row.num_scored, generation)

    def _sources(self, recipe: Recipe) -> str:
        sources = {self._examples[example].source for example, _ in parents_of(recipe)}
        return "+".join(sorted(sources))

    @cached_property
    def _lengths(self) -> Lengths:
        """Of the examples' blocks; the same in every generation."""
        return _lengths([self._texts[example] for example in self._examples])

    @cached_property
    def _neighbours(self) -> NDArray[np.int64]:
        """[M, K] examples nearest to each; the same in every generation."""
        config = self._config.pools.mdit
        assert config is not None, "neighbours are asked for by MDIT"
        assert self._embeddings is not None, "MDIT needs embeddings"
        return nearest_neighbours(self._embeddings, config.neighbours)

    @cached_property
    def _tasks(self) -> NDArray[np.int64]:
        """[M] task of each example; the same in every generation."""
        config = self._config.pools.mdit
        assert config is not None, "tasks are asked for by MDIT"
        if config.tasks == "cluster":
            assert self._embeddings is not None, "MDIT needs embeddings"
            return cluster(self._embeddings, config.clusters, self._config.data.seed)
        names = [example.source for example in self._examples.values()]
        return np.asarray(np.unique(names, return_inverse=True)[1], np.int64)

    def tell(self, num_kept: int) -> None:
        """Note what is true of the pool as a whole, once it is made.

        Args:
            num_kept: Candidates in the pool.
        """
        repeated = self._num_made - num_kept
        if repeated:
            self.notes.append(f"{repeated:,} candidates equal another, and count once.")
        generations = num_generations(self._config)
        if generations:
            self.notes.append(
                f"Candidates are renewed: of {generations:,} generations one is on offer at a "
                f"time, {generations_per_episode(self._config)} for each of "
                f"{num_learning_episodes(self._config)} learning episodes and the final one."
            )

    def _report(
        self, composer: Composer | None, interpolated: Counter[str], too_long: Counter[str]
    ) -> None:
        if composer is not None:
            report = composer.report
            if report.num_mosaics == 0:
                raise DataError(
                    "pools.mosaic: not one mosaic fits; raise pools.mosaic.max_length or "
                    "model.max_length"
                )
            self.notes.append(
                f"Mosaic-IT: {report.num_mosaics:,} mosaics of {report.num_examples:,} examples "
                f"in {report.num_passes:,} {'pass' if report.num_passes == 1 else 'passes'}, "
                f"{report.num_tokens:,} tokens; "
                f"{report.num_masked:,} responses masked; {report.num_left_out:,} times an example "
                "was too long even alone."
            )
        if self._config.pools.mdit is not None:
            self.notes.append(
                f"MDIT: {interpolated['kept']:,} interpolations kept of "
                f"{interpolated['generated']:,} generated; {interpolated['too_long']:,} pairs "
                f"given up for their length, {interpolated['alone']:,} for want of a partner."
            )
        for name, count in sorted(too_long.items()):
            self.notes.append(f"{name}: {count} candidates left out for their length.")


def _confidence(features: ExampleFeatures | None) -> NDArray[np.float64] | None:
    """[M] mean log-probability of a response token, where a model has read the examples."""
    if features is None or CONFIDENCE not in features.names:
        return None
    return features.columns[:, features.names.index(CONFIDENCE)]


def _batches(values: Iterator[Custom], size: int) -> Iterator[list[Custom]]:
    batch: list[Custom] = []
    for value in values:
        batch.append(value)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _lengths(texts: Sequence[TextRow]) -> Lengths:
    prompts = np.array([int(np.argmax(text.in_response)) for text in texts])
    totals = np.array([len(text.ids) for text in texts])
    return Lengths(prompts, totals - prompts)
