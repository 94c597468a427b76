"""What all plots of the project's pages have in common: their frame, and how a page holds them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go
from markupsafe import Markup

from raise_mdit.shortening import shortened
from raise_mdit.statistics import Interval

# Paul Tol's "muted" scheme: apart from the colours of policies, since it means groups.
GROUP_COLOURS = (
    "#6a5acd", "#44aa99", "#ddaa77", "#cc6677", "#88ccee", "#117733", "#aa4499", "#999933",
    "#999999",
)  # fmt: skip

LOG_FROM = 20.0
"""Largest over smallest amount from which an axis is logarithmic."""
NAME_LENGTH = 22
"""Characters of a name that a plot shows."""

_HARMLESS = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026"}
"""What could end the element that JSON stands in, as JSON's own escapes."""


def empty_figure(
    x: str | None, y: str | None, *, height: int = 360, left: int = 56, right: int = 12
) -> go.Figure:
    """A figure with titled axes and nothing in it, for light and dark pages.

    Args:
        x: Title of the axis; None for none.
        y: Title of the axis; None for none.
        height: In pixels.
        left: Margin in pixels.
        right: Margin in pixels.
    """
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": left, "r": right, "t": 12, "b": 44 if x else 28},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        showlegend=False,
        hovermode="closest",
    )
    figure.update_xaxes(title=x, title_font_size=13, zeroline=False, fixedrange=True)
    figure.update_yaxes(title=y, title_font_size=13, zeroline=False, fixedrange=True)
    return figure


def name_rows(figure: go.Figure, names: Sequence[str]) -> None:
    """Give the rows of a plot their names, the first on top; row ``i`` lies at height ``i``.

    A long name is cut, as an axis has room for it on a phone; hovering shows what the trace says.

    Args:
        figure: Whose rows they are.
        names: As people write them; they are escaped here.
    """
    figure.update_yaxes(
        tickvals=list(range(len(names))),
        ticktext=[short_name(name) for name in names],
        range=[len(names) - 0.5, -0.5],
        automargin=True,
        showgrid=False,
        ticklabelstandoff=6,
    )


def short_name(name: str) -> str:
    """A name as a plot has room for it, escaped for Plotly, which reads markup."""
    return escape(shortened(name, NAME_LENGTH))


def scale_x(figure: go.Figure, amounts: Sequence[float]) -> bool:
    """Make the axis logarithmic where amounts differ much; says whether it is.

    Args:
        figure: To be drawn.
        amounts: What stands along the axis.
    """
    if min(amounts) <= 0 or max(amounts) / min(amounts) < LOG_FROM:
        return False
    figure.update_xaxes(type="log", dtick="D2")
    return True


def whiskers(interval: Interval | None) -> dict[str, object]:
    """Error bars of an interval, which need not be symmetric."""
    if interval is None or interval.low is None or interval.high is None:
        return {"visible": False}
    return {
        "array": [interval.high - interval.mean],
        "arrayminus": [interval.mean - interval.low],
        "thickness": 1.5,
        "width": 5,
    }


def drawn(value: float) -> float | None:
    """The value to six digits, or a gap where there is no place to draw it."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def embedded(figure: go.Figure, name: str) -> Markup:
    """The figure as a part of a page of :mod:`raise_mdit.pages`, whose script draws it.

    Args:
        figure: To be drawn.
        name: Of its element, behind `figure-`.
    """
    place = Markup('<div class="plotly-graph-div" id="figure-{0}"></div>').format(name)
    return place + json_element(figure.to_json(), f"figure-{name}-data")


def json_element(text: str, element_id: str) -> Markup:
    """JSON as an element of a page, for its script to read; it is data and cannot run.

    Args:
        text: JSON.
        element_id: By which the script finds it.
    """
    harmless = Markup(text.translate(_HARMLESS))
    return Markup('<script type="application/json" id="{0}">{1}</script>').format(
        element_id, harmless
    )
