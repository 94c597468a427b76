"""A benchmark as one page of HTML that needs no network and forbids itself any."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import plotly.graph_objects as go
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from raise_mdit.benchmarks.benchmark import Benchmark
from raise_mdit.benchmarks.tables import PART_NAMES, TIMES, tables
from raise_mdit.plots import embedded
from raise_mdit.runs import write_text

# Okabe & Ito 2008, as in the report of an experiment: seen on white and on near-black.
COLOURS = ("#7f8c9b", "#e69f00", "#0072b2", "#009e73", "#d55e00")


def write_page(path: Path, benchmark: Benchmark) -> None:
    """Write the page; one that is there is replaced."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(
        files("raise_mdit.benchmarks").joinpath("page.html").read_text(encoding="utf-8")
    )
    panels = {
        "Seconds by part": _html(_seconds(benchmark), "seconds"),
        "Seconds by size of the pool": _html(_pools(benchmark), "pools"),
        "Seconds of each learner and step": _html(_learners(benchmark), "learners"),
    }
    page = template.render(
        sentence=_headline(benchmark),
        tables=tables(benchmark),
        panels={title: panel for title, panel in panels.items() if panel is not None},
        facts={key: _fact(value) for key, value in benchmark.machine.items()},
        plotly=Markup(get_plotlyjs()),  # a constant of the package
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
    figure = _figure("", "seconds (log)")
    for (name, measured), colour in zip(benchmark.variants.items(), COLOURS, strict=True):
        figure.add_bar(
            x=list(PART_NAMES.values()),
            y=[getattr(measured.seconds, part) for part in PART_NAMES],
            marker={"color": colour},
            name=name.replace("_", " "),
        )
    figure.update_yaxes(type="log")
    return figure


def _pools(benchmark: Benchmark) -> go.Figure:
    figure = _figure("candidates (log)", "seconds (log)")
    sizes = [scale.candidates for scale in benchmark.pool_scaling]
    lines = {
        "environment step": [scale.env_step_seconds for scale in benchmark.pool_scaling],
        "scoring all": [scale.scoring_seconds for scale in benchmark.pool_scaling],
    }
    for (name, values), colour in zip(lines.items(), COLOURS[2:], strict=False):
        figure.add_scatter(
            x=sizes, y=values, mode="lines+markers", line={"color": colour}, name=name
        )
    figure.update_xaxes(type="log")
    figure.update_yaxes(type="log")
    return figure


def _learners(benchmark: Benchmark) -> go.Figure:
    figure = _figure("learners at once", "seconds")
    fitting = [each for each in benchmark.learners_at_once if each.seconds is not None]
    bars = {
        "one after another": [each.separate_seconds for each in fitting],
        "together": [each.seconds for each in fitting],
    }
    for (name, values), colour in zip(bars.items(), (COLOURS[0], COLOURS[2]), strict=True):
        figure.add_bar(
            x=[f"{each.learners}" for each in fitting],
            y=values,
            marker={"color": colour},
            name=name,
        )
    figure.update_xaxes(type="category")
    return figure


def _figure(x: str, y: str) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=360,
        margin={"l": 64, "r": 12, "t": 12, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "y": 1.15},
        barmode="group",
    )
    figure.update_xaxes(title=x, fixedrange=True)
    figure.update_yaxes(title=y, fixedrange=True)
    return figure


def _html(figure: go.Figure, name: str) -> Markup | None:
    """The figure for the page, or nothing where it has nothing to show."""
    if not any(len(trace.y) for trace in figure.data):
        return None
    return embedded(figure, name)
