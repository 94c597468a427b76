"""What it takes to make pools of mosaics and interpolations, and to hold a million candidates."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from raise_mdit.benchmarks.apart import Call, peak_memory
from raise_mdit.benchmarks.plain_mosaics import compose_plainly
from raise_mdit.candidates import Candidate, Original
from raise_mdit.clustering import cluster
from raise_mdit.config import MosaicConfig
from raise_mdit.core import Example
from raise_mdit.encoding import ChatEncoder, TextRow, plain_row
from raise_mdit.envs.observation import WindowSampler
from raise_mdit.learners.pretrained import Pretrained
from raise_mdit.learners.static_features import static_features
from raise_mdit.pool import Pool
from raise_mdit.progress import Progress
from raise_mdit.sources.mdit import Lengths, interpolate
from raise_mdit.sources.mosaic import Composer
from raise_mdit.sources.mosaic_wording import load_wording
from raise_mdit.token_counts import TokenCounter

WINDOW, NUM_WINDOWS = 96, 1000
NUM_READS = 10_000
CLUSTERS = 8
NEIGHBOURS = 5
OVERSAMPLE = 2.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is made."""

    passes: int = 4
    max_instructions: int = 10
    max_length: int = 2000
    million: int = 1_000_000
    """Candidates of the large pool; 0 leaves it out."""
    seed: int = 0


class MosaicSpeed(NamedTuple):
    """Composing the same examples three ways, in seconds."""

    plain: float
    """Tokenising the whole text again at every enlargement."""
    from_nothing: float
    """Tokenising every example once, then composing with exact counts."""
    counts_cached: float
    """Composing with the counts of another seed's run."""
    num_plain: int
    """Mosaics of the plain way."""
    num_ours: int
    num_tokens: int
    """Of ours, all passes."""
    longest: int
    """Longest of ours in tokens."""


class MditSpeed(NamedTuple):
    """Interpolating, in seconds."""

    embeddings: float
    """Of tier `cheap`."""
    tasks: float
    """K-means into tasks."""
    pairs_and_selection: float
    num_generated: int
    num_kept: int


class LargePool(NamedTuple):
    """A pool of a million candidates."""

    candidates: int
    build_seconds: float
    build_peak_bytes: int
    write_seconds: float
    file_bytes: int
    open_seconds: float
    """Reading the file in a new process."""
    window_seconds: float
    """Drawing a window of candidates."""
    read_seconds: float
    """Reading the recipe of a random row."""
    open_peak_bytes: int
    """Of that process, libraries included."""
    empty_peak_bytes: int
    """Of a process that has only imported them."""


class Examples(NamedTuple):
    """What pools are made of."""

    examples: Sequence[Example]
    pretrained: Pretrained
    encoder: ChatEncoder


def measure_mosaics(given: Examples, plan: Plan, progress: Progress) -> MosaicSpeed:
    """Compose plainly, from nothing, and with cached counts, one after the other."""
    progress.start("composing plainly", None)
    started = time.perf_counter()
    plain = compose_plainly(
        given.examples,
        passes=plan.passes,
        max_instructions=plan.max_instructions,
        max_length=plan.max_length,
        tokenizer=given.pretrained.tokenizer,
        wording=load_wording(),
        rng=np.random.default_rng(plan.seed),
    )
    plainly = time.perf_counter() - started
    progress.start("composing from nothing", None)
    started = time.perf_counter()
    counter = TokenCounter(given.encoder)
    counter.learn(text for each in given.examples for text in (each.prompt, each.response))
    pool = Pool.of(_mosaics(given, plan, counter, seed=plan.seed))
    from_nothing = time.perf_counter() - started
    progress.start("composing with cached counts", None)
    started = time.perf_counter()
    Pool.of(_mosaics(given, plan, counter, seed=plan.seed + 1))
    cached = time.perf_counter() - started
    tokens = pool.num_tokens
    return MosaicSpeed(
        plainly, from_nothing, cached, len(plain), len(pool), int(tokens.sum()), int(tokens.max())
    )


def measure_mdit(given: Examples, plan: Plan, progress: Progress) -> MditSpeed:
    """Interpolate as many candidates as there are examples, out of twice as many pairs."""
    texts = _texts(given)
    rows = [plain_row(e.id, text) for e, text in zip(given.examples, texts, strict=True)]
    progress.start("describing the examples by their tokens", None)
    started = time.perf_counter()
    embeddings = static_features(given.pretrained.model, rows).embeddings
    described = time.perf_counter()
    progress.start("clustering", None)
    tasks = cluster(embeddings, CLUSTERS, plan.seed)
    clustered = time.perf_counter()
    progress.start("pairing and selecting", None)
    made = interpolate(
        given.examples,
        embeddings,
        tasks,
        _blocks(texts),
        num_kept=len(texts),
        oversample=OVERSAMPLE,
        alpha=1.0,
        pairing="across",
        confidence=None,
        num_clusters=CLUSTERS,
        num_neighbours=NEIGHBOURS,
        max_length=plan.max_length,
        rng=np.random.default_rng(plan.seed),
    )
    done = time.perf_counter()
    return MditSpeed(
        described - started,
        clustered - described,
        done - clustered,
        made.num_generated,
        len(made.recipes),
    )


