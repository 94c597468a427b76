"""Splits: who gets which rows, and that nothing is shared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raise_mdit.candidates import make_example
from raise_mdit.config import DataConfig, DatasetSource, PoolShareConfig, ShareConfig
from raise_mdit.core import Example, Message
from raise_mdit.errors import DataError
from raise_mdit.sources.records import read_source
from raise_mdit.splits import NGRAM_WORDS, SPLITS, Removal, Splits, allot

SHARED = Path(__file__).parents[2] / "shared" / "data"


def row(
    prompt: str, response: str = "yes", *, task: str | None = None, system: str = ""
) -> Example:
    start = [Message("system", system)] if system else []
    turns = [*start, Message("user", prompt), Message("assistant", response)]
    return make_example("mine", turns, task=task)


def rows(num_rows: int, *, tasks: Sequence[str] = ("sums",), name: str = "q") -> list[Example]:
    return [row(f"{name}{index}", task=tasks[index % len(tasks)]) for index in range(num_rows)]


def share(
    num_rows: int | Literal["all"] = "all", *, source: str = "mine", tasks: Sequence[str] = ()
) -> ShareConfig:
    return ShareConfig(source=source, rows=num_rows, tasks=tuple(tasks) or None)


def data(
    *,
    pool: Sequence[ShareConfig],
    test: Sequence[ShareConfig],
    reward_validation: Sequence[ShareConfig],
    model_selection: Sequence[ShareConfig] = (),
    decontaminate: bool = True,
    seed: int = 0,
) -> DataConfig:
    return DataConfig(
        sources=(DatasetSource(name="mine", kind="dataset", file="mine.jsonl"),),
        pool=tuple(PoolShareConfig(**each.model_dump()) for each in pool),
        reward_validation=tuple(reward_validation),
        model_selection=tuple(model_selection),
        test=tuple(test),
        decontaminate=decontaminate,
        seed=seed,
    )


def each_from_its_own(
    *, test: Example, pool: Example, validation: Example | None = None, decontaminate: bool = True
) -> Splits:
    """The given rows in the given splits, and in each split a row that overlaps with none."""
    sources = {
        "test": [test, row("test only")],
        "validation": [validation or row("v"), row("validation only")],
        "pool": [pool, row("pool only")],
    }
    return allot(
        sources,
        data(
            pool=[share(source="pool")],
            reward_validation=[share(source="validation")],
            test=[share(source="test")],
            decontaminate=decontaminate,
        ),
    )


def words(num_words: int, *, start: int = 0) -> str:
    return " ".join(f"w{index}" for index in range(start, start + num_words))


def ids(examples: Sequence[Example]) -> set[str]:
    return {example.id for example in examples}


@given(prompts=st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=12), min_size=4, max_size=4))
def test_a_prompt_stays_in_the_best_protected_split_alone(prompts: list[list[str]]) -> None:
    held: dict[str, list[Example]] = {
        split: [row(f"{split} only"), *(row(text, f"{index}") for index, text in enumerate(texts))]
        for split, texts in zip(SPLITS, prompts, strict=True)
    }

    splits = allot(
        held,
        data(
            pool=[share(source="pool")],
            reward_validation=[share(source="reward_validation")],
            model_selection=[share(source="model_selection")],
            test=[share(source="test")],
        ),
    )

    better_protected: set[str] = set()
    for split, texts in zip(SPLITS, prompts, strict=True):
        kept = {example.prompt for example in getattr(splits, split)}
        assert kept == {f"{split} only", *texts} - better_protected
        better_protected |= kept


@given(
    seed=st.integers(0, 2**32),
    test=st.integers(1, 9),
    selection=st.integers(1, 9),
    validation=st.integers(1, 9),
)
def test_shares_of_a_source_part_it(seed: int, test: int, selection: int, validation: int) -> None:
    config = data(
        pool=[share()],
        test=[share(test)],
        model_selection=[share(selection)],
        reward_validation=[share(validation)],
        seed=seed,
    )

    splits = allot({"mine": rows(30)}, config)

    parts = [splits.test, splits.model_selection, splits.reward_validation, splits.pool]
    assert [len(part) for part in parts[:3]] == [test, selection, validation]
    assert sorted(example.id for part in parts for example in part) == sorted(ids(rows(30)))


@pytest.mark.parametrize("pool_rows", [1, 50, "all"])
def test_enlarging_the_pool_keeps_the_held_out_splits(pool_rows: int | Literal["all"]) -> None:
    def held_out(num_rows: int | Literal["all"]) -> list[tuple[Example, ...]]:
        splits = allot(
            {"mine": rows(100)},
            data(
                pool=[share(num_rows)],
                test=[share(10)],
                model_selection=[share(5)],
                reward_validation=[share(7)],
            ),
        )
        return [splits.test, splits.model_selection, splits.reward_validation]

    assert held_out(pool_rows) == held_out(20)


def test_larger_pool_contains_the_smaller_one() -> None:
    def pool(num_rows: int) -> set[str]:
        config = data(pool=[share(num_rows)], test=[share(10)], reward_validation=[share(10)])
        return ids(allot({"mine": rows(100)}, config).pool)

    assert pool(20) < pool(40)


def test_draw_depends_on_the_seed_alone_and_not_on_the_order_of_rows() -> None:
    def test_split(examples: list[Example], seed: int) -> tuple[Example, ...]:
        config = data(pool=[share()], test=[share(9)], reward_validation=[share(9)], seed=seed)
        return allot({"mine": examples}, config).test

    assert test_split(rows(90), 1) == test_split(rows(90)[::-1], 1)
    assert test_split(rows(90), 1) != test_split(rows(90), 2)


def test_all_takes_what_numbers_leave_wherever_it_stands() -> None:
    splits = allot(
        {"mine": rows(30)}, data(pool=[share(20)], test=[share()], reward_validation=[share(4)])
    )

    assert splits.report.num_rows == {
        "test": 6,
        "model_selection": 0,
        "reward_validation": 4,
        "pool": 20,
    }


def test_tasks_filter_a_share() -> None:
    splits = allot(
        {"mine": rows(30, tasks=("sums", "dates"))},
        data(pool=[share(tasks=["sums"])], test=[share(5)], reward_validation=[share(5)]),
    )

    assert {example.task for example in splits.pool} == {"sums"}


def test_rests_of_different_tasks_stand_together() -> None:
    splits = allot(
        {"mine": rows(30, tasks=("sums", "dates"))},
        data(
            pool=[share(tasks=["sums"])],
            test=[share(tasks=["dates"])],
            reward_validation=[share(5)],
        ),
    )

    assert len(splits.pool) + len(splits.test) == 25


def test_same_text_of_two_sources_in_a_split_stays_once_and_is_counted() -> None:
    splits = allot(
        {"mine": rows(10), "twin": [*rows(10), row("new")], "held": rows(9, name="h")},
        data(
            pool=[share(), share(source="twin")],
            test=[share(4, source="held")],
            reward_validation=[share(4, source="held")],
        ),
    )

    assert (len(splits.pool), splits.report.num_repeats["pool"]) == (11, 10)


def test_label_noise_is_in_the_pool_alone_and_counted() -> None:
    clean = [row(f"q{at}", f"a{at}") for at in range(30)]
    noisy_pool = PoolShareConfig(source="mine", rows=20, label_noise=0.5)
    config = data(pool=[noisy_pool], test=[share(5)], reward_validation=[share(5)])

    splits = allot({"mine": clean}, config)

    changed = ids(splits.pool) - ids(clean)
    assert len(changed) == splits.report.num_noisy == 10
    assert ids([*splits.test, *splits.reward_validation]) <= ids(clean)
    plain = data(pool=[share(20)], test=[share(5)], reward_validation=[share(5)])
    without = allot({"mine": clean}, plain)
    assert [each.prompt for each in splits.pool] == [each.prompt for each in without.pool]
    assert without.report.num_noisy == 0


def test_share_beyond_the_source_names_who_has_the_rows() -> None:
    config = data(
        pool=[share(80, tasks=["sums", "dates"])],
        test=[share(200)],
        reward_validation=[share(50)],
    )

    with pytest.raises(DataError) as caught:
        allot({"mine": rows(300, tasks=("sums", "dates"))}, config)

    assert str(caught.value) == (
        "data.pool.0.rows: source 'mine' has 300 rows of tasks sums, dates; 250 are already given "
        "to data.reward_validation.0, data.test.0; 80 asked. Ask for at most 50 rows here or fewer "
        "rows in data.reward_validation.0, data.test.0."
    )


def test_rest_of_nothing_is_an_error() -> None:
    config = data(pool=[share()], test=[share(5)], reward_validation=[share(5)])

    with pytest.raises(DataError, match=r"data\.pool\.0: .*; all asked\. Ask for fewer rows in"):
        allot({"mine": rows(10)}, config)


def test_empty_source_is_an_error() -> None:
    config = data(pool=[share()], test=[share(5)], reward_validation=[share(5)])

    with pytest.raises(
        DataError, match=r"data\.test\.0\.rows: source 'mine' has 0 rows; 5 asked\.\n"
    ):
        allot({"mine": []}, config)


def test_two_rests_of_a_source_are_an_error() -> None:
    config = data(pool=[share()], test=[share(tasks=["sums"])], reward_validation=[share(5)])

    with pytest.raises(DataError, match=r"data\.test\.0 and data\.pool\.0 both take all rows"):
        allot({"mine": rows(30)}, config)


def test_unknown_names_are_reported_at_once() -> None:
    config = data(
        pool=[share(source="mien")], test=[share(5, tasks=["sum"])], reward_validation=[share(5)]
    )

    with pytest.raises(DataError) as caught:
        allot({"mine": rows(30)}, config)

    assert str(caught.value).splitlines() == [
        "data.test.0.tasks.0: source 'mine' has no task 'sum'; its tasks are sums. "
        "Did you mean 'sums'?",
        "data.pool.0.source: there is no source 'mien'; sources are mine. Did you mean 'mine'?",
    ]


def test_every_share_that_cannot_be_given_is_told_at_once() -> None:
    config = data(
        pool=[share(90), share(5, tasks=["sum"])], test=[share(80)], reward_validation=[share(5)]
    )

    with pytest.raises(DataError) as caught:
        allot({"mine": rows(30)}, config)

    places = [line.split(":")[0] for line in str(caught.value).splitlines()]
    assert places == ["data.test.0.rows", "data.pool.0.rows", "data.pool.1.tasks.0"]


def test_same_prompt_leaves_the_pool() -> None:
    planted = row("what  is 3 + 4?", "seven")

    splits = each_from_its_own(test=row("What is 3 + 4?", "7"), pool=planted)

    assert splits.report.removals == (Removal(planted.id, "pool", "exact", "test"),)
    assert planted.id not in ids(splits.pool)


def test_prompts_that_differ_in_punctuation_alone_both_stay() -> None:
    assert not each_from_its_own(
        test=row("What is 3 + 4?"), pool=row("What is 3 - 4?")
    ).report.removals


@pytest.mark.parametrize(("num_words", "num_removed"), [(NGRAM_WORDS, 1), (NGRAM_WORDS - 1, 0)])
def test_thirteen_shared_words_remove_a_row_and_twelve_do_not(
    num_words: int, num_removed: int
) -> None:
    shared = words(num_words)
    pool = row(f"Pool, before: {shared.upper().replace(' ', ', ')}! after")

    splits = each_from_its_own(test=row(f"in test {shared} then more"), pool=pool)

    assert splits.report.num_removed("pool", "ngram") == num_removed
    assert len(splits.pool) == 2 - num_removed


def test_words_of_a_held_out_response_are_found_too() -> None:
    splits = each_from_its_own(test=row("a", words(20)), pool=row("b", words(15, start=3)))

    assert splits.report.num_removed("pool", "ngram") == 1


def test_shared_system_turn_removes_nothing() -> None:
    system = words(40)

    splits = each_from_its_own(test=row("a", system=system), pool=row("b", system=system))

    assert not splits.report.removals


def test_reward_validation_yields_to_test() -> None:
    planted = row(words(14), "b")

    splits = each_from_its_own(test=row(words(14), "a"), pool=row("p"), validation=planted)

    assert splits.report.removals == (Removal(planted.id, "reward_validation", "exact", "test"),)


def test_without_decontamination_only_copies_leave() -> None:
    near = each_from_its_own(test=row(words(20)), pool=row(words(20), "no"), decontaminate=False)
    copy = each_from_its_own(test=row(words(20)), pool=row(words(20)), decontaminate=False)

    assert not near.report.removals
    assert copy.report.num_removed("pool", "exact") == 1


def test_split_that_loses_every_row_is_an_error() -> None:
    held, copies = rows(10), [row(example.prompt, "no") for example in rows(10)]
    config = data(pool=[share(source="copies")], test=[share(9)], reward_validation=[share(1)])

    with pytest.raises(DataError, match=r"data\.pool: each of its 10 rows repeats text"):
        allot({"mine": held, "copies": copies}, config)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="the real data is not beside the project")
def test_alpaca_loses_what_its_held_out_rows_repeat_and_nothing_else() -> None:
    alpaca = DatasetSource(name="alpaca", kind="dataset", file="alpaca_52k.json")
    examples = read_source(alpaca, root=str(SHARED), on_bad_row="skip").examples
    config = data(
        pool=[share(source="alpaca")],
        test=[share(2000, source="alpaca")],
        reward_validation=[share(1000, source="alpaca")],
    )

    splits = allot({"alpaca": examples}, config)

    assert splits.report.num_removed("pool", "ngram") > 0
    assert sum(splits.report.num_rows.values()) + len(splits.report.removals) == len(examples)
