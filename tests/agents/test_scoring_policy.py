"""The scorer's symmetries, and the policy as Stable-Baselines3 uses it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from raise_mdit.agents.first_weights import weights_of_ranking
from raise_mdit.agents.scoring_policy import STREAMED_SLOTS, CandidateScorer, SetScoringPolicy
from raise_mdit.core import Observation
from raise_mdit.envs.observation import CONTEXT, DistinctSlots, observation_space

NUM_FEATURES = 3
NUM_SLOTS = 6
NUM_PICKS = 2


@pytest.fixture(autouse=True)
def _fixed_draws() -> Iterator[None]:
    """The policy draws from torch's global generator: Stable-Baselines3 seeds it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@torch.no_grad()
def perturbed(module: nn.Module) -> None:
    """Leave the start, at which all scores are equal."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.5)


def scorer() -> CandidateScorer:
    made = CandidateScorer(NUM_FEATURES, len(CONTEXT), hidden_size=16)
    perturbed(made)
    return made.double()


def inputs(num_slots: int, *, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Candidates, context and a full mask."""
    generator = torch.Generator().manual_seed(num_slots)
    candidates = torch.randn(batch, num_slots, NUM_FEATURES, generator=generator).double()
    context = torch.randn(batch, len(CONTEXT), generator=generator).double()
    return candidates, context, torch.ones(batch, num_slots).double()


def policy(*, hidden_size: int = 16, num_slots: int = NUM_SLOTS) -> SetScoringPolicy:
    return SetScoringPolicy(
        observation_space(num_slots, NUM_FEATURES, num_candidates=max(20, num_slots)),
        DistinctSlots(num_slots, NUM_PICKS),
        lambda _progress: 1e-3,
        hidden_size=hidden_size,
    )


def trained_policy(*, num_slots: int = NUM_SLOTS) -> SetScoringPolicy:
    made = policy(num_slots=num_slots)
    perturbed(made)
    return made


def observation(*, masked: int = 0, seed: int = 0, num_slots: int = NUM_SLOTS) -> Observation:
    rng = np.random.default_rng(seed)
    mask = np.ones(num_slots, np.int8)
    mask[num_slots - masked :] = 0
    return {
        "candidates": rng.normal(size=(num_slots, NUM_FEATURES)).astype(np.float32),
        "context": rng.normal(size=len(CONTEXT)).astype(np.float32),
        "selected": rng.integers(0, 3, num_slots).astype(np.float32),
        "mask": mask,
        "window": rng.permutation(max(20, num_slots))[:num_slots],
    }


def batch_of(*observations: Observation) -> Observation:
    return {key: np.stack([one[key] for one in observations]) for key in observations[0]}


def tensors(*observations: Observation) -> dict[str, torch.Tensor]:
    return {key: torch.as_tensor(part) for key, part in batch_of(*observations).items()}


def test_a_permutation_of_the_window_permutes_the_scores() -> None:
    candidates, context, mask = inputs(7)
    made, order = scorer(), torch.randperm(7)

    scores, _ = made(candidates, context, mask)
    permuted, _ = made(candidates[:, order], context, mask)

    torch.testing.assert_close(permuted, scores[:, order])
    assert scores.std() > 0.1


def test_a_permutation_of_the_window_leaves_the_value_alone() -> None:
    candidates, context, mask = inputs(7)
    made = scorer()

    _, value = made(candidates, context, mask)
    _, permuted = made(candidates[:, torch.randperm(7)], context, mask)

    torch.testing.assert_close(permuted, value)


def test_what_stands_in_masked_slots_has_no_influence() -> None:
    candidates, context, mask = inputs(7)
    mask[:, 4:] = 0.0
    other = candidates.clone()
    other[:, 4:] = 100.0
    made = scorer()

    scores, value = made(candidates, context, mask)
    other_scores, other_value = made(other, context, mask)

    assert torch.equal(other_scores[:, :4], scores[:, :4])
    assert torch.equal(other_value, value)


def test_masked_slots_are_as_good_as_a_smaller_window() -> None:
    candidates, context, mask = inputs(7)
    mask[:, 4:] = 0.0
    made = scorer()

    scores, value = made(candidates, context, mask)
    small_scores, small_value = made(candidates[:, :4], context, mask[:, :4])

    torch.testing.assert_close(scores[:, :4], small_scores)
    torch.testing.assert_close(value, small_value)


