"""Opening the sealed test of a run that has left it sealed: once, for every arm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from raise_mdit.comparison import PolicySummary
from raise_mdit.config import ExperimentConfig
from raise_mdit.errors import RunError
from raise_mdit.experiment import conclude
from raise_mdit.experiment_file import read_config
from raise_mdit.held_out import held_out_split, measure
from raise_mdit.inputs import load_inputs
from raise_mdit.learners.trained_weights import WEIGHTS_FILE, read_weights
from raise_mdit.learners.trunk_store import TrunkStore
from raise_mdit.ledger import FINAL_EVALUATION
from raise_mdit.openings import Seal, read_openings
from raise_mdit.progress import Progress
from raise_mdit.results import ArmResult, read_results, to_json
from raise_mdit.run_arms import expected_arms
from raise_mdit.run_lock import alone_in
from raise_mdit.runs import arm_folder, cache_directory, write_text
from raise_mdit.task_metrics import load_answer_metric
from raise_mdit.tuning import Tuning


def evaluate(directory: Path, progress: Progress) -> tuple[PolicySummary, ...]:
    """Measure every arm of a run on the sealed test, and compare policies on it.

    The models are those that the run kept. Who opens the test, and when, is noted in
    `sealed_test.json` first.

    Args:
        directory: Of a run with `evaluation.open_test: evaluate`, in which every arm has finished.
        progress: Told of long work.

    Returns:
        The comparison, which is written to the directory, too.

    Raises:
        RunError: Arms have not finished, or the test was opened for all of them before, or another
            process is at work in the directory.
        UserError: Of any kind, for what cannot be had any more.
    """
    config = read_config(directory)
    with alone_in(directory):
        return _evaluate(config, directory, progress)


def _evaluate(
    config: ExperimentConfig, directory: Path, progress: Progress
) -> tuple[PolicySummary, ...]:
    arms = _finished(directory, config)
    waiting = [arm for arm in arms if arm.test is None]
    if not waiting:
        raise RunError(_opened_before(directory))
    inputs = load_inputs(config, cache=cache_directory(), progress=progress)
    store = TrunkStore(cache_directory() / "trunk", max_bytes=config.cache.max_bytes)
    tuning = Tuning(config, inputs.pretrained, precision=inputs.precision, store=store)
    test = held_out_split(config, inputs, "test", load_answer_metric(config.evaluation))
    seal = Seal(directory, test.items, by="evaluate")
    progress.start("sealed test", len(waiting))
    for arm in waiting:
        folder = arm_folder(directory, arm.policy, arm.seed)
        tuning.start_over()
        if arm.steps:
            model, digest = inputs.pretrained.model, inputs.pretrained.digest
            read_weights(folder / WEIGHTS_FILE, model, base_digest=digest)
        seal.open(arm.policy, arm.seed)
        measured = measure(test, tuning.learner)
        costs = {**arm.costs}
        costs[FINAL_EVALUATION] = costs[FINAL_EVALUATION].plus(measured.cost)
        tested = replace(arm, test=measured.held_out, costs=costs)
        write_text(folder / "result.json", to_json([tested]))
        progress.advance(loss=measured.held_out.loss)
    progress.finish()
    return conclude(directory)


def _finished(directory: Path, config: ExperimentConfig) -> list[ArmResult]:
    """Every arm of the run.

    Raises:
        RunError: One has not finished: its policy could still be changed by what the test says.
    """
    arms: list[ArmResult] = []
    missing: list[str] = []
    for label, seed in expected_arms(config):
        file = arm_folder(directory, label, seed) / "result.json"
        if file.is_file():
            arms += read_results(file)
        else:
            missing.append(f"{label} s{seed}")
    if missing:
        raise RunError(
            f"{directory}: {len(missing)} of {len(missing) + len(arms)} arms have not finished "
            f"({', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}); finish them with "
            f"raise-mdit run {directory}, then open the test"
        )
    return arms


def _opened_before(directory: Path) -> str:
    openings = read_openings(directory)
    when = f" at {openings[-1].at} by raise-mdit {openings[-1].by}" if openings else ""
    return (
        f"{directory}: its sealed test was opened for every arm{when}, and is opened once; "
        f"raise-mdit report {directory} shows what it gave"
    )
