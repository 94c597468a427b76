"""What a scorer of candidates begins as: weights of its linear path, before it learns.

Scores that draw candidates have a scale: the weights of a ranking and of a regression are brought
to the same one, so that `strength` means the same for both.

Shapes: ``N`` candidates of the pool, ``S`` static features, ``F`` features, availability last.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

DEVIATIONS_OF_REUSE = 4.0
"""Standard deviations of a ranking that a candidate falls by when it is picked for the first time,
where a policy begins as a ranking: as good as never again, and still to be unlearned."""


def weights_of_ranking(num_features: int, column: int, *, strength: float) -> NDArray[np.float32]:
    """[F] what one column says, and nothing that was picked before.

    Args:
        num_features: F.
        column: Of the features, the ranking as normal scores, high for what comes first.
        strength: Its weight, and the standard deviation of scores over the pool.
    """
    weights = np.zeros(num_features, np.float32)
    weights[column] = strength
    weights[-1] = -strength * DEVIATIONS_OF_REUSE / math.log(2)
    return weights


def weights_of_regression(
    weights: NDArray[np.float64], features: NDArray[np.float32], *, strength: float
) -> NDArray[np.float32]:
    """[F] the direction of a regression of improvements, at the scale of a policy's scores.

    Availability keeps the weight that was learned for it: how often to pick again is known as well
    as anything else. Weights that tell no two candidates apart, as of improvements that were all
    zero, give zeros: the policy begins uniform.

    Args:
        weights: [F] of features, signal if there is one (of deviation 1 in its window), and
            availability, in any unit.
        features: [N, S] static features of the pool, which are the first of those.
        strength: Standard deviation of scores over the pool, before anything is picked.
    """
    num_static = features.shape[1]
    scores = features.astype(np.float64) @ weights[:num_static]
    deviation = math.hypot(scores.std(), *weights[num_static:-1])
    scale = strength / deviation if deviation > 0 else 0.0
    return (weights * scale).astype(np.float32)
