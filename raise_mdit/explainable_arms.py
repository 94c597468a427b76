"""Which finished arms of a run can be explained, and why the others cannot."""

from __future__ import annotations

from pathlib import Path

from raise_mdit.agents.attribution import holds_scorer
from raise_mdit.config import ExperimentConfig
from raise_mdit.decisions import DECISIONS_FILE, POLICY_FILE
from raise_mdit.errors import RunError, nearest
from raise_mdit.folders import is_exported_policy
from raise_mdit.policy_config import (
    BanditSection,
    BestOfConfig,
    CustomPolicyConfig,
    InfluenceConfig,
    PolicyConfig,
    PpoConfig,
    RaiseConfig,
    RandomSearchConfig,
    ScorerSection,
)
from raise_mdit.runs import arm_folder, arms_in_words


class ExplainableArms:
    """The finished arms of a run, as far as they can be explained.

    Args:
        directory: Of the run.
        config: Of its experiment.
    """

    def __init__(self, directory: Path, config: ExperimentConfig) -> None:
        self._directory = directory
        self._folders: dict[str, dict[int, Path]] = {}
        self._reasons: dict[str, str] = {}
        self.names: set[str] = set()
        """Labels and kinds of all that have finished, also of what cannot be explained."""
        scorers = [each for each in config.policies if isinstance(each, ScorerSection)]
        self._elsewhere = {
            each.label: each.from_run
            for each in scorers
            if isinstance(each, PpoConfig) and each.from_run is not None
        }
        trained_here = {each.label for each in scorers} - set(self._elsewhere)
        self._trains_scorers = bool(trained_here)
        self._unfinished: dict[str, list[int]] = {}
        left_out: dict[str, dict[str, list[int]]] = {}
        for policy in config.policies:
            for seed in sorted(config.seeds):
                folder = arm_folder(directory, policy.label, seed)
                if not (folder / "result.json").is_file():
                    if policy.label in trained_here:
                        self._unfinished.setdefault(policy.label, []).append(seed)
                    continue
                self.names |= {policy.label, policy.kind}
                reason = _why_not(policy, folder)
                if reason is None:
                    self._folders.setdefault(policy.label, {})[seed] = folder
                else:
                    self._reasons[policy.label] = reason
                    left_out.setdefault(reason, {}).setdefault(policy.label, []).append(seed)
        self.notes = tuple(
            f"Left out, as {reason}: {arms_in_words(arms)}." for reason, arms in left_out.items()
        )
        """Which are left out and why, a sentence each."""

    def chosen(self, policy: str | None, seed: int | None) -> Path:
        """Folder of the arm that is asked for.

        Args:
            policy: Label; None for the first that can be explained.
            seed: None for its lowest.

        Raises:
            RunError: There is no such arm, or it cannot be explained.
        """
        if policy in self._elsewhere:
            raise RunError(_trained_elsewhere(policy, self._elsewhere[policy]))
        if self._elsewhere and not self._trains_scorers and policy not in self._reasons:
            told = (_trained_elsewhere(*each) for each in self._elsewhere.items())
            raise RunError(f"{self._directory}: {'; '.join(told)}")
        if policy in self._reasons and not self._folders:
            raise RunError(f"--policy {policy!r}: left out, as {self._reasons[policy]}")
        if not self._folders:
            raise RunError(f"{self._directory}: {self._why_none()}")
        if policy is None:
            policy = next(iter(self._folders))
        if policy not in self._folders:
            raise RunError(f"--policy {policy!r}: {self._why_not_this(policy)}")
        seeds = self._folders[policy]
        if seed is None:
            seed = min(seeds)
        if seed not in seeds:
            raise RunError(f"--seed {seed}: {policy} has seeds {', '.join(map(str, seeds))}")
        return seeds[seed]

    def _why_none(self) -> str:
        """Why no arm can be explained."""
        if self._unfinished:
            return (
                "no policy that can be explained has finished yet; "
                f"raise-mdit run {self._directory} goes on with {arms_in_words(self._unfinished)}"
            )
        return (
            "no finished policy of this run can be explained. `explain` reads learned policies "
            "that score candidates, such as kind ppo, and what they leave in "
            f"arms/*/{DECISIONS_FILE}; add one to the experiment and run it, or run again what an "
            "older version ran"
        )

    def _why_not_this(self, policy: str) -> str:
        """Why no arm of a policy can be, where those of others can."""
        can_be = f"those that can be explained: {', '.join(self._folders)}"
        if policy in self._reasons:
            return f"left out, as {self._reasons[policy]}; {can_be}"
        if policy in self._unfinished:
            return f"not finished yet; {can_be}"
        near = nearest(policy, [*self._folders, *self._reasons])
        return f"no finished policy of this run; {can_be}.{near}"


def _trained_elsewhere(label: str, source: str) -> str:
    """Why a transferred policy is not explained here, and where it is."""
    run = f"the run that {source} was exported from" if is_exported_policy(Path(source)) else source
    return f"{label} picks here without learning; it is explained where it was trained, in {run}"


def _why_not(policy: PolicyConfig, folder: Path) -> str | None:
    """Why a finished arm cannot be explained; None where it can."""
    if not (folder / DECISIONS_FILE).is_file():
        return _why_without_decisions(policy)
    if not holds_scorer(folder / POLICY_FILE):
        return "their weights are of another kind of policy"
    return None


def _why_without_decisions(policy: PolicyConfig) -> str:
    """Why an arm left nothing by which its scores could be computed again."""
    match policy:
        case BanditSection():
            return (
                "they learn one value for each group of candidates and draw blindly within a group"
            )
        case InfluenceConfig():
            return (
                "they score by the weights of a regression that changes at every step, and a run "
                "keeps neither these weights nor the windows that they scored"
            )
        case RaiseConfig():
            return (
                "a run keeps the weights of RAISE as printed, but no decisions: neither the stage "
                "that it saw nor the classes of which it took the highest"
            )
        case RandomSearchConfig():
            return "they repeat the best of several random schedules and score no candidate"
        case BestOfConfig():
            return "they follow the best of several rankings, which were made beforehand"
        case CustomPolicyConfig():
            return "what a policy of your own scores by is known to its class alone"
        case PpoConfig(from_run=str()):
            return (
                "they were trained in another run, and what they saw here stands along that run's "
                "axes, which this one does not keep; explain the run that they are from"
            )
        case ScorerSection():
            return "they ran in an older version, which kept no decisions"
    return "they do not learn what to pick"
