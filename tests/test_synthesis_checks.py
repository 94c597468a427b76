"""Keys of pools that are valid by themselves and do not fit."""

from typing import Any

import pytest

from raise_mdit.config import ExperimentConfig
from raise_mdit.synthesis_checks import synthesis_faults

Fields = dict[str, Any]  # an experiment before validation


def faults(fields: Fields) -> dict[str, str]:
    """Messages by dotted key."""
    found = synthesis_faults(ExperimentConfig.model_validate(fields))
    return {".".join(map(str, fault.where)): fault.message for fault in found}


@pytest.mark.parametrize(
    "pools",
    [
        {},
        {"original": False, "mosaic": {"replay": 0.5}},
        {"mdit": {"tasks": "source"}, "renew": {"steps": 3}},
        {"mosaic": {"grouping": "similar"}, "renew": "episode"},
        {"custom": ({"kind": "a.b:C", "name": "own"}, {"kind": "a.b:C", "name": "other"})},
    ],
)
def test_pools_that_fit_have_no_faults(fields: Fields, pools: Fields) -> None:
    assert faults(fields | {"pools": pools}) == {}


def test_pairs_across_sources_need_two(fields: Fields) -> None:
    fields["data"]["pool"] = ({"source": "tasks"},)
    fields["pools"] = {"mdit": {"tasks": "source"}}
    assert faults(fields) == {
        "pools.mdit.tasks": "no pairs across sources: `data.pool` has only 'tasks'; write "
        "`cluster` or add a source"
    }
    fields["pools"] = {"mdit": {"tasks": "source", "pairing": "within"}}
    assert faults(fields) == {}


def test_confidence_is_read_by_a_model(fields: Fields) -> None:
    fields["pools"] = {"mdit": {"pairing": "confidence"}}
    assert faults(fields)["pools.mdit.pairing"].startswith("needs log-probabilities of the pool")
    assert faults(fields | {"features": {"tier": "model"}}) == {}


def test_replay_beside_all_originals_has_no_effect(fields: Fields) -> None:
    fields["pools"] = {"mosaic": {"replay": 0.5}}
    assert faults(fields)["pools.mosaic.replay"].startswith("has no effect")


def test_replay_of_no_example_at_all_is_told(fields: Fields) -> None:
    fields["pools"] = {"original": False, "mosaic": {"replay": 0.005}}  # 0.5 of 100, rounded to 0
    assert faults(fields) == {
        "pools.mosaic.replay": "replays no example, and the pool of plain ones would be empty: "
        "0.005 of 100 rounds to 0; raise it to 0.01, or leave it out"
    }
    fields["pools"]["mosaic"]["replay"] = 0.01
    assert faults(fields) == {}
    fields["data"]["pool"] = ({"source": "tasks", "rows": "all"}, {"source": "maths", "rows": 1})
    fields["pools"]["mosaic"]["replay"] = 0.005  # how many examples that is, only the data tell
    assert faults(fields) == {}


def test_renewal_without_synthesis_has_no_effect(fields: Fields) -> None:
    fields["pools"] = {"renew": "episode"}
    assert faults(fields)["pools.renew"].startswith("has no effect")


def test_renewal_by_steps_needs_a_budget_in_steps(fields: Fields) -> None:
    fields["environment"]["budget"] = {"tokens": 1000}
    fields["pools"] = {"mosaic": {}, "renew": {"steps": 3}}
    assert faults(fields)["pools.renew"].startswith("counts steps")
    fields["pools"] = {"mosaic": {}, "renew": "episode"}
    assert faults(fields)["pools.renew"] == (
        "needs `environment.budget.steps` for ppo: with a budget in tokens episodes differ in "
        "number"
    )
    assert faults(fields | {"policies": ({"kind": "base"}, {"kind": "exp3"})}) == {}


def test_full_data_are_originals(fields: Fields) -> None:
    policies = ({"kind": "base"}, {"kind": "full"})
    fields |= {"pools": {"original": False, "mosaic": {}}, "policies": policies}
    assert faults(fields) == {
        "policies.1.kind": "`pools` makes no original candidates, only mosaic; write "
        "`pools.original: true`"
    }
    assert faults(fields | {"pools": {"original": False, "mosaic": {"replay": 0.5}}}) == {}


def test_names_of_custom_sources_differ_from_all_others(fields: Fields) -> None:
    own = {"kind": "a.b:C", "name": "own"}
    fields["pools"] = {"custom": (own, own, own | {"name": "maths"})}
    assert list(faults(fields)) == ["pools.custom.1.name", "pools.custom.2.name"]


def test_a_random_policy_picks_from_kinds_that_are_made(fields: Fields) -> None:
    fields["policies"] = ({"kind": "base"}, {"kind": "random", "kinds": ("original", "mdit")})
    assert faults(fields) == {
        "policies.1.kinds.1": "`pools` makes no mdit candidates, only original; add `pools.mdit`"
    }
    assert faults(fields | {"pools": {"mdit": {}}}) == {}
