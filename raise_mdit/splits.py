"""Pool, reward-validation, model-selection and test: who gets which rows, without overlap.

Rows are allotted by shares and then *decontaminated*: a row that repeats text of a split that is
better protected leaves. The order of protection is test, model-selection, reward-validation, pool,
so the held-out splits do not depend on how much is asked for the pool.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from raise_mdit.candidates import content_hash
from raise_mdit.config import DataConfig, PoolShareConfig, ShareConfig
from raise_mdit.core import Example
from raise_mdit.errors import DataError, nearest
from raise_mdit.label_noise import with_label_noise

SplitName = Literal["test", "model_selection", "reward_validation", "pool"]
Reason = Literal["exact", "ngram"]

SPLITS: tuple[SplitName, ...] = ("test", "model_selection", "reward_validation", "pool")
"""In the order of protection: the earlier split keeps a row that two share."""

NGRAM_WORDS = 13  # Brown et al. 2020 (arXiv 2005.14165), appendix C

_WORD = re.compile(r"[^\W_]+")


class Removal(NamedTuple):
    """A row that left a split."""

    id: str
    """Example id."""
    split: SplitName
    """The split that lost it."""
    reason: Reason
    """``exact``: same prompt or whole text; ``ngram``: 13 words in a row."""
    shared_with: SplitName
    """The best protected split that has the same text."""


@dataclass(frozen=True, slots=True)
class SplitReport:
    """What allotment gave and took away."""

    num_rows: dict[SplitName, int]
    """Rows of each split in the end."""
    num_repeats: dict[SplitName, int]
    """Rows left out since another source of the same split has the same text."""
    removals: tuple[Removal, ...]
    """Rows that left since a better protected split has their text."""
    num_noisy: int
    """Examples of the pool that have the response of another."""

    def num_removed(self, split: SplitName, reason: Reason) -> int:
        """How many rows left a split for a reason."""
        return sum(each.split == split and each.reason == reason for each in self.removals)


@dataclass(frozen=True, slots=True)
class Splits:
    """Disjoint parts of the data by what they are for."""

    pool: tuple[Example, ...]
    reward_validation: tuple[Example, ...]
    model_selection: tuple[Example, ...]
    """Empty when no share is given to it."""
    test: tuple[Example, ...]
    report: SplitReport


class _Ask(NamedTuple):
    split: SplitName
    path: str
    """Key in the experiment file, such as ``data.pool.0``."""
    share: ShareConfig


class _Deck(NamedTuple):
    examples: list[Example]
    """A source in the order in which it is dealt."""
    owners: list[str | None]
    """Path of the share that has each example."""


def allot(sources: Mapping[str, Sequence[Example]], data: DataConfig) -> Splits:
    """The splits that the shares of a configuration ask for.

    Args:
        sources: Examples of each source by its name.
        data: Shares, seed and whether near-copies leave too.

    Raises:
        DataError: If a share cannot be given, or nothing is left of a split.
    """
    asks = [
        _Ask(split, f"data.{split}.{index}", share)
        for split in SPLITS
        for index, share in enumerate(getattr(data, split))
    ]
    faults = _faults_of_names(asks, sources)
    _check_rests(asks)
    known = [ask for ask in asks if ask.path not in faults]
    dealt, shortages = _deal(known, sources, data.seed)
    faults |= shortages
    if faults:
        raise DataError("\n".join(faults[ask.path] for ask in asks if ask.path in faults))
    unique = {split: list({row.id: row for row in dealt[split]}.values()) for split in SPLITS}
    kept, removals = _keep_disjoint(unique, _near_copy_marks if data.decontaminate else _copy_marks)
    _check_not_empty(unique, kept)
    report = SplitReport(
        num_rows={split: len(kept[split]) for split in SPLITS},
        num_repeats={split: len(dealt[split]) - len(unique[split]) for split in SPLITS},
        removals=tuple(removals),
        num_noisy=_num_made(kept["pool"], sources),
    )
    return Splits(**{split: tuple(kept[split]) for split in SPLITS}, report=report)


def shares_of(sources: Collection[str], data: DataConfig) -> DataConfig:
    """The data section with the shares of these sources alone.

    Args:
        sources: Names.
        data: The section; it may be left without any share of a split.
    """
    shares: dict[str, object] = {
        split: tuple(share for share in getattr(data, split) if share.source in sources)
        for split in SPLITS
    }
    return data.model_copy(update=shares)


def _faults_of_names(
    asks: Sequence[_Ask], sources: Mapping[str, Sequence[Example]]
) -> dict[str, str]:
    """By path of the share."""
    tasks = {
        name: sorted({row.task for row in rows if row.task is not None})
        for name, rows in sources.items()
    }
    faults: dict[str, str] = {}
    for _, path, share in asks:
        if share.source not in sources:
            faults[path] = (
                f"{path}.source: there is no source {share.source!r}; sources are "
                f"{', '.join(sources)}.{nearest(share.source, sources)}"
            )
            continue
        known = tasks[share.source]
        allowed = f"its tasks are {', '.join(known)}" if known else "its rows have no tasks"
        unknown = [
            f"{path}.tasks.{at}: source {share.source!r} has no task {task!r}; {allowed}."
            f"{nearest(task, known)}"
            for at, task in enumerate(share.tasks or ())
            if task not in known
        ]
        if unknown:
            faults[path] = "\n".join(unknown)
    return faults


def _check_rests(asks: Sequence[_Ask]) -> None:
    """Two shares cannot both have what the others leave."""
    rests = [ask for ask in asks if ask.share.rows == "all"]
    for index, ask in enumerate(rests):
        for other in rests[:index]:
            if ask.share.source == other.share.source and _tasks_meet(ask.share, other.share):
                raise DataError(
                    f"{other.path} and {ask.path} both take all rows of source "
                    f"{ask.share.source!r}. Give one of them a number of rows, or tasks that the "
                    "other does not have."
                )


def _tasks_meet(share: ShareConfig, other: ShareConfig) -> bool:
    if share.tasks is None or other.tasks is None:
        return True
    return not set(share.tasks).isdisjoint(other.tasks)


def _deal(
    asks: Sequence[_Ask], sources: Mapping[str, Sequence[Example]], seed: int
) -> tuple[dict[SplitName, list[Example]], dict[str, str]]:
    """Rows of each split, and what is wrong with a share that cannot be given, by its path."""
    decks = {name: _shuffle(name, rows, seed) for name, rows in sources.items()}
    shares: dict[str, Sequence[Example]] = {}
    shortages: dict[str, str] = {}
    for ask in sorted(asks, key=_is_rest):
        deck = decks[ask.share.source]
        try:
            shares[ask.path] = _with_noise(ask.share, _take(ask, deck), seed)
        except DataError as shortage:
            shortages[ask.path] = str(shortage)
    dealt: dict[SplitName, list[Example]] = {split: [] for split in SPLITS}
    for ask in asks:
        dealt[ask.split] += shares.get(ask.path, [])
    return dealt, shortages


def _is_rest(ask: _Ask) -> bool:
    return ask.share.rows == "all"


def _shuffle(name: str, rows: Sequence[Example], seed: int) -> _Deck:
    ordered = sorted(rows, key=lambda row: row.id)
    order = _rng(seed, name).permutation(len(ordered))
    return _Deck([ordered[index] for index in order], [None] * len(ordered))


def _with_noise(share: ShareConfig, rows: Sequence[Example], seed: int) -> Sequence[Example]:
    if not isinstance(share, PoolShareConfig):
        return rows
    return with_label_noise(rows, share.label_noise, _rng(seed, f"label noise of {share.source}"))


def _num_made(pool: Sequence[Example], sources: Mapping[str, Sequence[Example]]) -> int:
    """Examples that no source has."""
    known = {row.id for rows in sources.values() for row in rows}
    return sum(row.id not in known for row in pool)


def _rng(seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, int(content_hash(purpose), 16)]))


def _take(ask: _Ask, deck: _Deck) -> list[Example]:
    tasks = ask.share.tasks
    fitting = [
        index for index, row in enumerate(deck.examples) if tasks is None or row.task in tasks
    ]
    free = [index for index in fitting if deck.owners[index] is None]
    num_rows = len(free) if ask.share.rows == "all" else ask.share.rows
    if not free or num_rows > len(free):
        raise DataError(_shortage(ask, [deck.owners[index] for index in fitting]))
    for index in free[:num_rows]:
        deck.owners[index] = ask.path
    return [deck.examples[index] for index in free[:num_rows]]


def _shortage(ask: _Ask, owners: Sequence[str | None]) -> str:
    of_tasks = f" of tasks {', '.join(ask.share.tasks)}" if ask.share.tasks else ""
    others = sorted({owner for owner in owners if owner is not None})
    num_free = owners.count(None)
    taken = f" {len(owners) - num_free} are already given to {', '.join(others)};"
    at_most = f"at most {num_free} rows here"
    fewer = f"fewer rows in {', '.join(others)}"
    fixes = [*([at_most] if num_free else []), *([fewer] if others else [])]
    fix = f" Ask for {' or '.join(fixes)}." if fixes else ""
    where = ask.path if ask.share.rows == "all" else f"{ask.path}.rows"
    return (
        f"{where}: source {ask.share.source!r} has {len(owners)} rows{of_tasks};"
        f"{taken if others else ''} {ask.share.rows} asked.{fix}"
    )


Marks = Callable[[Example], Iterator[tuple[Reason, str]]]
"""Texts of an example; two examples overlap when they have one in common."""


def _keep_disjoint(
    rows: Mapping[SplitName, Sequence[Example]], marks: Marks
) -> tuple[dict[SplitName, list[Example]], list[Removal]]:
    seen: dict[tuple[Reason, str], SplitName] = {}
    kept: dict[SplitName, list[Example]] = {}
    removals: list[Removal] = []
    for split in SPLITS:
        kept[split] = []
        for row in rows[split]:
            mark = next((each for each in marks(row) if each in seen), None)
            if mark is None:
                kept[split].append(row)
            else:
                removals.append(Removal(row.id, split, mark[0], seen[mark]))
        if split != SPLITS[-1]:  # nobody is compared with the pool, which may be huge
            for row in kept[split]:
                for mark in marks(row):
                    seen.setdefault(mark, split)
    return kept, removals


def _copy_marks(row: Example) -> Iterator[tuple[Reason, str]]:
    yield "exact", _normal(_whole(row))


def _near_copy_marks(row: Example) -> Iterator[tuple[Reason, str]]:
    prompt = _prompt(row)
    yield "exact", _normal(prompt)
    yield "exact", _normal(_whole(row))
    for text in (prompt, row.response):
        words = _WORD.findall(text.lower())
        for start in range(len(words) - NGRAM_WORDS + 1):
            yield "ngram", " ".join(words[start : start + NGRAM_WORDS])


def _prompt(row: Example) -> str:
    """The prompt without system turns, which a whole data set may have in common."""
    return "\n".join(turn.content for turn in row.messages[:-1] if turn.role != "system")


def _whole(row: Example) -> str:
    return f"{_prompt(row)}\n{row.response}"


def _normal(text: str) -> str:
    """Lower case and single spaces; punctuation stays, since `3 + 4` is not `3 - 4`."""
    return " ".join(text.lower().split())


def _check_not_empty(
    before: Mapping[SplitName, Sequence[Example]], after: Mapping[SplitName, Sequence[Example]]
) -> None:
    for split in SPLITS:
        if before[split] and not after[split]:
            raise DataError(
                f"data.{split}: each of its {len(before[split])} rows repeats text of a split that "
                "is better protected. Draw it from other rows or another source, or set "
                "data.decontaminate to false."
            )