def test_a_window_repeated_twice_scores_as_once() -> None:
    """The pool is seen through its mean, so the size of the window changes no score."""
    candidates, context, mask = inputs(5)
    made = scorer()

    scores, value = made(candidates, context, mask)
    twice, same_value = made(candidates.repeat(1, 2, 1), context, mask.repeat(1, 2))

    torch.testing.assert_close(twice, scores.repeat(1, 2))
    torch.testing.assert_close(same_value, value)


def test_what_else_is_offered_changes_how_two_candidates_compare() -> None:
    candidates, context, mask = inputs(5)
    other = candidates.clone()
    other[:, 2:] += 1.0
    made = scorer()

    scores, _ = made(candidates, context, mask)
    other_scores, _ = made(other, context, mask)

    margin, other_margin = scores[:, 0] - scores[:, 1], other_scores[:, 0] - other_scores[:, 1]
    assert (margin - other_margin).abs().min() > 1e-3


def test_rows_of_a_batch_do_not_touch() -> None:
    candidates, context, mask = inputs(5, batch=3)
    made = scorer()

    scores, value = made(candidates, context, mask)
    alone_scores, alone_value = made(candidates[1:2], context[1:2], mask[1:2])

    torch.testing.assert_close(scores[1:2], alone_scores)
    torch.testing.assert_close(value[1:2], alone_value)


def test_all_scores_are_equal_at_the_start() -> None:
    candidates, context, mask = inputs(7)

    scores, _ = CandidateScorer(NUM_FEATURES, len(CONTEXT), 16).double()(candidates, context, mask)

    assert torch.equal(scores, torch.zeros_like(scores))


def test_every_action_is_equally_likely_at_the_start() -> None:
    actions = torch.tensor([[0, 1], [5, 2], [3, 4]])

    _, log_probs, entropy = policy().evaluate_actions(tensors(*[observation()] * 3), actions)

    uniform = -np.log(NUM_SLOTS * (NUM_SLOTS - 1))
    assert log_probs.tolist() == pytest.approx([uniform] * 3, rel=1e-6)
    assert entropy is not None
    assert entropy.tolist() == pytest.approx([-uniform] * 3, rel=1e-6)


