"""What one fine-tuning under a policy gave, and how it is kept as JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from raise_mdit.core import Cost
from raise_mdit.errors import RunError
from raise_mdit.ledger import FINAL_EVALUATION, MONITORING

RESULTS_FORMAT = 6
"""Raised when an older program could not read results any more."""

_LIST_OF_NUMBERS = re.compile(r"\[\n[-+.,\deE\s]+\]")
"""Such a list goes on one line, however long; in a text a line break is escaped, so none is hit."""

HeldOutSplit = Literal["test", "model_selection"]
HELD_OUT: tuple[HeldOutSplit, ...] = get_args(HeldOutSplit)
"""Splits that policies are compared on, and must not have learned from."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What a fine-tuned model reached on data that no policy sees."""

    loss: float
    """Mean loss per response token, in nats."""
    target_losses: dict[str, float]
    """The same on the items of each source, in nats."""
    metric: float | None = None
    """Mean over items of the task metric, where the experiment asks for one."""
    item_losses: tuple[float, ...] = ()
    """[I] mean loss per response token of each item, in nats; empty in results of older versions,
    as what follows."""
    item_tokens: tuple[int, ...] = ()
    """[I] response tokens of each item."""
    item_targets: tuple[int, ...] = ()
    """[I] target of each item: its position in `target_losses`."""
    item_metrics: tuple[float, ...] | None = None
    """[I] task metric of each item, where there is one."""


class RankingTrial(NamedTuple):
    """A ranking that was followed through a fine-tuning, to see what it gives."""

    ranking: str
    """In words."""
    episode_return: float


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """One policy with one seed: what it did, what it reached and what that cost."""

    policy: str
    """Label of the policy."""
    kind: str
    """Kind of the policy."""
    seed: int
    status: Literal["complete", "non_finite_loss"]
    """How the final fine-tuning ended."""
    test: HeldOut | None
    """What it reached on the sealed test; None until that is opened."""
    model_selection: HeldOut | None = None
    """What it reached on the data by which hyper-parameters are chosen, where there are such."""
    metric: str | None = None
    """What is measured of held-out data besides loss: the name of a task metric."""
    reward_validation_losses: tuple[float, ...]
    """[T + 1] loss on reward-validation before the first and after each step of the final
    fine-tuning; where a step is not measured, the last one that was. Where fine-tunings stop early
    it is that of the weights that they would end with."""
    episode_returns: tuple[float, ...]
    """Return of each episode that the policy learned from, in order; empty where it does not."""
    trials: tuple[RankingTrial, ...] = ()
    """Rankings that were tried before that. The policy follows the best, or begins as it."""
    greedy_return: float | None = None
    """Return of an episode of the highest scores after learning, where the best of all episodes is
    played again in the final fine-tuning; None elsewhere."""
    kept_updates: int | None = None
    """Updates behind the weights that were kept, where those of the best episodes were (`keep:
    best`); 0 are those that the policy began with."""
    steps: int
    """Optimizer steps T of the final fine-tuning."""
    kept_steps: int | None = None
    """Steps behind the weights that it ended with, where fine-tunings stop early; None where
    nothing is undone."""
    tokens: int
    """Tokens of the final fine-tuning, without padding."""
    step_tokens: tuple[int, ...] = ()
    """[T + 1] tokens trained on before the first and after each step; empty in results of older
    versions."""
    step_flops: tuple[float, ...] = ()
    """[T + 1] FLOPs of everything that was needed until then, choosing included; empty in results
    of older versions."""
    picks: tuple[dict[str, int], ...]
    """Picks by group (task, source or kind) at each step of the schedule."""
    costs: dict[str, Cost]
    """What the arm cost by purpose, as if it had run alone; of frozen layers it has the FLOPs, but
    the seconds only where it was the first to need a row."""

    @property
    def has_rewards(self) -> bool:
        """Whether fine-tunings before the final one told it what to pick."""
        return bool(self.trials or self.episode_returns)

    @property
    def schedule_steps(self) -> int:
        """Steps of the schedule: those behind the weights that it ended with."""
        return self.steps if self.kept_steps is None else self.kept_steps

    @property
    def best_trial(self) -> RankingTrial | None:
        """The ranking that did best, of equals the first; None where none was tried."""
        return max(self.trials, key=lambda trial: trial.episode_return, default=None)

    def held_out(self, split: HeldOutSplit) -> HeldOut | None:
        """What it reached on a split."""
        return self.test if split == "test" else self.model_selection

    def cost_compared_on(self, split: HeldOutSplit) -> Cost:
        """Of everything that was needed; of its test only where policies are compared on that.

        While they are compared on model-selection data some arms may have had their test and others
        not: costs with it and without would not compare.
        """
        without = () if split == "test" else (FINAL_EVALUATION,)
        return total({name: cost for name, cost in self.costs.items() if name not in without})


def total(costs: Mapping[str, Cost]) -> Cost:
    """The cost of everything that was needed: all purposes but monitoring."""
    needed = (cost for purpose, cost in costs.items() if purpose != MONITORING)
    return reduce(Cost.plus, needed, Cost())


def by_policy(arms: Iterable[ArmResult]) -> dict[str, list[ArmResult]]:
    """Arms by label, in the order in which labels and seeds come."""
    groups: dict[str, list[ArmResult]] = {}
    for arm in arms:
        groups.setdefault(arm.policy, []).append(arm)
    return groups


def compared_split(arms: Sequence[ArmResult]) -> HeldOutSplit:
    """What arms are compared on: the test, or model-selection data until all have opened it."""
    return "test" if all(arm.test is not None for arm in arms) else "model_selection"


