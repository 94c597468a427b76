"""Why a learned policy picked what it picked, from what its run directory holds.

Scores are computed again from the decisions and weights that the run left; nothing is trained and
no language model is loaded.

Shapes: ``T`` steps, ``k`` picks of a batch, ``W`` slots, ``F`` columns of a candidate, ``P`` groups
of columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raise_mdit.agents.attribution import load_scorer
from raise_mdit.config import ExperimentConfig
from raise_mdit.conversations import Part
from raise_mdit.core import Message
from raise_mdit.decisions import DECISIONS_FILE, POLICY_FILE, Decisions, read_decisions
from raise_mdit.errors import RunError
from raise_mdit.experiment_file import read_config
from raise_mdit.explainable_arms import ExplainableArms
from raise_mdit.policy_config import (
    BestOfConfig,
    InfluenceConfig,
    PpoConfig,
)
from raise_mdit.progress import Progress
from raise_mdit.ranking_config import RankedSection
from raise_mdit.rescoring import RescoredStep, Rescorer
from raise_mdit.results import ArmResult, read_result
from raise_mdit.run_candidates import PARENTS, RunCandidates, asked, one_line
from raise_mdit.schedule import Pick, read_schedule
from raise_mdit.trial_sentences import picked_otherwise, trial_sentences

WAYS_OF_GROUPING = ("source", "kind", "cluster")
"""How picks are counted."""

TEXT_LENGTH = 200
"""Characters of a candidate's text that are shown."""
PROMPT_LENGTH = 120
"""Of these, the most that a prompt takes."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ExplainedPick:
    """One candidate of one batch, and why it is there."""

    step: int
    """Optimizer step, from 0, as in the schedule."""
    slot: int
    """Position within the batch, from 0, as in the schedule."""
    id: str
    kind: str
    source: str
    cluster: str
    task: str | None
    text: str
    """The beginning of its prompt and of its response."""
    score: float
    lift: float
    """Score above the mean of the window; the sum of the attributions."""
    log_probability: float
    """Of drawing it, given the picks before it in its batch."""
    features: NDArray[np.float32]
    """[F] what the policy saw of it: standardised over the pool or window, kinds 0 or 1, and the
    logarithm of one more than the times it was picked before."""
    window_means: NDArray[np.float64]
    """[F] the same, mean over the window."""
    attributions: NDArray[np.float64]
    """[P] what its lift owes to each group."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Explanation:
    """What one arm's picks were made for."""

    experiment: str
    """Name of the experiment."""
    result: ArmResult
    """Of the arm."""
    groups: tuple[str, ...]
    """P names."""
    columns: tuple[str, ...]
    """F names of what the policy sees of a candidate."""
    column_groups: tuple[str, ...]
    """F names of the group that each column belongs to."""
    picks: tuple[ExplainedPick, ...]
    """Those asked for, in the order of training."""
    attributions: NDArray[np.float64]
    """[T, P] mean absolute attribution over the picks of each step."""
    counts: Mapping[str, tuple[dict[str, int], ...]]
    """For each of :data:`WAYS_OF_GROUPING`, picks by group at each of T steps."""
    notes: tuple[str, ...]
    """What else to know, in sentences."""

    def strongest(self, count: int) -> list[ExplainedPick]:
        """The picks whose scores stood highest above their windows' means, the highest first."""
        return sorted(self.picks, key=lambda pick: (-pick.lift, pick.step, pick.slot))[:count]


def explain(
    directory: Path,
    *,
    progress: Progress,
    policy: str | None = None,
    seed: int | None = None,
    step: int | None = None,
    slot: int | None = None,
) -> Explanation:
    """Explain the picks of one arm's final fine-tuning.

    A step costs as much as scoring its window once for every coalition of groups: 1.5 s for 8,000
    candidates and six groups on one core, a millisecond or two for a hundred.

    Args:
        directory: A run directory.
        progress: Told of every step.
        policy: Label; None takes the first of the experiment file that can be explained.
        seed: None takes the policy's first.
        step: The only one whose picks are wanted, from 0; None takes all.
        slot: The only place in a batch that is wanted, from 0; None takes all.

    Raises:
        RunError: There is no such run, policy, seed, step or slot, no policy of the run can be
            explained, or its files are missing or were altered.
    """
    config = read_config(directory)
    arms = ExplainableArms(directory, config)
    folder = arms.chosen(policy, seed)
    decisions = read_decisions(folder / DECISIONS_FILE)
    num_steps, num_picks = decisions.picks.shape
    _check_place("--step", step, num_steps)
    _check_place("slot", slot, num_picks)
    candidates = RunCandidates(directory)
    rescorer = Rescorer(load_scorer(folder / POLICY_FILE), candidates.table, decisions)
    taken = _taken(folder, candidates, decisions)
    result = read_result(folder)
    attributions = np.zeros((num_steps, len(rescorer.groups)))
    picks: list[ExplainedPick] = []
    progress.start(f"{result.policy} s{result.seed}: attributions", num_steps)
    for at in range(num_steps):
        rescored = rescorer.step(at)
        attributions[at] = np.abs(rescored.attributions_kP).mean(axis=0)
        if step in (None, at):
            wanted = range(num_picks) if slot is None else [slot]
            picks += [_explained(taken[at][each], rescored, candidates) for each in wanted]
        progress.advance()
    progress.finish()
    return Explanation(
        experiment=config.name,
        result=result,
        groups=tuple(rescorer.groups),
        columns=rescorer.columns,
        column_groups=rescorer.column_groups,
        picks=tuple(picks),
        attributions=attributions,
        counts=_counts(taken),
        notes=_notes(config, result, arms),
    )


