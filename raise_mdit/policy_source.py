"""Policies that another run has trained: which one a section means, and what it needs here.

A scorer sees candidates by columns. Those are normalised over each pool, so that they mean the same
on another one; but semantic columns are principal axes of one pool's embeddings, and are carried
over with the policy, which asks for embeddings of the same model.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from raise_mdit.config import ExperimentConfig, FeaturesConfig
from raise_mdit.decisions import BASIS_FILE, FEATURES_FILE, POLICY_FILE, read_basis, read_features
from raise_mdit.errors import ConfigError, RunError, nearest
from raise_mdit.experiment_file import read_config
from raise_mdit.exported_policy import DESCRIPTION_FILE, read_policy
from raise_mdit.features import Basis
from raise_mdit.folders import PREPARATION_FILE, is_exported_policy
from raise_mdit.policy_config import PolicyConfig, PpoConfig, PriorConfig
from raise_mdit.results import ArmResult, read_result
from raise_mdit.runs import arm_folder, read_json

REWARD_EXAMPLES = "reward_examples"
"""Of `preparation.json`: ids of the examples that rewards are measured on."""


@dataclass(frozen=True, slots=True)
class TrainedPolicy:
    """A policy in the directory of the run that trained it, or in a folder of its own."""

    directory: Path
    policy: PpoConfig
    """As it was trained."""
    tier: str
    """`features.tier` of the run that trained it."""
    has_semantics: bool
    """Whether principal components are among its columns."""
    where: str
    """The key that asks for it, as messages name it."""
    seeds: tuple[int, ...] | None
    """Of that run; None where the folder holds one trained policy and no run."""

    def weights(self, seed: int) -> Path:
        """The weights of a seed if it was trained with it, otherwise of the first that was.

        Args:
            seed: Of the arm that uses it.

        Raises:
            RunError: No seed of it has finished.
        """
        if self.seeds is None:
            return read_policy(self.directory).weights
        label = self.policy.label
        for each in (seed, *self.seeds):
            folder = arm_folder(self.directory, label, each)
            if (folder / "result.json").is_file() and (folder / POLICY_FILE).is_file():
                return folder / POLICY_FILE
        raise RunError(f"{self.where}: {label} has not finished in {self.directory}; resume it")

    def prior(self, seed: int) -> PriorConfig | None:
        """The ranking that it began as with a seed, the chosen one where several were tried.

        Args:
            seed: Of the arm that uses it.

        Raises:
            RunError: No seed of it has finished.
        """
        if self.policy.trials is None:
            return self.policy.prior
        return prior_of_arm(self.policy, read_result(self.weights(seed).parent))

    @property
    def reward_examples(self) -> frozenset[str] | None:
        """Ids of the examples that it learned from; None where an older version trained it."""
        if self.seeds is None:
            found = read_policy(self.directory).description.reward_examples
        else:
            found = reward_examples(self.directory)
        return None if found is None else frozenset(found)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the pool's columns that it was trained on."""
        if self.seeds is None:
            return read_policy(self.directory).description.pool_columns
        return read_features(self.directory / FEATURES_FILE).names

    def basis(self) -> tuple[Basis, str]:
        """The axes of its semantic columns, and whose embeddings they are axes of.

        Raises:
            RunError: The run kept none.
        """
        return read_basis(self.directory / BASIS_FILE)