def to_json(arms: Sequence[ArmResult], summaries: Sequence[Any] = ()) -> str:
    """Arms and summaries as strict JSON: a number that is not finite becomes its name as a text.

    Args:
        arms: What finished.
        summaries: Dataclasses that say more of them, for other readers.
    """
    document = {
        "format": RESULTS_FORMAT,
        "arms": [_encode(asdict(arm)) for arm in arms],
        "summaries": [_encode(asdict(summary)) for summary in summaries],
    }
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    return _LIST_OF_NUMBERS.sub(lambda found: " ".join(found.group().split()), text) + "\n"


def arms_from_json(text: str) -> tuple[ArmResult, ...]:
    """The arms that :func:`to_json` wrote, equal to the last bit; those of older formats, too.

    Raises:
        RunError: The text is no result of a known format.
    """
    try:
        document = json.loads(text)
        found = document["format"]
    except (ValueError, TypeError, KeyError) as fault:
        raise RunError("the results are not a JSON object with a `format`") from fault
    read = _READERS.get(found) if isinstance(found, int) else None
    if read is None:
        *older, newest = _READERS
        readable = f"{', '.join(map(str, older))} and {newest}"
        raise RunError(f"the results have format {found!r}; this version reads {readable}")
    try:
        return tuple(read(fields) for fields in document["arms"])
    except (ValueError, TypeError, KeyError, AttributeError) as fault:
        raise RunError(f"the results hold an arm that cannot be read: {fault!r}") from fault


def read_results(path: Path) -> tuple[ArmResult, ...]:
    """The arms of a file.

    Raises:
        RunError: There is no such file, or it holds no result of a known format.
    """
    try:
        return arms_from_json(path.read_text("utf-8"))
    except FileNotFoundError as fault:
        raise RunError(f"{path}: no such file; was a run ever finished or stopped here?") from fault
    except RunError as fault:
        raise RunError(f"{path}: {fault}") from fault


def read_result(folder: Path) -> ArmResult:
    """The result in the folder of a finished arm.

    Raises:
        RunError: As :func:`read_results`.
    """
    (result,) = read_results(folder / "result.json")
    return result


def _encode(value: object) -> object:
    """The value as JSON can say it."""
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case Cost() | RankingTrial():
            return {name: _encode(part) for name, part in value._asdict().items()}
        case dict():
            return {name: _encode(part) for name, part in value.items()}
        case list() | tuple():
            return [_encode(part) for part in value]
    return value


def _arm(fields: Mapping[str, Any]) -> ArmResult:
    decoded = {
        "test": _held_out(fields["test"]),
        "model_selection": _held_out(fields["model_selection"]),
        "reward_validation_losses": _floats(fields["reward_validation_losses"]),
        "episode_returns": _floats(fields["episode_returns"]),
        "trials": tuple(_trial(**trial) for trial in fields["trials"]),
        "greedy_return": _optional(fields["greedy_return"]),
        "kept_updates": fields["kept_updates"],
        "kept_steps": fields["kept_steps"],
        "step_tokens": tuple(fields["step_tokens"]),
        "step_flops": _floats(fields["step_flops"]),
        "picks": tuple(fields["picks"]),
        "costs": {purpose: _cost(**cost) for purpose, cost in fields["costs"].items()},
    }
    return ArmResult(**{**fields, **decoded})


def _arm_of_format_5(fields: Mapping[str, Any]) -> ArmResult:
    """It had no early stopping."""
    return _arm({**fields, "kept_steps": None})


def _arm_of_format_4(fields: Mapping[str, Any]) -> ArmResult:
    """It did not say which weights were kept."""
    return _arm_of_format_5({**fields, "kept_updates": None})


def _arm_of_format_3(fields: Mapping[str, Any]) -> ArmResult:
    """It did not tell episodes of other purposes from those that were learned from."""
    return _arm_of_format_4({**fields, "trials": (), "greedy_return": None})


def _arm_of_format_2(fields: Mapping[str, Any]) -> ArmResult:
    """It had the test's numbers among its own, and no tokens and FLOPs by step."""
    moved = ("test_loss", "test_metric", "target_losses")
    kept = {name: value for name, value in fields.items() if name not in moved}
    loss, metric, targets = (fields[name] for name in moved)
    test = {"loss": loss, "target_losses": targets, "metric": metric}
    return _arm_of_format_3(
        {**kept, "test": test, "model_selection": None, "step_tokens": (), "step_flops": ()}
    )


_READERS: Mapping[int, Callable[[Mapping[str, Any]], ArmResult]] = {
    2: _arm_of_format_2,
    3: _arm_of_format_3,
    4: _arm_of_format_4,
    5: _arm_of_format_5,
    RESULTS_FORMAT: _arm,
}


def _held_out(fields: Mapping[str, Any] | None) -> HeldOut | None:
    if fields is None:
        return None
    by_item = fields.get("item_metrics")
    return HeldOut(
        loss=float(fields["loss"]),
        target_losses={name: float(loss) for name, loss in fields["target_losses"].items()},
        metric=_optional(fields["metric"]),
        item_losses=_floats(fields.get("item_losses", ())),
        item_tokens=tuple(fields.get("item_tokens", ())),
        item_targets=tuple(fields.get("item_targets", ())),
        item_metrics=None if by_item is None else _floats(by_item),
    )


def _optional(value: float | str | None) -> float | None:
    return None if value is None else float(value)


def _floats(values: Sequence[float | str]) -> tuple[float, ...]:
    return tuple(map(float, values))


def _trial(*, ranking: str, episode_return: float | str) -> RankingTrial:
    return RankingTrial(ranking, float(episode_return))


def _cost(*, tokens: int, padded_tokens: int, flops: float | str, seconds: float | str) -> Cost:
    return Cost(tokens, padded_tokens, float(flops), float(seconds))
