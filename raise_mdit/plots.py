"""What all plots of the project's pages have in common: their frame, and how a page holds them."""

from __future__ import annotations

import plotly.graph_objects as go
from markupsafe import Markup


def empty_figure(x: str, y: str | None, *, height: int = 360, right: int = 12) -> go.Figure:
    """A figure with titled axes and nothing in it, for light and dark pages.

    Args:
        x: Title of the axis.
        y: Title of the axis; None for none.
        height: In pixels.
        right: Margin in pixels.
    """
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 56, "r": right, "t": 12, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        showlegend=False,
        hovermode="closest",
    )
    figure.update_xaxes(title=x, zeroline=False, fixedrange=True)
    figure.update_yaxes(title=y, zeroline=False, fixedrange=True)
    return figure


def embedded(figure: go.Figure, name: str) -> Markup:
    """The figure as a part of a page that has Plotly's script.

    Args:
        figure: To be drawn.
        name: Of its element, behind `figure-`.
    """
    text = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=f"figure-{name}",
        config={"displaylogo": False, "responsive": True, "displayModeBar": False},
    )
    return Markup(text)  # Plotly writes `<` and `>` of its data as escapes
