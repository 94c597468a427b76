"""What a run directory holds, and how it is written and read.

When all is done::

    config.yaml             the resolved experiment
    versions.json           what it ran on
    preparation.json        what was read, left out and made
    pool.parquet            every candidate by its recipe
    features.safetensors    what policies see of every candidate
    basis.safetensors       axes of their semantic columns, for use on another pool
    examples.jsonl          the texts that recipes refer to
    mosaic_wording.yaml     what mosaics can say, where it is the user's own
    metrics.jsonl           every step and episode
    arms/<policy>-s<seed>/  result, schedule, and weights and decisions of a learned policy
    ledger.json             costs by policy, seed and purpose
    schedule.jsonl          every policy's schedule, with schedule.manifest.json
    results.json            arms and summaries
    sealed_test.json        when the test was opened, for which arm and by which command
    report.html             for people
    explanation-*.html      what picks of a learned policy were owed to, where it was asked for
    .lock                   held by who is at work; like .sealed_test.lock of who opens the test and
                            .shared.lock of who sends what arms share to W&B, it holds nothing

An arm is written when it finishes, so that a run that was stopped can be resumed and what it
finished is usable.
"""

from __future__ import annotations

import os.path
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from raise_mdit import __version__
from raise_mdit.arms import Arm
from raise_mdit.comparison import cost_of_choosing
from raise_mdit.config import ExperimentConfig
from raise_mdit.config_differences import differences, in_words, is_below
from raise_mdit.core import Cost
from raise_mdit.decisions import BASIS_FILE, FEATURES_FILE, write_basis, write_features
from raise_mdit.errors import RunError
from raise_mdit.example_texts import EXAMPLES_FILE, write_examples
from raise_mdit.experiment_file import read_config
from raise_mdit.folders import CONFIG_FILE, PREPARATION_FILE
from raise_mdit.policy_source import REWARD_EXAMPLES, embeddings_in_words
from raise_mdit.preparation import Preparation
from raise_mdit.renewal import num_generations
from raise_mdit.results import ArmResult, read_result, to_json, total
from raise_mdit.run_arms import missing_arms
from raise_mdit.run_candidates import WORDING_FILE
from raise_mdit.run_lock import LOCK_FILE
from raise_mdit.runs import arms_in_words, read_json, write_json, write_text
from raise_mdit.schedule import read_schedule, write_schedule

PACKAGES = (
    "gymnasium",
    "numpy",
    "peft",
    "scikit-learn",
    "stable-baselines3",
    "tokenizers",
    "torch",
    "transformers",
)
"""Packages whose versions can change a result."""


def versions() -> dict[str, str]:
    """Versions of what can change a result."""
    return {
        "raise-mdit": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **{package: version(package) for package in PACKAGES},
    }


def check_place(config: ExperimentConfig, directory: Path) -> None:
    """Nothing, if an experiment can be begun or gone on with in a directory; writes nothing.

    Args:
        config: The experiment.
        directory: Missing, empty, of a run of the same experiment with these policies and seeds or
            some of them, or of any run that failed before it had prepared anything.

    Raises:
        RunError: There is something else.
    """
    if os.path.lexists(directory) and not directory.is_dir():
        raise RunError(
            f"{directory}: cannot be made a run directory (File exists); give another --out"
        )
    if (directory / CONFIG_FILE).exists():
        hindrances = _hindrances(read_config(directory), config)
        if hindrances and (directory / PREPARATION_FILE).exists():
            raise RunError(
                f"{directory}: holds a run of another experiment, so it cannot go on with this "
                f"one: {'; '.join(hindrances)}. Give another --out, or the same file and --set "
                "values, to which policies and seeds may be added"
            )
    elif directory.is_dir() and {each.name for each in directory.iterdir()} - {LOCK_FILE}:
        raise RunError(f"{directory}: not empty and not a run directory; give another --out")


def _hindrances(before: ExperimentConfig, config: ExperimentConfig) -> list[str]:
    """Why a run cannot go on as another experiment, in words; nothing where it can."""
    known = {policy.label: policy for policy in config.policies}
    found = [
        (key, values)
        for key, values in differences(before, config).items()
        if not is_below(key, ("policies", "seeds"))
    ]
    missing = [f"seed {seed}" for seed in sorted(set(before.seeds) - set(config.seeds))]
    for policy in before.policies:
        if policy.label not in known:
            missing.append(f"policy {policy.label}")
            continue
        for key, values in differences(policy, known[policy.label]).items():
            found.append((f"policies.{policy.label}.{key}", values))
    made, needed = num_generations(before), num_generations(config)
    renewed = (
        f"`pools.renew` made {made} generations of candidates, and these policies need {needed}"
    )
    return [
        *(f"{key} differs ({in_words(values)})" for key, values in found),
        *(f"{each} is missing" for each in missing),
        *([renewed] if made != needed else []),
    ]


