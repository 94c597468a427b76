"""The learners of an experiment: the one that is tuned, and what policies learn from.

A proxy learner, or learners that step together, have a copy of the model of their own. All share
one store of what frozen layers give.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from raise_mdit.agreement import Agreement, Probe, rank_agreement
from raise_mdit.config import ExperimentConfig, LearnerConfig
from raise_mdit.core import Cost, EncodedRow
from raise_mdit.learners.causal_lm import CausalLmLearner, build_learner
from raise_mdit.learners.flops import whole_lora_flops
from raise_mdit.learners.forward import LayeredForward, Precision
from raise_mdit.learners.pretrained import Pretrained
from raise_mdit.learners.stacked import StackedCausalLmLearners, build_stacked_learners
from raise_mdit.learners.trunk_store import TrunkStore, sections_of
from raise_mdit.policy_config import ScorerSection
from raise_mdit.progress import Progress

FULL_TRAINING_RANK = 8
"""LoRA's own choice (arXiv 2106.09685)."""

PROBES = 12
"""Short fine-tunings on which a proxy is compared; each takes its rows from one stratum, since
batches drawn from everywhere differ too little to be ranked."""
PROBE_STEPS = 2


class Tuning:
    """Builds an experiment's learners; those that step together when they are asked for."""

    def __init__(
        self,
        config: ExperimentConfig,
        pretrained: Pretrained,
        *,
        precision: Precision,
        store: TrunkStore,
    ) -> None:
        self._pretrained = pretrained
        self._precision: Precision = precision
        self._sections = sections_of(
            store,
            model_digest=pretrained.digest,
            precision=precision,
            device_type=pretrained.model.device.type,
        )
        self._seed = config.data.seed
        self._policy_config = config.proxy_learner or config.learner
        layers = LayeredForward(pretrained.model, split=0, precision=precision).layers
        self.whole_lora = whole_lora_flops(pretrained.model, layers, rank=FULL_TRAINING_RANK)
        """Counts for LoRA through the whole model, which costs are compared with."""
        self._stacked: dict[int, StackedCausalLmLearners] = {}
        self._untouched = copy.deepcopy(pretrained.model) if _needs_copies(config) else None
        self.learner = self._build(pretrained.model, config.learner)
        self.base: object = self.learner.snapshot()
        """The learner before any training."""
        self.policy_learner = self.learner
        """What policies learn from: the learner itself, or its proxy."""
        if config.proxy_learner is not None:
            self.policy_learner = self._build(self._copy(), config.proxy_learner)
        self.policy_base: object = self.policy_learner.snapshot()
        """The same before any training."""

    @property
    def has_proxy(self) -> bool:
        """Whether policies learn from another learner than the one they choose for."""
        return self.policy_learner is not self.learner

    def stacked(self, num_learners: int) -> StackedCausalLmLearners:
        """Learners like the policy's that step together, all at the untuned model."""
        if num_learners not in self._stacked:
            self._stacked[num_learners] = build_stacked_learners(
                self._copy(),
                self._policy_config,
                num_learners=num_learners,
                precision=self._precision,
                seed=self._seed,
                store=self._sections,
            )
        learners = self._stacked[num_learners]
        for index in range(num_learners):  # who used them may have stopped within an episode
            learners.restore(index, self.policy_base)
        return learners

    def start_over(self) -> None:
        """Return every learner to the untuned model, with accounts on which nothing is paid."""
        self.learner.restore(self.base)
        self.policy_learner.restore(self.policy_base)
        for learner in {id(each): each for each in (self.learner, self.policy_learner)}.values():
            learner.open_account()

    def fill(self, rows: Sequence[EncodedRow], progress: Progress) -> Cost:
        """Run the frozen layers over many rows that will be needed, and what is owed for it.

        Args:
            rows: Of which those that were never seen are computed.
            progress: Told of each.
        """
        cache = self.learner.trunk_cache
        if cache is None:
            return Cost()
        progress.start("running the frozen layers", len(rows))
        cost = cache.fill(rows, advance=progress.advance)
        progress.finish()
        return cost

    def proxy_agreement(
        self,
        rows: Sequence[EncodedRow],
        strata: NDArray[np.int64],
        items: Sequence[EncodedRow],
        *,
        batch_size: int,
        rng: np.random.Generator,
    ) -> Agreement:
        """Whether the proxy ranks candidates as the learner does.

        Args:
            rows: Candidates of the pool.
            strata: [N] from which the rows of each probe are drawn.
            items: Reward-validation.
            batch_size: Rows of a step.
            rng: Of the draws.
        """
        probes = [_probe(rows, strata, batch_size, rng) for _ in range(PROBES)]
        return rank_agreement(self.policy_learner, self.learner, probes, items, rng=rng)

    def _build(self, model: PreTrainedModel, config: LearnerConfig) -> CausalLmLearner:
        return build_learner(
            model, config, precision=self._precision, seed=self._seed, store=self._sections
        )

    def _copy(self) -> PreTrainedModel:
        assert self._untouched is not None, "a copy was made before the model was changed"
        return copy.deepcopy(self._untouched)


def _needs_copies(config: ExperimentConfig) -> bool:
    together = any(
        isinstance(policy, ScorerSection) and policy.parallel_episodes > 1
        for policy in config.policies
    )
    return together or config.proxy_learner is not None


def _probe(
    rows: Sequence[EncodedRow],
    strata: NDArray[np.int64],
    batch_size: int,
    rng: np.random.Generator,
) -> Probe:
    """Batches from one stratum, with repetition only where it is too small."""
    members = np.flatnonzero(strata == rng.choice(np.unique(strata)))
    picks = batch_size * PROBE_STEPS
    drawn = rng.choice(members, picks, replace=picks > len(members))
    return [
        [rows[row] for row in drawn[start : start + batch_size]]
        for start in range(0, picks, batch_size)
    ]
