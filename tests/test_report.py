"""The page of a run as text; how a browser shows it is tested in `browser/`."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from helpers.arm_results import arm, arms
from helpers.runs_on_disk import PLANTED, finished_arms, make_config, write_run

from raise_mdit.comparison import summarise
from raise_mdit.errors import RunError
from raise_mdit.report import REPORT_FILE, write_report
from raise_mdit.results import ArmResult

EVIL = "<script>alert('&')</script>"


def written(
    directory: Path,
    given: list[ArmResult],
    *,
    status: str = "complete",
    notes: tuple[str, ...] = (),
    system_prompt: str | None = None,
) -> str:
    directory.mkdir(exist_ok=True)
    write_report(
        directory,
        config=make_config(system_prompt),
        arms=given,
        summaries=summarise(given),
        status=status,
        versions={"python": "3.11"},
        notes=notes,
    )
    return (directory / REPORT_FILE).read_text(encoding="utf-8")


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
        self.num_scripts += tag == "script" and ("type", "application/json") not in attrs
        self.fetches += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += data

    @property
    def words(self) -> str:
        """The text with single spaces."""
        return " ".join(self.text.split())


COMPARED = [
    *arms("random", 1.5, 1.6, 1.7, metric="exact_match", metric_value=0.25),
    *arms(
        "ppo",
        *(1.0, 1.1, 1.21),
        episode_returns=(0.1, 0.2, 0.3, 0.35),
        metric="exact_match",
        metric_value=0.5,
    ),
]


def test_report_shows_table_notes_and_versions(tmp_path: Path) -> None:
    page = Page(written(tmp_path, COMPARED, notes=("12 rows were removed",)))
    for text in ("which-policy", "1.6000", "25.0%", "reference", "better", "12 rows", "3.11"):
        assert text in page.text


def test_report_needs_no_network(tmp_path: Path) -> None:
    html = written(tmp_path, COMPARED)
    assert Page(html).fetches == []
    assert "default-src 'none'" in html
    assert "@import" not in html


def test_scripts_are_allowed_by_their_hashes_alone(tmp_path: Path) -> None:
    (policy,) = re.findall(r"script-src ([^;]*);", written(tmp_path, COMPARED))
    assert re.fullmatch(r"('sha256-[\w+/]{43}=' ?){2}", policy)


def test_report_of_the_same_results_is_the_same(tmp_path: Path) -> None:
    assert written(tmp_path / "a", COMPARED) == written(tmp_path / "b", COMPARED)


def test_a_large_run_makes_a_page_below_eight_megabytes(tmp_path: Path) -> None:
    steps = 2_000
    losses = tuple((2 + np.random.default_rng(0).normal(size=steps + 1)).tolist())
    long = dict[str, object](
        steps=steps,
        reward_validation_losses=losses,
        episode_returns=losses,
        step_tokens=tuple(range(steps + 1)),
        step_flops=tuple(np.linspace(1e12, 9e12, steps + 1).tolist()),
        picks=({"a rather long name of a task": 8},) * steps,
    )
    labels = [f"policy-{at:02}" for at in range(20)]
    given = [arm(label, seed, 1.5, **long) for seed in range(3) for label in labels]
    written(tmp_path, given)
    assert (tmp_path / REPORT_FILE).stat().st_size < 8e6


def test_markup_in_names_and_texts_shows_as_text(tmp_path: Path) -> None:
    plain = Page(written(tmp_path / "plain", COMPARED))
    given = [
        *arms("random", 1.5, 1.6),
        *arms(EVIL, 1.0, 1.1, picks=({EVIL: 3},), episode_returns=(0.1, 0.2, 0.3)),
    ]
    html = written(tmp_path / "evil", given, status=EVIL, notes=(EVIL,), system_prompt=EVIL)
    page = Page(html)
    assert "<script>alert" not in html
    assert page.num_scripts == plain.num_scripts == 2
    # Status, sentences, table, legends, heading of picks, note and configuration.
    assert page.text.count(EVIL) >= 8


def test_texts_of_candidates_stand_in_the_page_once_and_harmless(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", finished_arms(seeds=1))
    html = written(run.directory, [*run.arms])
    (texts,) = re.findall(r'<script[^>]* id="candidates">(.*)</script>', html)
    assert PLANTED.startswith("<script>window.pwned")
    assert "<" not in texts
    assert html.count("window.pwned") == texts.count("window.pwned") > 1


def test_report_without_arms_says_so(tmp_path: Path) -> None:
    page = Page(written(tmp_path, [], status="running"))
    assert "No policy has finished" in page.text
    assert "What was picked" not in page.text


def test_a_run_of_an_older_version_says_why_it_has_no_map(tmp_path: Path) -> None:
    page = Page(written(tmp_path, COMPARED))
    assert "No map of picks: the run has no pool.parquet, features.safetensors" in page.words
    assert "By group" in page.text
    assert "By cluster" not in page.text


def test_features_of_another_pool_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", finished_arms(seeds=1))
    other = write_run(tmp_path / "other", finished_arms(seeds=1))
    fewer = other.pool.of(())
    fewer.write(run.directory / "pool.parquet")
    with pytest.raises(RunError, match=r"features.safetensors: of 80 candidates, .* has 0"):
        written(run.directory, [*run.arms])


def test_a_test_that_is_not_opened_is_told_at_the_top(tmp_path: Path) -> None:
    opened = [*arms("random", 1.5, 1.6), *arms("ppo", 1.0, 1.1)]
    given = [_unopened(each) for each in opened]
    page = Page(written(tmp_path / "closed", given))
    assert "the sealed test is not opened: losses are of model-selection data" in page.words
    assert "Model-selection loss (nats)" in page.words
    assert "not opened" not in Page(written(tmp_path / "open", opened)).words


def _unopened(result: ArmResult) -> ArmResult:
    fields = {name: getattr(result, name) for name in result.__dataclass_fields__}
    return ArmResult(**{**fields, "test": None, "model_selection": result.test})


def test_numbers_that_are_not_finite_are_named(tmp_path: Path) -> None:
    broken = arm("ppo", 0, float("nan"), reward_validation_losses=(2.0, float("inf")))
    assert "not finite" in Page(written(tmp_path, [*arms("random", 1.5, 1.6), broken])).text


TARGETS = [
    *arms("base", 4.0, 4.0, target_losses={"<short>": 4.0, "long": 2.0}),
    *arms("random", 2.0, 2.2, target_losses={"<short>": 2.0, "long": 1.5}),
    *arms("ppo", 3.0, 3.1, target_losses={"<short>": 1.0, "long": 1.0}),
]
"""By the loss over all tokens random is best, by targets ppo."""


def test_several_targets_have_a_table_of_their_losses(tmp_path: Path) -> None:
    words = Page(written(tmp_path, TARGETS)).words
    assert "Loss over base's" in words
    assert "as a share of the base model's on that target: the base arm of this run" in words
    table = words[words.index("Loss on each target") :]
    assert table.startswith("Loss on each target Policy <short> (nats) long (nats) base 4.0000")
    assert "ppo 1.0000 [1.0000, 1.0000] 1.0000" in table


def test_one_target_has_no_table_of_its_own(tmp_path: Path) -> None:
    words = Page(written(tmp_path, COMPARED)).words
    assert "Loss on each target" not in words
    assert "Loss over base's" not in words


@pytest.mark.parametrize(
    ("metric", "shown"),
    [("exact_match", "Exact match"), ("mine.scores:is_polite", "Is polite")],
)
def test_the_metric_has_a_column_and_is_held_against_the_loss(
    metric: str, shown: str, tmp_path: Path
) -> None:
    losses = {"random": (1.0, 0.375), "ppo": (0.9, 0.5), "ucb": (0.8, 0.625)}
    given = [
        arm(policy, 0, loss, metric=metric, metric_value=value)
        for policy, (loss, value) in losses.items()
    ]
    words = Page(written(tmp_path, given)).words
    assert f" {shown} " in words
    assert "37.5%" in words
    assert "Does the loss stand for the task metric?" in words
    assert "rank correlation 1.00" in words


def test_without_a_metric_there_is_nothing_of_it(tmp_path: Path) -> None:
    words = Page(written(tmp_path, arms("random", 1.0))).words.lower()
    assert "match" not in words
    assert "task metric?" not in words
