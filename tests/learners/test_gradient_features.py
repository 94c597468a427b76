"""Features of LESS against gradients of single rows, torch's own AdamW and an explicit sketch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from raise_mdit.config import FullConfig, LearnerConfig, LoraConfig, TopLayersConfig
from raise_mdit.core import Cost, EncodedRow
from raise_mdit.encoding import mixed_row
from raise_mdit.errors import ModelError
from raise_mdit.learners import gradient_features as measuring
from raise_mdit.learners import losses
from raise_mdit.learners.causal_lm import CausalLmLearner, build_learner
from raise_mdit.learners.gradient_features import (
    LessFeatures,
    _project,
    _sketches,
    gradient_features,
    less_features,
    warm_up,
)

Make = Callable[..., Any]

LORA = LoraConfig(kind="lora", rank=2, layers=2, dropout=0.3)
TOP = TopLayersConfig(kind="top_layers", layers=1)
TRAINABLE = [
    pytest.param(LORA, id="lora"),
    pytest.param(TOP, id="top_layers"),
    pytest.param(FullConfig(kind="full"), id="full"),
]


@pytest.fixture
def rows(random_rows: Make, random_text: Make) -> list[EncodedRow]:
    """Plain and interpolated rows of many lengths."""
    rng = np.random.default_rng(1)
    first, second = random_text(rng, 4, 6), random_text(rng, 9, 3)
    return [*random_rows(3), mixed_row("mixed", first, second, weight=0.3, pad=0)]


@pytest.fixture
def batches(random_rows: Make) -> list[Sequence[EncodedRow]]:
    """Of a short training of five steps."""
    return [random_rows(2, seed=10 + step) for step in range(5)]


@pytest.fixture
def make(random_llama: Make) -> Make:
    """Makes a learner of a small random model."""

    def learner(trainable: Any = TOP, **settings: Any) -> CausalLmLearner:
        config = LearnerConfig(trainable=trainable, **{"learning_rate": 1e-2, **settings})
        return build_learner(random_llama(), config, precision="float32", seed=0)

    return learner


def features(
    learner: CausalLmLearner,
    rows: Sequence[EncodedRow],
    *,
    adam: bool = False,
    dimensions: int = 16,
    seed: int = 0,
) -> NDArray[np.float32]:
    found, _ = gradient_features(
        learner,
        rows,
        dimensions=dimensions,
        seed=seed,
        adam=adam,
        advance=lambda _done: None,
    )
    return found


def explicit_gradients(learner: CausalLmLearner, row: EncodedRow) -> list[torch.Tensor]:
    """By autograd, of the row alone and all its logits; frozen layers rounded as the cache does."""
    forward, cache = learner.part.forward, learner.trunk_cache
    forward.set_training(False)
    if cache is None:
        embedding = forward._model.get_input_embeddings()
        partner_ids = row.ids if row.partner_ids is None else row.partner_ids
        own, other = (embedding(torch.tensor(ids)) for ids in (row.ids, partner_ids))
        embeds = row.mix * own + (1 - row.mix) * other
        final_TH = forward.final(embeds[None], from_split=False)[0]
    else:
        final_TH = forward.final(cache.read([row]), from_split=True)[0]
    logits: torch.Tensor = forward._head(final_TH)
    log_probs = logits.log_softmax(-1)[torch.tensor(row.scored)]
    weights = torch.tensor(row.target_weights)
    loss = -(weights * log_probs.gather(1, torch.tensor(row.targets))).sum() / weights.sum()
    return list(torch.autograd.grad(loss, learner.part.parameters))


def adamw_steps(learner: CausalLmLearner, row: EncodedRow) -> list[torch.Tensor]:
    """What torch's AdamW subtracts for the row alone, for each unit of learning rate."""
    state = learner.snapshot()
    copies = [torch.nn.Parameter(one.double()) for one in state.parameters]
    optimizer = torch.optim.AdamW(copies, lr=1.0, weight_decay=0.0)
    settings = state.optimizer["param_groups"][0] | {"lr": 1.0, "weight_decay": 0.0}
    settings |= {"fused": False, "foreach": False}
    optimizer.load_state_dict({**state.optimizer, "param_groups": [settings]})
    for copy, gradient in zip(copies, explicit_gradients(learner, row), strict=True):
        copy.grad = gradient.double()
    before = [copy.detach().clone() for copy in copies]
    optimizer.step()
    return [(was - copy.detach()).float() for was, copy in zip(before, copies, strict=True)]


def sketched(
    vectors: Sequence[torch.Tensor], *, dimensions: int = 16, seed: int = 0
) -> NDArray[np.float64]:
    """The projection, entry by entry: the draws are the module's, the sums are not."""
    rng = np.random.default_rng(seed)
    sums = [0.0] * dimensions
    for vector in vectors:
        places = rng.integers(dimensions, size=vector.numel(), dtype=np.int32).tolist()
        signs = rng.integers(2, size=vector.numel(), dtype=np.int8).tolist()
        for value, place, sign in zip(vector.flatten().tolist(), places, signs, strict=True):
            sums[place] += value if sign else -value
    return np.array(sums)


