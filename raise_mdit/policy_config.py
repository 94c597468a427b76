"""What an experiment file may say of a selection policy: one section a kind.

Class variables say what a kind needs, so that costs, checks and preparations ask the policy rather
than list its kinds: whether it learns, what it looks at, and which passes of the untuned model it
reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, field_validator

from raise_mdit.config_section import Name, Options, Section, check_class_path

Kind = Literal["original", "mosaic", "mdit", "custom"]
"""Of candidates: :data:`raise_mdit.core.Kind`, which reading a file does without."""

Pass = Literal["pool", "responses", "reward_validation"]
"""A pass of the untuned model: over the pool's examples, over their responses alone, or over
reward-validation."""

Offer = Literal["window", "pool"]
"""What a policy picks from: the environment's window, or all candidates on offer."""

FeatureGroup = Literal["stage", "difficulty", "semantic", "kind", "availability"]
"""Of what a policy sees: `stage` is of the training; `difficulty` holds lengths and all that is
known of a candidate's text, `availability` how often it was picked."""


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


class RankedSection(PolicySection):
    """A policy that ranks the pool once and takes the first."""

    repeat: int = Field(1, ge=1)
    """How often a candidate is used: the budget goes that often over as many fewer candidates."""

    @property
    def most_uses(self) -> int | None:
        """As often as `repeat` says."""
        return self.repeat


class BaseConfig(PolicySection):
    """No training at all: the model as it is."""

    picks: ClassVar[bool] = False

    kind: Literal["base"]


class RandomSection(PolicySection):
    """Uniform draws, each candidate at most once an episode."""

    @property
    def most_uses(self) -> int | None:
        """Draws are without replacement."""
        return 1

    @property
    def drawn_from(self) -> tuple[Kind, ...] | None:
        """Kinds of candidates that it picks from; None for all."""
        return None


class RandomConfig(RandomSection):
    """Uniform draws from the whole pool, each candidate at most once an episode."""

    kind: Literal["random"]
    kinds: tuple[Kind, ...] | None = Field(None, min_length=1)
    """Kinds of candidates to pick from; null picks from all."""

    @property
    def drawn_from(self) -> tuple[Kind, ...] | None:
        """As `kinds` says."""
        return self.kinds


class MosaicOnlyConfig(RandomSection):
    """Uniform draws from the mosaics."""

    kind: Literal["mosaic_only"]

    @property
    def drawn_from(self) -> tuple[Kind, ...] | None:
        """Mosaics."""
        return ("mosaic",)


class MditOnlyConfig(RandomSection):
    """Uniform draws from the interpolations."""

    kind: Literal["mdit_only"]

    @property
    def drawn_from(self) -> tuple[Kind, ...] | None:
        """Interpolations."""
        return ("mdit",)


class FullDataConfig(PolicySection):
    """Every original example once an epoch, in random order: the reference without a budget."""

    kind: Literal["full"]
    epochs: int = Field(1, ge=1)
    """Passes over the pool's examples."""


class LongestConfig(RankedSection):
    """Candidates with the most response tokens, in that order (arXiv 2402.04833)."""

    kind: Literal["longest"]


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


class LearningSection(PolicySection):
    """A policy with episodes to learn from."""

    sees_stage: ClassVar[bool] = True

    episodes: int = Field(48, ge=1)
    """Fine-tunings that the policy learns from."""

    @property
    def learns(self) -> bool:
        """In episodes, or step by step."""
        return True

    @property
    def learning_episodes(self) -> int:
        """As `episodes` says."""
        return self.episodes


class CandidateScoringSection(LearningSection):
    """A policy that learns to score the candidates of a window by their features."""

    looks_at_features: ClassVar[bool] = True
    sees_alignment: ClassVar[bool] = True
    offer: ClassVar[Offer] = "window"

    window: int | Literal["pool"] | None = None
    """Candidates offered at each step, `pool` for all; null is `environment.window`. What is rare
    and good is seldom in a small window of a large pool, and scoring more costs little."""
    final: Literal["greedy", "sample"] = "greedy"
    """Picks of the final fine-tuning: the highest scores, or draws as in learning. Where more of
    the same gives less and less, draws may end better."""


