"""Classes of the user's own: how one is found, made with its options, and told about if it fails.

Candidate sources and policies of an experiment file are such classes, named by
`package.module:Class`.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
import pkgutil
import random
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from raise_mdit.errors import ConfigError, nearest

LONGEST_SHOWN = 300
"""Characters of the text of a foreign exception that a message repeats."""

PROJECT = Path(__file__).parent
"""Code that is not the user's."""


def find_class(path: str, where: str, *, method: str) -> type[Any]:  # Any: it is the user's
    """The class that a path names.

    While its module is imported, and no longer, the working directory is the first place where
    modules are looked for, as under `python -m`. A module beside it that is imported inside a
    function is therefore not found; import it at the top.

    Args:
        path: `package.module:Class`.
        where: Of its section, as messages name it.
        method: That the class must have.

    Raises:
        ConfigError: There is no such module, or no such class in it, or importing it raised, which
            is then the cause.
    """
    module_name, _, class_name = path.partition(":")
    module = import_own(module_name, f"{where}.kind", form="package.module:Class")
    found = getattr(module, class_name, None)
    if isinstance(found, type) and has_method(found, method):
        return found
    classes = [key for key, value in vars(module).items() if _is_candidate(value, method)]
    offer = f"its classes with `{method}` are {', '.join(classes)}"
    if not classes:
        offer = "no class has one"
    if found is None:
        wrong = f"module {module_name!r} has no class {class_name!r} with a method `{method}`"
    elif isinstance(found, type):
        wrong = f"class {class_name!r} of module {module_name!r} has no method `{method}`"
    else:
        wrong = f"{class_name!r} of module {module_name!r} is {type_name(found)}, not a class"
    raise ConfigError(f"{where}.kind: {wrong}; {offer}.{nearest(class_name, classes)}")


def make_own(
    found: type[Any], where: str, options: Mapping[str, Any], *, given: Mapping[str, Any]
) -> Any:  # Any: it is the user's
    """An object of the user's class.

    Args:
        found: As :func:`find_class` gives it.
        where: Of its section, as messages name it.
        options: Keyword arguments by the user.
        given: Keyword arguments by the project.

    Raises:
        ConfigError: The options do not fit, or the class raised, which is then the cause.
    """
    check_arguments(found, where, options, given=given)
    try:
        return found(**options, **given)
    except Exception as error:  # the user's code, which may raise anything
        raise ConfigError(
            f"{where}.options: {found.__name__} raised {told(error)}; mend the class or its options"
        ) from error


def check_arguments(
    found: type[Any], where: str, options: Mapping[str, Any], *, given: Mapping[str, Any]
) -> None:
    """Nothing, if a class takes these arguments; all as of :func:`make_own`.

    Raises:
        ConfigError: The options do not fit.
    """
    signature = inspect.signature(found)
    try:
        signature.bind(**options, **given)
    except TypeError as error:
        unknown = [option for option in options if option not in signature.parameters]
        hint = nearest(unknown[0], signature.parameters) if unknown else ""
        taken = signature.replace(return_annotation=inspect.Signature.empty)
        raise ConfigError(
            f"{where}.options: {error}; allowed: {found.__name__}{taken}.{hint}"
        ) from error


def has_method(value: object, name: str) -> bool:
    """Whether an object or class has a method of that name."""
    return callable(getattr(value, name, None))


def told(error: BaseException) -> str:
    """Type, text and place of what the user's code raised."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not Path(frame.filename).is_relative_to(PROJECT) and "importlib" not in frame.filename
    ]
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = textwrap.shorten(str(error), LONGEST_SHOWN, placeholder=" ...")
    return f"{type(error).__name__}: {text}{place}"


def type_name(value: object) -> str:
    """What a value is, as a message says it."""
    return "None" if value is None else f"of type {type(value).__name__}"


class Fault(NamedTuple):
    """What is wrong with what the user's class does, and how to mend it."""

    wrong: str
    mend: str


@contextmanager
def watched_generators() -> Iterator[Callable[[], list[Fault]]]:
    """Gives a function that tells which global generators were used, and sets those back."""
    # The global generators are what is watched; nothing is drawn from them.
    python, numpy = random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002

    def touched() -> list[Fault]:
        now = np.random.get_state(legacy=False)  # noqa: NPY002
        used = {
            "random": random.getstate() != python,
            "numpy.random": pickle.dumps(now) != pickle.dumps(numpy),
        }
        mend = "draw from `rng`, and seed no global generator"
        return [
            Fault(f"it uses the global generator of `{name}`", mend) for name in used if used[name]
        ]

    try:
        yield touched
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def import_own(name: str, key: str, *, form: str) -> ModuleType:
    """A module of the user's, looked for in the working directory first.

    Args:
        name: Of the module.
        key: Of the experiment file, as messages name it.
        form: What the key takes, as messages write it.

    Raises:
        ConfigError: There is no such module, or importing it raised, which is then the cause.
    """
    with _working_directory_first():
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise _import_failed(name, key, error) from error  # an import inside it failed
            raise ConfigError(
                f"{key}: there is no module {error.name!r}; give `{form}` of a file below the "
                "working directory or of an installed package."
                f"{nearest(error.name, _siblings(error.name))}"
            ) from error
        except Exception as error:  # the user's code, which may raise anything
            raise _import_failed(name, key, error) from error


def _import_failed(name: str, key: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"{key}: importing {name!r} raised {told(error)}; mend that module, or give another"
    )


@contextmanager
def _working_directory_first() -> Iterator[None]:
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _siblings(missing: str) -> list[str]:
    """Modules that stand where one was looked for."""
    package, dot, _ = missing.rpartition(".")
    folders = getattr(sys.modules.get(package), "__path__", []) if package else [os.getcwd()]
    return [f"{package}{dot}{module.name}" for module in pkgutil.iter_modules(folders)]


def _is_candidate(value: object, method: str) -> bool:
    """Whether it may have been meant: a contract that was imported to be followed was not."""
    is_contract = getattr(value, "_is_protocol", False)
    return isinstance(value, type) and has_method(value, method) and not is_contract
