import json
import math
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from raise_mdit import report_figures
from raise_mdit.comparison import ArmResult, summarise
from raise_mdit.config import ExperimentConfig
from raise_mdit.core import Cost
from raise_mdit.report import MINUS, headline, return_trends, write_report

EVIL = "<script>alert('&')</script>"
SHARES = ({"source": "play"},)


def arm(policy: str, seed: int, test_loss: float, **fields: Any) -> ArmResult:
    default: dict[str, Any] = {
        "kind": policy,
        "status": "complete",
        "metric": "exact_match",
        "test_metric": 0.25,
        "target_losses": {"test": 1.0},
        "reward_validation_losses": (2.0, 1.5, 1.25),
        "episode_returns": (),
        "steps": 2,
        "tokens": 20,
        "picks": ({"sort": 2, "reverse": 1}, {"sort": 3}),
        "costs": {"final_training": Cost(20, 30, 2e12, 1.0)},
    }
    return ArmResult(policy=policy, seed=seed, test_loss=test_loss, **{**default, **fields})


def arms(policy: str, *losses: float, **fields: Any) -> list[ArmResult]:
    return [arm(policy, seed, loss, **fields) for seed, loss in enumerate(losses)]


def config(system_prompt: str | None = None) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {
            "name": "which-policy",
            "model": {"system_prompt": system_prompt},
            "data": {
                "sources": ({"name": "play", "kind": "playground"},),
                "pool": SHARES,
                "reward_validation": SHARES,
                "test": SHARES,
            },
            "environment": {"budget": {"steps": 2}},
            "policies": ({"kind": "random"},),
        }
    )


def written(
    path: Path,
    given: list[ArmResult],
    *,
    status: str = "complete",
    notes: tuple[str, ...] = (),
    system_prompt: str | None = None,
) -> str:
    write_report(
        path,
        config=config(system_prompt),
        arms=given,
        summaries=summarise(given),
        status=status,
        versions={"python": "3.11"},
        notes=notes,
    )
    return path.read_text(encoding="utf-8")


