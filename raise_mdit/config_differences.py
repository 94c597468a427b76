"""In which keys two experiments, or two policies of one, differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from raise_mdit.config import ExperimentConfig
from raise_mdit.config_section import Section


def differences(first: Section, other: Section) -> dict[str, tuple[object, object]]:
    """Dotted keys with unequal values, and both values; a list is one value, None a missing one.

    Sources of data stand under their names.

    Args:
        first: An experiment, or a section of one.
        other: Another.
    """
    mine, theirs = (dict(_flat(_keyed(section))) for section in (first, other))
    keys = dict.fromkeys([*mine, *theirs])
    return {
        key: (mine.get(key), theirs.get(key)) for key in keys if mine.get(key) != theirs.get(key)
    }


def is_below(key: str, sections: Iterable[str]) -> bool:
    """Whether a dotted key is one of the sections or inside one."""
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def in_words(values: tuple[object, object]) -> str:
    """Two values of a key."""
    return " and ".join("none" if value is None else str(value) for value in values)


def _keyed(section: Section) -> dict[str, object]:
    """The section, with an experiment's sources by name."""
    keyed = section.model_dump(mode="json")
    if isinstance(section, ExperimentConfig):
        keyed["data"]["sources"] = {each["name"]: each for each in keyed["data"]["sources"]}
    return keyed


def _flat(section: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in section.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
