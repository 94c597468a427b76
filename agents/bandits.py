"""Bandits that learn from gains of no known range: Exp3, UCB1 and Thompson sampling.

Gains shrink as a fine-tuning goes on, so all three see them relative to what was observed: adding a
constant to all gains, or multiplying them by a positive one, changes no play.

Shapes: ``G`` groups, of which one is played at a time.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

PRIOR_COUNT = 1.0
"""Gains that the prior mean of a group weighs as much as, in Thompson sampling."""
PRIOR_SHAPE = 1.0
"""Of the inverse gamma prior, half the gains that the prior variance weighs as much as; the least
whole one with which an unplayed group's mean has an expectation."""
UNKNOWN = 0.5
"""What a gain is scaled to as long as all gains are equal: the middle of the range."""


class Bandit(Protocol):
    """Chooses one of G groups at a time."""

    def play(self, playable_G: NDArray[np.bool_]) -> int:
        """One of the groups that may be played, of which there is at least one."""
        ...

    def credit(self, group: int, gain: float) -> None:
        """Take in what the last play gave; a play without credit leaves no trace."""
        ...


class Exp3:
    """Exponential weights for exploration and exploitation, for gains that may change at will.

    Auer, Cesa-Bianchi, Freund & Schapire 2002, "The nonstochastic multiarmed bandit problem", SIAM
    J. Comput. 32(1), figure 1. Group i is played with probability
    ``p_i = (1 - gamma) * w_i / sum(w) + gamma / G``, and ``w_i = exp(gamma / G * X_i)`` with
    ``X_i`` the sum of ``x / p_i`` over its plays, x the gain scaled into [0, 1].

    The paper takes the range of gains as known. Here it is the range of all gains so far, and when
    a gain widens it, the gains before are scaled anew with it: ``X_i`` is made from the sums of
    ``gain / p_i`` and of ``1 / p_i``, so that weights are those of a player who knew today's range
    from the start. Where only some groups can be played, both sums in ``p_i`` are over these.
    """

    def __init__(self, num_groups: int, *, exploration: float, rng: np.random.Generator) -> None:
        """All weights are equal.

        Args:
            num_groups: G.
            exploration: Gamma.
            rng: Of the plays.
        """
        self._exploration = exploration
        self._rng = rng
        self._gains = _Gains(num_groups)
        self._played: tuple[int, float] | None = None

    def probabilities(self, playable_G: NDArray[np.bool_]) -> NDArray[np.float64]:
        """[G] how likely each group is to be played; 0 where it cannot be."""
        log_weights_G = self._log_weights()
        weights_G = np.where(playable_G, np.exp(log_weights_G - log_weights_G[playable_G].max()), 0)
        uniform_G = playable_G / playable_G.sum()
        mixed_G = self._exploration * uniform_G
        return np.asarray(mixed_G + (1 - self._exploration) * weights_G / weights_G.sum())

    def play(self, playable_G: NDArray[np.bool_]) -> int:
        """A draw from :meth:`probabilities`."""
        probabilities_G = self.probabilities(playable_G)
        group = int(self._rng.choice(len(probabilities_G), p=probabilities_G))
        self._played = group, float(probabilities_G[group])
        return group

    def credit(self, group: int, gain: float) -> None:
        """Weigh the last play's gain by how unlikely the play was."""
        assert self._played is not None, "credit is for a play"
        played, probability = self._played
        assert group == played, "credit is for the last play"
        self._played = None
        self._gains.add(group, gain, weight=1 / probability)

    def _log_weights(self) -> NDArray[np.float64]:
        """[G] ln w."""
        estimates_G = self._gains.weights_G * self._gains.scaled_means()
        return self._exploration / len(estimates_G) * estimates_G


class Ucb1:
    """The group with the highest upper confidence bound, each once before any twice.

    Auer, Cesa-Bianchi & Fischer 2002, "Finite-time analysis of the multiarmed bandit problem",
    Machine Learning 47, figure 1: the bound is ``mean_i + sqrt(c * ln(n) / n_i)``, with ``n_i``
    plays of group i, n of all and c of 2. The paper's rewards lie in [0, 1]; here means are scaled
    by the range of all gains so far. Ties are broken by lot.
    """

    def __init__(self, num_groups: int, *, exploration: float, rng: np.random.Generator) -> None:
        """No group was played.

        Args:
            num_groups: G.
            exploration: c.
            rng: Of ties.
        """
        self._exploration = exploration
        self._rng = rng
        self._gains = _Gains(num_groups)

    def bounds(self) -> NDArray[np.float64]:
        """[G] upper confidence bounds; infinite where a group was never played."""
        plays_G = self._gains.weights_G
        all_plays = max(1.0, plays_G.sum())
        never_G = np.full(len(plays_G), np.inf)
        spread_G = np.divide(
            self._exploration * np.log(all_plays), plays_G, out=never_G, where=plays_G > 0
        )
        return np.asarray(self._gains.scaled_means() + np.sqrt(spread_G))

    def play(self, playable_G: NDArray[np.bool_]) -> int:
        """The highest of :meth:`bounds`."""
        bounds_G = np.where(playable_G, self.bounds(), -np.inf)
        return int(self._rng.choice(np.flatnonzero(bounds_G == bounds_G.max())))

    def credit(self, group: int, gain: float) -> None:
        """Count a play."""
        self._gains.add(group, gain)


