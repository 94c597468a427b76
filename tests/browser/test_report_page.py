"""The pages as a real browser shows them: report, explanation and benchmark."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.arm_results import arm
from helpers.runs_on_disk import PLANTED, finished_arms, write_run

from raise_mdit.benchmarks.benchmark import Benchmark
from raise_mdit.benchmarks.learners_at_once import AtOnce
from raise_mdit.benchmarks.page import write_page as write_benchmark
from raise_mdit.benchmarks.policy_training import Overhead
from raise_mdit.benchmarks.pool_scaling import PoolScale
from raise_mdit.benchmarks.setting import Setting, Sizes
from raise_mdit.benchmarks.variants import VARIANTS, Measured, Parts
from raise_mdit.comparison import summarise
from raise_mdit.explanation import ExplainedPick, Explanation
from raise_mdit.explanation_page import write_page as write_explanation
from raise_mdit.report import REPORT_FILE, write_report
from raise_mdit.report_sentences import headline
from raise_mdit.results import ArmResult

pytestmark = pytest.mark.browser

PAGES = ("report", "explanation", "benchmark")
DRAWN = """(plot) => plot.querySelectorAll(
  ".overplot .point, .overplot .js-line, .overplot .js-fill"
).length"""
"""Marks that a plot has on the screen."""
NONE_STICKS_OUT = """
() => [...document.querySelectorAll(".plotly-graph-div .main-svg, .legend, p, h1, h2, h3")]
  .every((each) => each.getBoundingClientRect().right <= innerWidth)
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, visit: Callable[[Path], Any]) -> dict[str, Any]:
    """Each of the project's pages, open, with an instruction that would run if it could."""
    folder = tmp_path_factory.mktemp("pages")
    write_explanation(folder / "explanation.html", explanation(), top=5)
    write_benchmark(folder / "benchmark.html", benchmark())
    files = (report(folder / "run"), folder / "explanation.html", folder / "benchmark.html")
    return dict(zip(PAGES, map(visit, files), strict=True))


@pytest.fixture
def page(request: pytest.FixtureRequest, pages: dict[str, Any]) -> Iterator[Any]:
    """The page that a test names, or the report; it is put back as it was opened."""
    found = pages[getattr(request, "param", "report")].page
    yield found
    found.emulate_media(media="screen", color_scheme="light")
    found.set_viewport_size({"width": 1280, "height": 800})


def report(directory: Path, given: Sequence[ArmResult] = ()) -> Path:
    """A complete run, of six policies and four that are as good as random if none are given."""
    run = write_run(directory, given or given_arms())
    write_report(
        directory,
        config=run.config,
        arms=run.arms,
        summaries=summarise(run.arms),
        status="complete",
        versions={"python": "3.11"},
        notes=[PLANTED],
    )
    return directory / REPORT_FILE


def given_arms() -> list[ArmResult]:
    """Ten policies, some with names that would run if they could."""
    return finished_arms(seeds=4, extra=[f"{PLANTED} {at}" for at in range(4)])


def explanation() -> Explanation:
    rng = np.random.default_rng(0)
    picks = tuple(_explained(step, slot, rng) for step in range(4) for slot in range(2))
    counts = ({PLANTED: 1, "alpaca": 1}, {"alpaca": 2}) * 2
    return Explanation(
        experiment="which-policy",
        result=arm("ppo", 0, 1.0),
        groups=("stage", "kind", "semantic"),
        columns=("prompt_tokens", "is_mdit"),
        column_groups=("difficulty", "kind"),
        picks=picks,
        attributions=rng.uniform(size=(4, 3)),
        counts={"source": counts, "kind": counts, "cluster": counts},
        notes=(PLANTED,),
    )


def _explained(step: int, slot: int, rng: np.random.Generator) -> ExplainedPick:
    parts = rng.normal(size=3)
    return ExplainedPick(
        step=step,
        slot=slot,
        id="0" * 32,
        kind="original",
        source="alpaca",
        cluster="original 1",
        task=PLANTED,
        text=f"{PLANTED} and so on",
        score=1.0 + float(parts.sum()),
        lift=float(parts.sum()),
        log_probability=-1.5,
        features=rng.normal(size=2).astype(np.float32),
        window_means=rng.normal(size=2),
        attributions=parts,
    )


