"""Random projections of every row's gradient: what LESS compares (Xia et al., arXiv 2402.04333).

LESS rates a candidate by the inner product, over checkpoints of a short training, of Adam's step on
it with the gradient of a target. Adam divides each entry of a gradient by a root that has that
entry in it, so its step is no linear function of the gradient: the products of factors that
:mod:`raise_mdit.learners.alignment` takes instead of gradients do not give it. Each row's gradient
is therefore formed, one row at a time, and projected at once. Blocks of rows that are done are kept
by content: a run that was stopped goes on where it was, and other targets find a pool's gradients
made.

Shapes: ``R`` rows, ``N`` candidates, ``Q`` targets, ``C`` checkpoints, ``D`` dimensions of the
projection, ``P`` entries of one trained parameter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from raise_mdit.core import Cost, EncodedRow
from raise_mdit.errors import ModelError
from raise_mdit.learners import losses
from raise_mdit.learners.batches import collate
from raise_mdit.learners.causal_lm import CausalLmLearner
from raise_mdit.learners.measurement_file import (
    MeasurementFile,
    measurement_key,
    parts_of_row,
)
from raise_mdit.learners.trunk_cache import final_states

BLOCK_ROWS = 256
"""Rows whose features are kept in one file: a megabyte, and on a core a minute or two of work."""

GRADIENTS_VERSION = "1"
"""Raised when the meaning of a kept feature changes."""


class LessFeatures(NamedTuple):
    """What LESS ranks candidates by."""

    candidates_CND: NDArray[np.float32]
    """Projected steps of Adam on each candidate, at each checkpoint."""
    targets_CQD: NDArray[np.float32]
    """Projected gradients of each target, at each checkpoint."""
    learning_rates_C: NDArray[np.float64]
    """Mean learning rate of the steps that led to each checkpoint: the checkpoints' weights."""
    cost: Cost
    """Of the short training and of all gradients."""


class Checkpoint(NamedTuple):
    """A moment of a short training at which the learner stands."""

    learning_rate: float
    """Mean over the steps since the checkpoint before."""
    cost: Cost
    """Of those steps."""


def less_features(
    learner: CausalLmLearner,
    candidates: Sequence[EncodedRow],
    targets: Sequence[EncodedRow],
    *,
    warmup_batches: Sequence[Sequence[EncodedRow]],
    checkpoints: int,
    dimensions: int,
    seed: int,
    identity: str,
    cache: Path,
    advance: Callable[[int], None],
) -> LessFeatures:
    """Features at checkpoints of a short training; the learner is then as it was before.

    Args:
        learner: Its present state is where the short training begins.
        candidates: Rows to rate.
        targets: Rows whose loss is to fall.
        warmup_batches: Rows of each step of the short training, drawn at random by the caller.
        checkpoints: C, at most the number of steps.
        dimensions: D.
        seed: Of the projection, which is the same for candidates and targets at all checkpoints.
        identity: Of the learner and its present state, in words: what is kept is found by it.
        cache: Folder of what was kept.
        advance: Called with the number of gradients done, ``C * (N + Q)`` in all.

    Raises:
        ValueError: There are fewer steps than checkpoints, or no checkpoint.
        ModelError: A gradient is not finite.
    """
    candidates_CND = np.empty((checkpoints, len(candidates), dimensions), np.float32)
    targets_CQD = np.empty((checkpoints, len(targets), dimensions), np.float32)
    learning_rates_C = np.empty(checkpoints)
    trained = [row for batch in warmup_batches for row in batch]
    cost = _frozen_layers(learner, [*candidates, *targets, *trained])
    sizes = [len(batch) for batch in warmup_batches]
    history = measurement_key(f"{identity} {sizes} of {checkpoints}", _parts(trained))
    kept = _KeptFeatures(learner, dimensions, seed, history, cache)
    start = learner.snapshot()
    try:
        reached = warm_up(learner, warmup_batches, checkpoints=checkpoints)
        for index, checkpoint in enumerate(reached):
            learning_rates_C[index] = checkpoint.learning_rate
            candidates_CND[index], for_candidates = kept.features(
                candidates, checkpoint=index, adam=True, advance=advance
            )
            targets_CQD[index], for_targets = kept.features(
                targets, checkpoint=index, adam=False, advance=advance
            )
            cost = cost.plus(checkpoint.cost).plus(for_candidates).plus(for_targets)
    finally:
        learner.restore(start)
    return LessFeatures(candidates_CND, targets_CQD, learning_rates_C, cost)


