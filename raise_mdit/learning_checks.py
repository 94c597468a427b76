"""Whether the settings of learners and learned policies fit each other and have an effect.

Each check takes a config whose keys are valid by themselves and gives its faults.
"""

from __future__ import annotations

import os.path
from collections.abc import Iterator
from pathlib import Path

from raise_mdit.config import ExperimentConfig, FullConfig, LearnerConfig, LoraConfig
from raise_mdit.config_section import Section
from raise_mdit.errors import nearest_entry
from raise_mdit.policy_config import (
    BestOfConfig,
    InfluenceConfig,
    PpoConfig,
    PriorConfig,
    RaiseConfig,
    RandomSearchConfig,
    ScorerSection,
    TrainedByGradients,
)
from raise_mdit.ranking_config import (
    DeitaConfig,
    InTurnConfig,
    KCenterConfig,
    LessConfig,
    RankedSection,
    SsplConfig,
)
from raise_mdit.yaml_document import Fault, Location

SOURCE_FILES = ("config.yaml", "policy.json")
"""One of them is in a folder that a trained policy comes from: a run directory, or its export."""
LEARNED_REPEATS = "how often to repeat is learned"
"""Why a ranking that a policy begins as, or is shown, cannot say it."""
SAID_OF_TRAINED = frozenset({"kind", "name", "from_run", "from_policy", "window", "final"})
"""Fields that say something of a policy that comes trained."""


def learning_faults(config: ExperimentConfig) -> Iterator[Fault]:
    """Everything that does not fit about learners and about learning a policy."""
    for check in CHECKS:
        yield from check(config)


def _noise(config: ExperimentConfig) -> Iterator[Fault]:
    """Noise on embeddings changes what frozen layers give, which is computed once."""
    for key, learner in (("learner", config.learner), ("proxy_learner", config.proxy_learner)):
        if learner is not None and learner.embedding_noise > 0 and _freezes_layers(learner):
            message = (
                "needs every layer trained, as outputs of frozen layers are computed once; write "
                "0, or trainable kind `full`, or `lora` with layers `all`"
            )
            yield Fault((key, "embedding_noise"), message)


def _freezes_layers(learner: LearnerConfig) -> bool:
    match learner.trainable:
        case FullConfig() | LoraConfig(layers="all"):
            return False
    return True


def _scorers(config: ExperimentConfig) -> Iterator[Fault]:
    for index, policy in enumerate(config.policies):
        where = ("policies", index)
        if isinstance(policy, PpoConfig) and policy.from_run is not None:
            yield from _transfer(policy, policy.from_run, where)
            continue
        if isinstance(policy, ScorerSection):
            yield from _episodes(policy, where)
            yield from _parallel(policy, where, config)
        if isinstance(policy, InfluenceConfig) and policy.hint is not None:
            yield from _repeat(policy.hint, (*where, "hint"), LEARNED_REPEATS)
        if isinstance(policy, PpoConfig):
            yield from _no_source(policy, where)
            yield from _minibatches(policy, where, config.environment.budget.steps)
            yield from _prior(policy, where)


def _transfer(policy: PpoConfig, directory: str, where: Location) -> Iterator[Fault]:
    """Of a policy that comes trained, only what it is and how it is used can be said."""
    if not any(os.path.isfile(os.path.join(directory, name)) for name in SOURCE_FILES):
        message = (
            f"{directory!r} is neither a run directory (no config.yaml) nor an exported policy (no "
            f"policy.json).{'' if os.path.isdir(directory) else nearest_entry(Path(directory))}"
        )
        yield Fault((*where, "from"), message)
    for key, field in PpoConfig.model_fields.items():
        if key not in SAID_OF_TRAINED and getattr(policy, key) != field.default:
            message = "has no effect: with `from` the policy comes trained; remove it"
            yield Fault((*where, key), message)
    if policy.final == "best":
        message = "has no episodes to play again: with `from` the policy comes trained; write"
        yield Fault((*where, "final"), f"{message} `greedy` or `sample`")