def flat(vectors: Sequence[torch.Tensor]) -> NDArray[np.float64]:
    return torch.cat([vector.flatten() for vector in vectors]).double().numpy()


def assert_near(found: NDArray[Any], expected: NDArray[Any], rtol: float) -> None:
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


@pytest.fixture
def less(tmp_path: Path) -> Make:
    """Measures two candidates and what is left of the rows as targets, and keeps it."""

    def measured(
        learner: CausalLmLearner,
        rows: Sequence[EncodedRow],
        batches: Sequence[Sequence[EncodedRow]],
        **options: Any,
    ) -> LessFeatures:
        settings: dict[str, Any] = {
            "checkpoints": 2,
            "dimensions": 16,
            "seed": 0,
            "identity": "the learner",
            "cache": tmp_path,
            "advance": lambda _done: None,
        }
        return less_features(
            learner, rows[:2], rows[2:], warmup_batches=batches, **{**settings, **options}
        )

    return measured


@pytest.mark.parametrize("trainable", TRAINABLE)
def test_features_are_sketches_of_explicit_gradients(
    trainable: Any, make: Make, rows: list[EncodedRow], batches: list[Sequence[EncodedRow]]
) -> None:
    learner = make(trainable, embedding_noise=5.0 if isinstance(trainable, FullConfig) else 0.0)
    learner.update(batches[0], progress=0.0)

    found = features(learner, rows)

    expected = np.stack([sketched(explicit_gradients(learner, row)) for row in rows])
    assert found.dtype == np.float32
    assert_near(found, expected, 1e-4)


@pytest.mark.parametrize("num_updates", [0, 2])
@pytest.mark.parametrize("trainable", TRAINABLE)
def test_with_adam_they_are_sketches_of_the_steps_of_torch(
    trainable: Any,
    num_updates: int,
    make: Make,
    rows: list[EncodedRow],
    batches: list[Sequence[EncodedRow]],
) -> None:
    learner = make(trainable, weight_decay=0.1)
    for batch in batches[:num_updates]:
        learner.update(batch, progress=0.0)

    found = features(learner, rows[:2], adam=True)

    expected = np.stack([sketched(adamw_steps(learner, row)) for row in rows[:2]])
    assert_near(found, expected, 1e-3)


def test_in_expectation_inner_products_are_kept() -> None:
    num_seeds, dimensions = 400, 8
    parameters = [torch.nn.Parameter(torch.zeros(5, 7)), torch.nn.Parameter(torch.zeros(11))]
    vectors = np.random.default_rng(0).normal(size=(3, 46)) + 0.5

    grams = []
    for seed in range(num_seeds):
        sketches = _sketches(parameters, dimensions=dimensions, seed=seed)
        parts = [
            (torch.tensor(one[:35]).float(), torch.tensor(one[35:]).float()) for one in vectors
        ]
        found = torch.stack([_project(one, sketches, dimensions) for one in parts])
        grams.append((found @ found.T).numpy())

    # Weinberger et al. 2009, lemma 2; a mean lies within 4 of its standard errors
    exact, squares = vectors @ vectors.T, vectors**2
    norms = np.diag(exact)
    variance = (np.outer(norms, norms) + exact**2 - 2 * squares @ squares.T) / dimensions
    assert (np.abs(np.mean(grams, axis=0) - exact) < 4 * np.sqrt(variance / num_seeds)).all()
    np.testing.assert_allclose(np.var(grams, axis=0), variance, rtol=0.4)


def test_another_seed_is_another_projection(make: Make, rows: list[EncodedRow]) -> None:
    learner = make()

    np.testing.assert_array_equal(features(learner, rows), features(learner, rows))
    assert not np.allclose(features(learner, rows), features(learner, rows, seed=1))


def test_a_row_does_not_depend_on_those_beside_it(make: Make, rows: list[EncodedRow]) -> None:
    together = features(make(), rows, adam=True)

    alone = features(make(), [rows[3]], adam=True)

    # frozen layers read both together, and their states are rounded to bfloat16
    cosine = together[3] @ alone[0] / np.linalg.norm(together[3]) / np.linalg.norm(alone[0])
    assert cosine > 0.99


