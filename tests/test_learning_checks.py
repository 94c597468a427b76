"""Settings of learned policies that do not fit each other or have no effect."""

from __future__ import annotations

from typing import Any

import pytest

from raise_mdit.config import ExperimentConfig
from raise_mdit.learning_checks import learning_faults

Fields = dict[str, Any]  # an experiment before validation

LORA = {"kind": "lora", "rank": 4}
DROPPED = {"trainable": {**LORA, "dropout": 0.1}}
FULL = {"trainable": {"kind": "full"}}
TOGETHER = "policies.0.parallel_episodes"
NO_GRADIENT = (
    "fine-tunings that step together have no gradient alignment yet; write 1 here, or another "
    "features.tier"
)
NOT_SHARED = (
    "fine-tunings can step together only if they share frozen layers (trainable kind `top_layers` "
    "or `lora`); write 1 here"
)
DRAWN = (
    "fine-tunings can step together only if there is no dropout, which would be drawn differently "
    "(lora.dropout 0); write 1 here"
)
NOISED = (
    "fine-tunings can step together only if there is no noise, which would be drawn differently "
    "(learner.embedding_noise 0); write 1 here"
)
FROZEN = (
    "needs every layer trained, as outputs of frozen layers are computed once; write 0, or "
    "trainable kind `full`, or `lora` with layers `all`"
)
NO_EFFECT = "has no effect: no policy learns; add `- kind: ppo` or remove it (`--set {}=null`)"


def experiment(*, policy: Fields | None = None, **others: Any) -> Fields:  # any section
    """A consistent experiment in which a policy learns, with some keys changed."""
    return {
        "name": "checks",
        "data": {
            "sources": ({"name": "tasks", "kind": "playground"},),
            "pool": ({"source": "tasks", "rows": 60},),
            "reward_validation": ({"source": "tasks", "rows": 16}, {"source": "tasks", "rows": 4}),
            "test": ({"source": "tasks"},),
        },
        "environment": {"window": 32, "batch_size": 10, "budget": {"steps": 10}},
        "policies": ({"kind": "ppo", **(policy or {})}, {"kind": "base"}),
        **others,
    }


def without_learning(**others: Any) -> Fields:  # any section
    return {**experiment(), "policies": ({"kind": "random"},), **others}


def faults(fields: Fields) -> list[tuple[str, str]]:
    """Dotted keys and messages."""
    found = learning_faults(ExperimentConfig.model_validate(fields))
    return [(".".join(map(str, fault.where)), fault.message) for fault in found]


@pytest.mark.parametrize(
    "fields",
    [
        experiment(),
        experiment(policy={"episodes": 8, "parallel_episodes": 2}),
        experiment(policy={"parallel_episodes": 4}, learner={"trainable": LORA}),
        experiment(policy={"parallel_episodes": 4}, learner=FULL, proxy_learner={}),
        experiment(policy={"parallel_episodes": 1}, learner=FULL, features={"tier": "gradient"}),
        experiment(reward={"every": 10, "items": 20, "control_episodes": 4}),
        experiment(features={"tier": "model", "auxiliary_model": "owner/model"}),
        experiment(environment={"budget": {"tokens": 100}}, reward={"every": 10**6}),
        experiment(environment={"budget": {"tokens": 100}}, policy={"minibatches": 10**6}),
        experiment(learner={**FULL, "embedding_noise": 5}),
        experiment(learner={"trainable": LORA, "embedding_noise": 5}),
        experiment(policy={"parallel_episodes": 2}, learner={"label_smoothing": 0.1}),
        without_learning(),
        without_learning(proxy_learner=None),
    ],
)
def test_settings_that_fit_have_no_faults(fields: Fields) -> None:
    assert faults(fields) == []


