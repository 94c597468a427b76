"""What would settle the comparisons that are open, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raise_mdit.comparison import PolicySummary, references_among
from raise_mdit.effects import ALIKE, Effect, Reference, spread_says_too_little, what_it_takes


def power_sentences(summaries: Sequence[PolicySummary]) -> tuple[str, ...]:
    """What would settle the comparisons with random, and with what was asked for, that are open."""
    return tuple(
        sentence
        for reference in references_among(summaries)
        if reference.role in ("random", "named")
        for sentence in _sentences(summaries, reference)
    )


def _sentences(summaries: Sequence[PolicySummary], reference: Reference) -> list[str]:
    taken = {
        summary.policy: effect
        for summary in summaries
        if (effect := summary.effect_against(reference)) is not None and what_it_takes(effect)
    }
    if not taken:
        return []
    opening = f"Open against {reference.policy}"
    reachable = {policy: effect for policy, effect in taken.items() if effect.can_be_settled}
    sentences = _first_more_seeds(taken, opening)
    if reachable:
        wanted = "; ".join(f"{name} {what_it_takes(effect)}" for name, effect in reachable.items())
        sentences.append(
            f"{opening}, and what would settle it, were difference and spread as they are: "
            f"{wanted}."
        )
    if any(effect.more_seeds for effect in reachable.values()):
        sentences[-1] += " Add seeds with raise-mdit run RUN_DIR --more-seeds N."
    hopeless = [policy for policy, effect in taken.items() if effect.is_out_of_reach]
    if hopeless:
        sentences.append(
            f"{opening}, and no number of seeds or items within reason would settle it, as "
            f"difference and spread are: {', '.join(hopeless)}."
        )
    alike = [policy for policy, effect in taken.items() if effect.is_alike]
    if alike:
        sentences.append(f"No different from {reference.policy}, {ALIKE}: {', '.join(alike)}.")
    return sentences


def _first_more_seeds(taken: Mapping[str, Effect], opening: str) -> list[str]:
    """A sentence for each number of seeds that is too small to say more."""
    by_number: dict[int, list[str]] = {}
    for policy, effect in taken.items():
        if effect.seeds_first:
            by_number.setdefault(effect.seeds_first, []).append(policy)
    return [
        f"{opening}, and {spread_says_too_little(taken[policies[0]])}: {', '.join(policies)}. "
        f"Run at least {number} more seeds first, with raise-mdit run RUN_DIR "
        f"--more-seeds {number}."
        for number, policies in by_number.items()
    ]
