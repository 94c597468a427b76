"""Experiments whose candidates are renewed, of the user's own making or in the user's own words."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.small_experiment import small_experiment
from numpy.typing import NDArray

from raise_mdit import experiment, synthesis
from raise_mdit.candidates import Custom, Mosaic
from raise_mdit.core import KINDS
from raise_mdit.envs.episode import Episode
from raise_mdit.errors import ConfigError, DataError, RunError, UserError
from raise_mdit.experiment_file import load_experiment
from raise_mdit.export import export_schedule
from raise_mdit.pool import Pool
from raise_mdit.preparation import Preparation, prepare
from raise_mdit.progress import Silent
from raise_mdit.schedule import read_schedule
from raise_mdit.sources.mdit import nearest_neighbours
from raise_mdit.sources.mosaic_wording import OWN_WORDING

pytestmark = pytest.mark.filterwarnings("ignore:.*truncated mini-batch.*:UserWarning")

YAML = small_experiment(
    """
    features: {semantic_size: 4, clusters: 2}
    learner: {trainable: {kind: top_layers, layers: 1}, learning_rate: 1.0e-2}
    environment: {window: 12, batch_size: 2, budget: {steps: 3}}
    policies: [{kind: base}, {kind: random}]
    """,
    reward_validation={"left": 4},
    test={"left": 4},
)
LEARNED = (
    "policies=[{kind: base}, {kind: random}, {kind: ppo, episodes: 4, episodes_per_update: 2}]"
)
OWN_SOURCE = """
from raise_mdit.candidates import Custom
from raise_mdit.core import Message


class Echo:
    def __init__(self, share=1.0, length=2):
        self.share, self.length = share, length

    def make(self, examples, *, rng):
        for example in examples:
            if rng.random() < self.share:
                again = " ".join([f"w{rng.integers(100)}"] * self.length)
                told = Message("assistant", again)
                yield Custom((example.id,), (Message("user", example.prompt), told))


class Ending:
    def make(self, examples, *, rng):
        told = Message("assistant", "w1 </s>")
        yield Custom((examples[0].id,), (Message("user", "w1"), told))


class Fixed:
    def make(self, examples, *, rng):
        first = examples[0]
        yield Custom((first.id,), (Message("user", "w1"), Message("assistant", "w2")))
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAISE_MDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path: Path, furnish: Callable[[Path, str], Path]) -> Path:
    """A model with random weights, two sources of random words, and a source of candidates."""
    (tmp_path / "echoes.py").write_text(OWN_SOURCE)
    return furnish(tmp_path, YAML)


def run(folder: Path, *overrides: str, out: str = "run") -> Path:
    config = load_experiment(folder / "small.yaml", overrides)
    experiment.run(config, folder / out, Silent())
    return folder / out


def prepared(folder: Path, *overrides: str) -> Preparation:
    config = load_experiment(folder / "small.yaml", overrides)
    return prepare(config, cache=folder / "cache", progress=Silent())


@pytest.fixture
def picked(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[int, int], list[int]]:
    """Pool rows that were trained on, by number of the episode and step."""
    rows_of: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    record = Episode.record_update

    def seen(self: Episode, rows: NDArray[np.int64], stats: Any) -> bool:
        rows_of[self._number, self._steps] += rows.tolist()
        return record(self, rows, stats)

    monkeypatch.setattr(Episode, "record_update", seen)
    return rows_of


@pytest.mark.parametrize(
    ("renew", "per_episode", "steps"),
    [("episode", 1, 3), ("{steps: 2}", 2, 2), ("{steps: 1}", 3, 1)],
)
@pytest.mark.parametrize("parallel", [1, 2])
def test_every_episode_trains_on_candidates_of_its_own(
    folder: Path,
    picked: dict[tuple[int, int], list[int]],
    renew: str,
    per_episode: int,
    steps: int,
    parallel: int,
) -> None:
    directory = run(
        folder,
        "pools={original: false, mosaic: {max_instructions: 3}, mdit: {ratio: 0.2, clusters: 2}}",
        f"pools.renew={renew}",
        LEARNED,
        f"policies.ppo.parallel_episodes={parallel}",
    )

    generations = Pool.read(directory / "pool.parquet").generations
    assert set(generations) == set(range(1, 5 * per_episode + 1))  # four to learn, and the final
    assert {episode for episode, _ in picked} == {0, 1, 2, 3, 4}
    for (episode, step), rows in picked.items():
        expected = 1 + episode * per_episode + step // steps
        assert set(generations[rows]) == {expected}


