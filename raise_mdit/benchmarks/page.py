"""A benchmark as one page of HTML that needs no network and forbids itself any."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go
from markupsafe import Markup

from raise_mdit.benchmarks.benchmark import Benchmark
from raise_mdit.benchmarks.tables import PART_NAMES, TIMES, tables
from raise_mdit.pages import rendered
from raise_mdit.plots import embedded, empty_figure
from raise_mdit.runs import write_text

# The first of the report's colours of policies: seen on white and on near-black.
COLOURS = ("#7f8c9b", "#e69f00", "#0072b2", "#009e73", "#d55e00")
NAIVE, OURS, ALSO = COLOURS[0], COLOURS[2], COLOURS[3]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Panel:
    """A plot with its legend."""

    figure: Markup
    legend: dict[str, str]


def write_page(path: Path, benchmark: Benchmark) -> None:
    """Write the page; one that is there is replaced."""
    panels = {
        "Seconds by part": _panel(_seconds(benchmark), "seconds"),
        "Seconds by size of the pool": _panel(_pools(benchmark), "pools"),
        "Seconds of each learner and step": _panel(_learners(benchmark), "learners"),
    }
    page = rendered(
        "benchmarks/page.html",
        sentence=_headline(benchmark),
        tables=tables(benchmark),
        panels={title: panel for title, panel in panels.items() if panel is not None},
        facts={key: _fact(value) for key, value in benchmark.machine.items()},
    )
    write_text(path, page)


def _headline(benchmark: Benchmark) -> str:
    ratios = {part: f"{ratio:.3g}{TIMES}" for part, ratio in benchmark.ratios.items()}
    return (
        f"Against a plain fine-tuning, an update is {ratios['update']} as fast, a validation pass "
        f"{ratios['validation']}, an environment step {ratios['env_step']} and the training of a "
        f"policy {ratios['training']}."
    )


def _fact(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _seconds(benchmark: Benchmark) -> go.Figure:
    figure = empty_figure(None, "seconds (log)")
    for (name, measured), colour in zip(benchmark.variants.items(), COLOURS, strict=True):
        figure.add_bar(
            x=list(PART_NAMES.values()),
            y=[getattr(measured.seconds, part) for part in PART_NAMES],
            marker={"color": colour},
            name=name.replace("_", " "),
        )
    figure.update_yaxes(type="log", dtick=1)
    return figure


def _pools(benchmark: Benchmark) -> go.Figure:
    figure = empty_figure("candidates (log)", "seconds (log)")
    sizes = [scale.candidates for scale in benchmark.pool_scaling]
    lines = {
        "environment step": [scale.env_step_seconds for scale in benchmark.pool_scaling],
        "scoring all": [scale.scoring_seconds for scale in benchmark.pool_scaling],
    }
    for (name, values), colour in zip(lines.items(), (OURS, ALSO), strict=True):
        figure.add_scatter(
            x=sizes,
            y=values,
            mode="lines+markers",
            line={"color": colour},
            marker={"color": colour},
            name=name,
        )
    figure.update_xaxes(type="log", dtick="D2")
    figure.update_yaxes(type="log", dtick="D2")
    return figure


def _learners(benchmark: Benchmark) -> go.Figure:
    figure = empty_figure("learners at once", "seconds")
    fitting = [each for each in benchmark.learners_at_once if each.seconds is not None]
    bars = {
        "one after another": [each.separate_seconds for each in fitting],
        "together": [each.seconds for each in fitting],
    }
    for (name, values), colour in zip(bars.items(), (NAIVE, OURS), strict=True):
        figure.add_bar(
            x=[f"{each.learners}" for each in fitting],
            y=values,
            marker={"color": colour},
            name=name,
        )
    figure.update_xaxes(type="category")
    return figure


def _panel(figure: go.Figure, name: str) -> _Panel | None:
    """The figure with its legend, or nothing where it has nothing to show."""
    if not any(len(trace.y) for trace in figure.data):
        return None
    legend = {trace.name: trace.marker.color for trace in figure.data}
    return _Panel(figure=embedded(figure, name), legend=legend)
