"""The Plackett-Luce distribution over ordered subsets.

k of N items are drawn one after another, each in proportion to exp(score) among those left. Adding
Gumbel noise to the scores and taking the k largest is one exact draw (Kool et al. 2019, arXiv
1903.06059).

Shapes: ``B`` batch, ``N`` items, ``k`` picks.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from stable_baselines3.common.distributions import Distribution

MASKED = -1e9
"""Score of an item that cannot be picked: its probability underflows to exactly 0 in float32."""


class PlackettLuceDistribution(Distribution):
    """Ordered draws of ``num_picks`` distinct items, with exact log-probability."""

    def __init__(self, num_picks: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_picks = num_picks
        self._scores_BN = torch.empty(0)
        self._picked_Bk: torch.Tensor | None = None

    def proba_distribution_net(self, *_args: Any, **_kwargs: Any) -> Any:
        """Not offered: scores come from a network shared over candidates, which the policy owns."""
        raise NotImplementedError("the policy's scorer gives the scores")

    def proba_distribution(self, scores_BN: torch.Tensor, mask_BN: torch.Tensor) -> Self:
        """Set the parameters.

        Args:
            scores_BN: Unnormalised log-weights.
            mask_BN: Bool; at least ``num_picks`` of each row are true.
        """
        self._scores_BN = scores_BN.masked_fill(~mask_BN, MASKED)
        self._picked_Bk = None
        return self

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        """[B] log-probability of drawing the items of each row in that order.

        The sum over picks of score minus the log of what was left before the pick, which is a
        running sum from the last pick backwards: O(N + k) instead of O(N k).
        """
        self._picked_Bk = actions.long().reshape(-1, self.num_picks)
        picked_scores_Bk = self._scores_BN.gather(1, self._picked_Bk)
        return (picked_scores_Bk - self._log_left()).sum(dim=1)

    def entropy(self) -> torch.Tensor:
        """[B] entropy along the drawn prefixes: unbiased by the chain rule.

        H(first) + H(second given first) + ..., each exact, with the prefixes that
        :meth:`log_prob` was last given. Needed since minus the log-probability, which
        Stable-Baselines3 falls back to, has an entropy gradient of zero in expectation. The
        gradient holds the prefixes fixed: how scores change which ones are drawn is left out.

        Goes from the last pick backwards and puts one item after another back among those left:
        entropy' = q (entropy - log q) - p log p, p the item's share and q the others'. No term is
        negative, so nothing cancels or overflows.
        """
        assert self._picked_Bk is not None, "log_prob comes first"
        unpicked_BN = self._unpicked()
        log_left_B = unpicked_BN.logsumexp(dim=1)
        log_probs_BN = unpicked_BN - log_left_B[:, None]
        entropy_B = -(log_probs_BN.exp() * log_probs_BN).sum(dim=1)
        total_B = torch.zeros_like(entropy_B)
        for score_B in self._scores_BN.gather(1, self._picked_Bk).flip(1).unbind(1):
            log_with_B = torch.logaddexp(log_left_B, score_B)
            log_p_B, log_q_B = score_B - log_with_B, log_left_B - log_with_B
            entropy_B = log_q_B.exp() * (entropy_B - log_q_B) - log_p_B.exp() * log_p_B
            total_B = total_B + entropy_B
            log_left_B = log_with_B
        return total_B

    def divergence(self, other_scores_BN: torch.Tensor) -> torch.Tensor:
        """[B] Kullback-Leibler divergence from another distribution, along the drawn prefixes.

        KL(first) + KL(second given first) + ..., each exact, with the prefixes that
        :meth:`log_prob` was last given; otherwise as :meth:`entropy`, of which it is the negative,
        up to a constant, where the other scores are all equal. From the last pick backwards, by the
        chain rule: KL' = q KL + p log(p / p') + q log(q / q'), p the item's share among those left
        and q the others', with a dash where the other distribution has them.

        Args:
            other_scores_BN: Unnormalised log-weights of the other distribution, over the same mask.
        """
        others_BN = other_scores_BN.masked_fill(self._scores_BN <= MASKED, MASKED)
        left_BN = self._unpicked()
        log_left_B = left_BN.logsumexp(dim=1)
        others_left_BN = others_BN.masked_fill(left_BN <= MASKED, MASKED)
        others_log_left_B = others_left_BN.logsumexp(dim=1)
        gaps_BN = (left_BN - log_left_B[:, None]) - (others_left_BN - others_log_left_B[:, None])
        kl_B = ((left_BN - log_left_B[:, None]).exp() * gaps_BN).sum(dim=1)
        total_B = torch.zeros_like(kl_B)
        assert self._picked_Bk is not None
        picked = (part.gather(1, self._picked_Bk).flip(1) for part in (self._scores_BN, others_BN))
        for score_B, other_B in zip(*(part_Bk.unbind(1) for part_Bk in picked), strict=True):
            log_with_B = torch.logaddexp(log_left_B, score_B)
            others_log_with_B = torch.logaddexp(others_log_left_B, other_B)
            log_p_B, log_q_B = score_B - log_with_B, log_left_B - log_with_B
            p_gap_B = log_p_B - (other_B - others_log_with_B)
            q_gap_B = log_q_B - (others_log_left_B - others_log_with_B)
            kl_B = log_q_B.exp() * (kl_B + q_gap_B) + log_p_B.exp() * p_gap_B
            total_B = total_B + kl_B
            log_left_B, others_log_left_B = log_with_B, others_log_with_B
        return total_B

    def sample(self) -> torch.Tensor:
        """[B, k] one exact draw, by Gumbel-top-k."""
        uniform_BN = torch.rand_like(self._scores_BN)  # 0 occurs and has no logarithm; 1 does not
        exponential_BN = -uniform_BN.clamp(min=torch.finfo(uniform_BN.dtype).tiny).log()
        gumbel_BN = -exponential_BN.log()
        return (self._scores_BN + gumbel_BN).topk(self.num_picks, dim=1).indices

    def mode(self) -> torch.Tensor:
        """[B, k] the likeliest order: the k largest scores."""
        return self._scores_BN.topk(self.num_picks, dim=1).indices

    def actions_from_params(
        self, scores_BN: torch.Tensor, mask_BN: torch.Tensor, deterministic: bool = False
    ) -> torch.Tensor:
        """Picks under the given parameters."""
        return self.proba_distribution(scores_BN, mask_BN).get_actions(deterministic)

    def log_prob_from_params(
        self, scores_BN: torch.Tensor, mask_BN: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A draw under the given parameters, with its log-probability."""
        actions = self.actions_from_params(scores_BN, mask_BN)
        return actions, self.log_prob(actions)

    def _log_left(self) -> torch.Tensor:
        """[B, k] log of the total weight that is left before each pick."""
        assert self._picked_Bk is not None
        picked_scores_Bk = self._scores_BN.gather(1, self._picked_Bk)
        never_B1 = self._unpicked().logsumexp(dim=1, keepdim=True)
        from_here_Bk = picked_scores_Bk.flip(1).logcumsumexp(dim=1).flip(1)
        return torch.logaddexp(from_here_Bk, never_B1)

    def _unpicked(self) -> torch.Tensor:
        """[B, N] scores of the items that are never picked, the others masked."""
        assert self._picked_Bk is not None
        return self._scores_BN.scatter(1, self._picked_Bk, MASKED)
