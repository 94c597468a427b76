"""What became of rankings that were tried, and of weights and episodes that were kept, in words."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Sequence
from statistics import fmean

from raise_mdit.results import ArmResult, by_policy

HIGHEST_SCORES = "the highest scores"
"""An episode of them, after learning."""


def trial_sentences(arms: Sequence[ArmResult], *, beside: Collection[str] = ()) -> list[str]:
    """For each policy that tried rankings or kept weights or an episode, which.

    Args:
        arms: Finished ones, of any policies and seeds.
        beside: Names and kinds of other policies of the run, which are not to be told of.
    """
    known = {*beside, *(name for arm in arms for name in (arm.policy, arm.kind))}
    return [
        f"{policy} {' and '.join(done)}.{_not_among(group, known)}"
        for policy, group in by_policy(arms).items()
        if (done := [*_tried(group), *_kept(group), *_played_again(group)])
    ]


def played_again(arm: ArmResult) -> str | None:
    """Which of its episodes the final fine-tuning repeats, in words; None where it repeats none.

    Args:
        arm: A finished one. Of episodes that gained as much, the first is repeated.
    """
    if arm.greedy_return is None:
        return None
    episodes = [
        *((f"the trial of {trial.ranking}", trial.episode_return) for trial in arm.trials),
        *((f"episode {1 + at}", gained) for at, gained in enumerate(arm.episode_returns)),
        (HIGHEST_SCORES, arm.greedy_return),
    ]
    return max(episodes, key=lambda episode: episode[1])[0]


def picked_otherwise(arm: ArmResult) -> str | None:
    """The episode that is repeated, where it is not the one that the kept scores picked.

    Args:
        arm: A finished one.
    """
    episode = played_again(arm)
    return None if episode == HIGHEST_SCORES else episode


def _tried(group: Sequence[ArmResult]) -> list[str]:
    """Which rankings a policy tried, and which it took."""
    tried = [arm for arm in group if arm.trials]
    if not tried:
        return []
    returns = ", ".join(
        f"{of_ranking[0].ranking} {fmean(trial.episode_return for trial in of_ranking):.3f}"
        for of_ranking in zip(*(arm.trials for arm in tried), strict=True)
    )
    took = "followed" if tried[0].kind == "best_of" else "began as"
    return [f"tried rankings (mean return: {returns}), {took} {_by_seed(tried, _best_trial)}"]


def _kept(group: Sequence[ArmResult]) -> list[str]:
    """Which weights a policy kept, where they are what it picks by in the end."""
    kept = [arm for arm in group if arm.kept_updates is not None and arm.greedy_return is None]
    return [f"kept {_by_seed(kept, _kept_weights)}"] if kept else []


def _kept_weights(arm: ArmResult) -> str:
    if arm.kept_updates == 0:
        return "the weights that it began with, as no later ones gained more"
    return f"the weights of update {arm.kept_updates}"


def _played_again(group: Sequence[ArmResult]) -> list[str]:
    """Which episode a policy repeated in the end."""
    repeated = [arm for arm in group if arm.greedy_return is not None]
    return [f"in the end played {_by_seed(repeated, played_again)} again"] if repeated else []


def _not_among(group: Sequence[ArmResult], known: Container[str]) -> str:
    """Without what a policy began as nobody can tell what learning added to it."""
    began = dict.fromkeys(arm.best_trial.ranking for arm in group if arm.best_trial is not None)
    if "in_turn" in known:
        began = {ranking: None for ranking in began if not ranking.endswith(" in turn")}
    missing = [ranking for ranking in began if ranking not in known]
    if not missing or group[0].kind == "best_of":
        return ""
    return f" No policy here is {' or '.join(missing)}: add it to see what learning adds."


def _best_trial(arm: ArmResult) -> str | None:
    return None if arm.best_trial is None else arm.best_trial.ranking


def _by_seed(arms: Sequence[ArmResult], word: Callable[[ArmResult], str | None]) -> str:
    """What holds for each arm, with the seeds where it is not the same for all."""
    seeds: dict[str | None, list[str]] = {}
    for arm in arms:
        seeds.setdefault(word(arm), []).append(f"s{arm.seed}")
    if len(seeds) == 1:
        return str(next(iter(seeds)))
    return ", ".join(f"{found} ({' '.join(those)})" for found, those in seeds.items())
