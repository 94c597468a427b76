"""From examples to candidates: as they are, composed and interpolated, and encoded."""

from __future__ import annotations

from collections.abc import Sequence

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
from raise_mdit.core import EncodedRow, Example
from raise_mdit.corpus import Corpus
from raise_mdit.encoding import ChatEncoder, TextRow, mixed_row, plain_row
from raise_mdit.features import ExampleFeatures, cluster
from raise_mdit.learners.pretrained import Pretrained
from raise_mdit.sources.mdit import Lengths, interpolate
from raise_mdit.sources.mosaic import compose
from raise_mdit.sources.mosaic_rendering import render
from raise_mdit.sources.mosaic_wording import load_wording


class Synthesis:
    """Makes the candidates of every kind, and encodes them."""

    def __init__(
        self,
        config: ExperimentConfig,
        corpus: Corpus,
        encoder: ChatEncoder,
        pretrained: Pretrained,
        features: ExampleFeatures | None,
    ) -> None:
        self.notes: list[str] = []
        self._config = config
        self._encoder = encoder
        self._pad = int(pretrained.tokenizer.pad_token_id)
        self._features = features
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
            rng=purpose_rng(self._config, "mosaic"),
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
        assert self._features is not None, "MDIT needs embeddings"
        examples = list(self._examples.values())  # in the order of the features
        embeddings = self._features.embeddings
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
            rng=purpose_rng(self._config, "mdit"),
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


def purpose_rng(config: ExperimentConfig, purpose: str) -> np.random.Generator:
    """A generator of its own for each purpose, the same for every policy and seed."""
    return np.random.default_rng([config.data.seed, int(content_hash(purpose), 16)])
