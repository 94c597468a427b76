"""What no single key of an experiment file can tell: whether the keys fit each other and the disk.

Each check takes a config whose keys are valid by themselves and gives its faults. Nothing is read
but the names of files.
"""

from __future__ import annotations

import math
import os.path
from collections.abc import Iterator, Sequence
from pathlib import Path

from raise_mdit.config import (
    DatasetSource,
    ExperimentConfig,
    RenewEvery,
    ShareConfig,
    SourceConfig,
)
from raise_mdit.errors import nearest, nearest_entry
from raise_mdit.learning_checks import learning_faults
from raise_mdit.policy_config import CandidateScoringSection
from raise_mdit.synthesis_checks import synthesis_faults
from raise_mdit.yaml_document import Fault, Location

BUNDLED_MODEL = "smollm2-135m"
"""The model that is installed with the project."""
DATA_SUFFIXES = (".json", ".jsonl", ".parquet")


def consistency_faults(config: ExperimentConfig) -> list[Fault]:
    """Everything that does not fit, in no particular order."""
    checks = (
        _names,
        _seeds,
        _shares,
        _metric,
        _sealed,
        _policies,
        _pool,
        _lengths,
        synthesis_faults,
        learning_faults,
        _files,
        _wording,
        _model,
    )
    return [fault for check in checks for fault in check(config)]


def largest_pool(config: ExperimentConfig) -> int | None:
    """The most candidates that the pools can hold; None if only the data can tell."""
    if config.pools.custom or any(share.rows == "all" for share in config.data.pool):
        return None
    rows = sum(int(share.rows) for share in config.data.pool)
    mosaic, mdit = config.pools.mosaic, config.pools.mdit
    replayed = round(rows * mosaic.replay) if mosaic else 0
    originals = rows if config.pools.original else replayed
    mosaics = rows * mosaic.passes if mosaic else 0
    interpolated = math.ceil(rows * mdit.ratio) if mdit else 0
    return originals + mosaics + interpolated


def _names(config: ExperimentConfig) -> Iterator[Fault]:
    sources = [source.name for source in config.data.sources]
    for index in _repeated(sources):
        message = f"another source has the name {sources[index]!r} already; names must differ"
        yield Fault(("data", "sources", index, "name"), message)
    labels = [policy.label for policy in config.policies]
    for index in _repeated(labels):
        key = "kind" if config.policies[index].name is None else "name"
        message = f"another policy is called {labels[index]!r} already; give each its own `name`"
        yield Fault(("policies", index, key), message)


def _seeds(config: ExperimentConfig) -> Iterator[Fault]:
    for index in _repeated([str(seed) for seed in config.seeds]):
        message = f"seed {config.seeds[index]} is given twice and would count as two; keep one"
        yield Fault(("seeds", index), message)


def _repeated(names: Sequence[str]) -> list[int]:
    return [index for index, name in enumerate(names) if name in names[:index]]


def _shares(config: ExperimentConfig) -> Iterator[Fault]:
    sources = list(dict.fromkeys(source.name for source in config.data.sources))
    for where, share in _all_shares(config):
        if share.source not in sources:
            known = f"allowed: {', '.join(sources)}.{nearest(share.source, sources)}"
            yield Fault((*where, "source"), f"no source is called {share.source!r}, {known}")


def _all_shares(config: ExperimentConfig) -> Iterator[tuple[Location, ShareConfig]]:
    data = config.data
    parts = {
        "pool": data.pool,
        "reward_validation": data.reward_validation,
        "model_selection": data.model_selection,
        "test": data.test,
    }
    for part, shares in parts.items():
        for index, share in enumerate(shares):
            yield ("data", part, index), share


def _sealed(config: ExperimentConfig) -> Iterator[Fault]:
    """Until the test is opened there must be something else to compare on."""
    if config.evaluation.open_test == "evaluate" and not config.data.model_selection:
        message = (
            "`evaluate` leaves the test sealed, and there is nothing else to compare policies on; "
            "add `data.model_selection`"
        )
        yield Fault(("evaluation", "open_test"), message)


def _metric(config: ExperimentConfig) -> Iterator[Fault]:
    """Options are scored of questions that have some; `auto` is known when the file is read."""
    if config.evaluation.task_metric != "option_likelihood":
        return
    sources = {source.name: source for source in config.data.sources}
    for index, share in enumerate(config.data.test):
        source = sources.get(share.source)
        if source is None or _may_have_options(source):
            continue
        where = ("data", "test", index, "source")
        message = f"source {share.source!r} has no options, which evaluation.task_metric needs"
        yield Fault(where, f"{message}: test on sources of `format: multiple_choice`")


def _may_have_options(source: SourceConfig) -> bool:
    return isinstance(source, DatasetSource) and source.format in ("auto", "multiple_choice")


def _policies(config: ExperimentConfig) -> Iterator[Fault]:
    kinds = {policy.kind for policy in config.policies}
    reasons = {
        "base": "without the untrained model nothing shows that training helped",
        "random": "without random picks nothing shows that choosing helped",
    }
    for kind, reason in reasons.items():
        if kind not in kinds:
            message = f"a comparison needs base and random: {reason}; add `- kind: {kind}`"
            yield Fault(("policies",), message)


