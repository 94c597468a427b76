"""The recipes of a bundle, run: TRL and the Hugging Face Trainer see its batches in its order."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from raise_mdit.schedules.bundle import read_bundle

Batches = list[list[list[int]]]
"""Token ids of the rows of each step."""


@pytest.fixture(scope="module")
def recipe(bundle: Path) -> Iterator[ModuleType]:
    """The script that lies in the bundle."""
    spec = importlib.util.spec_from_file_location("recipe", bundle / "recipes" / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "recipe", module)
        spec.loader.exec_module(module)
        yield module


def trained(
    recipe: ModuleType, bundle: Path, build: str, output: Path, *, accumulation: int
) -> tuple[Any, Batches, Batches]:
    """A trainer when it is done; the token ids, and the scored ones, that each step was given."""
    schedule = recipe.Schedule(bundle)
    model, tokenizer = recipe.load(schedule, None)
    settings = {**schedule.settings(accumulation, output), "use_cpu": True, "disable_tqdm": True}
    trainer = getattr(recipe, build)(schedule, model, tokenizer, settings)
    seen: Batches = [[] for _ in range(4)]
    scored: Batches = [[] for _ in range(4)]
    step_of_trainer = trainer.training_step

    def training_step(model: Any, inputs: dict[str, torch.Tensor], *rest: Any) -> torch.Tensor:
        labels = inputs["labels"]
        for ids, own in zip(inputs["input_ids"], labels, strict=True):
            length = int(torch.nonzero(own != -100).max()) + 1  # an answer comes last
            seen[trainer.state.global_step].append(ids[:length].tolist())
            scored[trainer.state.global_step].append(own[own != -100].tolist())
        return step_of_trainer(model, inputs, *rest)  # type: ignore[no-any-return]  # untyped

    trainer.training_step = training_step
    trainer.train()
    return trainer, seen, scored


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("build", ["with_trl", "with_transformers"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_every_step_sees_the_rows_of_the_bundle_in_their_order(
    recipe: ModuleType,
    bundle: Path,
    expected: Batches,
    answers: Batches,
    tmp_path: Path,
    build: str,
    accumulation: int,
) -> None:
    assert {row.kind for row in read_bundle(bundle).rows} == {"original", "mdit"}

    _, seen, scored = trained(recipe, bundle, build, tmp_path, accumulation=accumulation)

    assert seen == expected
    assert scored == answers


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_shuffling_trainer_would_be_found_out(
    recipe: ModuleType, bundle: Path, expected: Batches, tmp_path: Path
) -> None:
    """The recording is not blind to order."""
    own = recipe.Schedule.settings

    def shuffling(*arguments: Any) -> dict[str, Any]:
        return {**own(*arguments), "train_sampling_strategy": "random"}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe.Schedule, "settings", shuffling)
        _, seen, _ = trained(recipe, bundle, "with_transformers", tmp_path, accumulation=1)

    assert seen != expected
    assert sorted(chain(*seen)) == sorted(chain(*expected))


def test_the_learning_rate_falls_as_in_the_run(
    recipe: ModuleType, bundle: Path, tmp_path: Path
) -> None:
    trainer, _, _ = trained(recipe, bundle, "with_transformers", tmp_path, accumulation=1)

    rates = [log["learning_rate"] for log in trainer.state.log_history if "learning_rate" in log]
    assert rates == pytest.approx([step.learning_rate for step in read_bundle(bundle).steps])
