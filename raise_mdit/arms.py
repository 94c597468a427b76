"""One policy with one seed: learn if it learns, fine-tune under it, measure on held-out data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raise_mdit import tracking
from raise_mdit.agents.static import ReplayPolicy
from raise_mdit.arm_environments import ArmEnvironments
from raise_mdit.candidates import Original, kind_of, parents_of
from raise_mdit.core import KINDS, Observation
from raise_mdit.decisions import DECISIONS_FILE, DecisionLog, write_decisions
from raise_mdit.errors import DataError
from raise_mdit.held_out import HeldOutData, measure
from raise_mdit.learners.trained_weights import WEIGHTS_FILE, write_weights
from raise_mdit.ledger import FINAL_EVALUATION, MONITORING, Ledger, Purpose
from raise_mdit.openings import Seal
from raise_mdit.policy_config import (
    CustomPolicyConfig,
    FullDataConfig,
    PolicyConfig,
    PpoConfig,
    RandomSection,
    ScorerSection,
    TrainedByGradients,
)
from raise_mdit.policy_learning import NO_EXPERIENCE, Experience, Learned, PolicyLearning
from raise_mdit.policy_source import as_trained
from raise_mdit.policy_transfer import Transfer
from raise_mdit.preparation import Preparation
from raise_mdit.progress import Progress
from raise_mdit.recording import Recorder
from raise_mdit.results import ArmResult, HeldOut, total
from raise_mdit.schedule import Pick
from raise_mdit.selectors import allowed, fixed_selector, prior_of
from raise_mdit.streams import stream
from raise_mdit.unused_candidates import rows_to_use_once, used_up


@dataclass(frozen=True, slots=True)
class Arm:
    """A finished policy and seed."""

    result: ArmResult
    picks: tuple[Pick, ...]
    """The schedule that the policy chose."""


def run_arm(
    preparation: Preparation,
    policy: PolicyConfig,
    seed: int,
    *,
    recorder: Recorder,
    progress: Progress,
    directory: Path,
    seal: Seal,
) -> Arm:
    """Run one policy with one seed from start to end.

    Args:
        preparation: What every arm starts from.
        policy: Which policy.
        seed: Of everything that is drawn.
        recorder: Told of every step and episode.
        progress: Told of long work.
        directory: Where the policy's weights go, if it has any, and those of the model while the
            test stays sealed.
        seal: Of the test.

    Raises:
        DataError: The budget needs more candidates than the pool has, for a policy that never
            repeats one.
    """
    policy = as_trained(policy, seed)
    running = _Running(preparation, policy, seed, recorder, progress, directory, seal)
    preparation.tuning.start_over()
    running.charge_shared()
    if not policy.picks:
        experience, final = NO_EXPERIENCE, running.leave_untrained()
    else:
        learned = running.choose()
        experience = learned.experience
        if isinstance(policy, FullDataConfig):
            running.read_everything()
        final = running.fine_tune(learned)
        if final.decisions is not None and final.schedule:
            final.decisions.cut(len(final.schedule))
            write_decisions(directory / DECISIONS_FILE, final.decisions.decisions)
    return Arm(running.result(final, experience), tuple(running.picks(final)))


def summary_of(result: ArmResult) -> dict[str, float | int]:
    """The final numbers of an arm under the names of :data:`raise_mdit.tracking.METRICS`."""
    cost = total(result.costs)
    summary: dict[str, float | int] = {
        tracking.COST_TOKENS: cost.tokens,
        tracking.COST_FLOPS: cost.flops,
        tracking.COST_SECONDS: cost.seconds,
    }
    if result.model_selection is not None:
        summary[tracking.MODEL_SELECTION_LOSS] = result.model_selection.loss
    if result.test is not None:
        summary[tracking.TEST_LOSS] = result.test.loss
    if result.test is not None and result.test.metric is not None:
        assert result.metric is not None, "a number has a name"
        name = tracking.TASK_METRICS.get(result.metric, tracking.TEST_OWN_METRIC)
        summary[name] = result.test.metric
    return summary


@dataclass(slots=True)
class _Final:
    """The final fine-tuning as it goes on."""

    losses: list[float]
    """On reward-validation, before the first step and after each, of the weights that it would end
    with; where a step is not measured, the last one that was."""
    batches: list[NDArray[np.int64]] = field(default_factory=list)
    """Pool rows of each step."""
    tokens: list[int] = field(default_factory=lambda: [0])
    """Trained on before the first step and after each."""
    flops: list[float] = field(default_factory=list)
    """Of everything that was needed, before the first step and after each."""
    kept_steps: int = 0
    """Steps behind the weights that it ends with."""
    failed: bool = False
    decisions: DecisionLog | None = None
    """What a scorer was offered and picked."""

    @property
    def schedule(self) -> list[NDArray[np.int64]]:
        """Pool rows of each step that counts: those beyond an early stop are left out."""
        return self.batches[: self.kept_steps]


@dataclass
class _Running:
    """An arm at work: what it has, and what it has spent."""

    preparation: Preparation
    policy: PolicyConfig
    seed: int
    recorder: Recorder
    progress: Progress
    directory: Path
    seal: Seal
    ledger: Ledger = field(default_factory=Ledger)

    @cached_property
    def environments(self) -> ArmEnvironments:
        """Where it learns and fine-tunes, at the expense of its ledger."""
        prior = prior_of(self.preparation, self.policy, self.seed, progress=self.progress)
        self.ledger.charge("features", prior.cost)
        features = self.preparation.transfer_features.get(self.policy.label)
        return ArmEnvironments(self.preparation, self.policy, self.ledger, prior.scores, features)

    def charge_shared(self) -> None:
        """Charge what the arm would have had to pay for shared work if it had run alone."""
        if not self.policy.picks or isinstance(self.policy, FullDataConfig):
            return
        self.ledger.charge("features", self.preparation.knowledge.cost(self.policy))
        if not (isinstance(self.policy, RandomSection) and self.policy.drawn_from == ("original",)):
            self.ledger.charge("synthesis", self.preparation.synthesis_cost)
        if self.policy.learns:
            for purpose, cost in self.preparation.rehearsal.costs.items():
                self.ledger.charge(purpose, cost)

    def choose(self) -> Learned:
        """The policy, which learns now, comes trained, or does not learn."""
        match self.policy:
            case PpoConfig(from_run=str()) as policy:
                return self.transfer(policy)
            case CustomPolicyConfig():
                return self.learn()
        return self.learn() if self.policy.learns else self.select()

    def transfer(self, policy: PpoConfig) -> Learned:
        """The policy that another run has trained."""
        self.ledger.charge("proxy_check", self.preparation.transfer_costs[policy.label, self.seed])
        made = Transfer(self.environments, policy, self.seed).final_policy()
        return Learned(made, deterministic=policy.final == "greedy")

    def learn(self) -> Learned:
        """The policy, from the episodes that it learns from."""
        return PolicyLearning(
            self.environments,
            self.policy,
            self.seed,
            self.recorder,
            self.progress,
            self.directory,
            self._control(),
        ).run()

    def select(self) -> Learned:
        """The policy, which does not learn."""
        selector = fixed_selector(
            self.preparation,
            self.policy,
            self.seed,
            progress=self.progress,
            charge=lambda cost: self.ledger.charge("features", cost),
        )
        self.ledger.charge("features", selector.cost)
        return Learned(selector.policy)

    def fine_tune(self, learned: Learned) -> _Final:
        """Train the base model under the policy to the budget."""
        environments = learned.environments or self.environments
        policy = learned.policy
        length = policy.num_steps if isinstance(policy, ReplayPolicy) else None
        env = environments.final(settled=length is not None)
        observation, info = env.reset(seed=self._stream("final"))
        final = _Final([info["validation_loss"]], decisions=self._decision_log(environments))
        final.flops.append(self._flops_so_far())
        self.progress.start(self._stage("fine-tuning"), environments.final_budget.steps)
        of_kinds = allowed(self.preparation, self.policy) if self.policy.most_uses == 1 else None
        done = False
        while not done and len(final.batches) != length:
            if self.policy.most_uses == 1:
                self._check_unused_are_left(observation, of_kinds, final)
            action, _ = policy.predict(observation, deterministic=learned.deterministic)
            if final.decisions is not None:
                final.decisions.add(observation, action)
            observation, _, terminated, truncated, info = env.step(action)
            if learned.online is not None:
                learned.online.learn(info["rows"], info["gain"])
            final.batches.append(info["rows"])
            final.losses.append(info["kept_loss"])
            final.kept_steps = info["kept_steps"]
            final.tokens.append(final.tokens[-1] + info["tokens"])
            final.flops.append(self._flops_so_far())
            final.failed = terminated
            done = terminated or truncated
            self.recorder.log(_step_record(final, info))
            rate = info["tokens"] / info["seconds"]
            self.progress.advance(loss=info["loss"], tokens_per_second=rate)
        self.progress.finish()
        return final

    def read_everything(self) -> None:
        """Run the frozen layers over all that an epoch will need, with a bar of its own."""
        training = self.preparation.training
        originals = np.flatnonzero(training.kinds == KINDS.index("original"))
        rows = [training.rows[int(row)] for row in originals]
        cost = self.preparation.tuning.fill(rows, self.progress)
        self.ledger.charge("final_training", cost)

    def leave_untrained(self) -> _Final:
        """Measure the base model as it is."""
        _, info = self.environments.final().reset(seed=self._stream("final"))
        return _Final([info["validation_loss"]], flops=[self._flops_so_far()])

    def result(self, final: _Final, experience: Experience) -> ArmResult:
        """What the arm reached."""
        data = self.preparation
        stops = data.config.environment.early_stopping
        selection, test = self.measure(data.model_selection, MONITORING), None
        if data.config.evaluation.open_test == "run":
            self.seal.open(self.policy.label, self.seed)
            test = self.measure(data.test, FINAL_EVALUATION)
        elif self.policy.picks:
            model = data.pretrained.model
            write_weights(self.directory / WEIGHTS_FILE, model, base_digest=data.pretrained.digest)
        return ArmResult(
            policy=self.policy.label,
            kind=self.policy.kind,
            seed=self.seed,
            status="non_finite_loss" if final.failed else "complete",
            test=test,
            model_selection=selection,
            metric=data.test.metric,
            reward_validation_losses=tuple(final.losses),
            episode_returns=experience.returns,
            trials=experience.trials,
            greedy_return=experience.greedy_return,
            kept_updates=experience.kept_updates,
            steps=len(final.batches),
            kept_steps=final.kept_steps if stops and not final.failed else None,
            tokens=final.tokens[-1],
            step_tokens=tuple(final.tokens),
            step_flops=tuple(final.flops),
            picks=tuple(_group_counts(self.preparation, rows) for rows in final.schedule),
            costs=self.ledger.costs,
        )

    def measure(self, data: HeldOutData | None, purpose: Purpose) -> HeldOut | None:
        """What the model reaches on held-out data; nothing where there is none."""
        if data is None:
            return None
        self.progress.start(self._stage(data.split.replace("_", "-")), None)
        found = measure(data, self.preparation.tuning.learner)
        self.ledger.charge(purpose, found.cost)
        self.progress.finish()
        return found.held_out

    def picks(self, final: _Final) -> list[Pick]:
        """The schedule."""
        pool = self.preparation.pool
        return [
            Pick(
                policy=self.policy.label,
                seed=self.seed,
                step=step,
                slot=slot,
                id=pool.ids[row],
                kind=KINDS[pool.kinds[row]],
                source=pool.sources[row],
                task=_task(self.preparation, int(row)),
            )
            for step, rows in enumerate(final.schedule)
            for slot, row in enumerate(rows)
        ]

    def _flops_so_far(self) -> float:
        return total(self.ledger.costs).flops

    def _stage(self, work: str) -> str:
        return f"{self.policy.label} s{self.seed}: {work}"

    def _stream(self, purpose: str) -> int:
        return stream(self.policy.label, self.seed, purpose)

    def _decision_log(self, environments: ArmEnvironments) -> DecisionLog | None:
        """For a policy whose scores can be explained afterwards, by the columns of the run."""
        if not isinstance(self.policy, ScorerSection) or environments.features is not None:
            return None
        names = [] if environments.prior is None else ["prior"]
        if environments.has_signal:
            names.append("gradient")
        num_features = self.preparation.training.features.shape[1]
        return DecisionLog(num_features=num_features, extra_names=tuple(names))

    def _control(self) -> NDArray[np.float32] | None:
        """[T] mean reward of random picks at each step, which is taken off what a policy gets."""
        episodes = self.preparation.config.reward.control_episodes
        if episodes == 0 or not isinstance(self.policy, TrainedByGradients):
            return None
        self.progress.start(self._stage("random picks to compare with"), episodes)
        control = self.environments.random_gains(
            seeds=[self._stream(f"control {episode}") for episode in range(episodes)],
            rng=np.random.default_rng(self._stream("control")),
            advance=lambda total: self.progress.advance(episode_return=total),
        )
        self.progress.finish()
        return control

    def _check_unused_are_left(
        self, observation: Observation, of_kinds: NDArray[np.bool_] | None, final: _Final
    ) -> None:
        """Where only some orders of the pool are too short for the budget."""
        unused = observation["mask"] & (observation["selected"] == 0)
        if of_kinds is not None:
            unused &= of_kinds[observation["window"]]
        if unused.sum() < self.preparation.config.environment.batch_size:
            num_candidates = len(rows_to_use_once(self.preparation, self.policy))
            when = f"after {len(final.batches)} steps and {final.tokens[-1]:,} tokens"
            raise DataError(used_up(self.policy, num_candidates, when))


def _step_record(final: _Final, info: Mapping[str, Any]) -> dict[str, float | int]:
    record = {
        tracking.TUNING_STEP: len(final.batches),
        tracking.TUNING_LOSS: info["loss"],
        tracking.TUNING_TOKENS: final.tokens[-1],
        tracking.TUNING_SECONDS: info["seconds"],
        tracking.REWARD_GAIN: info["gain"],
        tracking.BUDGET_SHARE_SPENT: info["budget_share"],
    }
    if info["measured"]:
        record[tracking.REWARD_VALIDATION_LOSS] = info["validation_loss"]
    return record


def _group_counts(preparation: Preparation, rows: NDArray[np.int64]) -> dict[str, int]:
    """Picks by task or source where the candidate is an original, by kind where it is made."""
    counts: dict[str, int] = {}
    for row in rows:
        recipe = preparation.pool.recipe(int(row))
        group: str = kind_of(recipe)
        if isinstance(recipe, Original):
            example = preparation.examples[recipe.example]
            group = example.task or example.source
        counts[group] = counts.get(group, 0) + 1
    return counts


def _task(preparation: Preparation, row: int) -> str | None:
    parents = parents_of(preparation.pool.recipe(row))
    tasks = {preparation.examples[example].task for example, _ in parents} - {None}
    return "+".join(sorted(str(task) for task in tasks)) or None
