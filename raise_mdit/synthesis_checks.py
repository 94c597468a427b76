"""What of the candidate pools can be told wrong by the experiment file alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from raise_mdit.config import ExperimentConfig, RenewEvery
from raise_mdit.policy_config import (
    FullDataConfig,
    RandomConfig,
    RandomSection,
    TrainedByGradients,
)
from raise_mdit.yaml_document import Fault

if TYPE_CHECKING:  # numpy comes only where it is needed
    from raise_mdit.core import Kind


def synthesis_faults(config: ExperimentConfig) -> list[Fault]:
    """Keys of `pools` that do not fit each other or the rest, in no particular order."""
    checks = (_replay, _tasks, _confidence, _renewal, _custom_names, _kinds)
    return [fault for check in checks for fault in check(config)]


def not_offered(config: ExperimentConfig, kind: Kind) -> str | None:
    """Why the pools have no candidates of a kind, or None where they may have some."""
    pools = config.pools
    offered: dict[Kind, bool] = {
        "original": pools.original or bool(pools.mosaic and pools.mosaic.replay),
        "mosaic": pools.mosaic is not None,
        "mdit": pools.mdit is not None,
        "custom": bool(pools.custom),
    }
    if offered[kind]:
        return None
    has = ", ".join(name for name, there in offered.items() if there)
    remedy = "write `pools.original: true`" if kind == "original" else f"add `pools.{kind}`"
    return f"`pools` makes no {kind} candidates, only {has}; {remedy}"


def replays_nothing(replay: float, num_examples: int) -> str | None:
    """Why a share of the pool's examples is none of them, or None where it is some."""
    if replay == 0 or round(replay * num_examples):
        return None
    return (
        f"replays no example, and the pool of plain ones would be empty: {replay:g} of "
        f"{num_examples:,} rounds to 0; raise it to {1 / num_examples:.2g}, or leave it out"
    )


def _replay(config: ExperimentConfig) -> Iterator[Fault]:
    mosaic = config.pools.mosaic
    where = ("pools", "mosaic", "replay")
    if mosaic is None or not mosaic.replay:
        return
    if config.pools.original:
        message = "has no effect: `pools.original` offers every example plain; leave it out"
        yield Fault(where, message)
        return
    rows = [share.rows for share in config.data.pool]
    if "all" not in rows and (reason := replays_nothing(mosaic.replay, sum(map(int, rows)))):
        yield Fault(where, reason)


def _tasks(config: ExperimentConfig) -> Iterator[Fault]:
    mdit = config.pools.mdit
    sources = {share.source for share in config.data.pool}
    if mdit and mdit.pairing == "across" and mdit.tasks == "source" and len(sources) == 1:
        message = f"no pairs across sources: `data.pool` has only {next(iter(sources))!r}"
        yield Fault(("pools", "mdit", "tasks"), f"{message}; write `cluster` or add a source")


def _confidence(config: ExperimentConfig) -> Iterator[Fault]:
    mdit = config.pools.mdit
    if mdit and mdit.pairing == "confidence" and config.features.tier != "model":
        message = "needs log-probabilities of the pool; set `features.tier: model`, or pair across"
        yield Fault(("pools", "mdit", "pairing"), message)


def _renewal(config: ExperimentConfig) -> Iterator[Fault]:
    pools = config.pools
    if pools.renew == "never":
        return
    if not (pools.mosaic or pools.mdit or pools.custom):
        message = "has no effect: nothing is synthesised; add mosaic, mdit or custom, or leave out"
        yield Fault(("pools", "renew"), message)
    if isinstance(pools.renew, RenewEvery) and config.environment.budget.steps is None:
        message = "counts steps, so it needs `environment.budget.steps`; write `episode` instead"
        yield Fault(("pools", "renew"), message)
    if pools.renew == "episode" and config.environment.budget.steps is None:
        trained = [each.label for each in config.policies if isinstance(each, TrainedByGradients)]
        if trained:
            message = f"needs `environment.budget.steps` for {', '.join(trained)}: with a budget in"
            yield Fault(("pools", "renew"), f"{message} tokens episodes differ in number")


def _custom_names(config: ExperimentConfig) -> Iterator[Fault]:
    taken = {source.name for source in config.data.sources}
    for index, source in enumerate(config.pools.custom):
        if source.name in taken:
            message = f"{source.name!r} is the name of another source; give each its own"
            yield Fault(("pools", "custom", index, "name"), message)
        taken.add(source.name)


def _kinds(config: ExperimentConfig) -> Iterator[Fault]:
    for index, policy in enumerate(config.policies):
        if isinstance(policy, FullDataConfig) and (reason := not_offered(config, "original")):
            yield Fault(("policies", index, "kind"), reason)
        if not isinstance(policy, RandomSection):
            continue
        for position, kind in enumerate(policy.drawn_from or ()):
            if reason := not_offered(config, kind):
                place = ("kinds", position) if isinstance(policy, RandomConfig) else ("kind",)
                yield Fault(("policies", index, *place), reason)