def _no_source(policy: PpoConfig, where: Location) -> Iterator[Fault]:
    if policy.from_policy is not None:
        message = "has no effect without `from`, the run directory that the policy is in; add it"
        yield Fault((*where, "from_policy"), message)


def _prior(policy: PpoConfig, where: Location) -> Iterator[Fault]:
    if policy.prior is None:
        return
    if policy.entropy_coefficient > 0:
        message = "has no effect beside a prior: `prior.kl_coefficient` takes its place; remove it"
        yield Fault((*where, "entropy_coefficient"), message)
    ranking = (*where, "prior", "ranking")
    if policy.regression is not None:
        yield from _regression(policy.regression, ranking)
    elif policy.trials is not None:
        for number, each in enumerate(policy.trials.rankings):
            yield from _repeat(each, (*ranking, "rankings", number), LEARNED_REPEATS)
    elif policy.ranking is not None:
        yield from _repeat(policy.ranking, ranking, LEARNED_REPEATS)


def _repeat(ranking: RankedSection, where: Location, reason: str) -> Iterator[Fault]:
    """Of a ranking that is no policy by itself."""
    if ranking.repeat > 1:
        yield Fault((*where, "repeat"), f"has no effect here: {reason}; remove it")


def _regression(prior: InfluenceConfig, where: Location) -> Iterator[Fault]:
    """Of what a policy begins as, where that is learned."""
    if prior.episodes == 0:
        message = "episodes should be at least 1 in a prior: they teach what the policy begins as"
        key = "episodes" if "episodes" in prior.model_fields_set else "kind"
        yield Fault((*where, key), message)
    if prior.window is not None:
        message = "has no effect in a prior, which learns in the policy's own window; remove it"
        yield Fault((*where, "window"), message)
    if prior.final != "greedy":
        message = "has no effect in a prior, which fine-tunes nothing for good; remove it"
        yield Fault((*where, "final"), message)
    if prior.hint is not None:
        yield from _repeat(prior.hint, (*where, "hint"), LEARNED_REPEATS)


def _raise(config: ExperimentConfig) -> Iterator[Fault]:
    """What RAISE's printed state and classes ask for."""
    for index, policy in enumerate(config.policies):
        if not isinstance(policy, RaiseConfig):
            continue
        if config.features.tier != "model":
            message = "its printed state has difficulties by a forward pass; write"
            yield Fault(("policies", index, "kind"), f"{message} `features.tier: model`")
        if config.features.semantic_size == 0:
            message = "its classes are clusters of semantic components; write"
            where = ("policies", index, "kind")
            yield Fault(where, f"{message} `features.semantic_size: 32`, or take it out")
        batch_size = config.environment.batch_size
        if policy.classes > batch_size:
            message = f"should not exceed environment.batch_size, got {policy.classes}"
            where = ("policies", index, _written(policy, "classes", "kind"))
            yield Fault(where, f"{message}, allowed: up to {batch_size}")


def _rankings(config: ExperimentConfig) -> Iterator[tuple[RankedSection, Location]]:
    """Every ranking that a policy follows, begins as, is shown or has for a part."""
    for index, policy in enumerate(config.policies):
        yield from _within(policy, ("policies", index))


def _within(section: Section | None, where: Location) -> Iterator[tuple[RankedSection, Location]]:
    match section:
        case InTurnConfig() | BestOfConfig():
            for number, each in enumerate(section.rankings):
                yield from _within(each, (*where, "rankings", number))
        case InfluenceConfig():
            yield from _within(section.hint, (*where, "hint"))
        case PpoConfig(prior=PriorConfig(ranking=ranking)):
            yield from _within(ranking, (*where, "prior", "ranking"))
    if isinstance(section, RankedSection):
        yield section, where


def _fixed_candidates(config: ExperimentConfig) -> Iterator[Fault]:
    """Policies that come back to candidates which renewal would have replaced."""
    if config.pools.renew == "never":
        return
    message = "candidates that are renewed cannot be picked again; write `pools.renew: never`"
    for index, policy in enumerate(config.policies):
        if isinstance(policy, RandomSearchConfig):
            yield Fault(("policies", index, "kind"), message)
        if isinstance(policy, ScorerSection) and policy.final == "best":
            yield Fault(("policies", index, "final"), f"{message}, or another `final`")
    for ranking, where in _rankings(config):
        if ranking.repeat > 1:
            yield Fault((*where, "repeat"), f"{message}, or 1 here")
        if isinstance(ranking, SsplConfig | KCenterConfig | DeitaConfig):
            reason = "ranks each candidate by those before it, which renewal replaces"
            yield Fault((*where, "kind"), f"{reason}; write `pools.renew: never`, or take it out")