def test_generations_differ_and_the_first_is_not_that_without_renewal(folder: Path) -> None:
    pool = prepared(folder, "pools={mosaic: {}, renew: episode}", LEARNED).pool

    mosaics = [
        {pool.ids[int(row)] for row in np.flatnonzero(pool.generations == generation)}
        for generation in (1, 2, 3)
    ]
    assert all(mosaics)
    assert not set.intersection(*mosaics)
    assert (pool.kinds[pool.generations == 0] == KINDS.index("original")).all()


def test_what_each_step_brings_may_be_used_once(
    folder: Path, picked: dict[tuple[int, int], list[int]]
) -> None:
    """A generation has less than the budget takes, and all of them have more."""
    few = ("data.pool=[{source: left, rows: 8}]", "environment.window=pool", "seeds=[0]")
    mosaics = "{original: false, mosaic: {max_instructions: 4}, renew: {steps: 1}}"
    sizes = np.bincount(prepared(folder, *few, f"pools={mosaics}").pool.generations)[1:]
    assert (sizes < 6).all()
    assert (sizes >= 2).all()

    run(folder, *few, f"pools={mosaics}")

    assert len({row for rows in picked.values() for row in rows}) == 3 * 2


def test_steps_that_bring_too_little_are_found_before_any_training(folder: Path) -> None:
    few = ("data.pool=[{source: left, rows: 8}]", "environment={window: pool, batch_size: 6}")
    mosaics = "pools={original: false, mosaic: {max_instructions: 2}, renew: {steps: 2}}"
    budget = "environment.budget.steps=4"

    with pytest.raises(DataError, match=r"random never repeats .* used up before 4 steps of 6;"):
        run(folder, *few, mosaics, budget)

    assert not (folder / "run" / "metrics.jsonl").exists()


def test_policies_that_need_more_generations_are_no_more_of_the_same_run(folder: Path) -> None:
    renewed = "pools={mosaic: {}, renew: episode}"
    run(folder, renewed, LEARNED)
    less = LEARNED[:-1] + ", {kind: exp3, episodes: 4}]"
    more = less[:-1] + ", {kind: ucb, episodes: 6}]"
    before = (folder / "run" / "pool.parquet").read_bytes()

    run(folder, renewed, less)
    with pytest.raises(
        RunError,
        match=r"one: `pools.renew` made 5 generations of candidates, and these policies need 7\.",
    ):
        run(folder, renewed, more)

    assert (folder / "run" / "pool.parquet").read_bytes() == before


def test_a_renewed_run_repeats_itself(folder: Path) -> None:
    first, second = (
        run(folder, "pools={mosaic: {}, renew: {steps: 2}}", LEARNED, out=out) for out in "ab"
    )

    assert (first / "schedule.jsonl").read_text() == (second / "schedule.jsonl").read_text()
    assert (first / "pool.parquet").read_bytes() == (second / "pool.parquet").read_bytes()


