"""A bundle of a small run, and what any trainer has to see of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.small_experiment import run_small, small_experiment

from raise_mdit.encoding import ChatEncoder
from raise_mdit.export import export_schedule
from raise_mdit.schedules.bundle import read_bundle

YAML = small_experiment(
    """
    pools: {mdit: {ratio: 0.3, clusters: 2}}
    learner: {trainable: {kind: full}, learning_rate: 1.0e-2, schedule: linear}
    environment: {window: 32, batch_size: 8, budget: {steps: 4}}
    policies: [{kind: base}, {kind: random}]
    """,
    model="{name: {folder}/model, max_length: 96, precision: float32}",
    reward_validation={"left": 4},
    test={"left": 4},
)
Batches = list[list[list[int]]]
"""Token ids of the rows of each step."""


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, furnish: Callable[..., Path]) -> Path:
    """Of the random policy, some interpolations among its rows."""
    folder = furnish(tmp_path_factory.mktemp("interop"), YAML)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAISE_MDIT_CACHE", str(folder / "cache"))
        run = run_small(folder, "run")
    return export_schedule(run, policy="random", seed=0, to=None).directory


@pytest.fixture(scope="session")
def expected(bundle: Path, tokenizer: Any) -> Batches:
    """What the bundle says: the heavier parents' token ids, step by step."""
    read = read_bundle(bundle)
    encoder = ChatEncoder(tokenizer)
    batches: Batches = [[] for _ in read.steps]
    for row in read.rows:
        (text,) = encoder.encode([read.conversations[row.heavier]])
        batches[row.step].append(text.ids.tolist())
    return batches


@pytest.fixture(scope="session")
def answers(expected: Batches, tokenizer: Any) -> Batches:
    """The tokens that carry loss: what follows the mark of the assistant's turn."""
    mark = tokenizer.convert_tokens_to_ids("<assistant>")
    return [[ids[ids.index(mark) + 1 :] for ids in batch] for batch in expected]