@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.parametrize("trainable", TRAINABLE[:2])
def test_a_learner_that_was_measured_goes_on_as_if_it_had_not(
    trainable: Any,
    adam: bool,
    make: Make,
    rows: list[EncodedRow],
    batches: list[Sequence[EncodedRow]],
) -> None:
    never, asked = make(trainable), make(trainable)
    before = torch.get_rng_state()
    never.evaluate(rows)
    expected = [never.update(batch, progress=0.0).loss for batch in batches[:2]]

    asked.evaluate(rows)
    found = []
    for batch in batches[:2]:
        features(asked, rows, adam=adam)
        found.append(asked.update(batch, progress=0.0).loss)

    assert found == expected
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in asked.part.parameters)
    assert all(parameter.requires_grad for parameter in asked.part.parameters)


def test_a_pass_that_fails_leaves_no_gradient(
    make: Make, rows: list[EncodedRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = make()
    backward = losses.backward

    def fail(*args: Any, **kwargs: Any) -> None:
        backward(*args, **kwargs)
        raise MemoryError

    monkeypatch.setattr(losses, "backward", fail)
    with pytest.raises(MemoryError):
        features(learner, rows)

    assert all(parameter.grad is None for parameter in learner.part.parameters)


def test_a_gradient_that_is_not_finite_is_refused(make: Make, rows: list[EncodedRow]) -> None:
    learner = make()
    with torch.no_grad():
        learner.part.parameters[0].fill_(torch.nan)

    with pytest.raises(ModelError, match=f"4 of 4 rows .* first of them '{rows[0].key}'"):
        features(learner, rows)


def test_the_cost_is_that_of_updates_on_the_rows_one_by_one(
    make: Make, rows: list[EncodedRow]
) -> None:
    measured, updated = make(), make()
    advanced: list[int] = []

    def cost() -> Any:
        return gradient_features(
            measured, rows, dimensions=16, seed=0, adam=True, advance=advanced.append
        )[1]

    first, second = cost(), cost()

    costs = [updated.update([row], progress=0.0).cost for row in rows]
    assert first.tokens == second.tokens == sum(one.tokens for one in costs)
    assert first.padded_tokens == sum(one.padded_tokens for one in costs)
    assert first.flops == pytest.approx(sum(one.flops for one in costs))
    again = [updated.update([row], progress=0.0).cost for row in rows]  # trunk is paid for
    assert second.flops == pytest.approx(sum(one.flops for one in again))
    assert second.flops < first.flops
    assert second.seconds > 0
    assert sum(advanced) == 2 * len(rows)


@pytest.mark.parametrize(("checkpoints", "expected"), [(1, [5]), (3, [1, 3, 5])])
def test_checkpoints_are_spread_evenly_and_end_with_the_training(
    checkpoints: int, expected: list[int], make: Make, batches: list[Sequence[EncodedRow]]
) -> None:
    learner = make()

    reached = [
        learner.snapshot().num_updates for _ in warm_up(learner, batches, checkpoints=checkpoints)
    ]

    assert reached == expected


def test_learning_rates_are_means_between_checkpoints(
    make: Make, batches: list[Sequence[EncodedRow]]
) -> None:
    learner = make(schedule="linear", learning_rate=1.0e-2)

    rates = [one.learning_rate for one in warm_up(learner, batches, checkpoints=2)]

    # 1, 0.8 and then 0.6, 0.4, 0.2 of the peak
    assert rates == pytest.approx([0.9e-2, 0.4e-2])


@pytest.mark.parametrize("checkpoints", [0, 6])
def test_more_checkpoints_than_steps_and_none_are_refused(
    checkpoints: int,
    make: Make,
    rows: list[EncodedRow],
    batches: list[Sequence[EncodedRow]],
    less: Make,
) -> None:
    with pytest.raises(ValueError, match=f"1 to 5, the number of steps; got {checkpoints}"):
        less(make(), rows, batches, checkpoints=checkpoints)


def test_less_measures_at_each_checkpoint_of_the_training(
    make: Make, rows: list[EncodedRow], batches: list[Sequence[EncodedRow]], less: Make
) -> None:
    found = less(make(LORA), rows, batches)

    learner = make(LORA)
    for index, steps in enumerate([range(2), range(2, 5)]):
        for step in steps:
            learner.update(batches[step], progress=step / 5)
        np.testing.assert_array_equal(
            found.candidates_CND[index], features(learner, rows[:2], adam=True)
        )
        np.testing.assert_array_equal(found.targets_CQD[index], features(learner, rows[2:]))
    assert found.candidates_CND.shape == (2, 2, 16)
    assert found.targets_CQD.shape == (2, 2, 16)
    assert found.learning_rates_C.tolist() == [1e-2, 1e-2]


def test_less_leaves_the_learner_as_it_was(
    make: Make, rows: list[EncodedRow], batches: list[Sequence[EncodedRow]], less: Make
) -> None:
    never, asked = make(LORA), make(LORA)
    for learner in (never, asked):
        learner.update(rows, progress=0.0)

    less(asked, rows, batches[:2])

    assert asked.snapshot().num_updates == 1
    expected = [never.update(rows, progress=0.0).loss for _ in range(2)]
    assert [asked.update(rows, progress=0.0).loss for _ in range(2)] == expected


def test_less_restores_the_learner_where_it_fails(
    make: Make, rows: list[EncodedRow], batches: list[Sequence[EncodedRow]], less: Make
) -> None:
    learner = make()
    before = [parameter.detach().clone() for parameter in learner.part.parameters]

    def fail(_done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        less(learner, rows, batches, advance=fail)

    after = learner.part.parameters
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert learner.snapshot().num_updates == 0


def test_less_costs_its_training_and_its_gradients(
    make: Make, rows: list[EncodedRow], batches: list[Sequence[EncodedRow]], less: Make
) -> None:
    advanced: list[int] = []

    cost = less(make(), rows, batches[:2], advance=advanced.append).cost

    learner = make()
    expected = [learner.update(batch, progress=0.0).cost for batch in batches[:2]]
    expected += [learner.update([row], progress=0.0).cost for row in [*rows, *rows]]
    assert cost.tokens == sum(one.tokens for one in expected)
    assert cost.flops == pytest.approx(sum(one.flops for one in expected))
    assert sum(advanced) == 2 * len(rows)


def test_what_was_measured_is_not_measured_again(
    make: Make,
    less: Make,
    rows: list[EncodedRow],
    batches: list[Sequence[EncodedRow]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = less(make(), rows, batches)
    advanced: list[int] = []
    monkeypatch.setattr(measuring, "gradient_features", refused)

    again = less(make(), rows, batches, advance=advanced.append)

    for found, expected in zip(again[:3], first[:3], strict=True):
        np.testing.assert_array_equal(found, expected)
    assert sum(advanced) == 2 * len(rows)


def test_a_measurement_that_was_stopped_goes_on_where_it_was(
    make: Make,
    less: Make,
    rows: list[EncodedRow],
    batches: list[Sequence[EncodedRow]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(measuring, "BLOCK_ROWS", 1)
    whole = less(make(), rows, batches, cache=tmp_path / "whole")
    measured: list[int] = []

    def stop(done: int) -> None:
        measured.append(done)
        if len(measured) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        less(make(), rows, batches, advance=stop)
    kept = [file.stem for file in (tmp_path / "measurements").iterdir()]
    resumed = less(make(), rows, batches)

    assert len(kept) == 2  # the third was stopped before it was written
    for found, expected in zip(resumed[:3], whole[:3], strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("other", ["warmup", "label", "identity", "seed", "dimensions"])
def test_what_features_depend_on_is_part_of_how_they_are_found(
    make: Make,
    less: Make,
    rows: list[EncodedRow],
    batches: list[Sequence[EncodedRow]],
    other: str,
    tmp_path: Path,
) -> None:
    less(make(), rows, batches)
    changed: dict[str, Any] = {}
    match other:
        case "warmup":
            batches = batches[::-1]
        case "label":
            rows = [replace(row, targets=row.targets[::-1].copy()) for row in rows]
        case "identity":
            changed = {"identity": "another learner"}
        case "seed":
            changed = {"seed": 1}
        case "dimensions":
            changed = {"dimensions": 8}
    before = set((tmp_path / "measurements").iterdir())

    found = less(make(), rows, batches, **changed)

    fresh = less(make(), rows, batches, **changed, cache=tmp_path / "fresh")
    np.testing.assert_array_equal(found.candidates_CND, fresh.candidates_CND)
    assert len(set((tmp_path / "measurements").iterdir()) - before) == 4  # two checkpoints


def test_a_kept_measurement_costs_what_making_it_costs(
    make: Make, less: Make, rows: list[EncodedRow], batches: list[Sequence[EncodedRow]]
) -> None:
    """Rows are paid for then, however they came, so training on one afterwards owes nothing."""
    costs = []
    for _ in range(2):
        learner = make()
        spent = less(learner, rows, batches).cost
        costs.append((spent.tokens, spent.padded_tokens, spent.flops))
        assert learner.trunk_cache.charge(rows) == Cost()

    assert costs[0] == costs[1]
    frozen = make().trunk_cache.charge([*rows, *(row for batch in batches for row in batch)])
    assert 0 < frozen.flops < costs[0][2]


def test_a_damaged_measurement_is_made_anew(
    make: Make,
    less: Make,
    rows: list[EncodedRow],
    batches: list[Sequence[EncodedRow]],
    tmp_path: Path,
) -> None:
    first = less(make(), rows, batches)
    for file in (tmp_path / "measurements").iterdir():
        file.write_bytes(file.read_bytes()[:-5])

    again = less(make(), rows, batches)

    np.testing.assert_array_equal(again.candidates_CND, first.candidates_CND)


def refused(*_args: object, **_options: object) -> None:
    raise AssertionError("measured again")