class NormalInverseGamma(NamedTuple):
    """What is believed of normal gains of unknown mean and variance, for each group.

    The variance is inverse gamma with ``shapes`` and ``scales``; given it, the mean is normal about
    ``means`` with the variance over ``counts``.
    """

    means: NDArray[np.float64]
    counts: NDArray[np.float64]
    shapes: NDArray[np.float64]
    scales: NDArray[np.float64]


class Thompson:
    """Thompson sampling: a mean is drawn for each group as it is believed, the highest is played.

    Thompson 1933; for normal gains of unknown variance Honda & Takemura 2014, "Optimality of
    Thompson sampling for Gaussian bandits depends on priors". The belief is exact for its prior.
    """

    def __init__(self, num_groups: int, *, rng: np.random.Generator) -> None:
        """Nothing is known.

        Args:
            num_groups: G.
            rng: Of the draws.
        """
        self._rng = rng
        self._gains = _Gains(num_groups)

    def posterior(self) -> NormalInverseGamma:
        """What is believed after the gains so far.

        With n gains of a group, their mean x and sum S of squared deviations (Murphy 2007,
        "Conjugate Bayesian analysis of the Gaussian distribution"):
        ``count = c + n``, ``mean = (c * m + n * x) / count``, ``shape = a + n / 2`` and
        ``scale = b + S / 2 + c * n * (x - m)^2 / (2 * count)``.

        The prior is weak and has the gains' own size: m and b / a are the mean and the variance of
        all gains of all groups, c is :data:`PRIOR_COUNT` and a :data:`PRIOR_SHAPE`. As long as all
        gains are equal b is 1; no play depends on it then.
        """
        gains = self._gains
        mean, variance = gains.overall()
        n_G, x_G = gains.weights_G, gains.means_G
        counts_G = PRIOR_COUNT + n_G
        prior_scale = PRIOR_SHAPE * (variance if variance > 0 else 1.0)
        shift_G = PRIOR_COUNT * n_G * (x_G - mean) ** 2 / counts_G
        return NormalInverseGamma(
            means=(PRIOR_COUNT * mean + n_G * x_G) / counts_G,
            counts=counts_G,
            shapes=PRIOR_SHAPE + n_G / 2,
            scales=prior_scale + (gains.deviations_G + shift_G) / 2,
        )

    def draw(self) -> NDArray[np.float64]:
        """[G] a mean for each group from :meth:`posterior`."""
        belief = self.posterior()
        variances_G = belief.scales / self._rng.gamma(belief.shapes)
        return self._rng.normal(belief.means, np.sqrt(variances_G / belief.counts))

    def play(self, playable_G: NDArray[np.bool_]) -> int:
        """The highest of a :meth:`draw`."""
        return int(np.argmax(np.where(playable_G, self.draw(), -np.inf)))

    def credit(self, group: int, gain: float) -> None:
        """Count a gain."""
        self._gains.add(group, gain)


class _Gains:
    """Weighted gains of each group, as they come (West 1979, Comm. ACM 22(9))."""

    def __init__(self, num_groups: int) -> None:
        self.weights_G = np.zeros(num_groups)
        self.means_G = np.zeros(num_groups)
        self.deviations_G = np.zeros(num_groups)
        """[G] sums of squared deviations from the mean."""
        self._low, self._high = np.inf, -np.inf

    def add(self, group: int, gain: float, *, weight: float = 1.0) -> None:
        """Take in one gain."""
        assert np.isfinite(gain), "a gain is finite"
        self._low, self._high = min(self._low, gain), max(self._high, gain)
        self.weights_G[group] += weight
        before = gain - self.means_G[group]
        self.means_G[group] += before * weight / self.weights_G[group]
        self.deviations_G[group] += weight * before * (gain - self.means_G[group])

    def scaled_means(self) -> NDArray[np.float64]:
        """[G] means as shares of the range of all gains; meaningless where there are none."""
        if not self._low < self._high:
            return np.full(len(self.means_G), UNKNOWN)
        return np.asarray((self.means_G - self._low) / (self._high - self._low))

    def overall(self) -> tuple[float, float]:
        """Mean and variance of the gains of all groups; zeros where there are none."""
        weight = self.weights_G.sum()
        if weight == 0:
            return 0.0, 0.0
        if self._low == self._high:  # rounding would leave a variance of next to nothing
            return float(self._low), 0.0
        mean = (self.weights_G * self.means_G).sum() / weight
        between = (self.weights_G * (self.means_G - mean) ** 2).sum()
        return float(mean), float((self.deviations_G.sum() + between) / weight)
