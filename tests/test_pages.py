"""What the pages for people say that can be checked: their links, and the example to copy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raise_mdit.experiment_file import load_experiment

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("experiments/*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)(?:#([^)\s]+))?\)")


def anchors(page: Path) -> set[str]:
    """Of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {each.replace(" ", "-") for each in words}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text("utf-8")):
        if target.startswith("https://"):
            continue
        found = page.parent / target
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), f"{target}#{anchor}"


def test_every_page_of_the_docs_is_linked_from_the_readme() -> None:
    linked = {target for target, _ in LINK.findall((ROOT / "README.md").read_text("utf-8"))}

    assert {f"docs/{page.name}" for page in ROOT.glob("docs/*.md")} <= linked


def test_the_example_of_the_readme_is_a_sound_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(
        r"^```yaml\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    for name in ("my.yaml", "everything.jsonl", "target.jsonl"):
        (tmp_path / name).write_text(example)
    monkeypatch.chdir(tmp_path)

    config = load_experiment(Path("my.yaml"))

    assert [policy.label for policy in config.policies] == [
        "base",
        "random",
        "nearest_to_target",
        "ppo",
    ]
