"""Shapley values against permutations, closed forms and the axioms that define them."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from raise_mdit.agents import attribution
from raise_mdit.agents.attribution import (
    Group,
    group_attributions,
    holds_scorer,
    load_scorer,
    pick_log_probs,
    window_scores,
)
from raise_mdit.agents.pool_scoring import score_pool
from raise_mdit.agents.scoring_policy import CandidateScorer, SetScoringPolicy
from raise_mdit.agents.subset_distribution import PlackettLuceDistribution
from raise_mdit.envs.observation import DistinctSlots, observation_space
from raise_mdit.errors import RunError

NUM_SLOTS, NUM_FEATURES, NUM_CONTEXT = 7, 6, 3
GROUPS: dict[str, Group] = {"a": [0, 2], "stage": "context", "b": [1, 3, 4], "c": [5]}
MASK = np.arange(NUM_SLOTS) < 5
CONTEXT = np.array([0.5, -1.0, 2.0], np.float32)
COLUMN_WEIGHTS = ("linear.weight", "encoder.0.weight")
BASELINE = np.array([1.0, 0.0, 0.0], np.float32)


def candidates(seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(NUM_SLOTS, NUM_FEATURES)).astype(np.float32)


def scorer(seed: int = 1, *, linear_only: bool = False) -> CandidateScorer:
    """With weights that leave no part without effect, or none but the linear path's."""
    made = CandidateScorer(NUM_FEATURES, NUM_CONTEXT, 8).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in made.named_parameters():
        if name == "linear.weight" or not linear_only:
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return made


def attributions(
    given: CandidateScorer,
    seen: NDArray[np.float32],
    *,
    context: NDArray[np.float32] = CONTEXT,
    groups: dict[str, Group] = GROUPS,
) -> NDArray[np.float64]:
    return group_attributions(
        given,
        candidates_WF=seen,
        context_G=context,
        mask_W=MASK,
        groups=groups,
        baseline_G=BASELINE,
    )


