"""A trained policy by itself: weights as safetensors, and JSON that says what they look at.

Such a folder stands for its run in `policies: [{kind: ppo, from: DIR}]`, and picks rows of any
table of features::

    policy = read_policy("DIR")
    rows = policy.select(features, 8)           # the best 8
    rows = policy.select(features, 8, seed=0)   # drawn as in learning

What a row is, is the caller's to say in the columns that the policy was trained on
(:attr:`ExportedPolicy.columns`, in that order). But for kinds, which are 0 or 1, each is
standardised over the caller's own rows (:func:`raise_mdit.features.standardised`: mean 0, deviation
1, cut off at 5), so that it means the same on every pool: `prompt_tokens` and `response_tokens` are
logarithms of one more, `semantic_*` are components along `basis.safetensors` of embeddings of the
model that it names.

Shapes: ``N`` candidates, ``F`` columns, ``k`` picks, ``G`` context.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raise_mdit.agents.attribution import load_scorer
from raise_mdit.agents.scoring_policy import CandidateScorer
from raise_mdit.agents.subset_distribution import PlackettLuceDistribution
from raise_mdit.decisions import BASIS_FILE, POLICY_FILE
from raise_mdit.envs.observation import CONTEXT
from raise_mdit.errors import DataError, RunError
from raise_mdit.folders import POLICY_DESCRIPTION_FILE
from raise_mdit.runs import read_description, write_bytes, write_json

FORMAT = "raise-mdit/policy"
FORMAT_VERSION = 1

DESCRIPTION_FILE = POLICY_DESCRIPTION_FILE

FIRST_STAGE = np.eye(1, len(CONTEXT), dtype=np.float32)[0]
"""[G] the stage before the first step: the loss is the start's, and nothing else happened."""


@dataclass(frozen=True, slots=True)
class PolicyDescription:
    """What the weights are."""

    label: str
    """Name of the policy in the run that trained it."""
    seed: int
    """With which it was trained."""
    section: Mapping[str, Any]
    """Its section of the experiment file, every default written out, as JSON has it."""
    tier: str
    """`features.tier` of the experiment."""
    semantic_size: int
    """Principal components among the columns."""
    pool_columns: tuple[str, ...]
    """Columns of the pool's own table."""
    extra_columns: tuple[str, ...]
    """Columns behind them: `prior`, `gradient`, or none."""
    provenance: Mapping[str, Any]
    """Who made it, from what."""
    reward_examples: tuple[str, ...] | None
    """Ids of the examples that its rewards were measured on; None in exports of older versions."""