@dataclass(frozen=True, slots=True)
class _KeptFeatures:
    """Features of rows at a checkpoint, made once."""

    learner: CausalLmLearner
    dimensions: int
    seed: int
    history: str
    """Key of the short training, and of what it began from."""
    cache: Path

    def features(
        self,
        rows: Sequence[EncodedRow],
        *,
        checkpoint: int,
        adam: bool,
        advance: Callable[[int], None],
    ) -> tuple[NDArray[np.float32], Cost]:
        """[R, D], and what that cost; see :func:`gradient_features`."""
        features_RD = np.empty((len(rows), self.dimensions), np.float32)
        cost = Cost()
        for start in range(0, len(rows), BLOCK_ROWS):
            block = rows[start : start + BLOCK_ROWS]
            file = MeasurementFile(self.cache, self._key(block, checkpoint, adam=adam))
            found = file.read()
            if found is None:
                made, spent = gradient_features(
                    self.learner,
                    block,
                    dimensions=self.dimensions,
                    seed=self.seed,
                    adam=adam,
                    advance=advance,
                )
                file.write({"features": made}, spent)
            else:
                made, spent = found.arrays["features"], found.cost
                advance(len(block))
            features_RD[start : start + len(block)] = made
            cost = cost.plus(spent)
        return features_RD, cost

    def _key(self, rows: Sequence[EncodedRow], checkpoint: int, *, adam: bool) -> str:
        settings = f"{checkpoint} {adam} {self.dimensions} {self.seed} {len(rows)}"
        words = f"less {GRADIENTS_VERSION} {self.history} {settings}"
        return measurement_key(words, _parts(rows))


def _parts(rows: Sequence[EncodedRow]) -> Iterator[NDArray[Any]]:
    return (part for row in rows for part in parts_of_row(row))


def _frozen_layers(learner: CausalLmLearner, rows: Sequence[EncodedRow]) -> Cost:
    """What the account owes for the frozen layers of rows, whether anything is kept or not."""
    return Cost() if learner.trunk_cache is None else learner.trunk_cache.charge(rows)