class GradientAlignmentConfig(PolicySection):
    """Of each window, the candidates whose gradient agrees most with the validation's, greedily."""

    looks_at_features: ClassVar[bool] = True
    offer: ClassVar[Offer] = "window"

    kind: Literal["gradient_alignment"]


class GreatsConfig(PolicySection):
    """GREATS: of each window, one candidate after another by its gain (NeurIPS 2024).

    The gain is that of first order in validation loss, less what those already taken give.
    """

    looks_at_features: ClassVar[bool] = True
    offer: ClassVar[Offer] = "window"

    kind: Literal["greats"]


class RandomSearchConfig(LearningSection):
    """The best of several random schedules by reward-validation: what search alone gives."""

    kind: Literal["random_search"]
    episodes: int = Field(48, ge=1)
    """Schedules that are tried, one fine-tuning each."""


class BanditSection(LearningSection):
    """A bandit over groups of candidates: source, kind and cluster.

    Each step plays one group and trains on random candidates of it.
    """

    looks_at_features: ClassVar[bool] = True

    episodes: int = Field(0, ge=0)
    """Fine-tunings to learn from before the final one; with 0 it learns only as that goes on."""


class Exp3Config(BanditSection):
    """Exp3: exponential weights, for rewards that may change (Auer et al. 2002)."""

    kind: Literal["exp3"]
    exploration: float = Field(0.1, gt=0, le=1)
    """Gamma: share of plays that are uniform."""


class UcbConfig(BanditSection):
    """UCB1: the highest upper confidence bound (Auer, Cesa-Bianchi & Fischer 2002)."""

    kind: Literal["ucb"]
    exploration: float = Field(2.0, gt=0)
    """Factor in the square root of the bound; 2 is the paper's."""


class ThompsonConfig(BanditSection):
    """Thompson sampling with normal rewards of unknown mean and variance."""

    kind: Literal["thompson"]


Ranked = Annotated[
    LongestConfig
    | PerplexityConfig
    | IfdConfig
    | KCenterConfig
    | DeitaConfig
    | NearestToTargetConfig
    | DsirConfig
    | LessConfig,
    Field(discriminator="kind"),
]


class InfluenceConfig(CandidateScoringSection):
    """A linear regression of each step's improvement on the mean features of its batch.

    Its weights score candidates: the cheapest rival of a learned scorer.
    """

    kind: Literal["influence"]
    episodes: int = Field(0, ge=0)
    """Fine-tunings to learn from before the final one; with 0 it learns only as that goes on."""
    choice: Literal["thompson", "greedy"] = "thompson"
    """How it explores: weights drawn from their posterior, or their mean. The final fine-tuning
    takes the mean wherever there were episodes before, unless `final` says otherwise."""
    ridge: float = Field(1.0, gt=0)
    """Precision of the weights' prior, as a multiple of that of the noise."""
    hint: Ranked | None = None
    """A static ranking whose normal scores it sees beside the features: what it is worth is learned
    like all else."""

    @property
    def ranking(self) -> RankedSection | None:
        """A column of what it sees."""
        return self.hint

    @property
    def needed_passes(self) -> frozenset[Pass]:
        """Those of its hint."""
        return frozenset() if self.hint is None else self.hint.needed_passes


class PriorConfig(Section):
    """What a learned policy begins as, and is held near."""

    ranking: Annotated[Ranked | InfluenceConfig, Field(discriminator="kind")]
    """Any static policy that ranks the pool, or `influence` with episodes of its own: what it has
    learned from them is where the policy goes on."""
    strength: float = Field(2.0, gt=0)
    """How sharply the first policy prefers what is ranked high: standard deviation of the scores
    that it begins with, as normal scores of a ranking or as those of the regression are. With 2 the
    best of a thousand is e^6 times as likely as the median."""
    kl_coefficient: float = Field(0.01, ge=0)
    """Weight of the divergence from that first policy."""


