"""Arms of several run directories as one comparison, where they were measured on the same data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from raise_mdit.config import ExperimentConfig
from raise_mdit.config_differences import differences, in_words, is_below
from raise_mdit.errors import RunError
from raise_mdit.experiment_file import read_config
from raise_mdit.results import ArmResult, HeldOut, read_result, read_results
from raise_mdit.run_arms import finished_folders, num_arms

COMPARABLE = ("model", "data.seed", "data.test", "data.model_selection")
"""Where runs must agree, as in the sources of held-out data: losses on other data, or in other
tokens, are other quantities."""
OF_NO_EFFECT = ("name", "seeds", "policies", "tracking", "cache", "data.root", "sweep")
"""Where they may differ without a word. Policies are compared one by one."""


class Gathered(NamedTuple):
    """Arms of one or several runs."""

    arms: tuple[ArmResult, ...]
    notes: tuple[str, ...]
    """What is missing of them, and in what else they differ, in sentences."""


class _Run(NamedTuple):
    directory: Path
    config: ExperimentConfig
    arms: tuple[ArmResult, ...]


def gather(directories: Sequence[Path]) -> Gathered:
    """The finished arms of run directories, of those that are still running, too.

    Runs that differ in nothing but policies and seeds are one experiment, and their arms are
    pooled. Where they differ in more (a learning rate, say), or have different policies under one
    name, each policy is named with its directory.

    Args:
        directories: At least one.

    Raises:
        RunError: A directory is no run or nothing of it has finished, runs were not measured on
            the same data, or have the same policy and seed with another outcome.
    """
    runs = [_read(directory) for directory in dict.fromkeys(directories)]
    differing = {
        key: values
        for run in runs[1:]
        for key, values in differences(runs[0].config, run.config).items()
    }
    comparable = [*COMPARABLE, *(name for run in runs for name in _held_out_sources(run))]
    refused = {key: found for key, found in differing.items() if is_below(key, comparable)}
    if refused:
        raise RunError(_not_comparable(runs, refused))
    told = {key: found for key, found in differing.items() if not is_below(key, OF_NO_EFFECT)}
    clashing = _clashing_names(runs)
    if told or clashing:
        arms = [arm for run in runs for arm in _named_by_directory(run, runs)]
    else:
        arms = _pooled(runs)
    _check_same_items(arms)
    notes = [note for note in map(_unfinished, runs) if note]
    notes += [f"The runs differ in {key}: {in_words(values)}." for key, values in told.items()]
    if clashing:
        notes.append(f"The runs differ in what they call {', '.join(clashing)}.")
    if len({arm.metric for arm in arms}) > 1:
        arms = [_without_metric(arm) for arm in arms]
        notes.append("Their task metrics differ, too: policies are compared by loss alone.")
    return Gathered(tuple(arms), tuple(notes))


def _read(directory: Path) -> _Run:
    """A run that is finished, stopped or still going on: what has finished of it."""
    config = read_config(directory)
    file = directory / "results.json"
    own = [read_result(folder) for _, folder in finished_folders(config, directory)]
    written = read_results(file) if file.is_file() or not own else ()  # before it went on
    arms = {(arm.policy, arm.seed): arm for arm in (*written, *own)}
    return _Run(directory, config, tuple(arms.values()))


def _unfinished(run: _Run) -> str:
    """What is missing of a run that has not finished, or nothing."""
    wanted = num_arms(run.config)
    if len(run.arms) == wanted:
        return ""
    return f"{run.directory}: {len(run.arms)} of {wanted} arms have finished."


def _held_out_sources(run: _Run) -> list[str]:
    data = run.config.data
    return [f"data.sources.{share.source}" for share in (*data.test, *data.model_selection)]


def _not_comparable(runs: Sequence[_Run], refused: Mapping[str, tuple[object, object]]) -> str:
    lines = [f"{key}: {in_words(values)}" for key, values in refused.items()]
    names = ", ".join(str(run.directory) for run in runs)
    return "\n".join(
        [f"{names}: cannot be compared, as they were measured on different data", *lines]
    )


def _clashing_names(runs: Sequence[_Run]) -> list[str]:
    """Names that two runs give to different policies."""
    seen: dict[str, object] = {}
    policies = (policy for run in runs for policy in run.config.policies)
    clashing = (each.label for each in policies if seen.setdefault(each.label, each) != each)
    return list(dict.fromkeys(clashing))


def _named_by_directory(run: _Run, runs: Sequence[_Run]) -> Iterator[ArmResult]:
    names = [each.directory.name for each in runs]
    unique = len(set(names)) == len(names)
    name = run.directory.name if unique else str(run.directory)
    for arm in run.arms:
        yield replace(arm, policy=f"{arm.policy} ({name})")


def _pooled(runs: Sequence[_Run]) -> list[ArmResult]:
    """Each policy and seed once."""
    pooled: dict[tuple[str, int], ArmResult] = {}
    for run in runs:
        for arm in run.arms:
            known = pooled.setdefault((arm.policy, arm.seed), arm)
            if (known.test, known.model_selection) != (arm.test, arm.model_selection):
                raise RunError(
                    f"{run.directory}: {arm.policy} with seed {arm.seed} is in another of these "
                    "runs, too, with another outcome, so they are not one experiment; compare them "
                    "in two commands"
                )
    policies = list(dict.fromkeys(policy for policy, _ in pooled))
    return sorted(pooled.values(), key=lambda arm: (policies.index(arm.policy), arm.seed))


def _without_metric(arm: ArmResult) -> ArmResult:
    return replace(
        arm,
        metric=None,
        test=_loss_alone(arm.test),
        model_selection=_loss_alone(arm.model_selection),
    )


def _loss_alone(held_out: HeldOut | None) -> HeldOut | None:
    return None if held_out is None else replace(held_out, metric=None, item_metrics=None)


def _check_same_items(arms: Sequence[ArmResult]) -> None:
    """The same shares of other files would be other data."""
    lengths = {
        arm.test.item_tokens for arm in arms if arm.test is not None and arm.test.item_tokens
    }
    if len(lengths) > 1:
        raise RunError(
            "these runs were measured on different test items (their numbers of tokens differ), so "
            "their losses cannot be compared"
        )
