"""Where metrics go besides the run directory, and the one table of their names.

A tracker gets one run for each policy and seed. The run directory stays the truth: a tracker may be
absent, offline or down without loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

# What the records of a final fine-tuning hold. SB3 owns the group `train`.
TUNING_STEP = "tuning/step"
TUNING_LOSS = "tuning/loss"
TUNING_TOKENS = "tuning/tokens"
TUNING_SECONDS = "tuning/seconds"
REWARD_VALIDATION_LOSS = "reward/validation_loss"
REWARD_GAIN = "reward/gain"
BUDGET_SHARE_SPENT = "budget/share_spent"

PICKS = "picks/"
"""Begins the names of metrics that count picks of a step by group, such as `picks/mosaic`."""
ANY_PICKS = f"{PICKS}*"

# What the records of learning episodes hold.
ROLLOUT_EPISODE = "rollout/episode"
ROLLOUT_EPISODE_RETURN = "rollout/episode_return"
ROLLOUT_EPISODE_STEPS = "rollout/episode_steps"
ROLLOUT_KEPT_EPISODE = "rollout/kept_episode"

# What the summary of a run holds.
TEST_LOSS = "test/loss"
TEST_LOSS_LOW = "test/loss_low"
TEST_LOSS_HIGH = "test/loss_high"
MODEL_SELECTION_LOSS = "model_selection/loss"
TEST_EXACT_MATCH = "test/exact_match"
TEST_OPTION_LIKELIHOOD = "test/option_likelihood"
TEST_ANSWER_MATCH = "test/answer_match"
TEST_OWN_METRIC = "test/own_metric"
SWEEP_LOSS = "sweep/loss"
SWEEP_LOSS_LOW = "sweep/loss_low"
SWEEP_LOSS_HIGH = "sweep/loss_high"
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
    "or of the mean of such shares over targets (`reward.balance: targets`); with early stopping "
    "the fall below its lowest so far",
    BUDGET_SHARE_SPENT: "part of the budget used so far, from 0 to 1",
    ANY_PICKS: "picks of the step by group: task or source of originals, kind of what is made; "
    "only in Weights & Biases, `results.json` has them under `picks`",
    ROLLOUT_EPISODE: "learning episodes so far",
    ROLLOUT_EPISODE_RETURN: "sum of the rewards of a learning episode, as a share",
    ROLLOUT_EPISODE_STEPS: "optimizer steps of a learning episode",
    ROLLOUT_KEPT_EPISODE: "episodes that a policy had learned from when it had the weights that "
    "are kept; 0 is the policy it began as",
    TEST_LOSS: "loss on the sealed test, in nats per scored token",
    TEST_LOSS_LOW: "lower end of its 95% interval over test items, where the test has one target; "
    "in Weights & Biases alone",
    TEST_LOSS_HIGH: "upper end of it",
    MODEL_SELECTION_LOSS: "loss on model-selection data, where there are such, in nats per scored "
    "token",
    TEST_EXACT_MATCH: "share of test items answered exactly, from 0 to 1",
    TEST_OPTION_LIKELIHOOD: "share of test items whose right option has the lowest mean loss per "
    "token, from 0 to 1",
    TEST_ANSWER_MATCH: "share of test items whose generated response has the right answer, from 0 "
    "to 1",
    TEST_OWN_METRIC: "mean of a metric of your own over test items",
    SWEEP_LOSS: "what a sweep minimises, mean over seeds: loss on model-selection data, in nats; "
    "in Weights & Biases alone",
    SWEEP_LOSS_LOW: "lower end of its 95% interval over seeds",
    SWEEP_LOSS_HIGH: "upper end of it",
    COST_TOKENS: "tokens read for all purposes but monitoring, without padding",
    COST_FLOPS: "floating-point operations for all purposes but monitoring",
    COST_SECONDS: "wall-clock time of all purposes but monitoring, in seconds",
    SB3_TIMESTEPS: "environment steps that the policy has learned from",
    "time/iterations": "rollouts so far; `train` beside it is of the update before the last one",
    "time/time_elapsed": "wall-clock time since learning began, in seconds",
    "time/fps": "environment steps per second",
    "train/approx_kl": "divergence from the policy before the update, in nats",
    "train/clip_fraction": "share of the likelihood ratios that were clipped",
    "train/clip_range": "epsilon of the clipped objective",
    "train/entropy_loss": "minus the mean entropy of the policy, in nats; with a prior the mean "
    "divergence from it",
    "train/explained_variance": "share of the variance of returns that the critic explains",
    "train/learning_rate": "learning rate of the policy's optimizer",
    "train/loss": "objective of the policy's last minibatch",
    "train/n_updates": "passes over collected steps so far",
    "train/policy_gradient_loss": "clipped surrogate objective",
    "train/value_loss": "squared error of the critic",
}
"""Every metric and what it means, with its unit. The group `train` and what stands after
`time/total_timesteps` are Stable-Baselines3's, in its spelling."""

TASK_METRICS: Mapping[str, str] = {
    "exact_match": TEST_EXACT_MATCH,
    "option_likelihood": TEST_OPTION_LIKELIHOOD,
    "answer_match": TEST_ANSWER_MATCH,
}
"""Under which name each task metric of ours is kept; the user's own is :data:`TEST_OWN_METRIC`."""

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
            ANY_PICKS,
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
    folder: Path
    """Where its files are when it finishes."""


class Tracker(Protocol):
    """Mirrors runs somewhere; runs follow each other."""

    def start(self, run: TrackedRun) -> None:
        """Open a run. The one before is finished."""
        ...

    def log(self, record: Mapping[str, Value]) -> None:
        """Add a record whose keys are of :data:`METRICS`, its step axis among them."""
        ...

    def finish(self, summary: Mapping[str, Value]) -> None:
        """Set the run's final numbers, take over the files in its folder, and close it."""
        ...

    def conclude(self) -> None:
        """Take over what compares all runs; the run directory is complete."""
        ...


class NullTracker:
    """No tracking."""

    def start(self, run: TrackedRun) -> None:
        """Do nothing."""

    def log(self, record: Mapping[str, Value]) -> None:
        """Do nothing."""

    def finish(self, summary: Mapping[str, Value]) -> None:
        """Do nothing."""

    def conclude(self) -> None:
        """Do nothing."""