def benchmark() -> Benchmark:
    overhead = Overhead(0.1, 0.001, 0.02, 0.05)
    setting = Setting(
        model="tiny",
        device="cpu",
        precision="float32",
        pool=None,  # type: ignore[arg-type]  # the page shows nothing of it
        validation=(),
        sizes=Sizes(),
        models=Path(),
        scratch=Path(),
    )
    measured = {
        variant.name: Measured(
            Parts(*(0.1 / (1 + at) * part for part in (1, 2, 3, 18, 400))),
            Parts(1e9, 2e9, 3e9, 2e10, 4e11),
            2**28,
            overhead if variant.trains_policy else None,
        )
        for at, variant in enumerate(VARIANTS)
    }
    return Benchmark(
        setting=setting,
        machine={"processor": PLANTED, "cores": 2},
        variants=measured,
        pool_scaling=[PoolScale(10**at, 0.001, 1000, 1000, 1e-5 * 10**at) for at in range(2, 5)],
        learners_at_once=[AtOnce(1, 0.2, 0.2), AtOnce(4, 0.1, 0.2), AtOnce(64, None, 0.2)],
    )


@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_without_errors_and_requests_nothing(name: str, pages: dict[str, Any]) -> None:
    seen = pages[name]
    assert seen.errors == []
    assert seen.requests == [seen.page.url]
    assert seen.page.url.startswith("file://")


@pytest.mark.parametrize(
    ("page", "count"), [("report", 25), ("explanation", 5), ("benchmark", 3)], indirect=["page"]
)
def test_every_plot_has_marks(page: Any, count: int) -> None:
    plots = page.query_selector_all(".plotly-graph-div")
    marks = {plot.get_attribute("id"): plot.evaluate(DRAWN) for plot in plots}
    assert len(marks) == count
    assert min(marks.values()) > 0, marks


@pytest.mark.parametrize("page", PAGES, indirect=True)
def test_what_instructions_hold_is_text_and_does_not_run(page: Any) -> None:
    assert page.evaluate("typeof window.pwned") == "undefined"
    assert page.query_selector_all("img") == []
    assert "<script>window.pwned = 1</script>" in page.inner_text("main")


def test_a_map_shows_the_instruction_as_text_when_a_mark_is_pointed_at(page: Any) -> None:
    shown = page.evaluate(
        """() => {
          const plot = document.getElementById("figure-map-0");
          for (const [curve, trace] of plot.data.entries()) {
            const point = trace.text.findIndex((text) => text.includes("window.pwned"));
            if (point < 0) continue;
            Plotly.Fx.hover(plot, [{ curveNumber: curve, pointNumber: point }]);
            return plot.querySelector(".hoverlayer").textContent;
          }
        }"""
    )
    assert "<script>window.pwned = 1</script>" in shown
    assert page.evaluate("typeof window.pwned") == "undefined"


def _column(page: Any, heading: str) -> list[str]:
    """What the rows of the first table are sorted by in a column, from the top."""
    values = page.evaluate(
        """(heading) => {
          const table = document.querySelector("table");
          const heads = [...table.tHead.rows[0].cells];
          const at = heads.findIndex((head) => head.textContent.trim() === heading);
          return [...table.tBodies[0].rows].map((row) => row.cells[at].dataset.sort);
        }""",
        heading,
    )
    return [str(value) for value in values]


def test_the_table_sorts_by_a_click_and_back_by_another(page: Any) -> None:
    page.locator("th button", has_text="Policy").first.click()
    words = [name for name in _column(page, "Policy") if name.isalpha()]
    assert words == ["base", "dsir", "full", "longest", "ppo", "random"]
    by_name = [float(value) for value in _column(page, "Test loss (nats)")]
    head = page.locator("th", has_text="Test loss (nats)").first
    head.locator("button").click()
    ascending = [float(value) for value in _column(page, "Test loss (nats)")]
    assert ascending == sorted(by_name) != by_name
    assert head.get_attribute("aria-sort") == "ascending"
    head.locator("button").click()
    assert [float(value) for value in _column(page, "Test loss (nats)")] == ascending[::-1]
    assert head.get_attribute("aria-sort") == "descending"


def test_the_table_sorts_by_keyboard_with_unknown_values_last(page: Any) -> None:
    button = page.locator("th button", has_text="Against random")
    for key in ("Enter", "Space"):
        button.focus()
        page.keyboard.press(key)
        values = _column(page, "Against random")
        assert values[-1] == ""  # random itself
        numbers = [float(value) for value in values[:-1]]
        assert numbers == sorted(numbers, reverse=key == "Space")
    assert len(page.query_selector_all("th[aria-sort]")) == 1


