"""A policy that another run has trained, at work here: what it sees, and whether it is of use.

Before anything is spent on it, its scores are compared with what short fine-tunings gain here.

Shapes: ``N`` candidates of the pool, ``F`` features, ``W`` slots, ``k`` picks, ``P`` probes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.utils import set_random_seed
from torch import nn

from raise_mdit.agents.attribution import load_scorer
from raise_mdit.agents.pool_scoring import score_pool
from raise_mdit.agents.scoring_policy import SetScoringPolicy
from raise_mdit.agreement import rank_correlation
from raise_mdit.arm_environments import ArmEnvironments
from raise_mdit.core import Cost
from raise_mdit.envs import InstructionSelectionEnv
from raise_mdit.errors import RunError
from raise_mdit.features import FeatureTable
from raise_mdit.ledger import Ledger
from raise_mdit.policy_config import PpoConfig
from raise_mdit.policy_source import (
    TrainedPolicy,
    as_trained,
    check_unseen,
    trained_policy,
    transferred,
)
from raise_mdit.preparation import Preparation
from raise_mdit.progress import Progress
from raise_mdit.results import HELD_OUT
from raise_mdit.selectors import prior_of
from raise_mdit.statistics import Interval
from raise_mdit.streams import stream

PROBES = 12
"""Short fine-tunings of one step, as many as a proxy learner is compared on."""


class TransferCheck(NamedTuple):
    """How a transferred policy's scores agree with what training gains here."""

    label: str
    seed: int
    source: Path
    """Folder whose weights it takes."""
    correlation: Interval
    """Spearman's rank correlation of mean scores and gains, with its bootstrap interval."""
    scores_P: NDArray[np.float64]
    """Mean score of each probe's candidates."""
    gains_P: NDArray[np.float64]
    """Share of the validation loss that each probe takes off."""
    cost: Cost
    num_offered: int
    """Candidates at each step of the final fine-tuning."""
    num_candidates: int
    """Of the pool."""

    @property
    def sentence(self) -> str:
        """What a person needs to know before the policy is used."""
        interval = self.correlation
        found = f"rank correlation {interval.mean:.2f}, 95 % interval {interval.low:.2f} to "
        found += f"{interval.high:.2f}, over {interval.num_samples} short fine-tunings"
        offered = f"offered {self.num_offered:,} of {self.num_candidates:,} candidates a step"
        who = f"Transferred policy {self.label} s{self.seed} (of {self.source}; {offered})"
        if interval.is_above_zero:
            return f"{who}: its scores rank candidates as training here does ({found})."
        return (
            f"{who}: its scores are not shown to rank candidates as training here does "
            f"({found}); what it has learned may not carry over."
        )


@dataclass(frozen=True, slots=True)
class Transfer:
    """A transferred policy with the environments of its arm."""

    environments: ArmEnvironments
    policy: PpoConfig
    seed: int

    def scorer(self, env: InstructionSelectionEnv) -> SetScoringPolicy:
        """The policy as it was trained, for the windows of an environment.

        Raises:
            RunError: Its weights cannot be read, or are for other columns than these.
        """
        trained = trained_policy(self.policy)
        return _policy_for(env, trained.weights(self.seed), trained)

    def final_policy(self) -> SetScoringPolicy:
        """The policy for the final fine-tuning.

        Where it draws its picks it does so from torch's global generator, which is seeded as
        Stable-Baselines3 seeds it for a policy that it trains.
        """
        if self.policy.final == "sample":
            set_random_seed(stream(self.policy.label, self.seed, "policy"))
        return self.scorer(self.environments.final())

    def check(self) -> TransferCheck:
        """Compare its scores with the gains of one step of training on what it scores alike.

        The candidates are a window of the environment, put in the order of their scores; each probe
        trains on as many neighbours in it as a batch takes.
        """
        batch_size = self.environments.preparation.config.environment.batch_size
        num_slots = min(PROBES * batch_size, self.environments.pool.least_offered)
        ledger = Ledger()
        environments = replace(self.environments, ledger=ledger)
        seed = stream(self.policy.label, self.seed, "transfer check")
        env = environments.probe(num_slots, with_signal=True)
        observation, _ = env.reset(seed=seed)
        scores_W = score_pool(
            self.scorer(env),
            observation["candidates"],
            selected=observation["selected"],
            context=observation["context"],
        )
        if self.environments.has_signal:  # which is dear, and no probe looks at it
            env = environments.probe(num_slots, with_signal=False)
        probes = _neighbours(scores_W, batch_size)
        gains_P = np.array([_gain(env, slots_k, seed) for slots_k in probes])
        scores_P = np.array([scores_W[slots_k].mean() for slots_k in probes], np.float64)
        correlation = rank_correlation(scores_P, gains_P, np.random.default_rng(seed))
        source = trained_policy(self.policy).weights(self.seed).parent
        return TransferCheck(
            self.policy.label,
            self.seed,
            source,
            correlation,
            scores_P,
            gains_P,
            ledger.total,
            num_offered=self.environments.window or len(self.environments.pool.ids),
            num_candidates=len(self.environments.pool.ids),
        )


