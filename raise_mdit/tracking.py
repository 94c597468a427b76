"""Where metrics go besides the run directory, and the one table of their names.

A tracker gets one run for each policy and seed. The run directory stays the truth: a tracker may be
absent, offline or down without loss.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from raise_mdit.config import TaskMetric, WandbConfig

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)

# What the records of a final fine-tuning hold. SB3 owns the group `train`.
TUNING_STEP = "tuning/step"
TUNING_LOSS = "tuning/loss"
TUNING_TOKENS = "tuning/tokens"
TUNING_SECONDS = "tuning/seconds"
REWARD_VALIDATION_LOSS = "reward/validation_loss"
REWARD_GAIN = "reward/gain"
BUDGET_SHARE_SPENT = "budget/share_spent"

# What the records of learning episodes hold.
ROLLOUT_EPISODE = "rollout/episode"
ROLLOUT_EPISODE_RETURN = "rollout/episode_return"
ROLLOUT_EPISODE_STEPS = "rollout/episode_steps"
ROLLOUT_KEPT_EPISODE = "rollout/kept_episode"

# What the summary of a run holds.
TEST_LOSS = "test/loss"
TEST_EXACT_MATCH = "test/exact_match"
TEST_OPTION_LIKELIHOOD = "test/option_likelihood"
COST_TOKENS = "cost/tokens"
COST_FLOPS = "cost/flops"
COST_SECONDS = "cost/seconds"

SB3_TIMESTEPS = "time/total_timesteps"

METRICS: Mapping[str, str] = {
    TUNING_STEP: "optimizer steps of the final fine-tuning so far",
    TUNING_LOSS: "mean loss per scored token of the batch, before the step, in nats",
    TUNING_TOKENS: "tokens trained on so far, without padding",
    TUNING_SECONDS: "wall-clock time of the step, in seconds",
    REWARD_VALIDATION_LOSS: "loss on reward-validation after a step that is measured, in nats per "
    "scored token",
    REWARD_GAIN: "reward of the step: fall of that loss as a share of its value before training, "
    "or of the mean of such shares over targets (`reward.balance: targets`)",
    BUDGET_SHARE_SPENT: "part of the budget used so far, from 0 to 1",
    ROLLOUT_EPISODE: "learning episodes so far",
    ROLLOUT_EPISODE_RETURN: "sum of the rewards of a learning episode, as a share",
    ROLLOUT_EPISODE_STEPS: "optimizer steps of a learning episode",
    ROLLOUT_KEPT_EPISODE: "episodes that a policy had learned from when it had the weights that "
    "are kept; 0 is the policy it began as",
    TEST_LOSS: "loss on the sealed test, in nats per scored token",
    TEST_EXACT_MATCH: "share of test items answered exactly, from 0 to 1",
    TEST_OPTION_LIKELIHOOD: "share of test items whose right option has the lowest mean loss per "
    "token, from 0 to 1",
    COST_TOKENS: "tokens read for all purposes but monitoring, without padding",
    COST_FLOPS: "floating-point operations for all purposes but monitoring",
    COST_SECONDS: "wall-clock time of all purposes but monitoring, in seconds",
    SB3_TIMESTEPS: "environment steps that the policy has learned from",
    "time/iterations": "updates of the policy so far",
    "time/time_elapsed": "wall-clock time since learning began, in seconds",
    "time/fps": "environment steps per second",
    "rollout/ep_rew_mean": "mean return of recent learning episodes, as a share",
    "rollout/ep_len_mean": "mean steps of recent learning episodes",
    "train/approx_kl": "divergence from the policy before the update, in nats",
    "train/clip_fraction": "share of the likelihood ratios that were clipped",
    "train/clip_range": "epsilon of the clipped objective",
    "train/entropy_loss": "minus the mean entropy of the policy, in nats",
    "train/explained_variance": "share of the variance of returns that the critic explains",
    "train/learning_rate": "learning rate of the policy's optimizer",
    "train/loss": "objective of the policy's last minibatch",
    "train/n_updates": "passes over collected steps so far",
    "train/policy_gradient_loss": "clipped surrogate objective",
    "train/value_loss": "squared error of the critic",
}
"""Every metric and what it means, with its unit. The group `train` and what stands after
`time/total_timesteps` are Stable-Baselines3's, in its spelling."""

TASK_METRICS: Mapping[TaskMetric, str] = {
    "exact_match": TEST_EXACT_MATCH,
    "option_likelihood": TEST_OPTION_LIKELIHOOD,
}
"""Under which name each task metric is kept."""

