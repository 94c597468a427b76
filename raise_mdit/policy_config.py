"""What an experiment file may say of a selection policy: one section a kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import ConfigDict, Discriminator, Field, Tag, field_validator

from raise_mdit.config_section import Name, Options, Section, check_class_path
from raise_mdit.policy_section import Kind, Offer, Pass, PolicySection
from raise_mdit.ranking_config import (
    DeitaConfig,
    DsirConfig,
    IfdConfig,
    InTurnConfig,
    KCenterConfig,
    LessConfig,
    LongestConfig,
    NearestToTargetConfig,
    PerplexityConfig,
    Ranked,
    RankedSection,
    ShortestConfig,
    SsplConfig,
    passes_of,
)

FeatureGroup = Literal["stage", "difficulty", "semantic", "kind", "availability"]
"""Of what a policy sees: `stage` is of the training; `difficulty` holds lengths and all that is
known of a candidate's text, `availability` how often it was picked."""


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
    """Every original on offer once an epoch, in random order: the reference without a budget."""

    kind: Literal["full"]
    epochs: int = Field(1, ge=1)
    """Passes over the pool's examples."""


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
    """Candidates offered at each step, `pool` for all; null is `environment.window`, or for `ppo`
    with `from` the whole pool if the policy was trained on it. What is rare and good is seldom in a
    small window of a large pool, and scoring more costs little."""


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


class BestOfConfig(PolicySection):
    """The ranking that reward-validation likes best: each is tried in a fine-tuning of its own."""

    kind: Literal["best_of"]
    rankings: tuple[Ranked, ...] = Field(min_length=2)
    """What is tried. Where two do equally well, the first."""

    @property
    def learns(self) -> bool:
        """From what is tried."""
        return True

    @property
    def learning_episodes(self) -> int:
        """One for each ranking."""
        return len(self.rankings)

    @property
    def needed_passes(self) -> frozenset[Pass]:
        """Those of each ranking."""
        return passes_of(self.rankings)

    @property
    def most_uses(self) -> int | None:
        """As often as the ranking says that repeats most."""
        return max(each.repeat for each in self.rankings)


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
    final: Literal["greedy", "sample"] = "greedy"
    """Picks of the final fine-tuning: the highest scores, or draws as in learning. Where more of
    the same gives less and less, draws may end better."""
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

    ranking: Annotated[Ranked | BestOfConfig | InfluenceConfig, Field(discriminator="kind")]
    """Any static policy that ranks the pool; or `best_of` of several, whose fine-tunings count
    among the policy's; or `influence` with episodes of its own: what it has learned from them is
    where the policy goes on."""
    strength: float = Field(2.0, gt=0)
    """How sharply the first policy prefers what is ranked high: standard deviation of the scores
    that it begins with, as normal scores of a ranking or as those of the regression are. With 2 the
    best of a thousand is e^6 times as likely as the median."""
    kl_coefficient: float = Field(0.01, ge=0)
    """Weight of the divergence from that first policy."""


class ScorerSection(CandidateScoringSection):
    """A learned scorer of candidates, shared over the window, with a critic."""

    episodes_per_update: int = Field(4, ge=1)
    """Fine-tunings between two updates of the policy; `episodes` is a multiple of it."""
    parallel_episodes: int = Field(1, ge=1)
    """Fine-tunings that step together, their trained parameters stacked; pays on a GPU. It divides
    `episodes_per_update`. Each is charged with the frozen layers of its rows as if it were alone,
    so that this costs more FLOPs than one after another."""
    learning_rate: float = Field(3e-3, gt=0)
    """Of the policy's optimizer."""
    gamma: float = Field(0.99, gt=0, le=1)
    """Discount."""
    entropy_coefficient: float = Field(0.0, ge=0)
    """Weight of the entropy bonus; a `prior` takes its place."""
    hidden_size: int = Field(64, ge=1)
    """Width of the scorer."""
    final: Literal["greedy", "sample", "best"] = "greedy"
    """Picks of the final fine-tuning: the highest scores; or draws as in learning; or those of the
    best episode on reward-validation, played again: of all that it learned from, of what was tried
    for its prior, and of one more with the highest scores."""
    keep: Literal["best", "last"] = "best"
    """Weights of the final policy: those that collected the best episodes between two updates, or
    the last."""
    unseen: tuple[FeatureGroup, ...] = ()
    """Groups of features that this policy is kept from using, to measure what they are worth:
    `stage`, `difficulty`, `semantic`, `kind`, `availability`."""

    @property
    def learning_episodes(self) -> int:
        """As `episodes` says, and the one with the highest scores that `final: best` looks at."""
        return self.episodes + (self.final == "best")


class PpoConfig(ScorerSection):
    """PPO over sets of candidates: a shared scorer with the Plackett-Luce likelihood.

    With `from` it is one that another run has trained, and picks here without learning: beside it
    only `name`, `from_policy`, `window` and `final` (not `best`) can be said.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    kind: Literal["ppo"]
    from_run: str | None = Field(None, alias="from")
    """Run directory of a policy that is trained already, or null to train one. Its pool, window
    and model may be others; `features.tier` must be the same, and its semantic components of the
    same model, or none (`features.semantic_size: 0`)."""
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
        return super().learning_episodes + self.episodes_before if self.learns else 0

    @property
    def episodes_before(self) -> int:
        """Fine-tunings that what it begins as has learned from."""
        ranking = None if self.prior is None else self.prior.ranking
        return ranking.learning_episodes if ranking is not None else 0

    @property
    def trials(self) -> BestOfConfig | None:
        """What it begins as, where the best of several is found out."""
        ranking = None if self.prior is None else self.prior.ranking
        return ranking if isinstance(ranking, BestOfConfig) else None

    @property
    def regression(self) -> InfluenceConfig | None:
        """What it begins as, where that is learned."""
        ranking = None if self.prior is None else self.prior.ranking
        return ranking if isinstance(ranking, InfluenceConfig) else None

    @property
    def ranking(self) -> RankedSection | None:
        """The static ranking that it begins as, or the hint of what it begins as: a column.

        None where it has neither, or where the best of several is to be found out.
        """
        match None if self.prior is None else self.prior.ranking:
            case RankedSection() as ranking:
                return ranking
            case InfluenceConfig(hint=hint):
                return hint
        return None

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


TrainedByGradients = ScorerSection | RaiseConfig
"""Policies whose rewards are measured as `reward.every` and `reward.control_episodes` say; others
that learn take in every step, or an episode as a whole."""


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
    | ShortestConfig
    | PerplexityConfig
    | IfdConfig
    | SsplConfig
    | KCenterConfig
    | DeitaConfig
    | NearestToTargetConfig
    | DsirConfig
    | LessConfig
    | InTurnConfig
    | BestOfConfig
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
    get_args(section.model_fields["kind"].annotation)[0]
    for section in get_args(get_args(BuiltInPolicyConfig)[0])
    if issubclass(section, RankedSection | MosaicOnlyConfig | MditOnlyConfig)
)
"""Kinds whose schedule is settled before the first step, `random` and `full` apart."""
