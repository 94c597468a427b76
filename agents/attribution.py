"""What a candidate's score owes to each group of its features: exact Shapley values.

A game for each candidate of a window: its players are groups of columns, and the value of a
coalition is the candidate's score minus the mean score of the window, when every group that is not
in the coalition is hidden. A hidden group of columns has the window's mean for every candidate; a
hidden stage is that of a baseline, such as the start of the fine-tuning. Shapley values (1953; for
models: Lundberg & Lee 2017, arXiv 1705.07874) are the one division of the score among the groups
that is efficient, symmetric, linear and gives nothing to a group without effect. With seven groups
the sum over coalitions has 128 terms, so nothing is sampled.

Shapes: ``W`` slots, ``F`` features with the availability as the last, ``G`` context, ``P`` groups,
``C`` coalitions, all 2^P of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import factorial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from raise_mdit.agents.scoring_policy import CandidateScorer
from raise_mdit.errors import RunError

Group = Sequence[int] | Literal["context"]
"""Columns of a candidate, or the stage."""

ROWS_AT_ONCE = 16_384
"""Candidates, times coalitions, scored in one piece: 23 MB of numbers with 48 features and a hidden
size of 64."""

_PREFIX = "scorer."


def group_attributions(
    scorer: CandidateScorer,
    *,
    candidates_WF: NDArray[np.float32],
    context_G: NDArray[np.float32],
    mask_W: NDArray[np.bool_],
    groups: Mapping[str, Group],
    baseline_G: NDArray[np.float32],
) -> NDArray[np.float64]:
    """[W, P] what each group adds to each candidate's score above the window's mean; 0 if masked.

    The attributions of a candidate sum to its score minus the mean of the window's (efficiency):
    the sum is the value of all groups less that of none, and with every group hidden all
    candidates are equal, so that value is 0.

    Args:
        scorer: On the CPU.
        candidates_WF: Features of the window, the availability behind them.
        context_G: The stage.
        mask_W: Where there is a candidate.
        groups: By name; together every column once, and the stage.
        baseline_G: The stage that stands for a hidden one.
    """
    _check_groups(groups, candidates_WF.shape[1])
    coalitions_CP = _coalitions(len(groups))
    window = _Window(scorer, candidates_WF, context_G, mask_W, baseline_G)
    size = max(1, ROWS_AT_ONCE // len(mask_W))
    starts = range(0, len(coalitions_CP), size)
    members = list(groups.values())
    values_CW = np.concatenate(
        [window.values(coalitions_CP[start : start + size], members) for start in starts]
    )
    return np.asarray(values_CW.T @ _shapley_weights(coalitions_CP), np.float64)


def window_scores(
    scorer: CandidateScorer,
    *,
    candidates_WF: NDArray[np.float32],
    context_G: NDArray[np.float32],
    mask_W: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """[W] scores of a window, minus infinity where masked."""
    candidates_1WF = torch.tensor(candidates_WF)[None]
    mask_1W = torch.tensor(mask_W, dtype=torch.float32)[None]
    with torch.no_grad():
        scores_1W, _ = scorer(candidates_1WF, torch.tensor(context_G)[None], mask_1W)
    return np.where(mask_W, scores_1W[0].double().numpy(), -np.inf)


def pick_log_probs(
    scores_W: NDArray[np.float64], picks_k: NDArray[np.integer]
) -> NDArray[np.float64]:
    """[k] log-probability of each pick, given the picks before it, if they are drawn one by one.

    That is the Plackett-Luce distribution, which the policy learns with; a final fine-tuning that
    takes the highest scores draws nothing.

    Args:
        scores_W: Minus infinity where masked.
        picks_k: Slots in the order of the batch.
    """
    left_W = scores_W.copy()
    log_probs = []
    for slot in picks_k:
        log_probs.append(scores_W[slot] - np.logaddexp.reduce(left_W))
        left_W[slot] = -np.inf
    return np.array(log_probs)


def holds_scorer(path: Path) -> bool:
    """Whether a policy's weights are those of a :class:`CandidateScorer`.

    Raises:
        RunError: The file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return f"{_PREFIX}linear.weight" in file.keys()  # noqa: SIM118  # no dict
    except (FileNotFoundError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def load_scorer(path: Path) -> CandidateScorer:
    """The scorer in the weights of a policy, its sizes read off them.

    Raises:
        RunError: The file is missing or damaged, or holds no such scorer.
    """
    try:
        weights = load_file(path)
        scorer = {
            key.removeprefix(_PREFIX): value
            for key, value in weights.items()
            if key.startswith(_PREFIX)
        }
        num_features = scorer["linear.weight"].shape[1]
        hidden_size, num_inputs = scorer["encoder.0.weight"].shape
        made = CandidateScorer(num_features, num_inputs - num_features, hidden_size)
        made.load_state_dict(scorer)
    except (FileNotFoundError, SafetensorError, KeyError, RuntimeError) as error:
        raise _unreadable(path, error) from error
    return made.requires_grad_(False).eval()


def _unreadable(path: Path, error: Exception) -> RunError:
    return RunError(f"{path}: missing, damaged, or no candidate scorer's weights ({error})")


def _check_groups(groups: Mapping[str, Group], num_features: int) -> None:
    columns = sorted(
        column for members in groups.values() if members != "context" for column in members
    )
    assert columns == list(range(num_features)), f"groups hold columns {columns}"
    assert list(groups.values()).count("context") == 1, "the stage is one of the groups"


def _coalitions(num_groups: int) -> NDArray[np.bool_]:
    """[2^P, P] which groups are in each coalition; the first has none, the last has all."""
    numbers_C1 = np.arange(2**num_groups)[:, None]
    return np.asarray((numbers_C1 >> np.arange(num_groups)) % 2 == 1)


def _shapley_weights(coalitions_CP: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[C, P] factor of each coalition's value in each group's attribution.

    A group's attribution is the mean of what it adds over all orders in which groups may join. A
    coalition of s members is reached just by one of them in (s - 1)! (P - s)! of the P! orders, and
    is just left for one of the others in s! (P - s - 1)!.
    """
    num_groups = coalitions_CP.shape[1]
    orders = factorial(num_groups)
    joined = [0, *(factorial(s - 1) * factorial(num_groups - s) for s in range(1, num_groups + 1))]
    left = [*(factorial(s) * factorial(num_groups - s - 1) for s in range(num_groups)), 0]
    sizes_C = coalitions_CP.sum(axis=1)
    weights_P2 = np.array([joined, left], np.float64).T / orders
    return np.where(coalitions_CP, weights_P2[sizes_C, :1], -weights_P2[sizes_C, 1:])


class _Window:
    """A window, some groups of which can be hidden."""

    def __init__(
        self,
        scorer: CandidateScorer,
        candidates_WF: NDArray[np.float32],
        context_G: NDArray[np.float32],
        mask_W: NDArray[np.bool_],
        baseline_G: NDArray[np.float32],
    ) -> None:
        self._scorer = scorer
        self._mask_W = torch.tensor(mask_W)
        self._candidates_WF = torch.tensor(candidates_WF)
        present_WF = self._candidates_WF[self._mask_W]
        self._mean_F = present_WF.double().mean(dim=0).float()
        self._context_G = torch.tensor(context_G)
        self._baseline_G = torch.tensor(baseline_G)

    def values(
        self, coalitions_CP: NDArray[np.bool_], members: Sequence[Group]
    ) -> NDArray[np.float64]:
        """[C, W] scores minus the mean of the window's, 0 where masked."""
        coalitions = torch.tensor(coalitions_CP)
        seen_CF = torch.zeros(len(coalitions), len(self._mean_F), dtype=torch.bool)
        context_CG = self._context_G.expand(len(coalitions), -1)
        for place, columns in enumerate(members):
            if columns == "context":
                seen_C1 = coalitions[:, place, None]
                context_CG = torch.where(seen_C1, self._context_G, self._baseline_G)
            else:
                seen_CF[:, list(columns)] = coalitions[:, place, None]
        candidates_CWF = torch.where(seen_CF[:, None], self._candidates_WF, self._mean_F)
        mask_CW = self._mask_W.float().expand(len(coalitions), -1)
        with torch.no_grad():
            scores_CW = self._scorer(candidates_CWF, context_CG, mask_CW)[0].double()
        means_C1 = scores_CW[:, self._mask_W].mean(dim=1, keepdim=True)
        values_CW = torch.where(self._mask_W, scores_CW - means_C1, 0.0)
        return np.asarray(values_CW.numpy(), np.float64)