class Page(HTMLParser):
    """What a browser would show as text, and which attributes would make it fetch."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.fetches: list[str] = []
        self.num_scripts = 0
        self._hidden = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden = tag in ("script", "style")
        self.num_scripts += tag == "script"
        self.fetches += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += data


COMPARED = [
    *arms("random", 1.5, 1.6, 1.7),
    *arms("ppo", 1.0, 1.1, 1.21, episode_returns=(0.1, 0.2, 0.3, 0.35)),
]


def test_headline_says_who_won_and_at_what_cost() -> None:
    dear = {"policy_training": Cost(flops=4e12), "final_training": Cost(flops=2e12)}
    given = [*arms("random", 1.5, 1.6, 1.7), *arms("ppo", 1.0, 1.1, 1.2, costs=dear)]
    first, second = headline(summarise(given))
    assert first.startswith("ppo ended at 1.1000 [0.8516, 1.3484] nats")
    assert "against 1.6000 [1.3516, 1.8484] for random" in first
    assert re.search(f"difference {MINUS}0.5000 .*: better.$", first)
    assert second == "It cost 6 TFLOP in all, 3\N{MULTIPLICATION SIGN} the FLOPs of random."


def test_headline_calls_an_interval_over_zero_inconclusive() -> None:
    given = [*arms("random", 1.5, 1.6, 1.7), *arms("ppo", 1.0, 2.0, 1.5)]
    assert headline(summarise(given))[0].endswith("inconclusive.")


def test_headline_of_one_seed_gives_no_verdict() -> None:
    first = headline(summarise([arm("random", 0, 1.5), arm("ppo", 0, 1.0)]))[0]
    assert first.endswith(f"difference {MINUS}0.5000: one seed, so no verdict.")


def test_headline_does_not_crown_a_policy_without_the_budget() -> None:
    given = [*COMPARED, *arms("full", 0.5, 0.5, 0.5)]
    assert headline(summarise(given))[0].startswith("ppo ended")


def test_headline_says_when_no_training_is_best() -> None:
    given = [*COMPARED, *arms("base", 0.5, 0.5, 0.5)]
    assert headline(summarise(given))[-1].startswith("Without any training")


def test_headline_without_random_compares_nothing() -> None:
    assert "no random arm" in headline(summarise(arms("ppo", 1.0, 2.0)))[1]


def test_headline_passes_over_a_loss_that_is_not_finite() -> None:
    given = [*COMPARED, *arms("broken", math.nan, 0.1, 0.1)]
    assert headline(summarise(given))[0].startswith("ppo ended")


@pytest.mark.parametrize(
    ("returns", "word"),
    [
        ((0.1, 0.2, 0.31, 0.4), "rises"),
        ((0.4, 0.3, 0.21, 0.1), "falls"),
        ((0.1, 0.3, 0.1, 0.2), "inconclusive"),
    ],
)
def test_trend_of_returns_in_words(returns: tuple[float, ...], word: str) -> None:
    (sentence,) = return_trends(
        [arm("random", 0, 1.0), arm("ppo", 0, 1.0, episode_returns=returns)]
    )
    quarters = f"{returns[0]:.3f} in the first quarter of the episodes and {returns[-1]:.3f} in"
    assert sentence.startswith(f"ppo: mean return {quarters} the last, higher in ")
    assert f"in {int(returns[-1] > returns[0])} of 1 runs. Fitted slope" in sentence
    assert sentence.endswith(f"within its one seed: {word}.")


def test_two_episodes_have_no_trend() -> None:
    assert return_trends([arm("ppo", 0, 1.0, episode_returns=(0.1, 0.2))]) == []


def test_report_shows_table_notes_and_versions(tmp_path: Path) -> None:
    page = Page(written(tmp_path / "report.html", COMPARED, notes=("12 rows were removed",)))
    for text in ("which-policy", "1.6000", "25.0%", "reference", "better", "12 rows", "3.11"):
        assert text in page.text


def test_report_needs_no_network(tmp_path: Path) -> None:
    html = written(tmp_path / "report.html", COMPARED)
    assert Page(html).fetches == []
    assert "default-src 'none'" in html
    assert "@import" not in html


def test_report_is_smaller_than_eight_megabytes(tmp_path: Path) -> None:
    written(tmp_path / "report.html", COMPARED)
    assert (tmp_path / "report.html").stat().st_size < 8e6


def test_report_of_the_same_results_is_the_same(tmp_path: Path) -> None:
    assert written(tmp_path / "a.html", COMPARED) == written(tmp_path / "b.html", COMPARED)


def test_markup_in_names_and_texts_shows_as_text(tmp_path: Path) -> None:
    plain = Page(written(tmp_path / "plain.html", COMPARED))
    given = [
        *arms("random", 1.5, 1.6),
        *arms(EVIL, 1.0, 1.1, picks=({EVIL: 3},), episode_returns=(0.1, 0.2, 0.3)),
    ]
    html = written(tmp_path / "evil.html", given, status=EVIL, notes=(EVIL,), system_prompt=EVIL)
    page = Page(html)
    assert "<script>alert" not in html
    assert page.num_scripts == plain.num_scripts
    # Status, sentences, table, legends, heading of picks, note and configuration.
    assert page.text.count(EVIL) >= 8


def test_label_of_a_plot_is_escaped_for_plotly() -> None:
    figure = report_figures.sealed_losses([arm(EVIL, 0, 1.0)], summarise([arm(EVIL, 0, 1.0)]))
    assert "<" not in figure.data[0].name
    assert unescape(figure.data[0].name) == EVIL


def test_report_without_arms_says_so(tmp_path: Path) -> None:
    page = Page(written(tmp_path / "report.html", [], status="running"))
    assert "No policy has finished" in page.text
    assert "What was picked" not in page.text


def test_numbers_that_are_not_finite_leave_gaps(tmp_path: Path) -> None:
    broken = arm("ppo", 0, math.nan, reward_validation_losses=(2.0, math.inf), steps=1)
    given = [*arms("random", 1.5, 1.6), broken]
    assert "not finite" in Page(written(tmp_path / "report.html", given)).text
    drawn = report_figures.validation_losses(given).to_json()
    assert json.loads(drawn)["data"][-1]["y"] == [2.0, None]


def test_shares_of_picks_add_up_to_one_at_each_step() -> None:
    many = {f"task-{index:02}": index + 1 for index in range(15)}
    given = [arm("ppo", seed, 1.0, picks=(many, {"sort": 1})) for seed in range(2)]
    groups = report_figures.largest_groups(given)
    figure = report_figures.picks(given, groups)
    assert len(groups) == report_figures.MAX_GROUPS
    for step in range(2):
        assert sum(bar.y[step] for bar in figure.data) == pytest.approx(1.0)


def test_long_runs_are_averaged_to_few_bars() -> None:
    given = [arm("ppo", 0, 1.0, picks=({"sort": 1},) * 1000)]
    figure = report_figures.picks(given, ("sort",))
    assert len(figure.data[0].x) <= report_figures.MAX_BARS


def test_costs_are_stacked_in_tflop_as_means_over_seeds() -> None:
    pair = [
        arm("ppo", 0, 1.0, costs={"features": Cost(flops=1e12)}),
        arm("ppo", 1, 1.0, costs={"features": Cost(flops=3e12), "synthesis": Cost(flops=4e12)}),
    ]
    bars = report_figures.costs(pair).data
    assert [list(bar.x) for bar in bars] == [[2.0], [2.0]]


def test_colour_of_a_policy_follows_its_place() -> None:
    colours = report_figures.policy_colours(COMPARED)
    assert list(colours) == ["random", "ppo"]
    assert list(colours.values()) == list(report_figures.POLICY_COLOURS[:2])


def test_running_mean_looks_back_only() -> None:
    values = [float(value) for value in range(10)]
    means = report_figures.running_mean(values)
    assert means[:3] == [0.0, 0.5, 1.0]
    assert means[-1] == sum(range(2, 10)) / 8


# Several targets.

TARGETS = [
    *arms("base", 4.0, 4.0, target_losses={"<short>": 4.0, "long": 2.0}),
    *arms("random", 2.0, 2.2, target_losses={"<short>": 2.0, "long": 1.5}),
    *arms("ppo", 3.0, 3.1, target_losses={"<short>": 1.0, "long": 1.0}),
]
"""By the loss over all tokens random is best, by targets ppo."""


def test_the_headline_over_several_targets_is_about_what_is_compared() -> None:
    first, *_ = headline(summarise(TARGETS))

    assert first.startswith("ppo ended at 0.3750 ")
    assert "of the base model's loss (mean over 2 targets) on the sealed test" in first
    assert "against 0.6250 [0.6250, 0.6250] for random" in first
    assert f"difference {MINUS}0.2500" in first


def test_without_base_the_headline_over_several_targets_concludes_nothing() -> None:
    assert headline(summarise(TARGETS[2:])) == [
        "No policy has finished that could be compared with random."
    ]


def test_several_targets_have_a_table_of_their_losses(tmp_path: Path) -> None:
    text = Page(written(tmp_path / "report.html", TARGETS)).text

    words = " ".join(text.split())
    assert "Loss over base's, by target" in words
    assert "as a share of the base model's on that target: the base arm of this run" in words
    table = words[words.index("Loss on each target") :]
    assert table.startswith("Loss on each target Policy <short> (nats) long (nats) base 4.0000")
    assert "ppo 1.0000 [1.0000, 1.0000] 1.0000" in table


def test_one_target_has_no_table_of_its_own(tmp_path: Path) -> None:
    text = Page(written(tmp_path / "report.html", COMPARED)).text

    assert "Loss on each target" not in text
    assert "by target" not in text


def test_what_is_drawn_of_several_targets_is_what_is_compared() -> None:
    figure = report_figures.sealed_losses(TARGETS, summarise(TARGETS))

    assert [trace.x[0] for trace in figure.data[::2]] == [1.0, 0.625, 0.375]
    assert figure.layout.xaxis.title.text == "loss over the base model's"


@pytest.mark.parametrize("metric", ["exact_match", "option_likelihood"])
def test_the_metric_has_a_column_under_its_name(tmp_path: Path, metric: str) -> None:
    given = arms("random", 1.0, metric=metric, test_metric=0.375)

    text = Page(written(tmp_path / "report.html", given)).text

    assert metric.replace("_", " ").capitalize() in text
    assert "37.5%" in text


def test_without_a_metric_there_is_no_column(tmp_path: Path) -> None:
    given = arms("random", 1.0, metric=None, test_metric=None)

    assert "match" not in Page(written(tmp_path / "report.html", given)).text.lower()