def measure_large_pool(
    given: Examples, plan: Plan, folder: Path, call: Call, progress: Progress
) -> LargePool:
    """Build a pool by passes until it is large enough, write it, and read it in new processes."""
    file = folder / "pool.parquet"
    progress.start(f"building {plan.million:,} candidates", plan.million)
    started = time.perf_counter()
    pool = Pool.of(_counted(_originals_and_mosaics(given, plan), progress))
    built = time.perf_counter()
    pool.write(file)
    written = time.perf_counter()
    progress.start("opening it", None)
    empty = call(empty_process)
    opened = call(read_at_random, file, plan.seed)
    return LargePool(
        candidates=len(pool),
        build_seconds=built - started,
        build_peak_bytes=peak_memory(torch.device("cpu")),
        write_seconds=written - built,
        file_bytes=file.stat().st_size,
        open_seconds=opened.open_seconds,
        window_seconds=opened.window_seconds,
        read_seconds=opened.read_seconds,
        open_peak_bytes=opened.peak_bytes,
        empty_peak_bytes=empty,
    )


class Opened(NamedTuple):
    """A pool in a process of its own."""

    open_seconds: float
    window_seconds: float
    read_seconds: float
    peak_bytes: int


def empty_process() -> int:
    """Peak memory of a process that has imported what a pool needs."""
    return peak_memory(torch.device("cpu"))


def read_at_random(file: Path, seed: int) -> Opened:
    """Open a pool, draw windows by kind, and read recipes of random rows."""
    rng = np.random.default_rng(seed)
    started = time.perf_counter()
    pool = Pool.read(file)
    sampler = WindowSampler(pool.kinds)
    opened = time.perf_counter()
    for _ in range(NUM_WINDOWS):
        sampler.draw(WINDOW, rng)
    drawn = time.perf_counter()
    for row in rng.integers(len(pool), size=NUM_READS):
        pool.recipe(int(row))
    read = time.perf_counter()
    return Opened(
        opened - started,
        (drawn - opened) / NUM_WINDOWS,
        (read - drawn) / NUM_READS,
        peak_memory(torch.device("cpu")),
    )


def _texts(given: Examples) -> list[TextRow]:
    return given.encoder.encode([example.messages for example in given.examples])


def _blocks(texts: Sequence[TextRow]) -> Lengths:
    prompts = np.array([int(np.argmax(text.in_response)) for text in texts])
    return Lengths(prompts, np.array([len(text.ids) for text in texts]) - prompts)


def _length(counter: TokenCounter, example: Example) -> int:
    """Tokens of an example as a conversation of two turns."""
    num_tokens, _ = counter.count([("user", [example.prompt]), ("assistant", [example.response])])
    return num_tokens


def _mosaics(
    given: Examples, plan: Plan, counter: TokenCounter, *, seed: int
) -> Iterator[Candidate]:
    """All passes."""
    composer = Composer(
        given.examples,
        settings=MosaicConfig(max_instructions=plan.max_instructions),
        max_length=plan.max_length,
        count_tokens=lambda example: _length(counter, example),
        count_rendered=counter.count,
        wording=load_wording(),
        embeddings=None,
    )
    for made in composer.compose(plan.passes, np.random.default_rng(seed)):
        yield Candidate(made.recipe, "data", made.num_tokens, made.num_response_tokens)


def _originals_and_mosaics(given: Examples, plan: Plan) -> Iterator[Candidate]:
    """The examples as they are, then mosaics, pass after pass, until there are enough."""
    texts = _texts(given)
    counter = TokenCounter(given.encoder)
    originals = (
        Candidate(Original(example.id), "data", len(text.ids), text.num_response_tokens)
        for example, text in zip(given.examples, texts, strict=True)
    )
    mosaics = (
        candidate
        for seed in count(plan.seed)
        for candidate in _mosaics(given, plan, counter, seed=seed)
    )
    yield from originals
    yield from islice(mosaics, max(0, plan.million - len(texts)))


def _counted(candidates: Iterator[Candidate], progress: Progress) -> Iterator[Candidate]:
    for number, candidate in enumerate(candidates, start=1):
        yield candidate
        if number % 1000 == 0:
            progress.advance(1000)
