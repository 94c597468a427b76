"""The reference pages say what the code says."""

from pathlib import Path

import pytest

from raise_mdit.config import ExperimentConfig
from raise_mdit.policy_config import PpoConfig
from raise_mdit.reference import configuration_page, metrics_page, write_pages
from raise_mdit.schema_faults import written_fields

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize(
    ("name", "page"), [("configuration.md", configuration_page), ("metrics.md", metrics_page)]
)
def test_pages_are_those_that_the_code_writes(name: str, page: object) -> None:
    assert callable(page)
    assert (DOCS / name).read_text("utf-8") == page(), "run python -m raise_mdit.reference docs"


def test_every_key_has_a_meaning() -> None:
    page = configuration_page()

    for section in (ExperimentConfig, PpoConfig):
        for name in written_fields(section):
            assert f"| `{name}` |" in page
    assert not [line for line in page.splitlines() if line.endswith("|  |")]


def test_pages_are_written_where_asked(tmp_path: Path) -> None:
    write_pages(tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {"configuration.md", "metrics.md"}
