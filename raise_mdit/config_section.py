"""What every section of an experiment file has in common."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
"""What reports call a thing: fit for a file name."""

Options = dict[str, str | int | float | bool | None]
"""Keyword arguments of a user's own class."""


class Section(BaseModel):
    """A frozen mapping whose unknown keys and loose types are faults."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True
    )


def check_class_path(path: str) -> str:
    """The path of a user's own class as it was given.

    Raises:
        ValueError: It is not `package.module:Class`.
    """
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", path):
        return path
    module, _, name = path.rpartition(".")
    hint = f" Did you mean '{module}:{name}'?" if module and ":" not in path else ""
    raise ValueError(f"should be `package.module:Class`.{hint}")
