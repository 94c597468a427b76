"""Reads an experiment file and says everything that is wrong with it at once.

A fault of the file is shown as ``file:line:column`` with the line and a caret, a fault of an
override as the override itself. Faults of YAML stop the reading; all others are collected.
"""

from __future__ import annotations

import io
import os.path
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from raise_mdit.config import ExperimentConfig
from raise_mdit.errors import ConfigError, RunError, nearest, nearest_entry
from raise_mdit.experiment_checks import consistency_faults
from raise_mdit.folders import CONFIG_FILE, no_run_directory
from raise_mdit.schema_faults import allowed_keys, schema_faults, shown, takes_null, value_at
from raise_mdit.shortening import shortened
from raise_mdit.yaml_document import Document, Fault, Location, Mark, UnreadableYaml, Value, parse

AN_EXPERIMENT = (
    "An experiment is a YAML file of keys such as name, data, environment and policies: "
    "experiments/quickstart.yaml is one."
)
"""Said of a file that is none."""

OWN_OPTIONS = "options"
"""Key of the sections whose keys are arguments of a class of the user's own, whatever they are."""

YAML_SUFFIXES = (".yaml", ".yml")

_LONGEST_OVERRIDE = 101
"""Characters of an override in a message."""


class LoadedExperiment(NamedTuple):
    """A sound experiment, and where each of its keys was written."""

    config: ExperimentConfig
    path: Path
    document: Document
    changes: _Overrides

    def located(self, message: str) -> str:
        """A message about a key with the key's place before it: ``file:line:column``, or override.

        Args:
            message: Begins with the dotted path of a key and a colon, as in ``policies.mine.kind: …
                ``, or is about something that is not in the file, and stays as it is.
        """
        try:
            where = self.changes.locate(message.partition(": ")[0])
        except UnknownPath:
            return message
        return self._at(where, message)

    def located_at(self, where: Location, message: str) -> str:
        """A message about a key, with the key and its place before it.

        Args:
            where: The key, whose parts may have dots.
            message: What is wrong with it.
        """
        return self._at(where, f"{'.'.join(map(str, where))}: {message}")

    def _at(self, where: Location, message: str) -> str:
        if override := self.changes.origin(where):
            return f"{set_option(override)}: {message}"
        mark = self.document.mark(Fault(where, message))
        return _in_file(self.path, self.document.lines, mark, message)


def set_option(override: str) -> str:
    """An override as a message repeats it: on one line, without the end of a long value."""
    return f"--set {shortened(' '.join(override.split()), _LONGEST_OVERRIDE)}"