def trained_policy(policy: PpoConfig) -> TrainedPolicy:
    """The policy that a section with `from` means.

    Args:
        policy: The section.

    Raises:
        ConfigError: There is no such policy in that run, or it could be one of several.
        RunError: That is no run directory of this version.
    """
    assert policy.from_run is not None, "the section asks for a policy of another run"
    where = f"policies.{policy.label}.from"
    directory = Path(policy.from_run)
    if is_exported_policy(directory):
        return _alone(policy, directory, where)
    if not (directory / "config.yaml").is_file():
        raise RunError(
            f"{where}: {directory}: not a run directory (no config.yaml), nor an exported policy "
            f"(no {DESCRIPTION_FILE})"
        )
    config = read_config(directory)
    trained = {
        each.label: each
        for each in config.policies
        if isinstance(each, PpoConfig) and each.from_run is None
    }
    if not trained:
        raise ConfigError(f"{where}: {directory} trained no policy of kind ppo; give another run")
    names = ", ".join(trained)
    if policy.from_policy is None and len(trained) > 1:
        raise ConfigError(f"{where}: {directory} trained {names}; say which by `from_policy`")
    wanted = policy.from_policy or next(iter(trained))
    if wanted not in trained:
        raise ConfigError(
            f"{where}_policy: {directory} trained no {wanted!r} of kind ppo, allowed: {names}."
            f"{nearest(wanted, trained)}"
        )
    return TrainedPolicy(
        directory,
        trained[wanted],
        tier=config.features.tier,
        has_semantics=config.features.semantic_size > 0,
        where=where,
        seeds=config.seeds,
    )


def _alone(policy: PpoConfig, directory: Path, where: str) -> TrainedPolicy:
    """The policy of a folder that holds no run."""
    description = read_policy(directory).description
    kind, label = description.section.get("kind"), description.label
    if kind != "ppo":
        raise ConfigError(f"{where}: {directory} holds {label} of kind {kind}, which is no ppo")
    if policy.from_policy not in (None, label):
        raise ConfigError(
            f"{where}_policy: {directory} holds no {policy.from_policy!r} but {label}; remove it"
        )
    return TrainedPolicy(
        directory,
        PpoConfig.model_validate_json(json.dumps(dict(description.section))),
        tier=description.tier,
        has_semantics=description.semantic_size > 0,
        where=where,
        seeds=None,
    )


def prior_of_arm(policy: PpoConfig, result: ArmResult) -> PriorConfig | None:
    """What an arm began as, the chosen ranking where several were tried.

    Args:
        policy: Its section.
        result: Of the arm.

    Raises:
        RunError: An older version ran it, and did not say which ranking it chose.
    """
    if policy.prior is None or policy.trials is None:
        return policy.prior
    best = result.best_trial
    if best is None:
        raise RunError(
            f"{policy.label} s{result.seed}: an older version ran it, and did not keep which "
            "ranking it began as; run it again"
        )
    chosen = policy.trials.rankings[result.trials.index(best)]
    return policy.prior.model_copy(update={"ranking": chosen})


def transferred(policies: Iterable[PolicyConfig]) -> Iterator[PpoConfig]:
    """Those that come from another run."""
    for policy in policies:
        if isinstance(policy, PpoConfig) and policy.from_run is not None:
            yield policy


def with_own_priors(config: ExperimentConfig) -> ExperimentConfig:
    """The experiment with each transferred policy as it was trained, with all that it began as.

    Args:
        config: As it was written.

    Raises:
        UserError: A policy cannot be had, or was trained on other features than this one's.
    """
    found = {each.label: trained_policy(each) for each in transferred(config.policies)}
    for trained in found.values():
        _check_features(config, trained)
        for seed in config.seeds:
            trained.weights(seed)
    policies = (
        _as_trained(each, found[each.label], _prior_over(found[each.label], config.seeds))
        if each.label in found
        else each
        for each in config.policies
    )
    return config.model_copy(update={"policies": tuple(policies)})


def as_trained(policy: PolicyConfig, seed: int) -> PolicyConfig:
    """A transferred policy as it was trained with a seed; any other as it is.

    Args:
        policy: Any.
        seed: Of the arm that uses it.

    Raises:
        UserError: A policy cannot be had.
    """
    if not isinstance(policy, PpoConfig) or policy.from_run is None:
        return policy
    trained = trained_policy(policy)
    return _as_trained(policy, trained, trained.prior(seed))


def _as_trained(
    policy: PolicyConfig, trained: TrainedPolicy, prior: PriorConfig | None
) -> PolicyConfig:
    """The policy shown what it began as, and offered the whole pool if it was and nobody objects.

    Another window need not fit this pool.
    """
    assert isinstance(policy, PpoConfig), "no other kind is transferred"
    whole = policy.window is None and trained.policy.window == "pool"
    window = "pool" if whole else policy.window
    return policy.model_copy(update={"prior": prior, "window": window})


