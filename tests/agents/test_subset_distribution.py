"""The Plackett-Luce distribution against enumeration of all ordered picks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from raise_mdit.agents.subset_distribution import PlackettLuceDistribution

SCORES = torch.tensor([0.3, -1.2, 0.8, 2.0, -0.4], dtype=torch.float64)
EVERY_COUNT = pytest.mark.parametrize("num_picks", [1, 2, 3, 4, 5])


@pytest.fixture(autouse=True)
def _fixed_draws() -> Iterator[None]:
    """Draws come from torch's global generator: Stable-Baselines3 seeds it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def distribution(
    scores: torch.Tensor, num_picks: int, *, count: int = 1, masked: Sequence[int] = ()
) -> PlackettLuceDistribution:
    """``count`` equal rows."""
    mask = torch.ones(count, len(scores), dtype=torch.bool)
    mask[:, list(masked)] = False
    return PlackettLuceDistribution(num_picks).proba_distribution(scores.expand(count, -1), mask)


def all_picks(num_items: int, num_picks: int) -> torch.Tensor:
    """Every ordered choice, one a row."""
    return torch.tensor(list(permutations(range(num_items), num_picks)))


def on_all_picks(scores: torch.Tensor, num_picks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy along the prefixes of every ordered choice."""
    picks = all_picks(len(scores), num_picks)
    every = distribution(scores, num_picks, count=len(picks))
    return every.log_prob(picks), every.entropy()


def product_formula(scores: torch.Tensor, picks: Sequence[int]) -> torch.Tensor:
    """The definition: each pick in proportion to exp(score) among the items that are left."""
    left = list(range(len(scores)))
    total = scores.new_zeros(())
    for pick in picks:
        total = total + scores[pick] - scores[left].logsumexp(0)
        left.remove(pick)
    return total


def summed_entropy(scores: torch.Tensor, picks: Sequence[int]) -> torch.Tensor:
    """The definition: entropies of each pick among the items that are left."""
    left = list(range(len(scores)))
    total = scores.new_zeros(())
    for pick in picks:
        log_probs = scores[left].log_softmax(0)
        total = total - (log_probs.exp() * log_probs).sum()
        left.remove(pick)
    return total


@EVERY_COUNT
def test_probabilities_of_all_ordered_picks_sum_to_one(num_picks: int) -> None:
    log_probs, _ = on_all_picks(SCORES, num_picks)

    assert log_probs.exp().sum().item() == pytest.approx(1.0, abs=1e-12)


@EVERY_COUNT
def test_log_prob_is_the_product_formula(num_picks: int) -> None:
    picks = all_picks(len(SCORES), num_picks)

    found, _ = on_all_picks(SCORES, num_picks)

    expected = torch.stack([product_formula(SCORES, row) for row in picks.tolist()])
    torch.testing.assert_close(found, expected)


@given(
    scores=st.lists(st.floats(-20, 20), min_size=3, max_size=8),
    shift=st.floats(-20, 20),
)
def test_a_shift_of_all_scores_changes_no_probability(scores: list[float], shift: float) -> None:
    plain = torch.tensor(scores, dtype=torch.float64)
    picks = torch.tensor([[2, 0]])

    found = distribution(plain + shift, 2).log_prob(picks)

    torch.testing.assert_close(found, distribution(plain, 2).log_prob(picks))


def test_rows_of_a_batch_do_not_touch() -> None:
    scores = torch.stack([SCORES, SCORES.flip(0), torch.zeros(5, dtype=torch.float64)])
    picks = torch.tensor([[0, 3], [4, 1], [2, 0]])

    batch = PlackettLuceDistribution(2).proba_distribution(scores, torch.ones(3, 5).bool())

    for row, log_prob in enumerate(batch.log_prob(picks)):
        assert log_prob == distribution(scores[row], 2).log_prob(picks[row : row + 1])


def test_a_masked_item_takes_no_probability() -> None:
    picks = all_picks(5, 2)
    allowed = ~(picks == 3).any(dim=1)

    probabilities = distribution(SCORES, 2, count=len(picks), masked=[3]).log_prob(picks).exp()

    assert probabilities[allowed].sum().item() == pytest.approx(1.0, abs=1e-12)
    assert probabilities[~allowed].eq(0.0).all()


def test_a_masked_item_is_never_drawn_even_where_all_others_are() -> None:
    scores = SCORES.float()

    drawn = distribution(scores, 3, count=5000, masked=[1, 3]).sample()

    assert drawn.sort(dim=1).values.eq(torch.tensor([0, 2, 4])).all()


def test_a_masked_item_is_never_the_mode() -> None:
    assert distribution(SCORES, 2, masked=[3]).mode().tolist() == [[2, 0]]


def test_masked_items_leave_entropy_as_if_they_were_not_there() -> None:
    picks = torch.tensor([[2, 0, 4]])
    masked = distribution(SCORES, 3, masked=[1, 3])
    masked.log_prob(picks)

    without = distribution(SCORES[[0, 2, 4]], 3)
    without.log_prob(torch.tensor([[1, 0, 2]]))

    torch.testing.assert_close(masked.entropy(), without.entropy())


def test_draws_are_as_frequent_as_their_probability() -> None:
    picks, num_draws = all_picks(4, 2), 40_000
    scores = torch.tensor([0.0, 1.0, -1.0, 0.5])

    drawn = distribution(scores, 2, count=num_draws).sample()

    counts = Counter(map(tuple, drawn.tolist()))
    found = [counts[tuple(row)] for row in picks.tolist()]
    expected = [
        num_draws * product_formula(scores.double(), row).exp().item() for row in picks.tolist()
    ]
    assert chisquare(found, expected).pvalue > 0.001


def test_a_draw_never_repeats_an_item() -> None:
    drawn = distribution(SCORES.float(), 5, count=2000).sample()

    assert drawn.sort(dim=1).values.eq(torch.arange(5)).all()


@EVERY_COUNT
def test_the_mode_is_the_likeliest_order_of_all(num_picks: int) -> None:
    log_probs, _ = on_all_picks(SCORES, num_picks)
    likeliest = all_picks(len(SCORES), num_picks)[log_probs.argmax()]

    assert distribution(SCORES, num_picks).mode()[0].tolist() == likeliest.tolist()


@EVERY_COUNT
def test_entropy_is_exact_in_expectation(num_picks: int) -> None:
    log_probs, entropies = on_all_picks(SCORES, num_picks)

    exact = -(log_probs.exp() * log_probs).sum()

    torch.testing.assert_close((log_probs.exp() * entropies).sum(), exact)


@EVERY_COUNT
def test_entropy_along_a_prefix_is_the_sum_of_each_picks_entropy(num_picks: int) -> None:
    _, found = on_all_picks(SCORES, num_picks)

    picks = all_picks(len(SCORES), num_picks).tolist()
    torch.testing.assert_close(found, torch.stack([summed_entropy(SCORES, row) for row in picks]))


@EVERY_COUNT
def test_the_gradient_of_expected_entropy_is_that_of_the_exact_one(num_picks: int) -> None:
    scores = SCORES.clone().requires_grad_()
    log_probs, entropies = on_all_picks(scores, num_picks)
    exact = -(log_probs.exp() * log_probs).sum()

    (found,) = torch.autograd.grad((log_probs.exp() * entropies).sum(), scores, retain_graph=True)

    torch.testing.assert_close(found, torch.autograd.grad(exact, scores)[0])


@EVERY_COUNT
def test_the_gradient_along_drawn_prefixes_raises_the_exact_entropy(num_picks: int) -> None:
    """PPO's bonus holds prefixes fixed: exact for one pick, nearly parallel for more."""
    scores = SCORES.clone().requires_grad_()
    log_probs, entropies = on_all_picks(scores, num_picks)
    exact = -(log_probs.exp() * log_probs).sum()
    (expected,) = torch.autograd.grad(exact, scores, retain_graph=True)

    weighted = (log_probs.exp().detach() * entropies).sum()
    (found,) = torch.autograd.grad(weighted, scores)

    lowest = 1 - 1e-12 if num_picks == 1 else 0.95
    assert torch.cosine_similarity(found, expected, dim=0).item() >= lowest


def test_minus_log_prob_would_have_no_entropy_gradient() -> None:
    """Why the entropy is computed at all: what Stable-Baselines3 falls back to is blind."""
    scores = SCORES.clone().requires_grad_()
    log_probs, _ = on_all_picks(scores, 2)

    (found,) = torch.autograd.grad(-(log_probs.exp().detach() * log_probs).sum(), scores)

    torch.testing.assert_close(found, torch.zeros_like(found))


@pytest.mark.parametrize("masked", [(), (1,)])
def test_gradients_agree_with_finite_differences(masked: tuple[int, ...]) -> None:
    picks = torch.tensor([[3, 0, 2]])

    def both(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        parameters = distribution(scores, 3, masked=masked)
        return parameters.log_prob(picks), parameters.entropy()

    assert torch.autograd.gradcheck(both, SCORES.clone().requires_grad_())


EXTREME = [100.0, -100.0, 60.0, 0.0, -100.0, 99.0]


@pytest.mark.parametrize("picks", [[1, 4, 3], [0, 2, 5], [3, 5, 0], [4, 0, 1]])
def test_extreme_scores_lose_nothing_in_single_precision(picks: list[int]) -> None:
    single = torch.tensor(EXTREME, requires_grad=True)
    double = torch.tensor(EXTREME, dtype=torch.float64, requires_grad=True)
    parameters = distribution(single, 3)

    log_prob = parameters.log_prob(torch.tensor([picks])).sum()
    entropy = parameters.entropy().sum()

    for found, expected in (
        (log_prob, product_formula(double, picks)),
        (entropy, summed_entropy(double, picks)),
    ):
        assert found.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-4)
        (gradient,) = torch.autograd.grad(found, single, retain_graph=True)
        (exact,) = torch.autograd.grad(expected, double)
        torch.testing.assert_close(gradient.double(), exact, rtol=1e-3, atol=1e-4)


def test_extreme_scores_can_still_be_drawn() -> None:
    drawn = distribution(torch.tensor(EXTREME), 3, count=500).sample()

    assert drawn[:, 2].eq(2).all()
    assert drawn[:, :2].sort(dim=1).values.eq(torch.tensor([0, 5])).all()


def test_entropy_of_equal_scores_is_the_logarithm_of_the_number_of_orders() -> None:
    equal = distribution(torch.zeros(6), 3)
    equal.log_prob(torch.tensor([[0, 1, 2]]))

    assert equal.entropy().item() == pytest.approx(math.log(6 * 5 * 4), rel=1e-6)


def test_entropy_needs_picks() -> None:
    with pytest.raises(AssertionError, match="log_prob comes first"):
        distribution(SCORES, 2).entropy()


def test_new_parameters_forget_the_picks() -> None:
    parameters = distribution(SCORES, 2)
    parameters.log_prob(torch.tensor([[0, 1]]))

    parameters.proba_distribution(SCORES[None], torch.ones(1, 5).bool())

    with pytest.raises(AssertionError, match="log_prob comes first"):
        parameters.entropy()


def test_picks_come_with_their_log_probability() -> None:
    mask = torch.ones(1, 5).bool()

    picks, log_prob = PlackettLuceDistribution(2).log_prob_from_params(SCORES[None], mask)

    assert log_prob == distribution(SCORES, 2).log_prob(picks)


def test_the_network_is_the_policys() -> None:
    with pytest.raises(NotImplementedError, match="the policy's scorer"):
        PlackettLuceDistribution(2).proba_distribution_net(5)


OTHERS = torch.tensor([1.0, 0.2, -0.7, 0.5, 0.9], dtype=torch.float64)


def on_all_divergences(num_picks: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities of every ordered choice under both, and the divergence along each."""
    log_probs, _ = on_all_picks(SCORES, num_picks)
    others, _ = on_all_picks(OTHERS, num_picks)
    picks = all_picks(len(SCORES), num_picks)
    every = distribution(SCORES, num_picks, count=len(picks))
    every.log_prob(picks)
    return log_probs, others, every.divergence(OTHERS.expand(len(picks), -1))


@EVERY_COUNT
def test_divergence_is_exact_in_expectation(num_picks: int) -> None:
    log_probs, others, divergences = on_all_divergences(num_picks)

    exact = (log_probs.exp() * (log_probs - others)).sum()

    torch.testing.assert_close((log_probs.exp() * divergences).sum(), exact)


def test_divergence_from_itself_is_zero_and_from_others_positive() -> None:
    every = distribution(SCORES, 3)
    every.log_prob(torch.tensor([[4, 1, 0]]))

    assert every.divergence(SCORES[None] + 3.0).item() == pytest.approx(0.0, abs=1e-12)
    assert every.divergence(OTHERS[None]).item() > 0.1


@EVERY_COUNT
def test_divergence_from_equal_scores_is_what_entropy_lacks(num_picks: int) -> None:
    picks = all_picks(len(SCORES), num_picks)
    every = distribution(SCORES, num_picks, count=len(picks))
    every.log_prob(picks)

    most = math.log(math.factorial(5) / math.factorial(5 - num_picks))

    found = every.divergence(torch.zeros_like(SCORES).expand(len(picks), -1))
    torch.testing.assert_close(found, most - every.entropy())


def test_divergence_ignores_what_is_masked() -> None:
    masked = distribution(SCORES, 2, masked=[1, 3])
    masked.log_prob(torch.tensor([[2, 0]]))
    without = distribution(SCORES[[0, 2, 4]], 2)
    without.log_prob(torch.tensor([[1, 0]]))

    torch.testing.assert_close(
        masked.divergence(OTHERS[None]), without.divergence(OTHERS[None, [0, 2, 4]])
    )
