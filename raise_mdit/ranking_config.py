"""What an experiment file may say of a ranking: one section a kind.

A ranking is a policy by itself, and what a learned policy may begin as.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from raise_mdit.policy_section import Pass, PolicySection


class RankedSection(PolicySection):
    """A policy that ranks the pool once and takes the first."""

    repeat: int = Field(1, ge=1)
    """How often a candidate is used: the budget goes that often over as many fewer candidates."""

    @property
    def most_uses(self) -> int | None:
        """As often as `repeat` says."""
        return self.repeat

    @property
    def in_words(self) -> str:
        """How reports call it as a part of a policy."""
        return self.label


class LongestConfig(RankedSection):
    """Candidates with the most response tokens, in that order (arXiv 2402.04833)."""

    kind: Literal["longest"]


class ShortestConfig(RankedSection):
    """Candidates with the fewest response tokens, in that order: the other end of `longest`."""

    kind: Literal["shortest"]


class PerplexityConfig(RankedSection):
    """Candidates by the untuned model's perplexity of the response (arXiv 2309.04564)."""

    reads: ClassVar[frozenset[Pass]] = frozenset({"pool"})

    kind: Literal["perplexity"]
    part: Literal["low", "middle", "high"] = "middle"
    """Which end comes first: the likeliest responses, those nearest to the median, or the
    unlikeliest."""


class IfdConfig(RankedSection):
    """Candidates by instruction-following difficulty (IFD, arXiv 2308.12032), highest first.

    It is the perplexity of the response given the prompt over that of the response alone; above 1
    the prompt hinders, and such candidates come last.
    """

    reads: ClassVar[frozenset[Pass]] = frozenset({"pool", "responses"})

    kind: Literal["ifd"]


class SsplConfig(RankedSection):
    """Easy to hard: sorted by the untuned model's loss and cut into as many parts as steps.

    Each step draws from its part (the baseline of arXiv 2504.07282).
    """

    reads: ClassVar[frozenset[Pass]] = frozenset({"pool"})

    kind: Literal["sspl"]
    repeat: int = Field(1, ge=1, le=1)
    """Each step has a part of its own, so nothing is used again."""


class KCenterConfig(RankedSection):
    """Core-set: each next candidate is the one farthest from all taken before (arXiv 1708.00489).

    Distances are those of the untuned model's embeddings.
    """

    reads: ClassVar[frozenset[Pass]] = frozenset({"pool"})

    kind: Literal["k_center"]


class DeitaConfig(RankedSection):
    """By quality, leaving out what is too near to one that is taken (DEITA, arXiv 2312.15685).

    The paper's judge of quality is a model of its own; here it is instruction-following difficulty
    times the logarithm of the response's length.
    """

    reads: ClassVar[frozenset[Pass]] = frozenset({"pool", "responses"})

    kind: Literal["deita"]
    threshold: float = Field(0.9, gt=0, le=1)
    """Largest cosine similarity with a candidate that is taken already."""


class NearestToTargetConfig(RankedSection):
    """RDS+: nearest to reward-validation by the model's own embedding (arXiv 2503.01807)."""

    reads: ClassVar[frozenset[Pass]] = frozenset({"pool", "reward_validation"})

    kind: Literal["nearest_to_target"]


class DsirConfig(RankedSection):
    """DSIR: resampled by hashed n-grams towards reward-validation's texts (arXiv 2302.03169)."""

    kind: Literal["dsir"]
    buckets: int = Field(10_000, ge=2)
    """Hash buckets of words and pairs of words."""


class LessConfig(RankedSection):
    """LESS: nearest to reward-validation by projected gradients (arXiv 2402.04333).

    Gradients have Adam's correction, and are taken at checkpoints of a short training on random
    candidates.
    """

    kind: Literal["less"]
    checkpoints: int = Field(1, ge=1)
    """At which gradients are taken, evenly over the short training."""
    warmup_steps: int = Field(8, ge=1)
    """Steps of the short training."""
    dimensions: int = Field(1024, ge=8)
    """Of the random projection."""


Ranking = (
    LongestConfig
    | ShortestConfig
    | PerplexityConfig
    | IfdConfig
    | KCenterConfig
    | DeitaConfig
    | NearestToTargetConfig
    | DsirConfig
    | LessConfig
)
"""One by itself."""


def passes_of(rankings: Iterable[PolicySection]) -> frozenset[Pass]:
    """Passes of the untuned model that some of these could not do without."""
    return frozenset[Pass]().union(*(each.needed_passes for each in rankings))


class InTurnConfig(RankedSection):
    """Rankings that take turns: each takes the candidate that it puts first of those left.

    A single score puts one kind of candidate first, and several targets want a batch of several.
    """

    kind: Literal["in_turn"]
    rankings: tuple[Annotated[Ranking, Field(discriminator="kind")], ...] = Field(min_length=2)
    """In the order of their turns."""

    @property
    def needed_passes(self) -> frozenset[Pass]:
        """Those of each."""
        return passes_of(self.rankings)

    @property
    def in_words(self) -> str:
        """Its name, or all that take turns."""
        return self.name or f"{' and '.join(each.label for each in self.rankings)} in turn"


Ranked = Annotated[Ranking | InTurnConfig, Field(discriminator="kind")]
"""One by itself, or several that take turns."""
