"""What an experiment file names, parts of the user's own above all, tried before a run is begun.

Here faults that no key shows by itself get their place in the file, as those of keys have it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from raise_mdit.core import KINDS
from raise_mdit.errors import ConfigError, UserError
from raise_mdit.experiment_checks import largest_pool
from raise_mdit.experiment_file import LoadedExperiment

if TYPE_CHECKING:  # the command line begins without them
    from raise_mdit.config import ExperimentConfig
    from raise_mdit.policy_config import CustomPolicyConfig

MOST_CANDIDATES = 200
"""Of the made-up pool on which a policy of the user's is tried."""
NUM_KNOWN = {"cheap": 4, "gradient": 4, "model": 2}
"""Columns by `features.tier` of what is known of an example, besides two lengths."""


def check_own_parts(experiment: LoadedExperiment, *, contracts: bool) -> None:
    """Nothing, if what the file names can be had, and does what it should.

    Args:
        experiment: Sound by its keys.
        contracts: Whether policies of the user's are tried on a made-up pool, too.

    Raises:
        ConfigError: All faults that a run would meet before it trains, each with its place.
    """
    loads = [*_loads(experiment.config)]
    if contracts:
        loads += [partial(_try_policy, each, experiment.config) for each in _own(experiment.config)]
    faults: dict[str, None] = {}  # what cannot be loaded cannot be tried, and is told once
    for load in loads:
        try:
            load()
        except UserError as fault:
            faults.update(dict.fromkeys(re.split(r"\n(?=\S)", str(fault))))
    if faults:
        raise ConfigError("\n".join(map(experiment.located, faults)))


def _loads(config: ExperimentConfig) -> Iterator[Callable[[], object]]:
    from raise_mdit.agents.custom_policy import load_policy_class
    from raise_mdit.embedded_shares import check_embedded_shares
    from raise_mdit.policy_config import PpoConfig
    from raise_mdit.reference_answers import check_reference_answers
    from raise_mdit.sources.custom import load_source
    from raise_mdit.sources.mosaic_wording import wording_of
    from raise_mdit.task_metrics import load_answer_metric

    mosaic = config.pools.mosaic
    if mosaic is not None and mosaic.wording is not None:
        yield partial(wording_of, mosaic)
    yield from (partial(load_source, each) for each in config.pools.custom)
    yield from (partial(load_policy_class, each) for each in _own(config))
    yield partial(load_answer_metric, config.evaluation)
    yield partial(check_embedded_shares, config.data)
    yield partial(check_reference_answers, config)
    if any(isinstance(each, PpoConfig) and each.from_run for each in config.policies):
        from raise_mdit.policy_source import with_own_priors  # numerics, for those who ask for it

        yield partial(with_own_priors, config)


def _own(config: ExperimentConfig) -> list[CustomPolicyConfig]:
    from raise_mdit.policy_config import CustomPolicyConfig

    return [each for each in config.policies if isinstance(each, CustomPolicyConfig)]


def _try_policy(policy: CustomPolicyConfig, config: ExperimentConfig) -> None:
    """Nothing, if a policy keeps its contract on a made-up pool with columns as the run's."""
    from raise_mdit.agents.custom_policy import PolicyError, load_policy_class
    from raise_mdit.agents.policy_contract import check_policy

    found = load_policy_class(policy)
    num_picks, offered = config.environment.batch_size, config.environment.window
    num_candidates = max(
        min(largest_pool(config) or MOST_CANDIDATES, MOST_CANDIDATES), num_picks + 3
    )
    slots = num_candidates - 1 if offered == "pool" else min(offered, num_candidates - 1)
    try:
        check_policy(
            found,
            num_candidates=num_candidates,
            num_features=num_features(config),
            feature_names=_names_for(found, config),
            window=max(slots, num_picks + 2),
            num_picks=num_picks,
            options=policy.options,
        )
    except PolicyError as fault:
        raise ConfigError(
            f"policies.{policy.label}.kind: on a made-up pool of {num_candidates:,} candidates, "
            f"{fault}"
        ) from fault


def _names_for(found: type[Any], config: ExperimentConfig) -> tuple[str, ...] | None:
    """The names that a run's columns have, for a class that asks for names."""
    asks = "feature_names" in inspect.signature(found).parameters
    return feature_names(config) if asks else None  # names come with torch, which takes seconds


def num_features(config: ExperimentConfig) -> int:
    """Columns that a policy sees in a run, if the pool has as many dimensions as asked."""
    return 2 + NUM_KNOWN[config.features.tier] + config.features.semantic_size + len(KINDS)


def feature_names(config: ExperimentConfig) -> tuple[str, ...]:
    """Of the same columns, in order."""
    from raise_mdit.feature_groups import KIND_COLUMNS, SEMANTIC_PREFIX
    from raise_mdit.features import LENGTHS
    from raise_mdit.learners.probe import DIFFICULTY
    from raise_mdit.learners.static_features import STATISTICS

    known = DIFFICULTY if config.features.tier == "model" else STATISTICS
    semantic = (f"{SEMANTIC_PREFIX}{i}" for i in range(config.features.semantic_size))
    return (*LENGTHS, *known, *semantic, *KIND_COLUMNS)