def lifts(
    given: CandidateScorer, seen: NDArray[np.float32], context: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Scores minus their mean, 0 where masked."""
    scores = window_scores(given, candidates_WF=seen, context_G=context, mask_W=MASK)
    return np.where(MASK, scores - scores[MASK].mean(), 0.0)


def value(
    given: CandidateScorer, seen: NDArray[np.float32], shown: set[str]
) -> NDArray[np.float64]:
    """The game's value, with the groups that are not shown hidden one by one."""
    partial, context = seen.copy(), CONTEXT
    for name, columns in GROUPS.items():
        if name not in shown and columns == "context":
            context = BASELINE
        elif name not in shown:
            for column in columns:
                partial[:, int(column)] = seen[MASK, int(column)].mean()
    return lifts(given, partial, context)


def test_values_are_the_means_over_all_orders_of_joining() -> None:
    given, seen = scorer(), candidates()
    orders = list(permutations(GROUPS))
    expected = np.zeros((NUM_SLOTS, len(GROUPS)))
    for order in orders:
        for place, name in enumerate(order):
            with_it, without = set(order[: place + 1]), set(order[:place])
            gain = value(given, seen, with_it) - value(given, seen, without)
            expected[:, list(GROUPS).index(name)] += gain / len(orders)

    found = attributions(given, seen)

    assert found == pytest.approx(expected, abs=1e-5)
    assert np.abs(found[MASK]).min() > 1e-3  # no group is without effect, so the test can fail


@pytest.mark.parametrize("seed", range(5))
def test_attributions_sum_to_the_score_above_the_mean(seed: int) -> None:
    given, seen = scorer(seed), candidates(seed)

    summed = attributions(given, seen).sum(axis=1)

    assert summed == pytest.approx(lifts(given, seen, CONTEXT), abs=1e-5)


def test_with_every_group_hidden_all_candidates_are_equal() -> None:
    assert value(scorer(), candidates(), set()) == pytest.approx(0.0, abs=1e-6)


def test_a_linear_scorer_gives_weight_times_distance_from_the_mean() -> None:
    given, seen = scorer(linear_only=True), candidates()
    terms = given.linear.weight.numpy()[0] * (seen - seen[MASK].mean(axis=0))

    found = attributions(given, seen)

    for place, columns in enumerate(GROUPS.values()):
        expected = 0.0 if columns == "context" else terms[:, list(columns)].sum(axis=1)
        assert found[MASK, place] == pytest.approx(np.broadcast_to(expected, 7)[MASK], abs=1e-5)


def test_equal_groups_have_equal_attributions() -> None:
    given, seen = scorer(), candidates()
    seen[:, 1] = seen[:, 0]
    for weight in map(given.get_parameter, COLUMN_WEIGHTS):
        weight[:, 1] = weight[:, 0]
    groups: dict[str, Group] = {"a": [0], "b": [1], "c": [2, 3, 4, 5], "stage": "context"}

    found = attributions(given, seen, groups=groups)

    assert found[:, 0] == pytest.approx(found[:, 1], abs=1e-5)
    assert np.abs(found[MASK, 0]).min() > 1e-3


def test_a_group_without_effect_has_none() -> None:
    given = scorer()
    for weight in map(given.get_parameter, COLUMN_WEIGHTS):
        weight[:, 5] = 0.0

    found = attributions(given, candidates())

    assert found[:, 3] == pytest.approx(0.0, abs=1e-6)


def test_the_stage_of_the_baseline_has_no_effect() -> None:
    found = attributions(scorer(), candidates(), context=BASELINE)

    assert found[:, 1] == pytest.approx(0.0, abs=1e-6)


def test_a_masked_slot_has_no_attribution_and_no_effect() -> None:
    seen = candidates()
    other = np.where(MASK[:, None], seen, 100.0).astype(np.float32)

    found = attributions(scorer(), seen)

    assert (found[~MASK] == 0).all()
    assert np.array_equal(found, attributions(scorer(), other))


def test_coalitions_scored_apart_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    together = attributions(scorer(), candidates())
    monkeypatch.setattr(attribution, "ROWS_AT_ONCE", 1)

    assert attributions(scorer(), candidates()) == pytest.approx(together, abs=1e-5)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"a": [0, 1, 2, 3, 4], "stage": "context"}, "groups hold columns"),
        ({"a": [0, 1, 2, 3, 4, 5], "b": [5], "stage": "context"}, "groups hold columns"),
        ({"a": [0, 1, 2, 3, 4, 5]}, "the stage is one of the groups"),
    ],
    ids=["a column is left out", "a column is in two", "no stage"],
)
def test_groups_that_do_not_divide_everything_are_our_own_fault(
    groups: dict[str, Group], message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        attributions(scorer(), candidates(), groups=groups)


def test_log_probabilities_of_picks_sum_to_that_of_the_batch() -> None:
    scores = window_scores(scorer(), candidates_WF=candidates(), context_G=CONTEXT, mask_W=MASK)
    picks = np.array([3, 0, 4])
    finite = torch.tensor(np.where(MASK, scores, 0.0))[None]
    distribution = PlackettLuceDistribution(3).proba_distribution(finite, torch.tensor(MASK)[None])

    found = pick_log_probs(scores, picks)

    assert found.sum() == pytest.approx(float(distribution.log_prob(torch.tensor(picks)[None])))
    assert found[0] == pytest.approx(scores[3] - np.log(np.exp(scores[MASK]).sum()))


def policy() -> SetScoringPolicy:
    made = SetScoringPolicy(
        observation_space(NUM_SLOTS, NUM_FEATURES - 1, 20),
        DistinctSlots(NUM_SLOTS, 2),
        lambda _progress: 1e-3,
        hidden_size=16,
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return made


def test_a_scorer_read_from_a_file_scores_as_the_policy_did(tmp_path: Path) -> None:
    trained, path = policy(), tmp_path / "policy.safetensors"
    save_file(trained.state_dict(), path)
    rng = np.random.default_rng(4)
    features, context = candidates()[:, :-1], rng.normal(size=7).astype(np.float32)
    selected = rng.integers(0, 3, NUM_SLOTS)
    seen = np.column_stack([features, np.log1p(selected.astype(np.float32))])

    read = load_scorer(path)

    assert holds_scorer(path)
    found = window_scores(read, candidates_WF=seen, context_G=context, mask_W=MASK)
    expected = score_pool(trained, features, selected=selected, context=context, mask=MASK)
    assert found[MASK] == pytest.approx(expected[MASK], abs=1e-5)
    assert (found[~MASK] == -np.inf).all()


def test_weights_of_another_policy_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    save_file({"weight": torch.zeros(3)}, path)

    assert not holds_scorer(path)
    with pytest.raises(RunError, match=r"policy.safetensors: .*no candidate scorer"):
        load_scorer(path)


@pytest.mark.parametrize("content", [None, b"nothing of use"], ids=["missing", "damaged"])
def test_weights_that_cannot_be_read_are_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    if content is not None:
        path.write_bytes(content)

    for read in (holds_scorer, load_scorer):
        with pytest.raises(RunError, match=r"policy.safetensors: missing, damaged"):
            read(path)


def test_weights_of_another_shape_of_scorer_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    weights = policy().state_dict()
    del weights["scorer.value.2.bias"]
    save_file(weights, path)

    with pytest.raises(RunError, match=r"value\.2\.bias"):
        load_scorer(path)
