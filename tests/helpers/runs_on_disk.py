"""Run directories that no model was needed for: the files that a run leaves, written directly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from helpers.arm_results import arm

from raise_mdit.candidates import Candidate, Custom, Mdit, Original, Recipe, make_example
from raise_mdit.config import ExperimentConfig
from raise_mdit.core import KINDS, Cost, Example, Message
from raise_mdit.decisions import write_features
from raise_mdit.example_texts import write_examples
from raise_mdit.features import FeatureTable
from raise_mdit.pool import Pool
from raise_mdit.results import ArmResult
from raise_mdit.schedule import Pick, write_schedule

PLANTED = "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'>"
"""Begins the first instruction of every pool; nothing of it may run or be fetched."""
NUM_ORIGINALS = 60
NUM_STEPS, BATCH = 12, 4
SEMANTIC = tuple(f"semantic_{at}" for at in range(3))
NAMES = ("prompt_tokens", "response_tokens", *SEMANTIC, *(f"is_{kind}" for kind in KINDS))
FINAL_LOSSES = {"base": 2.6, "random": 1.9, "full": 1.4, "longest": 1.95, "dsir": 1.7, "ppo": 1.5}
"""Mean test loss of each policy of :func:`finished_arms`."""
CHOOSING = {"longest": 0.02e12, "dsir": 0.3e12, "ppo": 9e12}
"""FLOPs before the final fine-tuning."""


class RunOnDisk(NamedTuple):
    """A run directory and what it holds."""

    directory: Path
    config: ExperimentConfig
    arms: Sequence[ArmResult]
    pool: Pool
    table: FeatureTable


def write_run(directory: Path, arms: Sequence[ArmResult]) -> RunOnDisk:
    """Pool, features, texts and schedule of a run, beside which a report can be written.

    Args:
        directory: Is made.
        arms: What finished; each picks at random from a part of the pool.
    """
    directory.mkdir(parents=True)
    pool, examples = make_pool()
    table = make_features(pool)
    pool.write(directory / "pool.parquet")
    write_features(directory / "features.safetensors", table)
    write_examples(directory / "examples.jsonl", examples)
    write_schedule(directory, make_schedule(pool, arms), {})
    return RunOnDisk(directory, make_config(), arms, pool, table)


def make_config(system_prompt: str | None = None) -> ExperimentConfig:
    """An experiment on the playground."""
    rows = ({"source": "play"},)
    return ExperimentConfig.model_validate(
        {
            "name": "which-policy",
            "model": {"system_prompt": system_prompt},
            "data": {
                "sources": ({"name": "play", "kind": "playground"},),
                "pool": rows,
                "reward_validation": rows,
                "test": rows,
            },
            "environment": {"budget": {"steps": NUM_STEPS}},
            "policies": ({"kind": "random"},),
        }
    )


def finished_arms(seeds: int = 3, extra: Sequence[str] = ()) -> list[ArmResult]:
    """Arms of six policies, with curves; ppo learns and ends lowest of those on the budget.

    Args:
        seeds: Of each.
        extra: Labels of more policies, as good as random.
    """
    losses = {**FINAL_LOSSES, **dict.fromkeys(extra, 1.9)}
    rng = np.random.default_rng(4)
    return [_finished(policy, seed, rng) for seed in range(seeds) for policy in losses]


def make_pool() -> tuple[Pool, list[Example]]:
    """Originals of two sources, interpolations and a conversation of the user's own."""
    examples = [
        make_example(
            ("alpaca", "gsm8k")[at % 2],
            [
                Message("user", f"{PLANTED if at == 0 else 'Explain'} what {at} is, in words."),
                Message("assistant", f"It is {at}."),
            ],
        )
        for at in range(NUM_ORIGINALS)
    ]
    recipes: list[Recipe] = [Original(example.id) for example in examples]
    recipes += [Mdit(examples[0].id, examples[at].id, 0.75) for at in range(1, 20)]
    own = (Message("user", "My own\nquestion"), Message("assistant", "and answer"))
    recipes.append(Custom((examples[1].id,), own))
    pool = Pool.of(Candidate(recipe, "alpaca", 9, 4) for recipe in recipes)
    return pool, examples


def make_features(pool: Pool) -> FeatureTable:
    """Random features; two clusters a kind."""
    rng = np.random.default_rng(5)
    numbers = rng.normal(size=(len(pool), 2 + len(SEMANTIC)))
    kinds = np.eye(len(KINDS))[pool.kinds]
    strata = np.unique(2 * pool.kinds + np.arange(len(pool)) % 2, return_inverse=True)[1]
    values = np.column_stack([numbers, kinds]).astype(np.float32)
    return FeatureTable(NAMES, values, strata.astype(np.int64))


def make_schedule(pool: Pool, arms: Sequence[ArmResult]) -> list[Pick]:
    """Picks of every arm that picks; ppo begins with the first rows and ends with the last."""
    rng = np.random.default_rng(6)
    picks = []
    for each in arms:
        for step in range(len(each.picks)):
            start = step * len(pool) // (2 * len(each.picks)) if each.policy == "ppo" else 0
            reach = len(pool) // 2 if each.policy == "ppo" else len(pool)
            rows = start + rng.choice(reach, BATCH, replace=False)
            picks += [
                Pick(each.policy, each.seed, step, slot, pool.ids[row], kind, "alpaca", None)
                for slot, row in enumerate(map(int, rows))
                for kind in (KINDS[pool.kinds[row]],)
            ]
    return picks


def _finished(policy: str, seed: int, rng: np.random.Generator) -> ArmResult:
    loss = FINAL_LOSSES.get(policy, 1.9) + (0 if policy == "base" else rng.normal(0, 0.02))
    steps = 0 if policy == "base" else NUM_STEPS
    curve = 2.6 + (loss - 2.6) * np.linspace(0, 1, steps + 1) ** 0.5
    chosen = CHOOSING.get(policy, 0.0)
    spent = 1e11 + chosen + 2e11 * np.arange(steps + 1) * (6 if policy == "full" else 1)
    learning = np.linspace(0.2, 0.4, 30) + rng.normal(0, 0.04, 30)
    return arm(
        policy,
        seed,
        loss,
        kind=policy if policy in FINAL_LOSSES else "longest",
        metric="exact_match",
        metric_value=float(np.clip(1.2 - loss / 2.2 + rng.normal(0, 0.01), 0, 1)),
        reward_validation_losses=tuple(curve.tolist()),
        episode_returns=tuple(learning.tolist()) if policy == "ppo" else (),
        steps=steps,
        tokens=100 * steps,
        step_tokens=tuple(range(0, 100 * steps + 1, 100)),
        step_flops=tuple(spent.tolist()),
        picks=({"alpaca": 3, "gsm8k": 1}, {"alpaca": 2, "mdit": 2}) * (steps // 2),
        costs={
            "policy_training": Cost(flops=chosen),
            "final_training": Cost(100 * steps, 120 * steps, float(spent[-1] - chosen), 1.0),
            "monitoring": Cost(flops=1e15),
        },
    )