class ScorerSection(CandidateScoringSection):
    """A learned scorer of candidates, shared over the window, with a critic."""

    episodes_per_update: int = Field(4, ge=1)
    """Fine-tunings between two updates of the policy."""
    parallel_episodes: int = Field(1, ge=1)
    """Fine-tunings that step together, their trained parameters stacked; pays on a GPU."""
    learning_rate: float = Field(3e-3, gt=0)
    """Of the policy's optimizer."""
    gamma: float = Field(0.99, gt=0, le=1)
    """Discount."""
    entropy_coefficient: float = Field(0.0, ge=0)
    """Weight of the entropy bonus."""
    hidden_size: int = Field(64, ge=1)
    """Width of the scorer."""
    keep: Literal["best", "last"] = "best"
    """Weights of the final policy: those that collected the best episodes between two updates, or
    the last."""
    unseen: tuple[FeatureGroup, ...] = ()
    """Groups of features that this policy is kept from using, to measure what they are worth:
    `stage`, `difficulty`, `semantic`, `kind`, `availability`."""


class PpoConfig(ScorerSection):
    """PPO over sets of candidates: a shared scorer with the Plackett-Luce likelihood.

    With `from` it is one that another run has trained: it picks here without learning, and what
    says how to learn has no effect.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    kind: Literal["ppo"]
    from_run: str | None = Field(None, alias="from")
    """Run directory of a policy that is trained already, or null to train one. Its pool, window
    and model may be others; its semantic components must be of the same model, or none
    (`features.semantic_size: 0`)."""
    from_policy: Name | None = None
    """Which of that run's policies of kind `ppo`; null where it has only one."""
    epochs: int = Field(16, ge=1)
    """Passes over the collected steps in one update."""
    minibatches: int = Field(1, ge=1)
    """Parts that a pass is cut into."""
    clip_range: float = Field(0.2, gt=0)
    """Epsilon of the clipped objective."""
    gae_lambda: float = Field(0.5, ge=0, le=1)
    """Lambda of generalised advantage estimation; every step has its reward, so it can be small."""
    target_kl: float | None = Field(0.3, gt=0)
    """An update stops early beyond this divergence; null never stops it."""
    prior: PriorConfig | None = None
    """What to begin as, or null for uniform draws."""

    @property
    def learns(self) -> bool:
        """Unless it comes trained."""
        return self.from_run is None

    @property
    def learning_episodes(self) -> int:
        """Its own and those of what it begins as; none where it comes trained."""
        return self.episodes + self.episodes_before if self.learns else 0

    @property
    def episodes_before(self) -> int:
        """Fine-tunings that what it begins as has learned from."""
        return 0 if self.regression is None else self.regression.episodes

    @property
    def regression(self) -> InfluenceConfig | None:
        """What it begins as, where that is learned."""
        ranking = None if self.prior is None else self.prior.ranking
        return ranking if isinstance(ranking, InfluenceConfig) else None

    @property
    def ranking(self) -> RankedSection | None:
        """The static ranking that it begins as, or the hint of what it begins as: a column."""
        ranking = None if self.prior is None else self.prior.ranking
        return ranking.hint if isinstance(ranking, InfluenceConfig) else ranking

    @property
    def needed_passes(self) -> frozenset[Pass]:
        """Those of its prior."""
        return frozenset() if self.prior is None else self.prior.ranking.needed_passes


class A2cConfig(ScorerSection):
    """A2C with the same scorer: one gradient step an update."""

    kind: Literal["a2c"]
    gae_lambda: float = Field(0.5, ge=0, le=1)
    """Lambda of generalised advantage estimation."""


class ReinforceConfig(ScorerSection):
    """REINFORCE with the same scorer (Williams 1992): no critic, one gradient step an update."""

    kind: Literal["reinforce"]