def _repeats(config: ExperimentConfig) -> Iterator[Fault]:
    """A batch takes a candidate once, so that steps limit how often it is used."""
    steps = config.environment.budget.steps
    for ranking, where in _rankings(config):
        if steps is not None and ranking.repeat > steps:
            message = "should not exceed the steps of an episode, as a batch takes a candidate once"
            fault = f"{message}, got {ranking.repeat}, allowed: up to {steps}"
            yield Fault((*where, "repeat"), fault)


def _told_apart(config: ExperimentConfig) -> Iterator[Fault]:
    """Rankings beside each other are told apart by what reports call them."""
    called: set[tuple[Location, str]] = set()
    for ranking, where in _rankings(config):
        if len(where) < 2 or where[-2] != "rankings":
            continue
        name = (where[:-1], ranking.in_words)
        if name in called:
            message = f"another ranking here is called {ranking.in_words!r} already; give each its"
            key = "kind" if ranking.name is None else "name"
            yield Fault((*where, key), f"{message} own `name`, or keep one")
        called.add(name)


def _turns(config: ExperimentConfig) -> Iterator[Fault]:
    """Of rankings that take turns."""
    for ranking, where in _rankings(config):
        if isinstance(ranking, InTurnConfig):
            for number, each in enumerate(ranking.rankings):
                part = (*where, "rankings", number)
                yield from _repeat(each, part, "`repeat` of `in_turn` is that of all")


def _balance(config: ExperimentConfig) -> Iterator[Fault]:
    targets = {share.source for share in config.data.reward_validation}
    if config.reward.balance == "targets" and len(targets) == 1:
        message = "has no effect: targets are sources, and `data.reward_validation` has one; write"
        yield Fault(("reward", "balance"), f"{message} `tokens`, or give each target its source")


def _less(config: ExperimentConfig) -> Iterator[Fault]:
    for ranking, where in _rankings(config):
        if isinstance(ranking, LessConfig) and ranking.checkpoints > ranking.warmup_steps:
            message = f"should not exceed warmup_steps {ranking.warmup_steps}"
            key = (*where, _written(ranking, "checkpoints", "warmup_steps"))
            yield Fault(key, f"{message}, got {ranking.checkpoints}")


def _episodes(policy: ScorerSection, where: Location) -> Iterator[Fault]:
    episodes, group = policy.episodes, policy.episodes_per_update
    if episodes % group:
        below = episodes // group * group
        fits = " or ".join(str(number) for number in (below, below + group) if number)
        message = f"episodes {episodes} should be a multiple of episodes_per_update {group}"
        message += f"; write {fits} episodes"
        yield Fault((*where, _written(policy, "episodes", "episodes_per_update")), message)


def _minibatches(policy: PpoConfig, where: Location, steps: int | None) -> Iterator[Fault]:
    if steps is None:
        return
    collected = policy.episodes_per_update * steps
    most = collected // 2  # advantages are normalised within a minibatch, so one step is too few
    if policy.minibatches > most:
        message = (
            f"minibatches {policy.minibatches} should not exceed {most}, half of the {collected} "
            f"steps of an update ({policy.episodes_per_update} episodes of {steps})"
        )
        yield Fault((*where, _written(policy, "minibatches", "episodes_per_update")), message)


def _written(section: Section, *keys: str) -> str:
    """The first of the keys that was not left to its default."""
    return next((key for key in keys if key in section.model_fields_set), keys[0])


