"""What the project's pages have in common: one layout, one style sheet, one script.

A page is one file that needs no network and forbids itself any. Its content security policy names
the two scripts that may run, Plotly's and the project's own, by their hashes (CSP level 2, section
4.2.5): whatever else a page shows cannot run, even if it was not escaped.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs


def rendered(template: str, **values: object) -> str:
    """A page as HTML; every value is escaped but what is :class:`markupsafe.Markup`.

    Args:
        template: File that extends `page_layout.html`, by its path within the package.
        values: What the template names. One that it names and is not given is an error.
    """
    environment = Environment(
        loader=PackageLoader("raise_mdit", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    script, plotly = _own("page.js"), get_plotlyjs()
    return environment.get_template(template).render(
        **values,
        stylesheet=Markup(_own("page.css")),
        script=Markup(script),
        plotly=Markup(plotly),  # a constant of its package
        script_hashes=Markup(" ".join(map(_source_hash, (plotly, script)))),
    )


def _own(name: str) -> str:
    return files("raise_mdit").joinpath(name).read_text(encoding="utf-8")


def _source_hash(script: str) -> str:
    """By which a content security policy allows a script that stands in the page."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
