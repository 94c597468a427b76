"""GREATS: one candidate after another by its gain, given those taken (Wang et al., NeurIPS 2024).

A step of size eta along the gradients g_j of the candidates taken changes the validation loss l. To
second order in eta, taking i as well lowers it by

    eta g_i . grad l  -  eta^2 g_i' H (sum over j taken of g_j),

with H the Hessian of l, which the paper takes to be the identity: the first term rates a candidate,
the second passes over what repeats those taken. A greedy choice needs products of gradients alone.

The paper's eta is the learning rate, of steps along the sum of a batch's gradients. A learner's
loss is a mean over its batch, so that eta here is the learning rate over the number of picks. That
mean is over scored tokens, of which a long response has more; a candidate's gradient here is that
of its own mean, so that short ones are rated higher than their part in the step.
AdamW divides by the root of its second moments besides, which neither the paper nor we put into
eta: where gradients are short, its step is longer than this, and the second term smaller than it
would be.

Shapes: ``W`` slots of a window or candidates in it, ``k`` picks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raise_mdit.agents.static import StaticPolicy
from raise_mdit.core import Observation


class GradientProducts(NamedTuple):
    """Inner products of candidates' gradients under the present model."""

    products_W: NDArray[np.float32]
    """With the validation gradient."""
    gram_WW: NDArray[np.float32]
    """With each other."""


def greats_policy(
    measure: Callable[[NDArray[np.int64]], GradientProducts],
    *,
    num_picks: int,
    step_size: Callable[[Observation], float],
) -> StaticPolicy:
    """Picks by the greedy rule, in the order taken, least used candidates before others.

    The paper draws its windows from data of which nothing was used; ours may offer a candidate
    again, which waits here for every unused one as in all policies that do not learn.

    Args:
        measure: Asked for the pool rows of a window, without masked slots, once a prediction; it
            charges what that costs.
        num_picks: k.
        step_size: Eta at an observation, in units of the products' gradients: the learning rate at
            that moment over k, for a learner whose loss is the mean over its batch.
    """

    def order(observation: Observation) -> NDArray[np.int64]:
        slots = np.flatnonzero(observation["mask"])
        measured = measure(observation["window"][slots])
        taken = greedy_picks(
            measured,
            num_picks=num_picks,
            step_size=step_size(observation),
            num_uses=observation["selected"][slots],
        )
        ranks = np.full(len(observation["mask"]), num_picks)
        ranks[slots[taken]] = np.arange(num_picks)
        return ranks

    return StaticPolicy(order, num_picks=num_picks)


def greedy_picks(
    measured: GradientProducts,
    *,
    num_picks: int,
    step_size: float,
    num_uses: NDArray[np.float32],
) -> NDArray[np.int64]:
    """[k] candidates in the order taken; equal gains go to the first.

    Args:
        measured: Of W candidates, at least k.
        num_picks: k.
        step_size: Eta.
        num_uses: [W] how often each was used; one of fewer uses comes before any of more.
    """
    gains_W = step_size * measured.products_W.astype(np.float64)
    assert measured.gram_WW.shape == (len(gains_W), len(gains_W)), "a product for each pair"
    assert np.isfinite(gains_W).all(), "products are finite"
    assert np.isfinite(measured.gram_WW).all(), "products are finite"
    assert num_picks <= len(gains_W), "a window has enough candidates"
    uses_W = num_uses.astype(np.float64)
    taken: list[int] = []
    for _ in range(num_picks):
        least_used = uses_W == uses_W.min()
        best = int(np.where(least_used, gains_W, -np.inf).argmax())
        taken.append(best)
        uses_W[best] = np.inf
        gains_W -= step_size**2 * measured.gram_WW[best]
    return np.array(taken, np.int64)