class RaiseConfig(LearningSection):
    """RAISE as printed (arXiv 2504.07282): the best of each class, taken without exploration.

    It is updated as if they had been drawn, and scores the whole pool at each step.
    """

    looks_at_features: ClassVar[bool] = True

    kind: Literal["raise"]
    episodes: int = Field(20, ge=1)
    """K: fine-tunings that the policy learns from; each ends in an update."""
    classes: int = Field(2, ge=1)
    """C: K-means classes; a batch takes equally many of each, and one more of the first ones where
    it cannot be divided."""
    epochs: int = Field(4, ge=1)
    """K2: passes over an episode's steps in one update; not printed."""
    actor_learning_rate: float = Field(1e-1, gt=0)
    """Of the scorer."""
    critic_learning_rate: float = Field(2e-1, gt=0)
    """Of the value network."""
    weight_decay: float = Field(1e-2, ge=0)
    """Of both."""
    hidden_size: int = Field(64, ge=1)
    """Width of both networks; not printed."""


class CustomPolicyConfig(PolicySection):
    """A policy of the user's own making: `raise_mdit.agents.custom_policy` is the guide."""

    looks_at_features: ClassVar[bool] = True
    sees_stage: ClassVar[bool] = True
    sees_alignment: ClassVar[bool] = True
    offer: ClassVar[Offer] = "window"

    name: Name
    """How reports call it."""
    kind: str
    """`package.module:Class` of a `raise_mdit.core.SelectionPolicy`, or of an `OnlinePolicy`, which
    learns as it goes on."""
    options: Options = Field(default={})
    """Keyword arguments of the class."""
    episodes: int = Field(0, ge=0)
    """Fine-tunings to learn from before the final one; more than 0 needs a class with `learn`."""

    @field_validator("kind")
    @classmethod
    def _names_a_class(cls, kind: str) -> str:
        return check_class_path(kind)

    @property
    def learns(self) -> bool:
        """Where it has episodes for it; an online policy learns from the final one in any case."""
        return self.episodes > 0

    @property
    def learning_episodes(self) -> int:
        """As `episodes` says."""
        return self.episodes


def _form(section: object) -> str:
    """Which of two forms a section should have: a class's path has a colon, a kind has none."""
    kind = section.get("kind") if isinstance(section, Mapping) else getattr(section, "kind", "")
    return _CUSTOM if isinstance(kind, str) and ":" in kind else _BUILT_IN


_BUILT_IN = "a kind of the project's"
_CUSTOM = "a class of the user's"
"""Stand in pydantic's locations of faults; no key of a file is like them."""

BuiltInPolicyConfig = Annotated[
    BaseConfig
    | RandomConfig
    | MosaicOnlyConfig
    | MditOnlyConfig
    | FullDataConfig
    | LongestConfig
    | PerplexityConfig
    | IfdConfig
    | SsplConfig
    | KCenterConfig
    | DeitaConfig
    | NearestToTargetConfig
    | DsirConfig
    | LessConfig
    | GradientAlignmentConfig
    | GreatsConfig
    | RandomSearchConfig
    | Exp3Config
    | UcbConfig
    | ThompsonConfig
    | InfluenceConfig
    | PpoConfig
    | A2cConfig
    | ReinforceConfig
    | RaiseConfig,
    Field(discriminator="kind"),
]

PolicyConfig = Annotated[
    Annotated[BuiltInPolicyConfig, Tag(_BUILT_IN)] | Annotated[CustomPolicyConfig, Tag(_CUSTOM)],
    Discriminator(_form),
]

STATIC_KINDS = frozenset(
    (
        "deita",
        "dsir",
        "ifd",
        "k_center",
        "less",
        "longest",
        "mdit_only",
        "mosaic_only",
        "nearest_to_target",
        "perplexity",
        "sspl",
    )
)
"""Kinds whose schedule is settled before the first step, `random` and `full` apart."""