def test_the_first_screen_answers_in_two_sentences(page: Any, artifacts: Path) -> None:
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=artifacts / "report-first-screen.png")
    sentences = headline(summarise(given_arms()))
    assert len(sentences) == 2
    for sentence in sentences:
        box = page.get_by_text(sentence, exact=True).bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= 800
    assert "ppo won" in sentences[0]
    assert "ppo cost" in sentences[1]


@pytest.mark.parametrize("width", [360, 768, 1400])
@pytest.mark.parametrize("page", PAGES, indirect=True)
def test_tables_scroll_in_their_own_box_and_the_page_never(
    page: Any, width: int, artifacts: Path, request: pytest.FixtureRequest
) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.wait_for_function(NONE_STICKS_OUT)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=artifacts / f"{request.node.callspec.id}.png", full_page=True)


def test_no_table_of_a_report_scrolls_at_1280(
    tmp_path: Path, visit: Callable[[Path], Any], artifacts: Path
) -> None:
    """Twelve policies, every reference, a task metric and several targets: the widest there is."""
    extra = [f"nearest_to_target-{at:02}" for at in range(6)]
    given = [measured(each, at) for at, each in enumerate(finished_arms(seeds=2, extra=extra))]
    path = report(tmp_path / "run", given)
    opened = visit(path).page

    opened.screenshot(path=artifacts / "report-12-policies.png", full_page=True)
    widths = opened.evaluate(
        """() => [...document.querySelectorAll(".wide")].map(
          (each) => [each.clientWidth, each.scrollWidth])"""
    )
    opened.close()

    assert len(widths) == 3
    assert all(scrolled <= seen for seen, scrolled in widths), widths


def measured(given: ArmResult, at: int) -> ArmResult:
    """With a task metric and two targets, and the widest numbers that a run is likely to have."""
    assert given.test is not None
    losses = {"gsm8k": given.test.loss, "commonsense_qa": given.test.loss + at / 100}
    test = replace(given.test, metric=0.1 + at / 50, target_losses=losses)
    return replace(given, test=test, metric="option_likelihood", tokens=123_456_789)


@pytest.mark.parametrize("page", PAGES, indirect=True)
def test_a_dark_screen_has_a_dark_ground_and_light_plots(
    page: Any, artifacts: Path, request: pytest.FixtureRequest
) -> None:
    page.emulate_media(color_scheme="dark")
    page.screenshot(path=artifacts / f"{request.node.callspec.id}-dark.png", full_page=True)
    ground, text = page.evaluate(
        """() => [
          getComputedStyle(document.body).backgroundColor,
          getComputedStyle(document.querySelector(".xtick text")).fill,
        ]"""
    )
    assert _lightness(ground) < 40
    assert _lightness(text) > 200


@pytest.mark.parametrize("page", PAGES, indirect=True)
def test_on_paper_plots_fit_and_the_ground_is_white_also_from_a_dark_screen(
    page: Any, artifacts: Path, request: pytest.FixtureRequest
) -> None:
    page.set_viewport_size({"width": 703, "height": 1000})  # A4 less 12 mm on either side
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.screenshot(path=artifacts / f"{request.node.callspec.id}-paper.png", full_page=True)
    wide = page.evaluate(
        """() => [...document.querySelectorAll(".plotly-graph-div .main-svg, table")]
          .filter((each) => {
            const box = (each.closest(".panel") ?? document.body).getBoundingClientRect();
            return each.getBoundingClientRect().right > box.right + 1;
          })
          .map((each) => (each.closest(".plotly-graph-div") ?? each).id)"""
    )
    assert wide == []
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.pdf(path=artifacts / f"{request.node.callspec.id}.pdf", format="A4")


def test_a_script_that_is_not_the_pages_own_cannot_run(pages: dict[str, Any]) -> None:
    seen = pages["report"]
    with seen.page.expect_console_message(lambda said: "Content Security Policy" in said.text):
        seen.page.evaluate(
            """() => {
              const script = document.createElement("script");
              script.textContent = "window.pwned = 1";
              document.body.append(script);
            }"""
        )
    assert seen.page.evaluate("typeof window.pwned") == "undefined"
    seen.errors.clear()


def _lightness(colour: str) -> float:
    """Mean of red, green and blue of `rgb(…)`, from 0 to 255."""
    parts = [int(part) for part in re.findall(r"\d+", colour)[:3]]
    return sum(parts) / 3