@dataclass(frozen=True, eq=False)
class ExportedPolicy:
    """A trained policy in a folder of its own."""

    directory: Path
    description: PolicyDescription

    @property
    def columns(self) -> tuple[str, ...]:
        """F names of what it is shown of a candidate, in order."""
        return (*self.description.pool_columns, *self.description.extra_columns)

    @property
    def weights(self) -> Path:
        """The file of its weights."""
        return self.directory / POLICY_FILE

    def scores(
        self,
        features: NDArray[np.floating],
        *,
        selected: NDArray[np.floating] | None = None,
        context: NDArray[np.floating] | None = None,
    ) -> NDArray[np.float32]:
        """[N] log-weights of the rows; only differences among them mean something.

        Args:
            features: [N, F] in the order of :attr:`columns`, standardised as this module says.
            selected: [N] how often each row was picked before; None for never.
            context: [G] the stage, :data:`raise_mdit.envs.observation.CONTEXT`; None for the first.

        Raises:
            DataError: The shapes are others, or a number is not finite.
        """
        num_rows = len(features)
        selected_N = np.zeros(num_rows) if selected is None else np.asarray(selected)
        context_G = FIRST_STAGE if context is None else np.asarray(context)
        self._check(np.asarray(features), selected_N, context_G)
        shown_NF = np.column_stack([features, np.log1p(selected_N)]).astype(np.float32)
        with torch.no_grad():
            scores_1N, _ = self._scorer(
                torch.tensor(shown_NF)[None],
                torch.tensor(context_G, dtype=torch.float32)[None],
                torch.ones(1, num_rows),
            )
        return np.asarray(scores_1N[0].numpy(), np.float32)

    def select(
        self,
        features: NDArray[np.floating],
        k: int,
        *,
        seed: int | None = None,
        selected: NDArray[np.floating] | None = None,
        context: NDArray[np.floating] | None = None,
    ) -> NDArray[np.int64]:
        """[k] different rows, in the order of picking.

        Args:
            features: As in :meth:`scores`, as the other arguments.
            k: How many.
            seed: Of a draw without replacement (Plackett-Luce), as in learning; None takes the rows
                with the highest scores.
            selected: As in :meth:`scores`.
            context: As in :meth:`scores`.

        Raises:
            DataError: As :meth:`scores`, or there are fewer than k rows.
        """
        if not 1 <= k <= len(features):
            raise DataError(f"k: {k} picks of {len(features)} rows; give 1 to {len(features)}")
        scores_1N = torch.tensor(self.scores(features, selected=selected, context=context))[None]
        distribution = PlackettLuceDistribution(k)
        distribution.proba_distribution(scores_1N, torch.ones_like(scores_1N, dtype=torch.bool))
        if seed is None:
            return np.asarray(distribution.mode()[0].numpy(), np.int64)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return np.asarray(distribution.sample()[0].numpy(), np.int64)

    @cached_property
    def _scorer(self) -> CandidateScorer:
        return load_scorer(self.weights)

    def _check(
        self,
        features_NF: NDArray[np.floating],
        selected_N: NDArray[np.floating],
        context_G: NDArray[np.floating],
    ) -> None:
        width = len(self.columns)
        if features_NF.ndim != 2 or features_NF.shape[1] != width:
            raise DataError(
                f"features: shape {features_NF.shape}; give [N, {width}] numbers, the columns "
                f"{', '.join(self.columns)}"
            )
        if selected_N.shape != (len(features_NF),) or context_G.shape != (len(CONTEXT),):
            raise DataError(
                f"selected and context: shapes {selected_N.shape} and {context_G.shape}; give "
                f"({len(features_NF)},) counts and ({len(CONTEXT)},) numbers, {', '.join(CONTEXT)}"
            )
        if not np.isfinite(features_NF).all():
            raise DataError("features: some are not finite; fill in what is missing")


def write_policy(
    directory: Path, description: PolicyDescription, *, weights: Path, basis: Path | None
) -> None:
    """Write a folder that :func:`read_policy` reads.

    Args:
        directory: An existing folder.
        description: What the weights are.
        weights: Their file.
        basis: File of the axes of semantic columns; None where there are none.
    """
    sources = {POLICY_FILE: weights, BASIS_FILE: basis}
    hashes = {}
    for name, source in sources.items():
        if source is not None:
            content = source.read_bytes()
            hashes[name] = hashlib.sha256(content).hexdigest()
            write_bytes(directory / name, content)
    fields = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **{name: getattr(description, name) for name in description.__slots__},
        "context": CONTEXT,
        "files": hashes,
    }
    write_json(directory / DESCRIPTION_FILE, fields)


def read_fields(directory: Path) -> dict[str, Any]:
    """What `policy.json` says.

    Raises:
        RunError: There is none, it is damaged, or it is of another format.
    """
    return read_description(
        directory / DESCRIPTION_FILE,
        form=(FORMAT, FORMAT_VERSION),
        what="exported policy",
        command="raise-mdit export RUN_DIR --policy-only --to DIR",
    )


def read_policy(directory: str | Path) -> ExportedPolicy:
    """The policy in a folder that `raise-mdit export RUN_DIR --policy-only --to DIR` wrote.

    Raises:
        RunError: There is none, it was altered, or it is of another format or looks at another
            stage than this version has.
    """
    directory = Path(directory)
    path = directory / DESCRIPTION_FILE
    fields = read_fields(directory)
    if tuple(fields["context"]) != CONTEXT:
        raise RunError(f"{path}: it was trained on the stage {', '.join(fields['context'])}; this "
                       f"version has {', '.join(CONTEXT)}")  # fmt: skip
    for name, promised in fields["files"].items():
        file = directory / name
        if not file.is_file():
            raise RunError(f"{file}: missing")
        if hashlib.sha256(file.read_bytes()).hexdigest() != promised:
            raise RunError(f"{file}: altered since it was written")
    fields = {"reward_examples": None, **fields}  # older versions wrote none
    known = {name: fields[name] for name in PolicyDescription.__slots__}
    for name in ("pool_columns", "extra_columns", "reward_examples"):
        known[name] = None if known[name] is None else tuple(known[name])
    return ExportedPolicy(directory, PolicyDescription(**known))
