"""A scorer that is kept from features: nothing it gives depends on them, whatever it learns."""

from __future__ import annotations

import pytest
import torch

from raise_mdit.agents.scoring_policy import CandidateScorer

NUM_FEATURES, NUM_CONTEXT, NUM_SLOTS = 4, 3, 6


def learned(*, features: list[int], context: bool) -> CandidateScorer:
    """After some steps that would use everything: labels are made of all inputs."""
    torch.manual_seed(0)
    made = CandidateScorer(NUM_FEATURES, NUM_CONTEXT, hidden_size=8)
    made.begin_as(torch.ones(NUM_FEATURES).numpy())
    made.ignore(features, context=context)
    optimizer = torch.optim.Adam(made.parameters(), lr=0.05)
    for _ in range(20):
        candidates, stage, mask = inputs()
        scores, values = made(candidates, stage, mask)
        wanted = candidates.sum(dim=2) + stage.sum(dim=1, keepdim=True) * candidates.prod(dim=2)
        loss = ((scores - wanted) ** 2).mean() + ((values - stage.sum(dim=1)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return made


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    candidates = torch.randn(5, NUM_SLOTS, NUM_FEATURES)
    return candidates, torch.randn(5, NUM_CONTEXT), torch.ones(5, NUM_SLOTS)


@pytest.mark.parametrize("features", [[0], [1, 3], [0, 1, 2, 3]])
def test_scores_and_value_do_not_follow_an_ignored_feature(features: list[int]) -> None:
    made = learned(features=features, context=False)
    candidates, stage, mask = inputs()
    others = candidates.clone()
    others[:, :, features] = torch.randn(5, NUM_SLOTS, len(features))

    before, after = made(candidates, stage, mask), made(others, stage, mask)

    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert torch.equal(made.first_scores(candidates), made.first_scores(others))


def test_scores_and_value_do_not_follow_an_ignored_stage() -> None:
    made = learned(features=[], context=True)
    candidates, stage, mask = inputs()

    before, after = made(candidates, stage, mask), made(candidates, stage + 1, mask)

    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


def test_what_is_not_ignored_is_learned() -> None:
    made = learned(features=[1], context=False)
    candidates, stage, mask = inputs()
    others, later = candidates.clone(), stage + 1
    others[:, :, 0] += 1

    scores, values = made(candidates, stage, mask)

    assert not torch.equal(scores, made(others, stage, mask)[0])
    assert not torch.equal(scores, made(candidates, later, mask)[0])
    assert not torch.equal(values, made(candidates, later, mask)[1])


def test_ignoring_nothing_changes_nothing() -> None:
    torch.manual_seed(0)
    made = CandidateScorer(NUM_FEATURES, NUM_CONTEXT, hidden_size=8)
    before = {name: part.clone() for name, part in made.state_dict().items()}

    made.ignore([])

    assert all(torch.equal(part, before[name]) for name, part in made.state_dict().items())
