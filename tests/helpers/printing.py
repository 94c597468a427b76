"""What is printed on a terminal of some width."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType


def printed(renderable: RenderableType, *, width: int = 120) -> list[str]:
    """The lines on a terminal of so many columns."""
    console = Console(width=width, record=True, file=io.StringIO(), soft_wrap=True)
    console.print(renderable, highlight=False)
    return console.export_text().splitlines()