def thirds(num_steps: int) -> list[range]:
    """The steps of the first, second and last third of training; fewer than 3 leave some empty."""
    ends = [round(num_steps * part / 3) for part in range(4)]
    return [range(start, end) for start, end in pairwise(ends)]


def _notes(config: ExperimentConfig, result: ArmResult, arms: ExplainableArms) -> tuple[str, ...]:
    """What else there is to know of an arm, and which arms are left out."""
    return (
        *_began_as(config, result.policy),
        *trial_sentences([result], beside=arms.names),
        *_replayed(result),
        *arms.notes,
    )


def _began_as(config: ExperimentConfig, label: str) -> Iterator[str]:
    """What a policy began as, where the file says it; what was tried is told with its returns."""
    (policy,) = (each for each in config.policies if each.label == label)
    if not isinstance(policy, PpoConfig) or policy.prior is None:
        return
    match policy.prior.ranking:
        case RankedSection() as ranking:
            began = f"{ranking.in_words}: what is owed to `prior` is owed to that ranking"
        case InfluenceConfig() as regression:
            began = f"what influence had learned from {regression.episodes} fine-tunings"
        case BestOfConfig():
            return
    yield f"{label} began as {began}."


def _replayed(result: ArmResult) -> Iterator[str]:
    """Whose scores are told, where an arm played an episode again."""
    if picked_otherwise(result) is not None:
        yield (
            f"{result.policy} played that again as it was (`final: best`): scores are those of the "
            "policy that was kept, for picks that another one, or a ranking, made."
        )


def _check_place(name: str, place: int | None, count: int) -> None:
    if place is not None and not 0 <= place < count:
        raise RunError(f"{name} {place}: there are 0 to {count - 1}")


class _Taken(NamedTuple):
    """A pick, the row of the pool that it is, and the cluster that this is in."""

    pick: Pick
    row: int
    cluster: str


def _taken(folder: Path, candidates: RunCandidates, decisions: Decisions) -> list[list[_Taken]]:
    """The picks of each step by the schedule, sure to be those of the decisions."""
    pool = candidates.pool
    windows_TW = decisions.windows.astype(np.int64)
    rows_Tk = np.take_along_axis(windows_TW, decisions.picks.astype(np.int64), axis=1)
    in_pool = rows_Tk.min() >= 0 and windows_TW.max() < len(pool)
    picks = read_schedule(folder)
    if not in_pool or [pool.ids[int(row)] for row in rows_Tk.flat] != [pick.id for pick in picks]:
        raise RunError(
            f"{folder / DECISIONS_FILE}: does not belong to the schedule and pool beside it"
        )
    left = iter(picks)
    return [
        [
            _Taken(next(left), int(row), cluster)
            for row, cluster in zip(rows_k, candidates.clusters(rows_k), strict=True)
        ]
        for rows_k in rows_Tk
    ]


def _counts(taken: Sequence[Sequence[_Taken]]) -> dict[str, tuple[dict[str, int], ...]]:
    """Picks of each step in each way of grouping them."""

    def group(each: _Taken, way: str) -> str:
        return {"source": each.pick.source, "kind": each.pick.kind, "cluster": each.cluster}[way]

    return {
        way: tuple(dict(Counter(group(each, way) for each in step)) for step in taken)
        for way in WAYS_OF_GROUPING
    }


def _explained(taken: _Taken, rescored: RescoredStep, candidates: RunCandidates) -> ExplainedPick:
    """A pick of a step with all that is known of it."""
    pick = taken.pick
    score = float(rescored.scores_k[pick.slot])
    return ExplainedPick(
        step=pick.step,
        slot=pick.slot,
        id=pick.id,
        kind=pick.kind,
        source=pick.source,
        cluster=taken.cluster,
        task=pick.task,
        text=_text(candidates.parts(taken.row)),
        score=score,
        lift=score - rescored.mean_score,
        log_probability=float(rescored.log_probs_k[pick.slot]),
        features=rescored.features_kF[pick.slot],
        window_means=rescored.window_means_F,
        attributions=rescored.attributions_kP[pick.slot],
    )


def _text(parts: Sequence[Part]) -> str:
    """The beginnings of prompt and response; of an interpolation, of both parents."""
    if len(parts) == 1:
        return _preview(parts[0].messages, TEXT_LENGTH)
    return PARENTS.join(
        f"{share:.0%} of: {_preview(messages, TEXT_LENGTH // 2)}" for messages, share in parts
    )


def _preview(messages: Sequence[Message], length: int) -> str:
    """The beginnings of prompt and response on one line; what cannot be printed is replaced."""
    room = length * PROMPT_LENGTH // TEXT_LENGTH
    return one_line(f"{one_line(asked(messages), room)} → {messages[-1].content}", length)
