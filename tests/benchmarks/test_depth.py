"""The benchmark of depth: the rate is chosen by other rows than those that are reported."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from raise_mdit.benchmarks.apart import call_here
from raise_mdit.benchmarks.depth import depth_table, main
from raise_mdit.benchmarks.depth_training import (
    Depth,
    Halves,
    Plan,
    Training,
    choose,
    falls_of_halves,
    measure_depth,
)
from raise_mdit.benchmarks.learners import Trained, cached_learner, learner_config
from raise_mdit.benchmarks.setting import Setting, Sizes, fresh_batches, prepare_setting
from raise_mdit.core import Cost, Evaluation
from raise_mdit.errors import ModelError
from raise_mdit.learners.causal_lm import CausalLmLearner
from raise_mdit.progress import Silent
from raise_mdit.statistics import student_interval

SIZES = Sizes(pool=18, validation=7, batch_size=3, window=3, max_length=48)
ENDLESS = 1e38
"""A learning rate after which no weight is finite."""


@pytest.fixture(scope="module")
def setting(tiny_model: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("scratch")
    return prepare_setting(
        SIZES,
        model=str(tiny_model),
        data=tiny_data,
        device="cpu",
        precision="float32",
        models=folder,
        scratch=folder,
        progress=Silent(),
    )


@pytest.fixture(scope="module")
def depth(setting: Setting) -> Depth:
    return measure_depth(setting, "top_layers", 2, Plan((1e-3, 3e-2, ENDLESS), updates=4, seeds=2))


def training(
    rate: float, choice_fall: float | None, report_fall: float | None = 0.0, *, seed: int = 0
) -> Training:
    return Training(seed, rate, choice_fall, report_fall, 1.0, 2.0)


def halves_by_hand(
    setting: Setting, trained: Trained, rate: float, *, seed: int, updates: int
) -> Halves:
    """By evaluating each half alone."""
    middle = len(setting.validation) // 2
    halves = (setting.validation[:middle], setting.validation[middle:])

    def losses(learner: CausalLmLearner) -> list[float]:
        return [learner.evaluate(half).loss for half in halves]

    with cached_learner(setting, learner_config(trained, 2, learning_rate=rate)) as learner:
        before = losses(learner)
        for batch in fresh_batches(setting, updates, seed=seed):
            learner.update(batch, progress=0.0)
        after = losses(learner)
    return Halves(*(1 - end / start for start, end in zip(before, after, strict=True)))


def test_the_rate_is_chosen_by_the_half_that_is_not_reported() -> None:
    tried = [training(1e-4, 0.2, 0.1), training(1e-3, 0.1, 0.9), training(1e-2, -0.5, 0.8)]

    chosen = choose(tried)

    assert chosen is tried[0]


@pytest.mark.parametrize("place", [0, 1])
def test_a_rate_that_diverges_is_never_chosen(place: int) -> None:
    tried = [training(1e-4, -0.9)]
    tried.insert(place, training(1.0, None))

    chosen = choose(tried)

    assert chosen is not None
    assert chosen.rate == 1e-4
    assert choose([training(1.0, None)]) is None


def test_a_training_that_diverges_is_told_and_another_rate_taken(depth: Depth) -> None:
    assert [each.choice_fall is None for each in depth.tried] == [False, False, True]
    assert depth.tried[2].report_fall is None
    assert depth.rate in (1e-3, 3e-2)


def test_a_model_that_every_rate_ruins_is_an_error(setting: Setting) -> None:
    with pytest.raises(ModelError, match="LoRA of 2 layers diverge at every one of 1e\\+38"):
        measure_depth(setting, "lora", 2, Plan((ENDLESS,), updates=2, seeds=1))


def test_falls_weigh_rows_by_their_scored_tokens(random_rows: Callable[..., Any]) -> None:
    rows = random_rows(4)
    before, after = np.array([4.0, 2.0, 1.0, 3.0]), np.array([3.0, 2.0, 2.0, 0.0])
    falls = falls_of_halves(rows, evaluation(before), evaluation(after))

    a, b, c, d = (row.num_scored for row in rows)
    assert falls.choice == pytest.approx(a / (4 * a + 2 * b))
    assert falls.report == pytest.approx((3 * d - c) / (c + 3 * d))


def evaluation(item_losses: np.ndarray[Any, np.dtype[np.float64]]) -> Evaluation:
    exact = np.zeros(len(item_losses), np.bool_)
    return Evaluation(loss=0.0, item_losses=item_losses, item_exact=exact, cost=Cost())


@pytest.mark.parametrize("trained", ["lora", "top_layers"])
def test_every_training_begins_at_the_untuned_model(setting: Setting, trained: Trained) -> None:
    """Each is equal to one by a learner of its own, whatever was trained before it."""
    measured = measure_depth(setting, trained, 2, Plan((1e-2, 1e-3), updates=3, seeds=2))

    assert measured.chosen[0] in measured.tried
    for each in [*measured.tried, measured.chosen[1]]:
        by_hand = halves_by_hand(setting, trained, each.rate, seed=each.seed, updates=3)
        assert each.choice_fall == pytest.approx(by_hand.choice, abs=1e-5)
        assert each.report_fall == pytest.approx(by_hand.report, abs=1e-5)
    assert [each.seed for each in measured.chosen] == [0, 1]
    assert {each.rate for each in measured.chosen} == {measured.rate}


def test_trained_parameters_are_counted(setting: Setting, depth: Depth) -> None:
    """Of a layer: queries and output, keys and values, three of the MLP, two norms."""
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32

    assert depth.num_trainable == 2 * layer


def test_no_row_repeats_within_a_training(setting: Setting) -> None:
    for seed in range(3):
        keys = [row.key for batch in fresh_batches(setting, 6, seed=seed) for row in batch]
        assert sorted(keys) == sorted(setting.pool.ids), "6 batches of 3 are the whole pool"


def test_batches_belong_to_their_seed(setting: Setting) -> None:
    def keys(setting: Setting, seed: int) -> list[list[str]]:
        return [[row.key for row in batch] for batch in fresh_batches(setting, 4, seed=seed)]

    reseeded = replace(setting, sizes=replace(setting.sizes, seed=1))
    assert keys(setting, 0) == keys(setting, 0)
    assert keys(setting, 0) != keys(setting, 1)
    assert keys(setting, 0) != keys(reseeded, 0)


def test_no_row_is_both_trained_on_and_held_out(setting: Setting) -> None:
    held_out = {row.key for row in setting.validation}

    assert len(held_out) == 7
    assert held_out.isdisjoint(row.key for row in setting.pool.rows)


def test_the_table_tells_the_reported_half_with_its_interval() -> None:
    chosen = [training(1e-3, 0.9, fall, seed=seed) for seed, fall in enumerate((0.1, 0.2, 0.3))]
    tried = [training(1e-4, 0.1), chosen[0]]
    table = depth_table(
        [Depth("lora", 4, 1_234_567, 1e-3, tried, chosen)], Plan((1e-4, 1e-3), 5, 3), SIZES
    )

    # Three samples 0.1 apart: 4.303 (Student, 2 degrees of freedom) * 0.1 / sqrt(3).
    assert table.rows == [["LoRA", "4", "1.23 M", "0.001*", "1 s", "2 s", "20.0% ± 24.8%"]]
    assert "on 4 held-out rows; the rate was chosen by 3 others" in table.notes[0]
    assert "largest rate tried" in table.notes[1]


def test_the_table_says_which_seeds_diverged_at_the_chosen_rate() -> None:
    chosen = [training(1e-3, 0.1, 0.1), training(1e-3, None, None, seed=1)]
    table = depth_table([Depth("lora", 4, 1, 1e-3, chosen[:1], chosen)], Plan((1e-3,), 5, 2), SIZES)

    assert table.rows[0][-1] == "1 of 2 seeds diverged"


@pytest.mark.parametrize(
    ("rates", "chosen", "marked"),
    [((1, 2, 3), 2, False), ((1, 2, 3), 3, True), ((3, 2, 1), 3, True), ((1,), 1, False)],
)
def test_a_rate_at_the_end_of_those_tried_is_marked(
    rates: Sequence[float], chosen: float, marked: bool
) -> None:
    tried = [training(rate, 0.1) for rate in rates]

    assert Depth("lora", 2, 1, chosen, tried, tried[:1]).is_at_an_end is marked


class Run:
    """What a run printed and wrote."""

    def __init__(self, tiny_model: Path, tiny_data: Path, out: Path, *arguments: str) -> None:
        printed, errors = io.StringIO(), io.StringIO()
        self.code = main(
            [
                *(
                    "--model",
                    str(tiny_model),
                    "--data",
                    str(tiny_data),
                    "--out",
                    str(out),
                    "--quick",
                ),
                *("--max-length", "48", "--device", "cpu", "--precision", "float32", *arguments),
            ],
            call=call_here,
            out=Console(file=printed, soft_wrap=True, width=200),
            err=Console(file=errors, soft_wrap=True),
        )
        self.printed, self.errors = printed.getvalue(), errors.getvalue()


def test_the_command_writes_what_its_table_says(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run = Run(
        tiny_model, tiny_data, out, "--layers", "1", "2", "--rates", "1e-3", "1e38", "--markdown"
    )

    assert run.code == 0
    assert [path.name for path in out.iterdir()] == ["depth.json"]
    depths = json.loads((out / "depth.json").read_text())["depth"]
    assert [(each["trained"], each["layers"]) for each in depths] == [
        ("lora", 1),
        ("top_layers", 1),
        ("lora", 2),
        ("top_layers", 2),
    ]
    for each in depths:
        assert [tried["rate"] for tried in each["tried"]] == [1e-3, 1e38]
        assert each["tried"][1]["choice_fall"] is None
        assert each["rate"] == 1e-3
        assert each["chosen"][0] == each["tried"][0]
        mean = student_interval([one["report_fall"] for one in each["chosen"]]).mean
        assert f"{mean:.1%} ±" in run.printed
    assert "| trained | layers |" in run.printed
    assert "whole layers, 2 layers" in run.errors


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--updates", "9", "--pool", "17"], "give --pool 18 or fewer --updates"),
        (["--validation", "1"], "give at least 2"),
    ],
)
def test_too_few_rows_are_refused(
    arguments: list[str], says: str, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    run = Run(tiny_model, tiny_data, tmp_path / "out", *arguments)

    assert run.code == 2
    assert says in run.errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rate", ["0", "-1e-4", "nan", "fast"])
def test_rates_are_above_zero(rate: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([f"--rates={rate}"])
    assert "--rates" in capsys.readouterr().err