def test_every_part_of_the_network_gets_a_gradient() -> None:
    made = trained_policy()

    values, log_probs, entropy = made.evaluate_actions(
        tensors(observation(), observation(seed=1)), torch.tensor([[0, 1], [3, 2]])
    )
    assert entropy is not None
    (values.sum() + log_probs.sum() + entropy.sum()).backward()

    silent = [
        name
        for name, parameter in made.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert silent == []


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_single_observation_gets_distinct_slots(deterministic: bool) -> None:
    action, state = trained_policy().predict(observation(), deterministic=deterministic)

    assert state is None
    assert action in DistinctSlots(NUM_SLOTS, NUM_PICKS)


def test_batched_observations_get_the_action_of_each_alone() -> None:
    made, alone = trained_policy(), [observation(seed=seed) for seed in range(3)]

    together, _ = made.predict(batch_of(*alone), deterministic=True)

    expected = [made.predict(one, deterministic=True)[0].tolist() for one in alone]
    assert together.tolist() == expected


def test_the_deterministic_action_is_the_likeliest() -> None:
    made, seen = trained_policy(), observation()
    pairs = torch.tensor([[a, b] for a in range(NUM_SLOTS) for b in range(NUM_SLOTS) if a != b])
    _, log_probs, _ = made.evaluate_actions(tensors(*[seen] * len(pairs)), pairs)

    action, _ = made.predict(seen, deterministic=True)

    assert action.tolist() == pairs[log_probs.argmax()].tolist()


def test_a_masked_slot_is_never_picked() -> None:
    made, seen = trained_policy(), batch_of(*[observation(masked=3)] * 500)

    actions, _ = made.predict(seen)

    assert set(np.unique(actions)) == {0, 1, 2}


def test_taken_actions_are_evaluated_as_when_they_were_drawn() -> None:
    made, seen = trained_policy(), tensors(*[observation(seed=seed) for seed in range(20)])

    actions, values, log_probs = made(seen)
    again_values, again_log_probs, _ = made.evaluate_actions(seen, actions)

    assert torch.equal(values, again_values)
    assert torch.equal(log_probs, again_log_probs)
    assert torch.equal(values, made.predict_values(seen))


def test_how_often_a_candidate_was_picked_matters() -> None:
    made, fresh = trained_policy(), observation()
    used = {**fresh, "selected": fresh["selected"] + np.eye(NUM_SLOTS, dtype=np.float32)[0]}

    _, log_probs, _ = made.evaluate_actions(tensors(fresh, used), torch.tensor([[0, 1]] * 2))

    assert log_probs[0] != log_probs[1]


def test_which_pool_row_a_slot_holds_does_not_matter() -> None:
    made, seen = trained_policy(), observation()
    elsewhere = {**seen, "window": seen["window"][::-1].copy()}

    _, log_probs, _ = made.evaluate_actions(tensors(seen, elsewhere), torch.tensor([[0, 1]] * 2))

    assert log_probs[0] == log_probs[1]


def test_a_wide_window_gets_the_likeliest_action_without_the_network_in_one_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = trained_policy(num_slots=STREAMED_SLOTS + 1)
    alone = [observation(num_slots=STREAMED_SLOTS + 1, masked=9, seed=seed) for seed in range(2)]
    expected = made.get_distribution(tensors(*alone)).mode().tolist()
    monkeypatch.delattr(CandidateScorer, "forward")

    together, state = made.predict(batch_of(*alone), deterministic=True)
    single, same_state = made.predict(alone[1], deterministic=True)

    assert together.tolist() == expected
    assert single.tolist() == expected[1]
    assert state is same_state is None


def test_draws_from_a_wide_window_are_distinct_slots() -> None:
    made = trained_policy(num_slots=STREAMED_SLOTS + 1)

    action, _ = made.predict(observation(num_slots=STREAMED_SLOTS + 1))

    assert action in made.action_space


def test_a_policy_is_built_again_from_its_own_parameters() -> None:
    made = policy(hidden_size=24)

    again = SetScoringPolicy(**made._get_constructor_parameters())
    again.load_state_dict(made.state_dict())

    assert again.get_parameter("scorer.score.0.weight").shape == (24, 2 * 24)


def test_a_policy_that_is_built_again_begins_as_it_did() -> None:
    made, seen = beginning_as_a_ranking(strength=5.0), tensors(unused(0))

    again = SetScoringPolicy(**made._get_constructor_parameters())

    actions = torch.tensor([[0, 1]])
    assert torch.equal(
        again.evaluate_actions(seen, actions)[1], made.evaluate_actions(seen, actions)[1]
    )


def beginning_as_a_ranking(*, strength: float = 2.0) -> SetScoringPolicy:
    return SetScoringPolicy(
        observation_space(NUM_SLOTS, NUM_FEATURES, num_candidates=20),
        DistinctSlots(NUM_SLOTS, NUM_PICKS),
        lambda _progress: 1e-3,
        hidden_size=16,
        first_weights=weights_of_ranking(NUM_FEATURES + 1, 1, strength=strength),
    )


def unused(seed: int) -> Observation:
    return observation(seed=seed) | {"selected": np.zeros(NUM_SLOTS, np.float32)}


@pytest.mark.parametrize("seed", range(5))
def test_a_policy_that_begins_as_a_ranking_picks_what_it_ranks_first(seed: int) -> None:
    seen = unused(seed)

    action, _ = beginning_as_a_ranking().predict(seen, deterministic=True)

    assert action.tolist() == np.argsort(-seen["candidates"][:, 1])[:NUM_PICKS].tolist()


def test_a_policy_that_begins_as_a_ranking_takes_what_was_used_last() -> None:
    seen = unused(0)
    first, second = np.argsort(-seen["candidates"][:, 1])[:2]
    seen["selected"][first] = 1

    action, _ = beginning_as_a_ranking().predict(seen, deterministic=True)

    assert first not in action
    assert action[0] == second


def test_a_policy_has_not_diverged_from_the_ranking_it_begins_as() -> None:
    made, seen = beginning_as_a_ranking(), tensors(observation(), observation(seed=1))
    actions = torch.tensor([[0, 1], [3, 2]])

    before = made.evaluate_actions(seen, actions)[2]
    perturbed(made)
    after = made.evaluate_actions(seen, actions)[2]

    assert before is not None
    assert after is not None
    assert before.abs().max().item() < 1e-5
    assert after.max().item() < -1e-3
