"""What every section of a policy in an experiment file has.

Class variables say what a kind needs, so that costs, checks and preparations ask the policy rather
than list its kinds: whether it learns, what it looks at, and which passes of the untuned model it
reads.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from raise_mdit.config_section import Name, Section

Kind = Literal["original", "mosaic", "mdit", "custom"]
"""Of candidates: :data:`raise_mdit.core.Kind`, which reading a file does without."""

Pass = Literal["pool", "responses", "reward_validation"]
"""A pass of the untuned model: over the pool's examples, over their responses alone, or over
reward-validation."""

Offer = Literal["window", "pool"]
"""What a policy picks from: the environment's window, or all candidates on offer."""


class PolicySection(Section):
    """What every policy has."""

    picks: ClassVar[bool] = True
    """Whether it trains at all."""
    looks_at_features: ClassVar[bool] = False
    """Whether it sees the columns that `features.tier` chooses."""
    sees_stage: ClassVar[bool] = False
    """Whether its picks may depend on how the fine-tuning goes: it pays for what is measured."""
    sees_alignment: ClassVar[bool] = False
    """Whether `features.tier: gradient` adds a column to its windows."""
    reads: ClassVar[frozenset[Pass]] = frozenset()
    """Passes of the untuned model that its ranking is made from."""
    offer: ClassVar[Offer] = "pool"
    """What its final fine-tuning offers it."""

    name: Name | None = None
    """How reports call it; its kind by default."""

    @property
    def label(self) -> str:
        """The name, or the kind where there is none."""
        return self.name or str(self.kind)  # type: ignore[attr-defined]  # every policy has one

    @property
    def learns(self) -> bool:
        """Whether it has rewards to learn from, in episodes before the final one or in that."""
        return False

    @property
    def learning_episodes(self) -> int:
        """Fine-tunings before the final one."""
        return 0

    @property
    def needed_passes(self) -> frozenset[Pass]:
        """Passes of the untuned model that it could not do without."""
        return self.reads

    @property
    def most_uses(self) -> int | None:
        """How often it takes a candidate at most; None where it may take one ever again."""
        return None
