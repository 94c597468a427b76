"""Rows of the tables that are sent: picks of an arm, the comparison of policies, and costs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from raise_mdit import tracking
from raise_mdit.candidates import Custom, Mdit, Mosaic, Original, Recipe, parents_of
from raise_mdit.comparison import PolicySummary
from raise_mdit.conversations import conversation_of
from raise_mdit.core import Message
from raise_mdit.effects import ROLES
from raise_mdit.example_texts import EXAMPLES_FILE, read_examples
from raise_mdit.pick_figures import OTHER, largest_groups
from raise_mdit.pool import Pool
from raise_mdit.results import ArmResult
from raise_mdit.run_candidates import wording_of
from raise_mdit.schedule import Pick, read_schedule
from raise_mdit.shortening import shortened
from raise_mdit.sources.mosaic_wording import Wording
from raise_mdit.statistics import Interval

MAX_ROWS = 10_000
"""Rows of a table that W&B shows by default; of a longer schedule whole steps are left out."""
MAX_TEXT = 2_000
"""Characters of a pick's text."""

Cell = str | int | float | None


@dataclass(frozen=True)
class TableRows:
    """A table."""

    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]


def picks_table(folder: Path) -> TableRows:
    """What an arm trained on: each pick with its text and, of a learned policy, its score.

    Args:
        folder: Of the arm, two below its run directory.
    """
    from raise_mdit.schedules.scores import pick_scores  # needs torch

    directory = folder.parents[1]
    pool = Pool.read(directory / "pool.parquet")
    picks = read_schedule(folder)
    rows = pool.rows_of([pick.id for pick in picks])
    scores = pick_scores(directory, folder, rows)
    texts = _Texts(directory)
    return TableRows(
        ("step", "slot", "id", "kind", "source", "task", "score", "text"),
        [
            (
                picks[at].step,
                picks[at].slot,
                picks[at].id,
                picks[at].kind,
                picks[at].source,
                picks[at].task,
                None if scores is None else scores[at].score,
                texts.of(pool.recipe(int(rows[at]))),
            )
            for at in _shown(picks)
        ],
    )


def comparison_table(summaries: Sequence[PolicySummary]) -> TableRows:
    """How policies compare, each mean with the ends of its interval, as the report's table has it.

    What a policy is compared by is the loss on the split, or with several targets their mean share
    of the base model's; `minus_random` and its like are differences of that.
    """
    columns = ["policy", "kind", "seeds", "split"]
    for name in ("loss", "loss_ratio", "metric", *(f"minus_{role}" for role in ROLES)):
        columns += [name, f"{name}_low", f"{name}_high"]
    columns += ["adjusted_p", "verdict", "steps", "tokens", "tflop"]
    return TableRows(tuple(columns), [_comparison_row(each) for each in summaries])


def _comparison_row(summary: PolicySummary) -> tuple[Cell, ...]:
    effects = [summary.effect(role) for role in ROLES]
    intervals = [
        summary.loss,
        summary.loss_ratio,
        summary.metric_value,
        *(None if effect is None else effect.difference for effect in effects),
    ]
    against_random = summary.effect("random")
    return (
        summary.policy,
        summary.kind,
        summary.num_seeds,
        summary.split,
        *(end for interval in intervals for end in _ends(interval)),
        None if against_random is None else against_random.adjusted_p,
        summary.verdict,
        summary.steps,
        summary.tokens,
        summary.compute.flops / 1e12,
    )


def costs_table(arms: Sequence[ArmResult]) -> TableRows:
    """What each arm cost by purpose, as if it had run alone."""
    return TableRows(
        ("policy", "seed", "purpose", "tokens", "tflop", "seconds"),
        [
            (arm.policy, arm.seed, purpose, cost.tokens, cost.flops / 1e12, cost.seconds)
            for arm in arms
            for purpose, cost in arm.costs.items()
        ],
    )


def pick_records(result: ArmResult) -> Iterator[dict[str, int]]:
    """Picks by group at each step, as records; the smaller groups are one."""
    named = set(largest_groups([result.picks]))
    for step, picks in enumerate(result.picks, start=1):
        counts: Counter[str] = Counter()
        for group, count in picks.items():
            counts[_metric_name(group if group in named else OTHER)] += count
        yield {tracking.TUNING_STEP: step, **counts}


def _metric_name(group: str) -> str:
    """A group as a metric; dots and slashes would part the name."""
    return tracking.PICKS + re.sub(r"[^\w +-]", "_", group)


def _ends(interval: Interval | None) -> tuple[float | None, float | None, float | None]:
    return (None, None, None) if interval is None else (interval.mean, interval.low, interval.high)


def _shown(picks: Sequence[Pick]) -> list[int]:
    """Positions of all picks, or of those of evenly spaced steps where they are too many."""
    stride = max(1, -(-len(picks) // MAX_ROWS))
    return [at for at, pick in enumerate(picks) if pick.step % stride == 0]


class _Texts:
    """Texts of picks, read once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._examples = read_examples(directory / EXAMPLES_FILE)

    def of(self, recipe: Recipe) -> str:
        """The conversation; of an interpolation both parents with their shares."""
        text = self._parents(recipe) if isinstance(recipe, Mdit) else self._conversation(recipe)
        return shortened(text, MAX_TEXT)

    def _conversation(self, recipe: Original | Mosaic | Custom) -> str:
        if isinstance(recipe, Original):  # says the same in any wording
            return _turns(self._examples[recipe.example].messages)
        return _turns(conversation_of(recipe, self._examples, self._wording))

    @cached_property
    def _wording(self) -> Wording:
        """Reading it takes longer than all the rest of a table, and a policy may pick no mosaic."""
        return wording_of(self._directory)

    def _parents(self, recipe: Mdit) -> str:
        parents = (
            f"{share:.0%} of\n{_turns(self._examples[parent].messages)}"
            for parent, share in parents_of(recipe)
        )
        return "\n\n".join(parents)


def _turns(messages: Sequence[Message]) -> str:
    return "\n".join(f"{message.role}: {message.content}" for message in messages)