def write_preparation(directory: Path, preparation: Preparation) -> None:
    """Write what every arm starts from: candidates, features, texts, and what was left out."""
    corpus = preparation.corpus
    preparation.pool.write(directory / "pool.parquet")
    write_features(directory / FEATURES_FILE, preparation.table)
    if preparation.table.basis is not None:
        embeddings = embeddings_in_words(preparation.config.features, preparation.pretrained.digest)
        write_basis(directory / BASIS_FILE, preparation.table.basis, embeddings=embeddings)
    mosaic = preparation.config.pools.mosaic
    if mosaic is not None and mosaic.wording is not None:
        write_text(directory / WORDING_FILE, Path(mosaic.wording).read_text("utf-8"))
    write_examples(directory / EXAMPLES_FILE, preparation.examples.values())
    write_json(
        directory / PREPARATION_FILE,
        {
            "notes": preparation.notes,
            "model_digest": preparation.pretrained.digest,
            "chat_template": preparation.pretrained.tokenizer.chat_template,
            "precision": preparation.precision,
            "num_trainable": preparation.tuning.learner.num_trainable,
            "num_candidates": len(preparation.pool),
            REWARD_EXAMPLES: [each.example.id for each in corpus.splits["reward_validation"]],
            "full_training": preparation.full_training._asdict(),
            "bad_rows": [row._asdict() for row in corpus.bad_rows],
            "special_rows": [row._asdict() for row in corpus.special_rows],
            "removed_for_overlap": [removal._asdict() for removal in corpus.report.removals],
        },
    )


def preparation_notes(directory: Path) -> list[str]:
    """What was read, left out and made, in sentences; none where nothing was prepared."""
    file = directory / PREPARATION_FILE
    return list(read_json(file)["notes"]) if file.is_file() else []


def unfinished_notes(directory: Path, arms: Sequence[ArmResult]) -> tuple[str, ...]:
    """Which arms a run still owes, in a sentence; nothing where it has all.

    Args:
        directory: Of the run.
        arms: Finished ones.
    """
    missing = missing_arms(read_config(directory), {(arm.policy, arm.seed) for arm in arms})
    if not missing:
        return ()
    return (f"Not finished: {arms_in_words(missing)}; raise-mdit run {directory} goes on.",)


def choosing_notes(directory: Path, arms: Sequence[ArmResult]) -> tuple[str, ...]:
    """What learning cost each policy, as a share of one full-data training.

    Args:
        directory: Of a run.
        arms: Finished ones.
    """
    file = directory / PREPARATION_FILE
    if not file.is_file():
        return ()
    return cost_of_choosing(arms, Cost(**read_json(file)["full_training"]))


def write_arm(preparation: Preparation, folder: Path, arm: Arm) -> None:
    """Write a finished arm."""
    write_schedule(folder, arm.picks, recipe_of(preparation.config, preparation.pretrained.digest))
    write_text(folder / "result.json", to_json([arm.result], []))  # last: its presence means done


def read_arm(folder: Path) -> Arm:
    """What :func:`write_arm` wrote."""
    return Arm(read_result(folder), read_schedule(folder))


def recipe_of(config: ExperimentConfig, model_digest: str | None) -> dict[str, object]:
    """What a trainer must do alike to replay a schedule."""
    return {
        "model": config.model.name,
        "model_digest": model_digest,
        "max_length": config.model.max_length,
        "system_prompt": config.model.system_prompt,
        "batch_size": config.environment.batch_size,
        "loss": "mean over response tokens",
        "learner": config.learner.model_dump(mode="json"),
    }


def ledger_of(results: list[ArmResult]) -> dict[str, object]:
    """Costs by policy and seed as if each had run alone; the total leaves out monitoring."""
    return {
        f"{result.policy}/s{result.seed}": {
            **{purpose: cost._asdict() for purpose, cost in result.costs.items()},
            "total": total(result.costs)._asdict(),
        }
        for result in results
    }