def warm_up(
    learner: CausalLmLearner,
    rows_of_steps: Sequence[Sequence[EncodedRow]],
    *,
    checkpoints: int,
) -> Iterator[Checkpoint]:
    """Train, and stop at checkpoints that are evenly spread, the last of them after the last step.

    While the caller holds a checkpoint the learner stands at it. Nothing is restored: that is the
    caller's, who has the snapshot from before. A learning rate that falls with the budget falls to
    its end over these steps, as over the paper's short training.

    Args:
        learner: Is trained.
        rows_of_steps: Rows of each step.
        checkpoints: How many.

    Raises:
        ValueError: There are fewer steps than checkpoints, or no checkpoint.
    """
    num_steps = len(rows_of_steps)
    if not 1 <= checkpoints <= num_steps:
        raise ValueError(
            f"checkpoints are 1 to {num_steps}, the number of steps; got {checkpoints}"
        )
    ends = [num_steps * (index + 1) // checkpoints for index in range(checkpoints)]
    for begin, end in pairwise([0, *ends]):
        rates: list[float] = []
        cost = Cost()
        for step in range(begin, end):
            stats = learner.update(rows_of_steps[step], progress=step / num_steps)
            # a copy a step, small beside the step: the learner shows its rate nowhere else
            rates.append(float(learner.snapshot().optimizer["param_groups"][0]["lr"]))
            cost = cost.plus(stats.cost)
        yield Checkpoint(float(np.mean(rates)), cost)


def gradient_features(
    learner: CausalLmLearner,
    rows: Sequence[EncodedRow],
    *,
    dimensions: int,
    seed: int,
    adam: bool,
    advance: Callable[[int], None],
) -> tuple[NDArray[np.float32], Cost]:
    """Projections [R, D] of each row's own gradient, and what that cost; the learner is unchanged.

    A row's loss is its mean over label mass, with respect to the trained parameters at their
    present values, without dropout, label smoothing or embedding noise. The gradient is not scaled
    down to the learner's largest norm, as the paper's is not. Costs are those of an update on the
    row alone; as there, the optimizer's arithmetic is not counted, and neither is the projection.

    The projection is a count sketch (Charikar et al. 2002; Weinberger et al. 2009, arXiv 0902.2206,
    sec. 2): each entry goes to one of D places with a random sign. Inner products are kept in
    expectation, with the variance that dense random signs have, which the paper uses; but one entry
    costs one addition, not D.

    Args:
        learner: At the moment to measure.
        rows: Plain or interpolated.
        dimensions: D.
        seed: Of the projection: features of the same seed and dimensions can be compared.
        adam: Whether to give Adam's step with the learner's own moments, for candidates, or the
            plain gradient, for targets.
        advance: Called with the number of rows done.

    Raises:
        ModelError: A gradient is not finite.
    """
    started = time.perf_counter()
    sketches = _sketches(learner.part.parameters, dimensions=dimensions, seed=seed)
    optimizer = _adam(learner) if adam else None
    features_RD = np.empty((len(rows), dimensions), np.float32)
    cost = Cost()
    learner.part.forward.set_training(False)
    for index, row in enumerate(rows):
        gradients, spent = _gradients(learner, row)
        steps = gradients if optimizer is None else _adam_steps(gradients, optimizer)
        features_RD[index] = _project(steps, sketches, dimensions).cpu().numpy()  # sync: the result
        cost = cost.plus(spent)
        advance(1)
    _refuse_non_finite(features_RD, rows)
    return features_RD, cost._replace(seconds=time.perf_counter() - started)


class _Sketch(NamedTuple):
    """Where the entries of one parameter go."""

    places_P: torch.Tensor
    """From 0 to D - 1, int32."""
    signs_P: torch.Tensor
    """1 or -1, int8."""


class _Adam(NamedTuple):
    """AdamW as it is before a step on a row."""

    betas: tuple[float, float]
    """Decay of the first and the second moments."""
    epsilon: float
    """Added to the root."""
    moments: list[_Moments]
    """Of each parameter."""


class _Moments(NamedTuple):
    """What AdamW holds of one parameter; zero before its first step."""

    first: torch.Tensor
    second: torch.Tensor
    num_steps: int


def _sketches(parameters: Sequence[nn.Parameter], *, dimensions: int, seed: int) -> list[_Sketch]:
    rng = np.random.default_rng(seed)
    sketches: list[_Sketch] = []
    for parameter in parameters:
        places = rng.integers(dimensions, size=parameter.numel(), dtype=np.int32)
        signs = 2 * rng.integers(2, size=parameter.numel(), dtype=np.int8) - 1
        device = parameter.device
        sketches.append(
            _Sketch(torch.from_numpy(places).to(device), torch.from_numpy(signs).to(device))
        )
    return sketches


def _adam(learner: CausalLmLearner) -> _Adam:
    optimizer = learner.snapshot().optimizer
    moments: list[_Moments] = []
    for index, parameter in enumerate(learner.part.parameters):
        state = optimizer["state"].get(index)
        if state is None:
            zeros = torch.zeros_like(parameter)
            moments.append(_Moments(zeros, zeros, 0))
        else:
            num_steps = int(state["step"])  # sync: once for all rows
            moments.append(_Moments(state["exp_avg"], state["exp_avg_sq"], num_steps))
    settings = optimizer["param_groups"][0]
    return _Adam(settings["betas"], settings["eps"], moments)


def _gradients(learner: CausalLmLearner, row: EncodedRow) -> tuple[list[torch.Tensor | None], Cost]:
    """Gradient of a row's loss by each parameter; None for one that the loss does not reach."""
    part = learner.part
    batch = collate([row], device=part.forward.device)
    try:
        final_1TH, owed = final_states(part.forward, learner.trunk_cache, [row], batch)
        mass = float(row.target_weights.sum())
        losses.backward(part.forward, final_1TH, batch, label_mass=mass)
        gradients = [parameter.grad for parameter in part.parameters]
    finally:
        for parameter in part.parameters:
            parameter.grad = None
    flops = learner.flops.update(rows=1, length=row.num_tokens, scored=row.num_scored)
    return gradients, owed.plus(Cost(row.num_tokens, batch.num_padded_tokens, flops))


def _adam_steps(
    gradients: Sequence[torch.Tensor | None], optimizer: _Adam
) -> list[torch.Tensor | None]:
    """What AdamW would subtract for each unit of learning rate, less weight decay.

    This is Gamma of the paper's section 3.1: the moments mixed with the gradient, and corrected for
    their start at zero.
    """
    return [
        None if gradient is None else _adam_step(gradient, moments, optimizer)
        for gradient, moments in zip(gradients, optimizer.moments, strict=True)
    ]


def _adam_step(gradient: torch.Tensor, moments: _Moments, optimizer: _Adam) -> torch.Tensor:
    first_beta, second_beta = optimizer.betas
    first = first_beta * moments.first + (1 - first_beta) * gradient
    second = second_beta * moments.second + (1 - second_beta) * gradient.square()
    num_steps = moments.num_steps + 1
    first.div_(1 - first_beta**num_steps)
    second.div_(1 - second_beta**num_steps)
    return first.div_(second.sqrt_().add_(optimizer.epsilon))


def _project(
    vectors: Sequence[torch.Tensor | None], sketches: Sequence[_Sketch], dimensions: int
) -> torch.Tensor:
    """[D] sum of the signed entries that go to each place."""
    sums_D = torch.zeros(dimensions, device=sketches[0].signs_P.device)
    for vector, (places_P, signs_P) in zip(vectors, sketches, strict=True):
        if vector is not None:
            sums_D.index_add_(0, places_P, vector.flatten() * signs_P)
    return sums_D


def _refuse_non_finite(features_RD: NDArray[np.float32], rows: Sequence[EncodedRow]) -> None:
    broken = np.flatnonzero(~np.isfinite(features_RD).all(axis=1))
    if len(broken) > 0:
        raise ModelError(
            f"the gradient of {len(broken)} of {len(rows)} rows is not finite, the first of them "
            f"{rows[broken[0]].key!r}: the model is broken, or the short training broke it; lower "
            "learner.learning_rate"
        )
