"""The wheel holds one import package, ``raise_mdit``; what is locked is what is declared."""

import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import raise_mdit

ROOT = Path(__file__).parents[1]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
DECLARED = [
    *PYPROJECT["project"]["dependencies"],
    *PYPROJECT["dependency-groups"]["dev"],
    *PYPROJECT["build-system"]["requires"],
]


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonical(name): version for name, version in pairs}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_package_on_disk_is_listed() -> None:
    found = set()
    for package, folder in SETUPTOOLS["package-dir"].items():
        for init in (ROOT / folder).rglob("__init__.py"):
            if not any(parent.is_symlink() for parent in init.parents if parent != ROOT):
                below = init.parent.relative_to(ROOT / folder).parts
                found.add(".".join((package, *below)))
    assert found == set(SETUPTOOLS["packages"])


@pytest.mark.parametrize("package", SETUPTOOLS["packages"])
def test_every_file_that_a_package_reads_is_in_the_wheel(package: str) -> None:
    folder = ROOT / "/".join(package.split("."))
    packages = {ROOT / "/".join(each.split(".")) for each in SETUPTOOLS["packages"]}
    found = {
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.suffix not in (".py", ".pyc")
        and next(parent for parent in path.parents if parent in packages) == folder
    }
    patterns = SETUPTOOLS["package-data"].get(package, [])
    assert found == {path for pattern in patterns for path in folder.glob(pattern)} & found
    assert all(any(folder.glob(pattern)) for pattern in patterns)


def test_only_one_top_level_package() -> None:
    assert {package.split(".")[0] for package in SETUPTOOLS["packages"]} == {"raise_mdit"}


@pytest.mark.parametrize("link", ["envs", "agents"])
def test_the_links_show_the_packages_at_the_top(link: str) -> None:
    assert (ROOT / "raise_mdit" / link).resolve() == (ROOT / link).resolve()


def test_the_installed_version_is_the_one_in_the_code() -> None:
    assert metadata.version("raise-mdit") == raise_mdit.__version__


@pytest.mark.parametrize("declared", DECLARED)
def test_what_is_declared_is_locked_within_its_range(declared: str) -> None:
    requirement = Requirement(declared)
    assert locked()[canonical(requirement.name)] in requirement.specifier


def test_torch_is_pinned_alike_in_the_lock_and_the_makefile() -> None:
    assert f"TORCH := torch=={locked()['torch']}\n" in (ROOT / "Makefile").read_text()


def test_the_lock_names_no_host_and_no_local_build() -> None:
    for version in locked().values():
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version)
