"""The words of the project and the contracts between its parts.

A *candidate* can be trained on for one row of a batch; a *pool* is a table of candidates. A
*learner* is the model being tuned. A *selection policy* picks a batch of candidates each step. The
*reward* is the improvement on reward-validation data. A *schedule* is the ordered list of batches
that a policy chose. A *ledger* holds what everything cost.

Nothing here imports torch: a learner or policy of another framework needs only these contracts.

Shapes: ``T`` tokens of a row, ``S`` scored positions of a row, ``I`` items of a split, ``W`` slots
of a window, ``k`` picks of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Role = Literal["system", "user", "assistant"]
Kind = Literal["original", "mosaic", "mdit", "custom"]

KINDS: tuple[Kind, ...] = ("original", "mosaic", "mdit", "custom")
"""The kinds of candidates, in the order in which features and pool shares list them."""


class Message(NamedTuple):
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """One row of instruction data as it was read."""

    id: str
    """Hash of the messages: the same text has the same id in every source. The prompt of a
    multiple-choice question lists its options, so that they are hashed with it."""
    source: str
    """Name of the source it was read from."""
    messages: tuple[Message, ...]
    """The conversation; the last turn is the assistant's."""
    task: str | None = None
    """Family or category, where the source knows it."""
    choices: tuple[str, ...] | None = None
    """Texts of all options in order, the response among them, of a multiple-choice question."""

    @property
    def prompt(self) -> str:
        """Everything before the last turn, as one text."""
        return "\n".join(message.content for message in self.messages[:-1])

    @property
    def response(self) -> str:
        """The last turn's text."""
        return self.messages[-1].content

    @property
    def text(self) -> str:
        """Prompt and response as one text."""
        return f"{self.prompt}\n{self.response}"


@dataclass(frozen=True, slots=True, eq=False)
class EncodedRow:
    """A candidate or evaluation item as token ids, ready for a learner.

    A row may interpolate two token sequences (MDIT, arXiv 2504.07288): its input at position ``t``
    is ``mix[t] * E[ids[t]] + (1 - mix[t]) * E[partner_ids[t]]`` and every scored position carries
    two weighted targets. A plain row has no partner, ``mix`` of one and a second weight of zero.
    """

    key: str
    """Content id of what the row was made from."""
    ids: NDArray[np.int64]
    """[T] token ids."""
    scored: NDArray[np.int64]
    """[S] positions whose *next* token is scored, ascending."""
    targets: NDArray[np.int64]
    """[S, 2] next tokens of the first and the second parent."""
    target_weights: NDArray[np.float32]
    """[S, 2] share of each target in the label; (1, 0) for a plain row."""
    partner_ids: NDArray[np.int64] | None = None
    """[T] token ids of the second parent, or None."""
    mix: float = 1.0
    """Share of the first parent at the input; 1 for a plain row."""

    @property
    def num_tokens(self) -> int:
        """Length T of the row."""
        return len(self.ids)

    @property
    def num_scored(self) -> int:
        """Number S of positions that carry loss."""
        return len(self.scored)

    @property
    def is_plain(self) -> bool:
        """Whether the row has a single parent."""
        return self.partner_ids is None


class Cost(NamedTuple):
    """What a piece of work cost."""

    tokens: int = 0
    """Tokens that a model read, without padding."""
    padded_tokens: int = 0
    """The same with the padding that was computed along."""
    flops: float = 0.0
    """Floating-point operations of the forward and backward passes."""
    seconds: float = 0.0
    """Wall-clock time."""

    def plus(self, other: Cost) -> Cost:
        """The sum of both costs, field by field."""
        return Cost(
            self.tokens + other.tokens,
            self.padded_tokens + other.padded_tokens,
            self.flops + other.flops,
            self.seconds + other.seconds,
        )


class UpdateStats(NamedTuple):
    """What one optimizer step reports."""

    loss: float
    """Mean loss per scored token of the batch, before the step; not finite if training failed."""
    cost: Cost


class Evaluation(NamedTuple):
    """What a pass over a split reports."""

    loss: float
    """Mean loss per scored token over the split, in nats."""
    item_losses: NDArray[np.float64]
    """[I] mean loss per scored token of each item."""
    item_exact: NDArray[np.bool_]
    """[I] whether greedy decoding would give the reference response to the last token."""
    cost: Cost

    @property
    def exact_match(self) -> float:
        """Share of items that greedy decoding answers exactly."""
        return float(self.item_exact.mean())


class Learner(Protocol):
    """The model being tuned."""

    def update(self, batch: Sequence[EncodedRow], *, progress: float) -> UpdateStats:
        """Take one optimizer step.

        Args:
            batch: The rows to train on.
            progress: Share of the budget spent before this step, for learning-rate schedules.
        """
        ...

    def evaluate(self, items: Sequence[EncodedRow]) -> Evaluation:
        """Loss on a split; changes nothing."""
        ...

    def snapshot(self) -> object:
        """Everything that :meth:`update` changes, as a copy."""
        ...

    def restore(self, snapshot: object) -> None:
        """Return to the moment of ``snapshot``, exactly."""
        ...


class StackedLearners(Protocol):
    """Several learners that share frozen parameters and step together; none touches another."""

    @property
    def num_learners(self) -> int:
        """How many there are."""
        ...

    def update(
        self, batches: Sequence[Sequence[EncodedRow] | None], *, progress: Sequence[float]
    ) -> list[UpdateStats | None]:
        """Take one optimizer step each.

        Args:
            batches: What each learner trains on; None where it does not step.
            progress: As in :meth:`Learner.update`, for each learner.

        Returns:
            What each step reports; None where there was none.
        """
        ...

    def evaluate(self, items: Sequence[EncodedRow], *, learners: Sequence[int]) -> list[Evaluation]:
        """Losses of some learners on the same split, in the order of ``learners``."""
        ...

    def snapshot(self, index: int) -> object:
        """Everything that :meth:`update` changes in one learner, as a copy."""
        ...

    def restore(self, index: int, snapshot: object) -> None:
        """Return one learner to the moment of ``snapshot``, exactly."""
        ...


Observation = dict[str, NDArray[Any]]
"""A Dict observation as Gymnasium passes it; element types differ by key."""


class SelectionPolicy(Protocol):
    """Stable-Baselines3's ``predict``: static baselines and trained models are used alike."""

    def predict(
        self,
        observation: Observation,
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.int64], tuple[NDArray[Any], ...] | None]:
        """Slots to train on.

        Returns:
            The action, [k] distinct slots of the window, and the next recurrent state.
        """
        ...


class OnlinePolicy(SelectionPolicy, Protocol):
    """A selection policy that learns from each step's improvement as it goes on."""

    def learn(self, rows: NDArray[np.int64], gain: float) -> None:
        """Take in what the last action gave.

        Args:
            rows: [k] pool rows that were trained on.
            gain: Improvement on reward-validation, as a share of the loss before training.
        """
        ...


class Budget(NamedTuple):
    """When an episode ends: the first limit that is reached. One of the two is set."""

    steps: int | None = None
    """Optimizer steps."""
    tokens: int | None = None
    """Tokens trained on, without padding."""

    def share_spent(self, *, steps: int, tokens: int) -> float:
        """The part of the budget used so far, from 0 to 1."""
        if self.steps is not None:
            return min(1.0, steps / self.steps)
        assert self.tokens is not None, "a budget has a limit"
        return min(1.0, tokens / self.tokens)
