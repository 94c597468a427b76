"""How long work tells of its progress, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A listener; the command line draws bars, tests and libraries stay silent."""

    def start(self, stage: str, total: int | None) -> None:
        """A stage begins.

        Args:
            stage: What is done, in words.
            total: Units of work, or None where it is not known.
        """
        ...

    def advance(self, amount: int = 1, **figures: float) -> None:
        """Some of the stage is done.

        Args:
            amount: Units of work.
            figures: Numbers worth showing, such as ``loss`` and ``episode_return``.
        """
        ...

    def finish(self) -> None:
        """The stage is over."""
        ...

    def note(self, sentence: str) -> None:
        """Something worth knowing before what comes next."""
        ...


class Silent:
    """Listens to nothing."""

    def start(self, stage: str, total: int | None) -> None:
        """Nothing."""

    def advance(self, amount: int = 1, **figures: float) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""

    def note(self, sentence: str) -> None:
        """Nothing."""
