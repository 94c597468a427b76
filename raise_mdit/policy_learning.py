"""How the policy of one arm comes about: from episodes, step by step, by search, or at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from raise_mdit import tracking
from raise_mdit.agents.actor_critic import build_a2c, build_reinforce
from raise_mdit.agents.best_episode import BestEpisode, PickedEpisode
from raise_mdit.agents.best_policy import BestPolicy
from raise_mdit.agents.first_weights import weights_of_ranking, weights_of_regression
from raise_mdit.agents.influence import InfluencePolicy
from raise_mdit.agents.ppo import build_ppo, learn, save_policy
from raise_mdit.agents.raise_policy import build_raise
from raise_mdit.agents.scoring_policy import SetScoringPolicy
from raise_mdit.agents.static import ReplayPolicy, random_policy
from raise_mdit.arm_environments import ArmEnvironments, Played, play
from raise_mdit.core import OnlinePolicy, SelectionPolicy
from raise_mdit.decisions import POLICY_FILE
from raise_mdit.envs import InstructionSelectionEnv
from raise_mdit.errors import DataError
from raise_mdit.feature_groups import columns_of
from raise_mdit.policy_config import (
    A2cConfig,
    BanditSection,
    BestOfConfig,
    CustomPolicyConfig,
    FeatureGroup,
    InfluenceConfig,
    PolicyConfig,
    PpoConfig,
    RaiseConfig,
    RandomSearchConfig,
    ReinforceConfig,
    ScorerSection,
    TrainedByGradients,
)
from raise_mdit.pool_rankings import normal_scores
from raise_mdit.progress import Progress
from raise_mdit.ranking_trials import Trial, best_trial, try_rankings
from raise_mdit.recording import EpisodeRecorder, Recorder, Sb3Metrics
from raise_mdit.results import RankingTrial
from raise_mdit.selectors import bandit_selector, influence_selector, own_policy
from raise_mdit.streams import stream


class Experience(NamedTuple):
    """The fine-tunings before the final one."""

    returns: tuple[float, ...] = ()
    """Of the episodes that were learned from."""
    trials: tuple[RankingTrial, ...] = ()
    """Rankings that were tried before that."""
    greedy_return: float | None = None
    """Of an episode of the highest scores after it, where one was played."""
    kept_updates: int | None = None
    """Updates behind the weights that were kept, where those of the best episodes were."""

    @property
    def num_episodes(self) -> int:
        """How many there were."""
        return len(self.trials) + len(self.returns) + (self.greedy_return is not None)


NO_EXPERIENCE = Experience()
"""Of who has played no episode."""


@dataclass(frozen=True, slots=True)
class Learned:
    """A policy that has learned."""

    policy: SelectionPolicy
    experience: Experience = NO_EXPERIENCE
    """What it has learned from."""
    online: OnlinePolicy | None = None
    """The same policy, where it goes on learning in the final fine-tuning."""
    deterministic: bool = True
    """Whether the final fine-tuning takes its best picks, or draws."""
    best: PickedEpisode | None = None
    """Of all these episodes, where they were compared."""
    environments: ArmEnvironments | None = None
    """Where it picks, if it was found out on the way what it is shown; None is where it began."""


class _Start(NamedTuple):
    """Where a scorer begins to learn."""

    environments: ArmEnvironments
    """With the ranking that it begins as for a column."""
    weights: NDArray[np.float32] | None = None
    """[F] of its linear path, availability last; None is a uniform policy."""
    experience: Experience = NO_EXPERIENCE
    """Rankings of which it is the best, or episodes that the weights were learned from."""
    best: PickedEpisode | None = None
    """Of all these."""


@dataclass(frozen=True, slots=True)
class PolicyLearning:
    """What the policy of an arm learns with."""

    environments: ArmEnvironments
    policy: PolicyConfig
    seed: int
    recorder: Recorder
    progress: Progress
    directory: Path
    """Where weights go."""
    control: NDArray[np.float32] | None
    """[T] what is subtracted from rewards, see :class:`ArmEnvironments`."""

    def run(self) -> Learned:
        """Learn from as many episodes as the policy asks for."""
        match self.policy:
            case ScorerSection() | RaiseConfig():
                return self._by_gradients(self.policy)
            case BanditSection():
                bandit = bandit_selector(self.environments.preparation, self.policy, self.seed)
                return self._step_by_step(bandit, bandit, self.policy.episodes)
            case InfluenceConfig():
                influence = self._influence(self.policy)
                learned = self._step_by_step(influence, influence, self.policy.episodes)
                return replace(learned, deterministic=self.policy.final == "greedy")
            case CustomPolicyConfig():
                own = own_policy(self.environments.preparation, self.policy, self.seed)
                return self._step_by_step(own, own.online, self.policy.episodes)
            case RandomSearchConfig():
                return self._by_search(self.policy)
            case BestOfConfig():
                trials = self._try(self.policy)
                return Learned(best_trial(trials).policy, _tried(trials))
        raise AssertionError(f"{self.policy.label} does not learn")

    def _by_gradients(self, policy: TrainedByGradients) -> Learned:
        """A scorer trained by Stable-Baselines3."""
        start = self._start(policy)
        algorithm = self._algorithm(policy, start)
        if isinstance(policy, ScorerSection):
            self._blind(algorithm, policy.unseen)
        metrics = Sb3Metrics(self.recorder)
        algorithm.set_logger(Logger(folder=None, output_formats=[metrics]))
        before = start.experience
        episodes = EpisodeRecorder(self.recorder, self.progress, num_before=before.num_episodes)
        weights, picked = BestPolicy(num_before=len(before.returns)), BestEpisode()
        self._begin(policy.episodes)
        learn(
            algorithm,
            episodes=policy.episodes,
            steps_per_episode=self.environments.preparation.steps_per_episode,
            callback=CallbackList([episodes, weights, picked]),
        )
        algorithm.logger.dump(algorithm.num_timesteps)  # of the last update
        kept_updates = None
        if isinstance(policy, ScorerSection) and policy.keep == "best":
            weights.take_best()
            kept_updates = weights.num_updates
            self.recorder.log({tracking.ROLLOUT_KEPT_EPISODE: weights.num_episodes})
        self.progress.finish()
        save_policy(algorithm, self.directory / POLICY_FILE)
        if picked.best is None:
            raise DataError(self._no_episode_ended(algorithm.num_timesteps))
        best = _better(start.best, picked.best)
        learned = Learned(
            algorithm.policy,
            before._replace(
                returns=(*before.returns, *episodes.returns), kept_updates=kept_updates
            ),
            best=best,
            environments=start.environments,
        )
        if not isinstance(policy, ScorerSection):
            return learned
        if policy.final == "best":
            return self._best_played(learned, best)
        return replace(learned, deterministic=policy.final == "greedy")

    def _no_episode_ended(self, num_steps: int) -> str:
        """What is wrong with a budget in tokens, for which the steps of an episode are a guess."""
        preparation = self.environments.preparation
        return (
            f"environment.budget.tokens: {self.policy.label} picks candidates so short that "
            f"{num_steps:,} steps, those of its episodes by the pool's mean length, ended none of "
            f"{preparation.budget.tokens:,} tokens; give it more episodes, or a budget in steps"
        )

    def _best_played(self, learned: Learned, best: PickedEpisode) -> Learned:
        """The best episode so far, or that of the highest scores, to be played again."""
        assert learned.environments is not None, "scorers say where they pick"
        self._begin(1)
        number = learned.experience.num_episodes
        env = learned.environments.trying(first_episode=number)
        greedy = self._episode(env, learned.policy, number, deterministic=True)
        self.progress.finish()
        best = _better(best, _picked(greedy))
        return replace(
            learned,
            policy=ReplayPolicy(best.batches),
            experience=learned.experience._replace(greedy_return=greedy.total),
            best=best,
        )

    def _blind(self, algorithm: OnPolicyAlgorithm, unseen: Sequence[FeatureGroup]) -> None:
        """Keep the scorer from what it is not to use."""
        assert isinstance(algorithm.policy, SetScoringPolicy)
        scorer = algorithm.policy.scorer
        columns = columns_of(self.environments.preparation.table.names, unseen)
        if "availability" in unseen:
            columns.append(scorer.linear.in_features - 1)
        scorer.ignore(columns, context="stage" in unseen)

    def _start(self, policy: TrainedByGradients) -> _Start:
        """What the policy begins as, found out or learned first where it has to be."""
        if not isinstance(policy, PpoConfig) or policy.prior is None:
            return _Start(self.environments)
        if policy.regression is not None:
            return self._start_from_gains(policy.regression, policy.prior.strength)
        trials = [] if policy.trials is None else self._try(policy.trials)
        environments, best = self.environments, None
        if trials:
            chosen = best_trial(trials)
            environments = replace(environments, prior=normal_scores(chosen.ranks))
            best = _picked(chosen.played)
        column = environments.prior_column
        assert column is not None, "a ranking is a column"
        num_features = environments.num_columns + 1
        weights = weights_of_ranking(num_features, column, strength=policy.prior.strength)
        return _Start(environments, weights, _tried(trials), best)

    def _start_from_gains(self, regression: InfluenceConfig, strength: float) -> _Start:
        influence = self._influence(regression.model_copy(update={"name": self.policy.label}))
        learned = self._step_by_step(influence, influence, regression.episodes)
        num_features = self.environments.num_columns + 1
        gains, features = influence.gains.mean()[:num_features], self.environments.pool.features
        weights = weights_of_regression(gains, features, strength=strength)
        return _Start(self.environments, weights, learned.experience, learned.best)

    def _try(self, policy: BestOfConfig) -> list[Trial]:
        """Every ranking once."""
        return try_rankings(
            self.environments,
            policy,
            label=self.policy.label,
            seed=self.seed,
            play=self._episode,
            progress=self.progress,
        )

    def _influence(self, policy: InfluenceConfig) -> InfluencePolicy:
        """A regression that knows nothing yet."""
        num_picks = self.environments.preparation.config.environment.batch_size
        return influence_selector(
            policy, self.seed, num_features=self.environments.num_columns, num_picks=num_picks
        )

    def _algorithm(self, policy: TrainedByGradients, start: _Start) -> OnPolicyAlgorithm:
        environments = start.environments
        played = start.experience.num_episodes
        env = environments.learning(control=self.control, first_episode=played)
        steps, seed = environments.preparation.steps_per_episode, self._stream("policy")
        features = environments.pool.features
        match policy:
            case PpoConfig():
                return build_ppo(
                    env,
                    policy,
                    steps_per_episode=steps,
                    seed=seed,
                    features=features,
                    first_weights=start.weights,
                )
            case A2cConfig():
                return build_a2c(env, policy, steps_per_episode=steps, seed=seed, features=features)
            case ReinforceConfig():
                return build_reinforce(
                    env, policy, steps_per_episode=steps, seed=seed, features=features
                )
            case RaiseConfig():
                return build_raise(
                    env,
                    policy,
                    steps_per_episode=steps,
                    seed=seed,
                    classes=environments.preparation.classes(policy.classes),
                    columns=environments.preparation.printed_columns,
                    features=features,
                )
        raise AssertionError(f"{policy.label} is not trained by gradients")

    def _step_by_step(
        self, policy: SelectionPolicy, online: OnlinePolicy | None, episodes: int
    ) -> Learned:
        """A policy that takes in each step's improvement, in learning episodes as in the final.

        One of the user's own need not be online; it has no episodes then.
        """
        if not episodes:
            return Learned(policy, online=online)
        env = self.environments.alone(reward_every=1)
        played = self._episodes(env, policy, episodes, online=online)
        returns = tuple(episode.total for episode in played)
        return Learned(policy, Experience(returns), online=online, best=_better(*played))

    def _by_search(self, policy: RandomSearchConfig) -> Learned:
        """The schedule of the best episode of random picks, played again.

        Each counts as a whole, so reward-validation is read as :meth:`ArmEnvironments.trying` says.
        """
        rng = np.random.default_rng(self._stream("picks"))
        preparation = self.environments.preparation
        blind = random_policy(rng, num_picks=preparation.config.environment.batch_size)
        env = self.environments.trying()
        played = self._episodes(env, blind, policy.episodes)
        returns = tuple(episode.total for episode in played)
        return Learned(ReplayPolicy(_better(*played).batches), Experience(returns))

    def _episodes(
        self,
        env: InstructionSelectionEnv,
        policy: SelectionPolicy,
        number: int,
        *,
        online: OnlinePolicy | None = None,
    ) -> list[PickedEpisode]:
        """Learning episodes, one after another."""
        self._begin(number)
        played = [
            _picked(self._episode(env, policy, episode, online=online)) for episode in range(number)
        ]
        self.progress.finish()
        return played

    def _episode(
        self,
        env: InstructionSelectionEnv,
        policy: SelectionPolicy,
        episode: int,
        *,
        online: OnlinePolicy | None = None,
        deterministic: bool = False,
    ) -> Played:
        """A learning episode, recorded."""
        seed = self._stream(f"episode {episode}")
        played = play(env, policy, seed, online=online, deterministic=deterministic)
        self.recorder.log(
            {
                tracking.ROLLOUT_EPISODE: episode + 1,
                tracking.ROLLOUT_EPISODE_RETURN: played.total,
                tracking.ROLLOUT_EPISODE_STEPS: len(played.gains),
            }
        )
        self.progress.advance(episode_return=played.total, loss=played.validation_loss)
        return played

    def _begin(self, episodes: int) -> None:
        self.progress.start(f"{self.policy.label} s{self.seed}: learning", episodes)

    def _stream(self, purpose: str) -> int:
        return stream(self.policy.label, self.seed, purpose)


def _tried(trials: Sequence[Trial]) -> Experience:
    return Experience(trials=tuple(trial.result for trial in trials))


def _picked(played: Played) -> PickedEpisode:
    return PickedEpisode(played.total, played.batches)


def _better(*episodes: PickedEpisode | None) -> PickedEpisode:
    """The episode that improved the model most; of equals, the first."""
    known = [each for each in episodes if each is not None]
    return max(known, key=lambda each: each.total)
