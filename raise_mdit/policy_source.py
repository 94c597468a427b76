"""Policies that another run has trained: which one a section means, and what it needs here.

A scorer sees candidates by columns. Those are normalised over each pool, so that they mean the same
on another one; but semantic columns are principal axes of one pool's embeddings, and are carried
over with the policy, which asks for embeddings of the same model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from raise_mdit.config import ExperimentConfig, FeaturesConfig
from raise_mdit.decisions import BASIS_FILE, FEATURES_FILE, POLICY_FILE, read_basis, read_features
from raise_mdit.errors import ConfigError, RunError, nearest
from raise_mdit.experiment_file import load_resolved
from raise_mdit.features import Basis
from raise_mdit.policy_config import PolicyConfig, PpoConfig


@dataclass(frozen=True, slots=True)
class TrainedPolicy:
    """A policy in the directory of the run that trained it."""

    directory: Path
    config: ExperimentConfig
    """Of that run."""
    policy: PpoConfig
    """As it was trained."""
    where: str
    """The key that asks for it, as messages name it."""

    def weights(self, seed: int) -> Path:
        """The weights of a seed if it was trained with it, otherwise of the first that was.

        Args:
            seed: Of the arm that uses it.

        Raises:
            RunError: No seed of it has finished.
        """
        label = self.policy.label
        for each in (seed, *self.config.seeds):
            folder = self.directory / "arms" / f"{label}-s{each}"
            if (folder / "result.json").is_file() and (folder / POLICY_FILE).is_file():
                return folder / POLICY_FILE
        raise RunError(f"{self.where}: {label} has not finished in {self.directory}; resume it")

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the pool's columns that it was trained on."""
        return read_features(self.directory / FEATURES_FILE).names

    @property
    def has_semantics(self) -> bool:
        """Whether principal components are among them."""
        return self.config.features.semantic_size > 0

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
    if not (directory / "config.yaml").is_file():
        raise RunError(f"{where}: {directory}: not a run directory (no config.yaml)")
    config = load_resolved(directory / "config.yaml")
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
    return TrainedPolicy(directory, config, trained[wanted], where)


def transferred(policies: Iterable[PolicyConfig]) -> Iterator[PpoConfig]:
    """Those that come from another run."""
    for policy in policies:
        if isinstance(policy, PpoConfig) and policy.from_run is not None:
            yield policy


def with_own_priors(config: ExperimentConfig) -> ExperimentConfig:
    """The experiment with each transferred policy shown the ranking that it began as.

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
        each.model_copy(update={"prior": found[each.label].policy.prior})
        if each.label in found
        else each
        for each in config.policies
    )
    return config.model_copy(update={"policies": tuple(policies)})


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


def _check_features(config: ExperimentConfig, trained: TrainedPolicy) -> None:
    theirs, ours = trained.config.features.tier, config.features.tier
    if theirs != ours:
        raise ConfigError(
            f"{trained.where}: it was trained with `features.tier: {theirs}`, and this experiment "
            f"has {ours}; write {theirs} here, or take another policy"
        )