def _parallel(policy: ScorerSection, where: Location, config: ExperimentConfig) -> Iterator[Fault]:
    together, group = policy.parallel_episodes, policy.episodes_per_update
    if together == 1:
        return
    key = (*where, "parallel_episodes")
    if group % together:
        fits = [str(number) for number in range(1, group + 1) if group % number == 0]
        message = f"parallel_episodes {together} should divide episodes_per_update {group}"
        yield Fault(key, f"{message}: {', '.join(fits)}")
    if config.features.tier == "gradient":
        message = "fine-tunings that step together have no gradient alignment yet; write 1 here"
        yield Fault(key, f"{message}, or another features.tier")
    reason = _why_not_stacked(config.proxy_learner or config.learner)
    if reason:
        yield Fault(key, f"fine-tunings can step together only if {reason}; write 1 here")


def _why_not_stacked(learner: LearnerConfig) -> str | None:
    match learner.trainable:
        case FullConfig():
            return "they share frozen layers (trainable kind `top_layers` or `lora`)"
        case LoraConfig(dropout=dropout) if dropout > 0:
            return "there is no dropout, which would be drawn differently (lora.dropout 0)"
    if learner.embedding_noise > 0:
        return "there is no noise, which would be drawn differently (learner.embedding_noise 0)"
    return None


def _without_effect(config: ExperimentConfig) -> Iterator[Fault]:
    """Settings that only a policy which learns would use, and a proxy that is none."""
    learning = [policy for policy in config.policies if policy.learns]
    looks = any(policy.sees_alignment for policy in config.policies)
    if config.features.tier == "gradient" and not looks:
        message = "has no effect: no policy learns from it; add `- kind: ppo` or write `cheap`"
        yield Fault(("features", "tier"), message)
    if learning and config.proxy_learner == config.learner:
        message = "has no effect: it equals `learner`; change or remove it"
        yield Fault(("proxy_learner",), message)
    used = {
        "proxy_learner": bool(learning),
        "reward": any(policy.learns or policy.sees_stage for policy in config.policies),
    }
    for key in (key for key, is_used in used.items() if not is_used):
        if key in config.model_fields_set and getattr(config, key) is not None:
            message = "has no effect: no policy learns; add `- kind: ppo` or remove it"
            yield Fault((key,), f"{message} (`--set {key}=null`)")


def _reward_of_steps(config: ExperimentConfig) -> Iterator[Fault]:
    """What of `reward` only policies heed that are trained by gradients."""
    if not any(policy.learns or policy.sees_stage for policy in config.policies):
        return  # `reward` as a whole has none
    trained = [each for each in config.policies if isinstance(each, TrainedByGradients)]
    used = {
        "every": bool(trained) or config.reward.every == 1,
        "control_episodes": any(each.learns for each in trained)
        or config.reward.control_episodes == 0,
    }
    for key in (key for key, is_used in used.items() if not is_used):
        message = "has no effect: only ppo, a2c, reinforce and raise heed it; add one of them"
        yield Fault(("reward", key), f"{message}, or remove it (`--set reward.{key}=null`)")


def _reward(config: ExperimentConfig) -> Iterator[Fault]:
    steps, every = config.environment.budget.steps, config.reward.every
    if steps is not None and every > steps:
        message = f"should not exceed the steps of an episode, got {every}, allowed: up to {steps}"
        yield Fault(("reward", "every"), message)
    shares = config.data.reward_validation
    if config.reward.items is None or any(share.rows == "all" for share in shares):
        return
    most = sum(int(share.rows) for share in shares)
    if config.reward.items > most:
        message = f"should not exceed data.reward_validation, got {config.reward.items}"
        yield Fault(("reward", "items"), f"{message}, allowed: up to {most}")


def _tier(config: ExperimentConfig) -> Iterator[Fault]:
    features = config.features
    if features.auxiliary_model is not None and features.tier != "model":
        message = f"has no effect with tier `{features.tier}`; write `tier: model` or remove it"
        yield Fault(("features", "auxiliary_model"), message)


CHECKS = (
    _noise,
    _scorers,
    _raise,
    _fixed_candidates,
    _less,
    _repeats,
    _told_apart,
    _turns,
    _balance,
    _without_effect,
    _reward_of_steps,
    _reward,
    _tier,
)
"""All that :func:`learning_faults` looks at."""