def _pool(config: ExperimentConfig) -> Iterator[Fault]:
    most = largest_pool(config)
    if most is not None:
        yield from pool_faults(config, most)


def pool_faults(config: ExperimentConfig, most: int) -> Iterator[Fault]:
    """What a pool of at most so many candidates is too small for."""
    environment = config.environment
    yield from _own_windows(config, most)
    if environment.window == "pool":
        if environment.batch_size > most:
            message = f"a batch of {environment.batch_size} needs a pool of that many"
            where = ("environment", "batch_size")
            yield Fault(where, f"{message}, got at most {most} candidates by `data.pool`")
    elif environment.window > most:
        message = f"should not exceed the pool, got {environment.window}, allowed: up to {most}"
        hint = "; lower it, write `pool`, or ask for more rows in `data.pool`"
        yield Fault(("environment", "window"), message + hint)
    yield from _budget(config, most)


def _own_windows(config: ExperimentConfig, most: int) -> Iterator[Fault]:
    batch_size = config.environment.batch_size
    for index, policy in enumerate(config.policies):
        window = policy.window if isinstance(policy, CandidateScoringSection) else None
        if isinstance(window, int) and not batch_size <= window <= most:
            message = (
                f"should be at least environment.batch_size {batch_size} and at most the pool, "
                f"{most}, got {window}; or write `pool`"
            )
            yield Fault(("policies", index, "window"), message)


def _budget(config: ExperimentConfig, most: int) -> Iterator[Fault]:
    steps, batch = config.environment.budget.steps, config.environment.batch_size
    if steps is None or isinstance(config.pools.renew, RenewEvery):  # brings more on the way
        return
    limited = [(p.label, p.most_uses) for p in config.policies if p.most_uses is not None]
    short = [label for label, uses in limited if steps * batch > most * uses]
    if not short:
        return
    message = (
        f"budget larger than the pool without repetition: {steps} steps of {batch} are "
        f"{steps * batch} candidates, the pool has at most {most}, and {', '.join(sorted(short))} "
        f"{'repeats none' if len(short) == 1 else 'repeat none'}; "
        f"{_smaller_budget(most, batch)}ask for more rows in `data.pool`"
    )
    yield Fault(("environment", "budget", "steps"), message)


def _smaller_budget(most: int, batch: int) -> str:
    return f"lower steps to {most // batch} or " if most >= batch else ""


def _lengths(config: ExperimentConfig) -> Iterator[Fault]:
    mosaic = config.pools.mosaic
    limit = config.model.max_length
    if mosaic and mosaic.max_length is not None and mosaic.max_length > limit:
        message = (
            f"should not exceed model.max_length, got {mosaic.max_length}, allowed: up to {limit}"
        )
        yield Fault(("pools", "mosaic", "max_length"), message)


def _files(config: ExperimentConfig) -> Iterator[Fault]:
    root = config.data.root
    if root is not None and not os.path.isdir(root):
        yield Fault(("data", "root"), f"there is no folder {root!r}.{nearest_entry(Path(root))}")
        return
    local = [
        (index, source.file)
        for index, source in enumerate(config.data.sources)
        if isinstance(source, DatasetSource)
        and source.file is not None
        and (root is not None or source.hub is None)
    ]
    for index, file in local:
        yield from _file(Path(root or ".", file), ("data", "sources", index, "file"))


def _wording(config: ExperimentConfig) -> Iterator[Fault]:
    mosaic = config.pools.mosaic
    if mosaic and mosaic.wording is not None and not os.path.isfile(mosaic.wording):
        message = f"there is no file {mosaic.wording!r}.{nearest_entry(Path(mosaic.wording))}"
        yield Fault(("pools", "mosaic", "wording"), message)


def _file(path: Path, where: Location) -> Iterator[Fault]:
    if path.suffix not in DATA_SUFFIXES:
        message = f"should end in one of {', '.join(DATA_SUFFIXES)}, got {path.name!r}"
        yield Fault(where, message)
    elif not os.path.isfile(path):
        below = "" if path.is_absolute() else f" below {os.getcwd()!r}, where the command is called"
        yield Fault(where, f"there is no file {str(path)!r}{below}.{nearest_entry(path)}")


def _model(config: ExperimentConfig) -> Iterator[Fault]:
    name = config.model.name
    path = Path(name)
    where = ("model", "name")
    if name.startswith(("./", "../", "/")) or name.endswith(".gguf") or os.path.isdir(path):
        yield from _model_path(path, where)
    elif name != BUNDLED_MODEL and name.count("/") != 1:
        known = f"{BUNDLED_MODEL!r}, a hub name such as 'owner/model', a folder or a .gguf file"
        hint = nearest(name, [BUNDLED_MODEL])
        yield Fault(where, f"there is no model {name!r}, allowed: {known}.{hint}")


def _model_path(path: Path, where: Location) -> Iterator[Fault]:
    if not os.path.exists(path):
        yield Fault(where, f"there is no {str(path)!r}.{nearest_entry(path)}")
    elif os.path.isdir(path) and not os.path.isfile(path / "config.json"):
        yield Fault(where, f"the folder {str(path)!r} holds no model: config.json is missing")
    elif os.path.isfile(path) and path.suffix != ".gguf":
        yield Fault(where, f"should be a folder or a .gguf file, got the file {str(path)!r}")