STEP_AXES: Mapping[str, str] = {
    **{
        name: TUNING_STEP
        for name in (
            TUNING_LOSS,
            TUNING_TOKENS,
            TUNING_SECONDS,
            REWARD_VALIDATION_LOSS,
            REWARD_GAIN,
            BUDGET_SHARE_SPENT,
        )
    },
    **{name: ROLLOUT_EPISODE for name in (ROLLOUT_EPISODE_RETURN, ROLLOUT_EPISODE_STEPS)},
    **{
        name: SB3_TIMESTEPS
        for name in METRICS
        if name.startswith(("train/", "time/", "rollout/ep_")) and name != SB3_TIMESTEPS
    },
}
"""What a metric is drawn against. A record holds its axis beside its metrics."""

INIT_TIMEOUT = 15
"""Seconds that a server may take to accept a run; W&B would wait 90."""

Value = float | int | str


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """One policy with one seed, as a tracker names it."""

    policy: str
    """Label of the policy."""
    kind: str
    """Kind of the policy."""
    seed: int
    config: Mapping[str, object]
    """The resolved experiment as plain JSON."""


class Tracker(Protocol):
    """Mirrors runs somewhere; runs follow each other."""

    def start(self, run: TrackedRun) -> None:
        """Open a run. The one before is finished."""
        ...

    def log(self, record: Mapping[str, Value]) -> None:
        """Add a record whose keys are of :data:`METRICS`, its step axis among them."""
        ...

    def finish(self, summary: Mapping[str, Value]) -> None:
        """Set the run's final numbers and close it."""
        ...


class NullTracker:
    """No tracking."""

    def start(self, run: TrackedRun) -> None:
        """Do nothing."""

    def log(self, record: Mapping[str, Value]) -> None:
        """Do nothing."""

    def finish(self, summary: Mapping[str, Value]) -> None:
        """Do nothing."""


class WandbTracker:
    """Weights & Biases: project = study, group = experiment, one run a policy and seed.

    An online tracker without credentials or server says so once and goes on offline, for this run
    and those after it; ``wandb sync`` sends them later.
    """

    def __init__(
        self,
        config: WandbConfig,
        *,
        experiment: str,
        directory: Path,
        versions: Mapping[str, str],
    ) -> None:
        self._config = config
        self._mode: Literal["offline", "online"] = config.mode
        self._experiment = experiment
        self._directory = directory
        self._versions = versions
        self._run: wandb.Run | None = None

    def start(self, run: TrackedRun) -> None:
        """Open a run below the directory."""
        import wandb

        assert self._run is None, "the run before was not finished"
        self._directory.mkdir(parents=True, exist_ok=True)
        wandb.setup(settings=wandb.Settings(silent=True))  # also silences the login
        try:
            if self._mode == "online":
                _log_in()
            self._run = self._open(run)
        except wandb.Error as fault:
            if self._mode == "offline":
                raise
            self._mode = "offline"
            reason = str(fault).splitlines()[0].rstrip(".")
            log.warning("W&B is offline from here on: %s. Send runs later: wandb sync", reason)
            self._run = self._open(run)
        for name in METRICS:
            self._run.define_metric(name, step_metric=STEP_AXES.get(name))

    def log(self, record: Mapping[str, Value]) -> None:
        """Add a record."""
        assert self._run is not None, "no run was started"
        self._run.log(dict(record))

    def finish(self, summary: Mapping[str, Value]) -> None:
        """Set the run's final numbers and close it."""
        assert self._run is not None, "no run was started"
        self._run.summary.update(dict(summary))
        self._run.finish()
        self._run = None

    def _open(self, run: TrackedRun) -> wandb.Run:
        import wandb

        return wandb.init(
            project=self._config.project,
            entity=self._config.entity,
            group=self._experiment,
            job_type="arm",
            name=f"{run.policy}/s{run.seed}",
            config=self._flat_and_nested(run),
            dir=self._directory,
            mode=self._mode,
            reinit="create_new",  # the run is ours; wandb.run stays the caller's
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=INIT_TIMEOUT,
                disable_git=True,  # the directory is no repository, and code is not ours to send
                disable_code=True,
            ),
        )

    def _flat_and_nested(self, run: TrackedRun) -> dict[str, object]:
        # Filters and groupings of a workspace see only the top level.
        return {
            "experiment_name": self._experiment,
            "policy_name": run.policy,
            "policy_kind": run.kind,
            "seed": run.seed,
            "experiment": dict(run.config),
            "versions": dict(self._versions),
        }


def _log_in() -> None:
    """Check credentials with the server, without ever asking at a terminal.

    Raises:
        wandb.Error: There is none of either, or they do not fit.
    """
    import wandb

    # wandb.init would find out too, but leaves a half-made run behind and asks for a missing key.
    if not wandb.login(prompt=False, verify=True):
        raise wandb.Error("no credentials (set WANDB_API_KEY or run `wandb login`)")