def load_experiment(path: Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """The experiment that a file describes.

    Args:
        path: YAML file.
        overrides: ``key.path=value`` each, the value in YAML; entries of a list go by their
            position, name or kind, as in ``policies.ppo.episodes=4``; null for a key that cannot be
            null leaves it out. Later ones win.

    Raises:
        ConfigError: Naming every fault found, each with its place.
    """
    return load_with_places(path, overrides).config


def load_with_places(path: Path, overrides: Sequence[str] = ()) -> LoadedExperiment:
    """As :func:`load_experiment`, for who finds more faults and has to say where they are.

    Args:
        path: YAML file.
        overrides: As of :func:`load_experiment`.

    Raises:
        ConfigError: As :func:`load_experiment`.
    """
    document = _parsed(path)
    changes = _Overrides(document.value)
    for override in overrides:
        changes.apply(override)
    config, faults = _validated(document.value)
    if config is None or faults or document.faults or changes.faults:
        raise ConfigError(_report(path, document, changes, faults))
    return LoadedExperiment(config, path, document, changes)


def _parsed(path: Path) -> Document:
    """The document of a file that is a section of keys."""
    try:
        document = parse(_read(path))
    except UnreadableYaml as error:
        message = _in_file(path, error.lines, error.mark, str(error))
        is_yaml = path.suffix.lower() in YAML_SUFFIXES
        raise ConfigError(message if is_yaml else f"{message}\n{AN_EXPERIMENT}") from error
    if document.value is None and not document.faults:
        needed = "name, data, environment, policies"
        raise ConfigError(f"{path}: is empty; an experiment needs at least {needed}")
    if not isinstance(document.value, dict) and not document.faults:
        message = (
            f"is not an experiment file; it is no section of keys, but {shown(document.value)}"
        )
        mark = document.mark(Fault((), ""))
        raise ConfigError(f"{_in_file(path, document.lines, mark, message)}\n{AN_EXPERIMENT}")
    return document


def load_resolved(path: Path) -> ExperimentConfig:
    """The experiment that :func:`resolved_yaml` wrote, wherever its data and model are by now.

    Raises:
        RunError: The file is of another version or was changed.
    """
    try:
        return ExperimentConfig.model_validate(_with_tuples(parse(_read(path)).value))
    except (ConfigError, UnreadableYaml, ValidationError) as error:
        raise RunError(f"{path}: not an experiment of this version ({error})") from error


def read_config(directory: Path) -> ExperimentConfig:
    """The resolved experiment of a run directory.

    Raises:
        RunError: It is not a run directory; what it is instead is told, and what may be meant.
    """
    file = directory / CONFIG_FILE
    if not file.is_file():
        raise RunError(no_run_directory(directory))
    return load_resolved(file)


def resolved_yaml(config: ExperimentConfig) -> str:
    """The config with every default written out, as YAML that loads again to an equal config."""
    stream = io.StringIO()
    YAML(pure=True).dump(_escaped(config.model_dump(mode="json")), stream)
    return stream.getvalue()


def _escaped(value: Any) -> Any:  # as deep as the value
    """The value with text that only escapes keep exactly, such as U+0085, marked for quotes."""
    match value:
        case dict():
            return {key: _escaped(each) for key, each in value.items()}
        case list():
            return [_escaped(each) for each in value]
        case str() if not value.isprintable():
            return DoubleQuotedScalarString(value)
    return value


def _read(path: Path) -> str:
    if os.path.isdir(path):
        raise ConfigError(f"{path}: is a folder; name an experiment file in it")
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: does not exist.{nearest_entry(path)}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: is not UTF-8 text; save it as UTF-8") from error


def with_only(config: ExperimentConfig, names: Sequence[str]) -> ExperimentConfig:
    """The experiment with some of its policies alone, in its order.

    Args:
        config: The experiment.
        names: Labels of policies; a kind that is no label means all of that kind. Policies of kind
            ``base`` and ``random`` stay in any case: the others are compared with them.

    Raises:
        ConfigError: A name is of none.
    """
    labels = {policy.label: {policy.label} for policy in config.policies}
    of_kind: dict[str, set[str]] = {}
    for policy in config.policies:
        of_kind.setdefault(policy.kind, set()).add(policy.label)
    meant = {**of_kind, **labels}
    kept = of_kind.get("base", set()) | of_kind.get("random", set())
    for name in map(str.strip, names):
        if name not in meant:
            raise ConfigError(
                f"--only: no policy {name!r}, allowed: {', '.join(labels)}.{nearest(name, meant)}"
            )
        kept |= meant[name]
    chosen = tuple(policy for policy in config.policies if policy.label in kept)
    return config.model_copy(update={"policies": chosen})


def _validated(value: Value) -> tuple[ExperimentConfig | None, list[Fault]]:
    try:
        config = ExperimentConfig.model_validate(_with_tuples(value))
    except ValidationError as error:
        faults = schema_faults(error, value)
        if not faults:  # ours: what is refused has a fault in our words
            raise
        return None, faults
    return config, consistency_faults(config)


def _with_tuples(value: Value) -> Any:  # as deep as the value
    """The value with tuples for lists: strict validation takes nothing else for a tuple."""
    match value:
        case dict():
            return {key: _with_tuples(each) for key, each in value.items()}
        case list():
            return tuple(_with_tuples(each) for each in value)
    return value


class _Overrides:
    """Changes to a document's value, and which part came from which override."""

    def __init__(self, root: Value) -> None:
        self.faults: list[str] = []
        self._root = root
        self._origins: dict[Location, str] = {}

    def origin(self, where: Location) -> str | None:
        """The override that set the value at a location or a section around it."""
        ancestors = (where[:depth] for depth in range(len(where), 0, -1))
        return next((self._origins[each] for each in ancestors if each in self._origins), None)

    def apply(self, override: str) -> None:
        """Set the value, or note why that cannot be done."""
        key, equals, text = override.partition("=")
        if not equals or not key:
            self._blame(override, "should be key=value, such as seeds=[0,1]")
            return
        try:
            value, faults = _override_value(text)
            where = self.locate(key)
        except (UnreadableYaml, UnknownPath) as error:
            self._blame(override, str(error))
            return
        for fault in faults:
            self._blame(override, fault)
        if value is None and isinstance(where[-1], str) and not takes_null(self._root, where):
            self._leave_out(where)
        else:
            self._set(where, value)
        self._origins[where] = override

    def _blame(self, override: str, message: str) -> None:
        self.faults.append(f"{set_option(override)}: {message}")

    def locate(self, key: str) -> Location:
        """The location a dotted path means; its last key need not be written yet.

        Raises:
            UnknownPath: Nothing in an experiment file has that path.
        """
        where: Location = ()
        rest = key
        while rest:
            section = value_at(self._root, where)
            step = _entry(section, rest) if isinstance(section, list) else self._key(where, rest)
            where = (*where, step.part)
            rest = step.rest
        return where

    def _key(self, where: Location, rest: str) -> _Step:
        key, _, rest = rest.partition(".")
        if where[-1:] == (OWN_OPTIONS,):  # which there are, only the user's class can tell
            return _Step(key, rest)
        allowed = allowed_keys(self._root, where)
        path = ".".join(map(str, (*where, key)))
        if not allowed:
            raise UnknownPath(f"{'.'.join(map(str, where))!r} holds no keys")
        if key not in allowed:
            hint = nearest(key, allowed)
            raise UnknownPath(f"unknown key {path!r}, allowed here: {', '.join(allowed)}.{hint}")
        return _Step(key, rest)

    def _set(self, where: Location, value: Value) -> None:
        """Put the value in its place, making the sections that lead there."""
        current = self._root
        for depth, part in enumerate(where):
            is_last = depth == len(where) - 1
            match current, part:
                case dict(), str():
                    if is_last or not isinstance(current.get(part), dict | list):
                        current[part] = value if is_last else {}
                    current = current[part]
                case list(), int():
                    if is_last:
                        current[part] = value
                    current = current[part]

    def _leave_out(self, where: Location) -> None:
        """As if the key had not been written."""
        section = value_at(self._root, where[:-1])
        if isinstance(section, dict):
            section.pop(str(where[-1]), None)


class _Step(NamedTuple):
    """One part of an override's path and what remains of it."""

    part: str | int
    rest: str


class UnknownPath(Exception):
    """A dotted path to something that cannot be in an experiment file."""


def _override_value(text: str) -> tuple[Value, list[str]]:
    if not text.strip():
        return None, ["needs a value; write null for none, or to leave the key out"]
    document = parse(text)
    return document.value, [fault.message for fault in document.faults]


def _entry(entries: list[Value], rest: str) -> _Step:
    """The list entry with which a path goes on, by name, kind, source or position.

    An entry without a name is called by its kind, before others of that kind that have names.
    """
    known: list[str] = []
    sections = [entry if isinstance(entry, dict) else {} for entry in entries]
    for key, labels in (
        ("name", [section.get("name", section.get("kind")) for section in sections]),
        ("kind", [section.get("kind") for section in sections]),
        ("source", [section.get("source") for section in sections]),
    ):
        texts = [label for label in labels if isinstance(label, str)]
        matching = [label for label in texts if f"{rest}.".startswith(f"{label}.")]
        if matching:
            label = max(matching, key=len)  # names may have dots
            if texts.count(label) > 1:
                raise UnknownPath(f"{label!r} is the {key} of several entries; use the position")
            return _Step(labels.index(label), rest[len(label) + 1 :])
        known += texts
    first, _, after = rest.partition(".")
    if first.isascii() and first.isdigit() and int(first) < len(entries):
        return _Step(int(first), after)
    allowed = ", ".join([*dict.fromkeys(known), f"0 to {len(entries) - 1} by position"])
    raise UnknownPath(f"no entry {first!r}, allowed: {allowed}.{nearest(first, known)}")


def _report(path: Path, document: Document, changes: _Overrides, faults: list[Fault]) -> str:
    """Every fault, those of the file in the order of its lines, then those of overrides."""
    unreadable = {fault.where for fault in document.faults}
    in_file = [f for f in faults if not changes.origin(f.where) and f.where not in unreadable]
    of_file = [*document.faults, *in_file]
    of_file.sort(key=document.mark)
    messages = [
        _in_file(path, document.lines, document.mark(fault), _described(fault)) for fault in of_file
    ]
    messages += changes.faults
    for fault in faults:
        if override := changes.origin(fault.where):
            messages.append(f"{set_option(override)}: {_described(fault)}")
    if len(messages) > 1:
        messages.append(f"{len(messages)} faults in {path}")
    return "\n".join(messages).encode("utf-8", "backslashreplace").decode()


def _in_file(path: Path, lines: Sequence[str], mark: Mark, message: str) -> str:
    head = f"{path}:{mark.line + 1}:{mark.column + 1}: {message}"
    line = lines[mark.line]
    margin = f"{mark.line + 1:>5} | "
    indent = "".join("\t" if character == "\t" else " " for character in line[: mark.column])
    return f"{head}\n{margin}{line}\n{' ' * len(margin)}{indent}{'^' * mark.width}"


def _described(fault: Fault) -> str:
    return ": ".join(filter(None, (".".join(map(str, fault.where)), fault.message)))