@pytest.mark.parametrize(
    ("policy", "key", "message"),
    [
        (
            {"episodes": 10},
            "episodes",
            "episodes 10 should be a multiple of episodes_per_update 4; write 8 or 12 episodes",
        ),
        (
            {"episodes": 3},
            "episodes",
            "episodes 3 should be a multiple of episodes_per_update 4; write 4 episodes",
        ),
        (
            {"episodes_per_update": 5},
            "episodes_per_update",
            "episodes 48 should be a multiple of episodes_per_update 5; write 45 or 50 episodes",
        ),
        (
            {"minibatches": 21},
            "minibatches",
            "minibatches 21 should not exceed 20, half of the 40 steps of an update (4 episodes "
            "of 10)",
        ),
        (
            {"episodes_per_update": 6, "parallel_episodes": 4},
            "parallel_episodes",
            "parallel_episodes 4 should divide episodes_per_update 6: 1, 2, 3, 6",
        ),
    ],
)
def test_what_a_policy_collects_comes_in_whole_parts(
    policy: Fields, key: str, message: str
) -> None:
    fields = experiment(policy=policy)
    fields["policies"] = fields["policies"][::-1]
    assert faults(fields) == [(f"policies.1.{key}", message)]


@pytest.mark.parametrize(
    ("sections", "messages"),
    [
        ({"features": {"tier": "gradient"}}, [NO_GRADIENT]),
        ({"learner": FULL}, [NOT_SHARED]),
        ({"learner": DROPPED}, [DRAWN]),
        ({"proxy_learner": FULL}, [NOT_SHARED]),
        ({"learner": {"trainable": LORA}, "proxy_learner": DROPPED}, [DRAWN]),
        ({"learner": FULL, "features": {"tier": "gradient"}}, [NO_GRADIENT, NOT_SHARED]),
        ({"learner": {"trainable": LORA, "embedding_noise": 5}}, [NOISED]),
    ],
)
def test_only_stacked_fine_tunings_step_together(sections: Fields, messages: list[str]) -> None:
    fields = experiment(policy={"parallel_episodes": 2}, **sections)
    assert faults(fields) == [(TOGETHER, message) for message in messages]


@pytest.mark.parametrize(
    "trainable", [{"kind": "top_layers", "layers": 2}, {**LORA, "layers": 2}], ids=["top", "lora"]
)
@pytest.mark.parametrize("section", ["learner", "proxy_learner"])
@pytest.mark.parametrize("make", [experiment, without_learning])
def test_noise_on_embeddings_needs_every_layer_trained(
    make: Any, section: str, trainable: Fields
) -> None:
    fields = make(**{section: {"trainable": trainable, "embedding_noise": 5}})
    assert (f"{section}.embedding_noise", FROZEN) in faults(fields)


@pytest.mark.parametrize("sections", [{"proxy_learner": {}}, {"reward": {}}])
def test_what_only_a_policy_that_learns_would_use_has_no_effect(sections: Fields) -> None:
    assert faults(without_learning(**sections)) == [
        (key, NO_EFFECT.format(key)) for key in sections
    ]


@pytest.mark.parametrize(
    ("sections", "key", "message"),
    [
        (
            {"reward": {"every": 11}},
            "reward.every",
            "should not exceed the steps of an episode, got 11, allowed: up to 10",
        ),
        (
            {"reward": {"items": 21}},
            "reward.items",
            "should not exceed data.reward_validation, got 21, allowed: up to 20",
        ),
        (
            {"features": {"auxiliary_model": "owner/model"}},
            "features.auxiliary_model",
            "has no effect with tier `cheap`; write `tier: model` or remove it",
        ),
    ],
)
def test_settings_stay_within_the_others(sections: Fields, key: str, message: str) -> None:
    assert faults(experiment(**sections)) == [(key, message)]


def test_reward_items_of_all_rows_are_checked_with_the_data() -> None:
    fields = experiment(reward={"items": 10**6})
    fields["data"]["reward_validation"] = ({"source": "tasks", "rows": "all"},)
    assert faults(fields) == []


def test_a_proxy_that_equals_the_learner_has_no_effect() -> None:
    assert faults(experiment(proxy_learner={})) == [
        ("proxy_learner", "has no effect: it equals `learner`; change or remove it")
    ]


