"""Loading a user's own source: from where, with which options, and what is told if it fails."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raise_mdit.config import CustomSourceConfig
from raise_mdit.errors import ConfigError
from raise_mdit.sources.custom import load_source

SOURCE = """
    from raise_mdit.sources.custom import CandidateSource

    class Shouting:
        def __init__(self, share: float = 0.5) -> None:
            assert share <= 1, "share is above 1"
            self.share = share

        def make(self, examples, *, rng):
            return []

    class Whispering(Shouting):
        pass

    class Silent:
        pass

    loud = Shouting()
"""


@pytest.fixture
def config() -> Callable[..., CustomSourceConfig]:
    """Makes an entry of `pools.custom` that is called `mine`."""

    def make(kind: str, **options: Any) -> CustomSourceConfig:
        return CustomSourceConfig(kind=kind, name="mine", options=options)

    return make


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Writes a module to the working directory; it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    packages: set[str] = set()

    def write(text: str = SOURCE, name: str = "custom_source") -> str:
        packages.add(name.split(".")[0])
        file = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
        return name

    yield write
    for name in [name for name in sys.modules if name.split(".")[0] in packages]:
        del sys.modules[name]


def refused(config: CustomSourceConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        load_source(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_source_is_loaded_from_the_working_directory_with_its_options(
    module: Callable[..., str], config: Callable[..., CustomSourceConfig]
) -> None:
    path = list(sys.path)

    source: Any = load_source(config(f"{module()}:Shouting", share=0.25))

    assert source.share == 0.25
    assert sys.path == path


def test_a_source_in_a_package_imports_what_stands_beside_it(
    module: Callable[..., str], config: Callable[..., CustomSourceConfig]
) -> None:
    module("from mine_sources.words import WORD\n" + textwrap.dedent(SOURCE), "mine_sources.loud")
    module("WORD = 'loud'", "mine_sources.words")

    source = load_source(config("mine_sources.loud:Whispering"))

    assert type(source).__name__ == "Whispering"


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            "custom_sorce:Shouting",
            {},
            r"\.kind: there is no module 'custom_sorce'; give .* Did you mean 'custom_source'\?",
        ),
        (
            "custom_source.inner:Shouting",
            {},
            r"\.kind: there is no module 'custom_source\.inner'; give",
        ),
        (
            "custom_source:Shoutin",
            {},
            r"\.kind: module 'custom_source' has no class 'Shoutin' with a method `make`; its "
            r"classes with `make` are Shouting, Whispering\. Did you mean 'Shouting'\?",
        ),
        (
            "custom_source:Silent",
            {},
            r"\.kind: class 'Silent' of module 'custom_source' has no method `make`; its classes",
        ),
        ("custom_source:loud", {}, r"\.kind: 'loud' .* is of type Shouting, not a class; its"),
        (
            "custom_source:Shouting",
            {"shar": 0.5},
            r"\.options: .*'shar'; allowed: Shouting\(share: float = 0\.5\)\. Did you mean 'share'",
        ),
        (
            "custom_source:Shouting",
            {"share": 2},
            r"\.options: Shouting raised AssertionError: share is above 1 "
            r"\(custom_source\.py:6\); mend",
        ),
    ],
)
def test_an_entry_that_cannot_be_loaded_names_its_key_and_what_is_there(
    kind: str,
    options: dict[str, Any],
    message: str,
    module: Callable[..., str],
    config: Callable[..., CustomSourceConfig],
) -> None:
    module()
    path = list(sys.path)

    assert re.match(rf"pools\.custom\.mine{message}", refused(config(kind, **options)))
    assert sys.path == path


def test_a_missing_submodule_offers_those_of_its_package(
    module: Callable[..., str], config: Callable[..., CustomSourceConfig]
) -> None:
    module(name="mine_package.louder")

    message = refused(config("mine_package.loudr:Shouting"))

    assert message.endswith("Did you mean 'mine_package.louder'?")


def test_a_module_without_sources_says_so(
    module: Callable[..., str], config: Callable[..., CustomSourceConfig]
) -> None:
    assert "; no class has one." in refused(config(f"{module('x = 1')}:Shouting"))


@pytest.mark.parametrize(
    ("text", "cause", "told"),
    [
        ("x = 1\n1 / x - 1 / 0", ZeroDivisionError, r"division by zero \(custom_source\.py:2\)"),
        (
            "import no_such_thing",
            ModuleNotFoundError,
            r"No module named 'no_such_thing' \(custom_source\.py:1\)",
        ),
        ("def make(:", SyntaxError, r"[^(]*\(custom_source\.py, line 1\)"),
    ],
)
def test_what_the_users_module_raises_is_told_and_is_the_cause(
    text: str,
    cause: type[Exception],
    told: str,
    module: Callable[..., str],
    config: Callable[..., CustomSourceConfig],
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_source(config(f"{module(text)}:Shouting"))

    begin = r"pools\.custom\.mine\.kind: importing 'custom_source' raised "
    assert re.match(f"{begin}{cause.__name__}: {told}; mend that module", str(caught.value))
    assert type(caught.value.__cause__) is cause
