"""Functions of the user's own: how one is found by `package.module:function`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

from raise_mdit.errors import ConfigError, nearest
from raise_mdit.own_class import import_own, type_name


def find_function(
    path: str, key: str, *, arguments: tuple[str, ...]
) -> Callable[..., Any]:  # Any: it is the user's
    """The function that a path names, sure to take its arguments by position.

    While its module is imported, and no longer, the working directory is the first place where
    modules are looked for, as under `python -m`. An object that can be called will do, a class will
    not.

    Args:
        path: `package.module:function`.
        key: Of the experiment file, as messages name it.
        arguments: What each is, as messages name them.

    Raises:
        ConfigError: There is no such module, no such function in it, it takes other arguments, or
            importing it raised, which is then the cause.
    """
    module_name, _, name = path.partition(":")
    module = import_own(module_name, key, form="package.module:function")
    found = getattr(module, name, None)
    if callable(found) and not isinstance(found, type):
        function: Callable[..., Any] = found
        _check_takes(function, path, key, arguments)
        return function
    functions = [each for each, value in vars(module).items() if isinstance(value, FunctionType)]
    wrong = f"module {module_name!r} has no function {name!r}"
    if hasattr(module, name):
        is_class = isinstance(found, type)
        what = "a class" if is_class else type_name(found)
        wrong = f"{name!r} of module {module_name!r} is {what}, not a function"
    offer = f"its functions are {', '.join(functions) or 'none'}"
    raise ConfigError(f"{key}: {wrong}; {offer}.{nearest(name, functions)}")


def _check_takes(
    found: Callable[..., Any], path: str, key: str, arguments: tuple[str, ...]
) -> None:
    call = f"{path.partition(':')[2]}({', '.join(arguments)})"
    try:
        signature = inspect.signature(found)
    except ValueError as error:  # as some builtins have it
        raise ConfigError(
            f"{key}: {path} does not say what it takes; call it from a function of your own"
        ) from error
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise ConfigError(
            f"{key}: {path} is called as `{call}`, and it takes {signature}: {error}"
        ) from error