def transferred_table(preparation: Preparation, policy: PpoConfig) -> FeatureTable:
    """The pool's features as a transferred policy was taught to see them.

    Args:
        preparation: The pool.
        policy: A section with `from`.

    Raises:
        RunError: It was trained on other columns.
    """
    trained = trained_policy(policy)
    basis = trained.basis()[0] if trained.has_semantics else None
    table = preparation.table_in(basis)
    theirs = trained.columns
    if table.names != theirs:
        missing = sorted(set(theirs).difference(table.names))
        unknown = sorted(set(table.names).difference(theirs))
        raise RunError(
            f"{trained.where}: it was trained on other features; missing here: "
            f"{', '.join(missing) or 'none'}, only here: {', '.join(unknown) or 'none'}"
        )
    return table


def check_transfers(preparation: Preparation, *, progress: Progress) -> Preparation:
    """The preparation with what is found of each transferred policy, told as soon as it is known.

    Args:
        preparation: Of the experiment.
        progress: Told of the work and the notes.

    Raises:
        RunError: A policy does not fit, or learned from what is held out here.
    """
    held_out: dict[str, list[str]] = {
        split: [each.example.id for each in preparation.corpus.splits[split]] for split in HELD_OUT
    }
    unknown = check_unseen(preparation.config.policies, held_out)
    for sentence in unknown:
        progress.note(sentence)
    checks: dict[tuple[str, int], Cost] = {}
    features: dict[str, NDArray[np.float32]] = {}
    notes = [*unknown]
    for policy in transferred(preparation.config.policies):
        features[policy.label] = transferred_table(preparation, policy).values
        for seed in preparation.config.seeds:
            of_seed = as_trained(policy, seed)
            progress.start(f"{policy.label} s{seed}: comparing its scores with gains here", None)
            preparation.tuning.start_over()
            prior = prior_of(preparation, of_seed, seed, progress=progress)
            environments = ArmEnvironments(
                preparation, policy, Ledger(), prior.scores, features=features[policy.label]
            )
            check = Transfer(environments, policy, seed).check()
            checks[policy.label, seed] = check.cost
            notes.append(check.sentence)
            progress.finish()
            progress.note(check.sentence)
    if checks:
        preparation.tuning.start_over()
    return replace(
        preparation,
        notes=(*preparation.notes, *notes),
        transfer_costs=checks,
        transfer_features=features,
    )


def _policy_for(
    env: InstructionSelectionEnv, weights: Path, trained: TrainedPolicy
) -> SetScoringPolicy:
    observations, actions = env.observation_space, env.action_space
    assert isinstance(observations, spaces.Dict), "observations have parts"
    assert isinstance(actions, spaces.MultiDiscrete), "actions are slots"
    columns = observations["candidates"].shape
    assert columns is not None, "candidates have a shape"
    num_features = columns[1] + 1  # availability comes last
    scorer = load_scorer(weights)
    if scorer.linear.in_features != num_features:
        raise RunError(
            f"{trained.where}: {weights} scores {scorer.linear.in_features} numbers of a "
            f"candidate, and there are {num_features} here"
        )
    first = scorer.encoder[0]
    assert isinstance(first, nn.Linear), "a scorer begins with a linear layer"
    policy = SetScoringPolicy(observations, actions, lambda _: 0.0, hidden_size=first.out_features)
    policy.scorer.load_state_dict(scorer.state_dict())
    policy.set_training_mode(False)
    return policy


def _neighbours(scores_W: NDArray[np.float32], num_picks: int) -> list[NDArray[np.int64]]:
    """Batches of slots that follow each other by score, spread evenly from the lowest up."""
    order_W = np.argsort(scores_W, kind="stable")
    starts_P = np.linspace(0, len(order_W) - num_picks, PROBES).round().astype(np.int64)
    return [order_W[start : start + num_picks] for start in starts_P]


def _gain(env: InstructionSelectionEnv, slots_k: NDArray[np.int64], seed: int) -> float:
    """Of one step on some slots of the window that the seed draws."""
    env.reset(seed=seed)
    _, _, _, _, info = env.step(slots_k)
    return float(info["gain"])
