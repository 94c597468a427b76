"""In which keys two experiments differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from raise_mdit.config import ExperimentConfig


def differences(
    first: ExperimentConfig, other: ExperimentConfig
) -> dict[str, tuple[object, object]]:
    """Dotted keys with unequal values, and both values; a list is one value, None a missing one.

    Sources of data stand under their names.

    Args:
        first: An experiment.
        other: Another.
    """
    mine, theirs = (dict(_flat(_sections(config))) for config in (first, other))
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


def _sections(config: ExperimentConfig) -> dict[str, object]:
    """The experiment, with its sources by name."""
    sections = config.model_dump(mode="json")
    sections["data"]["sources"] = {each["name"]: each for each in sections["data"]["sources"]}
    return sections


def _flat(section: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in section.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
