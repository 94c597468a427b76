"""Linear influence: what a step improves is regressed on the mean features of its batch.

The regression is linear in the batch's mean, so its weights score single candidates, and the k best
of a window are the batch of which most is expected.

Shapes: ``W`` slots of a window, ``F`` features, ``D`` regressors, ``k`` picks.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular

from raise_mdit.agents.static import BUDGET_SHARE, State
from raise_mdit.core import Observation

Choice = Literal["thompson", "greedy"]
"""How it explores: by weights drawn from their posterior, or not, by their mean."""

PRIOR_SHAPE = 1.0
"""Of the noise variance's inverse gamma prior, half the gains that it weighs as much as."""


class LinearGain:
    """Bayesian linear regression of gains with noise of unknown variance.

    Given the noise variance v, which is inverse gamma, the weights are normal about zero with
    covariance ``v / ridge * I``. With Phi the regressors and y the gains of n steps (Riquelme,
    Tucker & Snoek 2018, arXiv 1802.09127, linear methods):
    ``P = ridge * I + Phi' Phi``, ``mean = P^-1 Phi' y``, covariance ``v * P^-1``,
    ``shape = a + n / 2`` and ``scale = b + (y'y - mean' P mean) / 2``.

    Gains may be of any size, so b is a times their mean square, which is the noise if nothing
    explains them. As long as all are zero b is 1; no ranking depends on it then.
    """

    def __init__(self, num_regressors: int, *, ridge: float) -> None:
        """Nothing is known.

        Args:
            num_regressors: D.
            ridge: Precision of the weights' prior, as a multiple of that of the noise.
        """
        self.num_gains = 0
        self._precision_DD = ridge * np.eye(num_regressors)
        self._moments_D = np.zeros(num_regressors)
        self._squares = 0.0

    def add(self, regressors_D: NDArray[np.float64], gain: float) -> None:
        """Take in one step: a rank-one update."""
        assert np.isfinite(gain), "a gain is finite"
        self.num_gains += 1
        self._precision_DD += np.outer(regressors_D, regressors_D)
        self._moments_D += gain * regressors_D
        self._squares += gain**2

    def mean(self) -> NDArray[np.float64]:
        """[D] posterior mean of the weights."""
        return np.asarray(cho_solve((self._root(), True), self._moments_D))

    def unit_covariance(self) -> NDArray[np.float64]:
        """[D, D] posterior covariance of the weights for a noise variance of 1."""
        return np.asarray(cho_solve((self._root(), True), np.eye(len(self._moments_D))))

    def noise(self) -> tuple[float, float]:
        """Shape and scale of the noise variance's inverse gamma posterior."""
        mean_square = self._squares / self.num_gains if self._squares > 0 else 1.0
        unexplained = self._squares - float(self._moments_D @ self.mean())
        return PRIOR_SHAPE + self.num_gains / 2, PRIOR_SHAPE * mean_square + unexplained / 2

    def draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """[D] weights from their posterior; from the prior before the first gain."""
        shape, scale = self.noise()
        deviation = np.sqrt(scale / rng.gamma(shape))
        normal_D = rng.standard_normal(len(self._moments_D))
        # P = L L', so that L'^-1 z has covariance P^-1
        spread_D = solve_triangular(self._root(), normal_D, lower=True, trans="T")
        return np.asarray(self.mean() + deviation * spread_D)

    def _root(self) -> NDArray[np.float64]:
        """Lower triangular L with P = L L'."""
        return np.asarray(np.linalg.cholesky(self._precision_DD))


class InfluencePolicy:
    """Picks the k candidates of a window that score highest by weights of a regression."""

    def __init__(
        self,
        *,
        num_features: int,
        num_picks: int,
        rng: np.random.Generator,
        choice: Choice,
        ridge: float,
    ) -> None:
        """Nothing is learned; see :func:`influence_policy`."""
        self._num_features = num_features
        self._num_picks = num_picks
        self._rng = rng
        self._choice = choice
        self._gains = LinearGain(num_features + 3, ridge=ridge)
        self._has_learned_before = False
        self._last: tuple[NDArray[np.int64], NDArray[np.float64]] | None = None

    @property
    def gains(self) -> LinearGain:
        """The regression, on features, use, a constant and the budget spent, in this order."""
        return self._gains

    def predict(
        self,
        observation: Observation,
        state: State = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.int64], State]:
        """Slots of the k candidates that score highest, ties by lot.

        Scores are by the weights' mean if that is the choice, or if ``deterministic`` and it
        learned in an episode before this one; by a draw otherwise. An episode begins where no
        budget is spent. Before the first gain the mean is zero, so that all tie.
        """
        self._check(observation)
        if observation["context"][BUDGET_SHARE] == 0:
            self._has_learned_before = self._gains.num_gains > 0
        takes_mean = self._choice == "greedy" or (deterministic and self._has_learned_before)
        weights_D = self._gains.mean() if takes_mean else self._gains.draw(self._rng)
        offered = np.flatnonzero(observation["mask"])
        regressors = _regressors(observation, offered)
        scores = regressors @ weights_D
        best = np.lexsort((self._rng.permutation(len(offered)), -scores))[: self._num_picks]
        slots = offered[best].astype(np.int64)
        self._last = observation["window"][slots], regressors[best].mean(axis=0)
        return slots, state

    def learn(self, rows: NDArray[np.int64], gain: float) -> None:
        """Take in the gain of the last action.

        Args:
            rows: [k] its pool rows, in any order.
            gain: Of the step.
        """
        assert self._last is not None, "a gain is of an action"
        last_rows, regressors_D = self._last
        assert np.array_equal(np.sort(rows), np.sort(last_rows)), "a gain is of the last action"
        self._last = None
        self._gains.add(regressors_D, gain)

    def _check(self, observation: Observation) -> None:
        """What enters is one window of as many features as were announced."""
        assert observation["window"].ndim == 1, "it learns from one fine-tuning at a time"
        num_slots = len(observation["window"])
        assert observation["candidates"].shape == (num_slots, self._num_features), "[W, F]"


def influence_policy(
    *,
    num_features: int,
    num_picks: int,
    rng: np.random.Generator,
    choice: Choice = "thompson",
    ridge: float = 1.0,
) -> InfluencePolicy:
    """Learns which candidates improve the model by :class:`LinearGain`, and picks those.

    A batch's regressors are the means over its candidates of their features, of ``ln(1 + times
    picked)``, of 1 and of the budget spent. The last two are the same for all candidates of a
    window: they rank none, and keep the course of a fine-tuning out of the other weights. Thompson
    sampling with linear payoffs: Agrawal & Goyal 2013, arXiv 1209.3352, there with a known
    variance.

    Args:
        num_features: F.
        num_picks: k.
        rng: Of draws and ties.
        choice: How it explores.
        ridge: Precision of the weights' prior, as a multiple of that of the noise; above 0.
    """
    return InfluencePolicy(
        num_features=num_features, num_picks=num_picks, rng=rng, choice=choice, ridge=ridge
    )


def _regressors(observation: Observation, slots: NDArray[np.int64]) -> NDArray[np.float64]:
    """[len(slots), D] of single candidates, whose mean is that of a batch."""
    return np.column_stack(
        [
            observation["candidates"][slots].astype(np.float64),
            np.log1p(observation["selected"][slots], dtype=np.float64),
            np.ones(len(slots)),
            np.full(len(slots), observation["context"][BUDGET_SHARE], np.float64),
        ]
    )