def _prior_over(trained: TrainedPolicy, seeds: Iterable[int]) -> PriorConfig | None:
    """What it began as, or the best of all that it began as where seeds differ in that."""
    priors = [trained.prior(seed) for seed in seeds]
    if all(prior == priors[0] for prior in priors):
        return priors[0]
    began = trained.policy.trials
    assert began is not None, "seeds began as what each liked best"
    rankings = {prior.ranking.label for prior in priors if prior is not None}
    tried = tuple(each for each in began.rankings if each.label in rankings)
    assert trained.policy.prior is not None, "trials are of a prior"
    update = {"ranking": began.model_copy(update={"rankings": tried})}
    return trained.policy.prior.model_copy(update=update)


def embeddings_in_words(features: FeaturesConfig, digest: str) -> str:
    """Whose embeddings semantic columns are made of, in words that name no other.

    Args:
        features: Of the experiment.
        digest: Of the model that is tuned. Other models go by their names.
    """
    if features.sentence_encoder is not None:
        return f"states of the sentence encoder {features.sentence_encoder}"
    if features.tier != "model":
        return f"input embeddings of the model {digest}"
    if features.auxiliary_model is not None:
        return f"states of the auxiliary model {features.auxiliary_model}"
    return f"states of the model {digest}"


def check_embeddings(policies: Iterable[PolicyConfig], embeddings: str) -> None:
    """Nothing, if the semantic columns of transferred policies mean something here.

    Args:
        policies: Of the experiment.
        embeddings: As :func:`embeddings_in_words` has it.

    Raises:
        RunError: A policy was trained on axes of other embeddings.
    """
    for trained in map(trained_policy, transferred(policies)):
        if not trained.has_semantics:
            continue
        _, theirs = trained.basis()
        if theirs != embeddings:
            raise RunError(
                f"{trained.where}: its semantic components are of {theirs}, which say nothing of "
                f"{embeddings}; use the same model and tier, or train it with "
                "`features.semantic_size: 0`"
            )


def reward_examples(directory: Path) -> tuple[str, ...] | None:
    """Ids of the examples that the rewards of a run are measured on.

    Args:
        directory: Of the run.

    Returns:
        None where an older version ran it.
    """
    file = directory / PREPARATION_FILE
    found = read_json(file).get(REWARD_EXAMPLES) if file.is_file() else None
    return None if found is None else tuple(found)


def check_unseen(
    policies: Iterable[PolicyConfig], held_out: Mapping[str, Collection[str]]
) -> tuple[str, ...]:
    """A sentence for each transferred policy of which nobody can tell what it learned from.

    Args:
        policies: Of the experiment.
        held_out: Ids of the examples of each split that policies are compared on.

    Raises:
        RunError: A policy learned from rewards on some of them, so its result would be flattered.
    """
    unknown = []
    for trained in map(trained_policy, transferred(policies)):
        learned_from = trained.reward_examples
        if learned_from is None:
            unknown.append(
                f"{trained.where}: an older version trained it and kept no list of what it learned "
                "from, which may be among the held-out examples here."
            )
            continue
        for split, ids in held_out.items():
            seen = learned_from.intersection(ids)
            if seen:
                raise RunError(
                    f"{trained.where}: {len(seen)} of the {len(ids)} examples of data.{split} are "
                    "among those that its rewards were measured on, so its result would be "
                    f"flattered; draw data.{split} from other rows, such as with the data.seed and "
                    "the shares of that run"
                )
    return tuple(unknown)


def _check_features(config: ExperimentConfig, trained: TrainedPolicy) -> None:
    theirs, ours = trained.tier, config.features.tier
    if theirs != ours:
        raise ConfigError(
            f"{trained.where}: it was trained with `features.tier: {theirs}`, and this experiment "
            f"has {ours}; write {theirs} here, or take another policy"
        )