def test_neighbours_are_found_once_for_all_generations(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    def counted(embeddings: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        found.append(nearest_neighbours(embeddings, count))
        return found[-1]

    monkeypatch.setattr(synthesis, "nearest_neighbours", counted)
    pools = (
        "pools={{mdit: {{ratio: 0.5, clusters: 2, neighbours: 3, pairing: {}}}, renew: episode}}"
    )

    pool = prepared(folder, pools.format("nearest"), LEARNED).pool

    assert len(found) == 1
    assert len(set(pool.generations[pool.generations > 0])) == 5
    prepared(folder, pools.format("across"), LEARNED)
    assert len(found) == 1, "other pairings need none"


def test_a_random_policy_keeps_to_its_kinds(folder: Path) -> None:
    directory = run(
        folder,
        "pools={mosaic: {max_instructions: 2}, mdit: {ratio: 0.5, clusters: 2}}",
        "policies=[{kind: base}, {kind: random}, {kind: random, name: mixed, kinds: [mdit]}, "
        "{kind: random, name: text, kinds: [original, mosaic]}]",
    )

    kinds = defaultdict(set)
    for pick in read_schedule(directory):
        kinds[pick.policy].add(pick.kind)
    assert kinds["mixed"] == {"mdit"}
    assert kinds["text"] == {"original", "mosaic"}


def test_random_originals_pay_for_no_synthesis(folder: Path) -> None:
    directory = run(
        folder,
        "pools={mdit: {ratio: 0.5, clusters: 2}}",
        "policies=[{kind: base}, {kind: random}, {kind: random, name: plain, kinds: [original]}]",
    )

    ledger = json.loads((directory / "ledger.json").read_text())
    assert ledger["random/s0"]["features"]["tokens"] > 0
    assert ledger["random/s0"]["synthesis"]["seconds"] > 0
    assert "features" not in ledger["plain/s0"] or not any(ledger["plain/s0"]["features"].values())
    assert "synthesis" not in ledger["plain/s0"] or not any(
        ledger["plain/s0"]["synthesis"].values()
    )


def test_kinds_too_few_for_the_budget_are_found_before_any_training(folder: Path) -> None:
    own = "{kind: random, name: own, kinds: [mdit]}"
    with pytest.raises(DataError, match="never repeats a candidate") as refused:
        run(
            folder,
            "pools={mdit: {ratio: 0.075, clusters: 2}}",
            f"policies=[{{kind: base}}, {{kind: random}}, {own}, {{kind: mdit_only}}]",
        )

    assert str(refused.value).splitlines() == [
        f"environment.budget: {name} never repeats a candidate, and the pool's 3 for it are used "
        "up before 3 steps of 2; lower the budget or enlarge data.pool or pools"
        for name in ("own", "mdit_only")
    ]
    assert not list(folder.rglob("metrics.jsonl"))


def test_candidates_of_the_users_making_are_trained_on_and_exported(folder: Path) -> None:
    directory = run(
        folder,
        'pools={custom: [{kind: "echoes:Echo", name: echo, options: {share: 0.5}}]}',
        "policies=[{kind: base}, {kind: random, kinds: [custom]}]",
    )

    pool = Pool.read(directory / "pool.parquet")
    picks = read_schedule(directory)
    assert {(pick.kind, pick.source) for pick in picks} == {("custom", "echo")}
    export_schedule(directory, policy="random", seed=0, to=folder / "out")
    lines = [json.loads(line) for line in (folder / "out" / "sft.jsonl").read_text().splitlines()]
    for line, row in zip(lines, pool.rows_of([pick.id for pick in picks]), strict=True):
        recipe = pool.recipe(int(row))
        assert isinstance(recipe, Custom)
        assert line["messages"] == [turn._asdict() for turn in recipe.messages]


def test_a_custom_candidate_that_is_too_long_is_left_out_and_counted(folder: Path) -> None:
    found = prepared(
        folder,
        "pools={custom: ["
        '{kind: "echoes:Echo", name: short, options: {length: 3}}, '
        '{kind: "echoes:Echo", name: long, options: {length: 60}}]}',
    )

    assert set(found.pool.sources) == {"left", "right", "short"}
    assert "long: 40 candidates left out for their length." in found.notes


def test_a_custom_source_that_is_not_there_is_the_users_mistake(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"pools\.custom\.echo\.kind.*'Echo'"):
        prepared(folder, 'pools={custom: [{kind: "echoes:Ecko", name: echo}]}')


def test_replay_of_no_example_that_the_data_holds_is_the_users_mistake(folder: Path) -> None:
    with pytest.raises(DataError, match=r"pools\.mosaic\.replay: replays no example.*0\.008 of 60"):
        prepared(
            folder,
            "pools={original: false, mosaic: {replay: 0.008}}",
            "data.pool=[{source: left, rows: 20}, {source: right, rows: all}]",
            "data.decontaminate=false",
        )


def test_special_tokens_of_the_tokenizer_are_kept_out_of_everything(folder: Path) -> None:
    lines = (folder / "right.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows[:20]:
        row["completion"] += "</s>"
    (folder / "right.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    directory = run(
        folder,
        "data.pool=[{source: left, rows: 20}, {source: right, rows: all}]",
        "pools={mosaic: {max_instructions: 2}}",
    )

    preparation = json.loads((directory / "preparation.json").read_text())
    listed = [(row["source"], row["token"]) for row in preparation["special_rows"]]
    assert listed == [("right", "</s>")] * 20
    assert any(note.startswith("20 examples of the pool hold") for note in preparation["notes"])
    assert "</s>" not in (directory / "examples.jsonl").read_text()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.system_prompt=w1 <pad>", r"model\.system_prompt: holds '<pad>'"),
        ("pools={{mosaic: {{wording: {folder}/own.yaml}}}}", r"line 10: tags\.9: makes '</s>'"),
        (
            'pools={{custom: [{{kind: "echoes:Ending", name: ending}}]}}',
            r"pools\.custom\.ending: candidate 1: message 2 holds '</s>'",
        ),
    ],
)
def test_special_tokens_of_the_users_making_are_refused(
    folder: Path, override: str, message: str
) -> None:
    text = OWN_WORDING.read_text("utf-8").replace('"Item {n}"', '"Item {n}</s>"')
    (folder / "own.yaml").write_text(text, encoding="utf-8")

    with pytest.raises(UserError, match=message):
        prepared(folder, override.format(folder=folder))


def test_replay_offers_some_originals_plain_beside_mosaics(folder: Path) -> None:
    pool = prepared(folder, "pools={original: false, mosaic: {replay: 0.25}}").pool

    originals = np.flatnonzero(pool.kinds == KINDS.index("original"))
    assert len(originals) == 10
    assert len(pool) > 10


def test_mosaics_say_what_the_users_wording_says_in_the_export_too(folder: Path) -> None:
    text = OWN_WORDING.read_text("utf-8").replace('"Item {n}"', '"Frage {n}"')
    (folder / "german.yaml").write_text(text, encoding="utf-8")
    directory = run(
        folder,
        "pools={original: false, mosaic: {max_instructions: 2, strategies: {format: 1}, "
        f"wording: {folder / 'german.yaml'}}}}}",
        "model.max_length=128",
        "environment.batch_size=8",
    )
    (folder / "german.yaml").unlink()  # the run keeps its own

    export_schedule(directory, policy="random", seed=0, to=folder / "out")

    exported = (folder / "out" / "sft.jsonl").read_text()
    assert "Frage 1" in exported
    assert "Item 1" not in exported


def test_similar_examples_stand_together(folder: Path) -> None:
    found = prepared(
        folder,
        "pools={original: false, mosaic: {grouping: similar, sizes: fixed, max_instructions: 2}}",
        "policies=[{kind: base}, {kind: random}]",
    )

    assert found.knowledge.features is not None, "embeddings are found out though no policy looks"
    recipes = [found.pool.recipe(row) for row in range(len(found.pool))]
    assert all(isinstance(recipe, Mosaic) for recipe in recipes)


def test_mosaics_of_which_none_fits_are_the_users_mistake(folder: Path) -> None:
    with pytest.raises(DataError, match=r"pools\.mosaic: not one mosaic fits"):
        prepared(
            folder,
            "pools={mosaic: {max_length: 16}}",
            f"model.system_prompt={'w1 ' * 16}",
        )


def test_equal_candidates_and_generations_are_told(folder: Path) -> None:
    found = prepared(
        folder,
        "pools={renew: episode, custom: ["
        '{kind: "echoes:Echo", name: once, options: {length: 2}}, '
        '{kind: "echoes:Fixed", name: fixed}]}',
        LEARNED,
    )

    assert any("candidates equal another, and count once" in note for note in found.notes)
    assert (
        "Candidates are renewed: of 5 generations one is on offer at a time, 1 for each of 4 "
        "learning episodes and the final one."
    ) in found.notes