def test_gradients_that_no_policy_learns_from_have_no_effect() -> None:
    assert faults(without_learning(features={"tier": "gradient"})) == [
        (
            "features.tier",
            "has no effect: no policy learns from it; add `- kind: ppo` or write `cheap`",
        )
    ]


def with_policy(policy: Fields, **others: Any) -> Fields:  # any section
    """A consistent experiment with one more policy."""
    fields = experiment(**others)
    return {**fields, "policies": (*fields["policies"], policy)}


def best_of(first: str, **second: Fields) -> Fields:
    """Two rankings to try, the second with settings."""
    ((kind, settings),) = second.items()
    return {"kind": "best_of", "rankings": ({"kind": first}, {"kind": kind, **settings})}


@pytest.mark.parametrize(
    ("fields", "key", "message"),
    [
        (
            experiment(
                policy={"prior": {"ranking": {"kind": "longest"}}, "entropy_coefficient": 0.1}
            ),
            "policies.0.entropy_coefficient",
            "has no effect beside a prior: `prior.kl_coefficient` takes its place; remove it",
        ),
        (
            experiment(policy={"prior": {"ranking": {"kind": "longest", "repeat": 2}}}),
            "policies.0.prior.ranking.repeat",
            "has no effect here: how often to repeat is learned; remove it",
        ),
        (
            experiment(policy={"prior": {"ranking": {"kind": "influence"}}}),
            "policies.0.prior.ranking.kind",
            "episodes should be at least 1 in a prior: they teach what the policy begins as",
        ),
        (
            experiment(policy={"prior": {"ranking": {"kind": "influence", "episodes": 0}}}),
            "policies.0.prior.ranking.episodes",
            "episodes should be at least 1 in a prior: they teach what the policy begins as",
        ),
        (
            experiment(
                policy={
                    "prior": {"ranking": {"kind": "influence", "episodes": 2, "window": "pool"}}
                }
            ),
            "policies.0.prior.ranking.window",
            "has no effect in a prior, which learns in the policy's own window; remove it",
        ),
        (
            experiment(
                policy={
                    "prior": {"ranking": {"kind": "influence", "episodes": 2, "final": "sample"}}
                }
            ),
            "policies.0.prior.ranking.final",
            "has no effect in a prior, which fine-tunes nothing for good; remove it",
        ),
        (
            with_policy({"kind": "influence", "hint": {"kind": "dsir", "repeat": 2}}),
            "policies.2.hint.repeat",
            "has no effect here: how often to repeat is learned; remove it",
        ),
        (
            experiment(
                policy={
                    "prior": {
                        "ranking": {
                            "kind": "influence",
                            "episodes": 2,
                            "hint": {"kind": "dsir", "repeat": 2},
                        }
                    }
                }
            ),
            "policies.0.prior.ranking.hint.repeat",
            "has no effect here: how often to repeat is learned; remove it",
        ),
        (
            with_policy({"kind": "raise"}),
            "policies.2.kind",
            "its printed state has difficulties by a forward pass; write `features.tier: model`",
        ),
        (
            with_policy({"kind": "raise", "classes": 11}, features={"tier": "model"}),
            "policies.2.classes",
            "should not exceed environment.batch_size, got 11, allowed: up to 10",
        ),
        (
            with_policy({"kind": "random_search"}, pools={"mosaic": {}, "renew": "episode"}),
            "policies.2.kind",
            "candidates that are renewed cannot be picked again; write `pools.renew: never`",
        ),
        (
            with_policy({"kind": "longest", "repeat": 2}, pools={"mosaic": {}, "renew": "episode"}),
            "policies.2.repeat",
            "candidates that are renewed cannot be picked again; write `pools.renew: never`, or 1 "
            "here",
        ),
        *(
            (
                with_policy({"kind": kind}, pools={"mosaic": {}, "renew": {"steps": 5}}),
                "policies.2.kind",
                "ranks each candidate by those before it, which renewal replaces; write "
                "`pools.renew: never`, or take it out",
            )
            for kind in ("sspl", "k_center", "deita")
        ),
        *(
            (
                without_learning(policies=({"kind": "exp3"},), reward={key: 2}),
                f"reward.{key}",
                "has no effect: only ppo, a2c, reinforce and raise heed it; add one of them, or "
                f"remove it (`--set reward.{key}=null`)",
            )
            for key in ("every", "control_episodes")
        ),
        (
            with_policy({"kind": "less", "checkpoints": 9}),
            "policies.2.checkpoints",
            "should not exceed warmup_steps 8, got 9",
        ),
        (
            with_policy({**best_of("longest", dsir={"repeat": 2}), "kind": "in_turn"}),
            "policies.2.rankings.1.repeat",
            "has no effect here: `repeat` of `in_turn` is that of all; remove it",
        ),
        (
            with_policy(best_of("dsir", dsir={"repeat": 2})),
            "policies.2.rankings.1.kind",
            "another ranking here is called 'dsir' already; give each its own `name`, or keep one",
        ),
        (
            experiment(policy={"prior": {"ranking": best_of("dsir", less={"name": "dsir"})}}),
            "policies.0.prior.ranking.rankings.1.name",
            "another ranking here is called 'dsir' already; give each its own `name`, or keep one",
        ),
        (
            with_policy(best_of("longest", dsir={"repeat": 11})),
            "policies.2.rankings.1.repeat",
            "should not exceed the steps of an episode, as a batch takes a candidate once, got 11, "
            "allowed: up to 10",
        ),
        (
            experiment(policy={"prior": {"ranking": best_of("longest", dsir={"repeat": 2})}}),
            "policies.0.prior.ranking.rankings.1.repeat",
            "has no effect here: how often to repeat is learned; remove it",
        ),
        (
            experiment(policy={"prior": {"ranking": best_of("dsir", less={"checkpoints": 9})}}),
            "policies.0.prior.ranking.rankings.1.checkpoints",
            "should not exceed warmup_steps 8, got 9",
        ),
        (
            experiment(policy={"final": "best"}, pools={"mosaic": {}, "renew": "episode"}),
            "policies.0.final",
            "candidates that are renewed cannot be picked again; write `pools.renew: never`, or "
            "another `final`",
        ),
        (
            with_policy({"kind": "longest", "repeat": 11}),
            "policies.2.repeat",
            "should not exceed the steps of an episode, as a batch takes a candidate once, got 11, "
            "allowed: up to 10",
        ),
        (
            experiment(reward={"balance": "targets"}),
            "reward.balance",
            "has no effect: targets are sources, and `data.reward_validation` has one; write "
            "`tokens`, or give each target its source",
        ),
    ],
)
def test_settings_of_policies_that_do_not_fit_are_told(
    fields: Fields, key: str, message: str
) -> None:
    assert faults(fields) == [(key, message)]


@pytest.mark.parametrize(
    "fields",
    [
        with_policy({"kind": "raise", "classes": 10}, features={"tier": "model"}),
        with_policy({"kind": "less", "checkpoints": 8}),
        with_policy({"kind": "longest", "repeat": 10}),
        with_policy({"kind": "random_search"}),
        experiment(policy={"prior": {"ranking": {"kind": "longest"}}}),
        experiment(policy={"prior": {"ranking": {"kind": "influence", "episodes": 1}}}),
        experiment(policy={"prior": {"ranking": best_of("longest", dsir={})}, "final": "best"}),
        without_learning(
            policies=({"kind": "base"}, best_of("longest", dsir={"repeat": 10})),
            reward={"items": 2},
        ),
        with_policy({"kind": "less"}, pools={"mosaic": {}, "renew": "episode"}),
        experiment(policy={"kind": "reinforce"}, reward={"every": 2, "control_episodes": 1}),
    ],
)
def test_settings_of_policies_at_their_limits_have_no_faults(fields: Fields) -> None:
    assert faults(fields) == []
