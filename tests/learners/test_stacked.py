"""Learners that step together against the same learners alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from raise_mdit.config import FullConfig, LearnerConfig, LoraConfig, TopLayersConfig
from raise_mdit.core import Cost, EncodedRow, Evaluation, StackedLearners, UpdateStats
from raise_mdit.encoding import mixed_row
from raise_mdit.errors import ModelError
from raise_mdit.learners.adamw import LearnerSnapshot
from raise_mdit.learners.causal_lm import CausalLmLearner, build_learner
from raise_mdit.learners.forward import Precision
from raise_mdit.learners.parameter_stack import ParameterStack
from raise_mdit.learners.stacked import StackedCausalLmLearners, build_stacked_learners

Make = Callable[..., Any]
Batches = list[list[EncodedRow] | None]

SIZES: dict[str, Any] = {
    "vocab_size": 107,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GPT2_SIZES: dict[str, Any] = {
    "vocab_size": 107,
    "n_embd": 32,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
NO_DROPOUT = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
WINDOWED = {**SIZES, "head_dim": 8, "sliding_window": 4}
LLAMA = (LlamaConfig, SIZES)
GPT2 = (GPT2Config, {**GPT2_SIZES, **NO_DROPOUT})
ARCHITECTURES = [
    pytest.param(LLAMA, id="llama-random-weights"),
    pytest.param(GPT2, id="gpt2-random-weights"),
    pytest.param((Qwen2Config, SIZES), id="qwen2-random-weights"),
    pytest.param((Qwen3Config, {**SIZES, "head_dim": 8}), id="qwen3-random-weights"),
    pytest.param((Gemma3TextConfig, WINDOWED), id="gemma3-random-weights"),
]
TOP = TopLayersConfig(kind="top_layers", layers=2)
ADAPTERS = [
    pytest.param(LoraConfig(kind="lora", rank=4, layers=2), id="lora-2"),
    pytest.param(LoraConfig(kind="lora", rank=4), id="lora-all"),
]
LEARNING_RATE = 3e-3
NUM_STEPS = 4


def new_model(architecture: Any) -> PreTrainedModel:
    kind, sizes = architecture
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(kind(**sizes))
    model.requires_grad_(False)
    model.eval()
    return model


def new_config(part: Any) -> LearnerConfig:
    return LearnerConfig(
        trainable=part,
        learning_rate=LEARNING_RATE,
        schedule="linear",
        weight_decay=0.1,
        max_grad_norm=0.5,
    )


def new_stack(
    num_learners: int, architecture: Any = LLAMA, part: Any = TOP, precision: Precision = "float32"
) -> StackedCausalLmLearners:
    return build_stacked_learners(
        new_model(architecture),
        new_config(part),
        num_learners=num_learners,
        precision=precision,
        seed=0,
    )


def new_learner(
    architecture: Any = LLAMA, part: Any = TOP, precision: Precision = "float32"
) -> CausalLmLearner:
    return build_learner(new_model(architecture), new_config(part), precision=precision, seed=0)


@pytest.fixture
def rows(random_rows: Make, random_text: Make) -> list[EncodedRow]:
    """Plain rows of many lengths and, last, two interpolated ones."""
    rng = np.random.default_rng(1)
    mixed = [
        mixed_row("a", random_text(rng, 3, 4), random_text(rng, 9, 8), weight=0.3, pad=0),
        mixed_row("b", random_text(rng, 5, 9), random_text(rng, 2, 30), weight=0.8, pad=0),
    ]
    return [*random_rows(14), *mixed]


def draw_steps(rows: Sequence[EncodedRow], num_learners: int) -> list[Batches]:
    """Batches of one to five rows; each learner but the first is idle at a step of its own."""
    rng = np.random.default_rng(2)

    def draw(step: int, learner: int) -> list[EncodedRow] | None:
        drawn = rng.choice(len(rows), size=rng.integers(1, 6), replace=False)
        return None if learner == step + 1 else [rows[i] for i in drawn]

    return [[draw(step, e) for e in range(num_learners)] for step in range(NUM_STEPS)]


def progress_of(step: int, num_learners: int) -> list[float]:
    return [(step + 0.1 * learner) / NUM_STEPS for learner in range(num_learners)]


def together(stack: StackedLearners, steps: Sequence[Batches]) -> list[list[UpdateStats | None]]:
    """[steps][E] what each update reports."""
    return [
        stack.update(batches, progress=progress_of(step, stack.num_learners))
        for step, batches in enumerate(steps)
    ]


def alone(
    learner: CausalLmLearner, steps: Sequence[Batches], index: int
) -> list[UpdateStats | None]:
    """[steps] what each update of one of them reports."""
    reported: list[UpdateStats | None] = []
    for step, batches in enumerate(steps):
        batch = batches[index]
        progress = progress_of(step, len(batches))[index]
        reported.append(None if batch is None else learner.update(batch, progress=progress))
    return reported


def losses_of(reported: Sequence[UpdateStats | None]) -> list[float]:
    """The losses; minus one where there was no step."""
    return [-1.0 if stats is None else stats.loss for stats in reported]


def parameters_of(snapshot: object) -> list[torch.Tensor]:
    assert isinstance(snapshot, LearnerSnapshot)
    return snapshot.parameters


def cost_of(reported: UpdateStats | Evaluation | None) -> Cost | None:
    """What it says it cost, seconds aside."""
    return None if reported is None else reported.cost._replace(seconds=0.0)


def tensors_of(snapshot: object) -> list[torch.Tensor]:
    """Parameters, moments and counts of steps."""
    assert isinstance(snapshot, LearnerSnapshot)
    moments = [value for state in snapshot.optimizer["state"].values() for value in state.values()]
    return [*snapshot.parameters, *moments, torch.tensor(snapshot.num_updates)]


def same(first: object, second: object) -> bool:
    """Whether all that an update changes is equal to the bit."""
    return all(map(torch.equal, tensors_of(first), tensors_of(second)))


def assert_same_evaluation(found: Evaluation, expected: Evaluation) -> None:
    assert found.loss == pytest.approx(expected.loss, rel=1e-4)
    np.testing.assert_allclose(found.item_losses, expected.item_losses, rtol=1e-4)
    assert found.item_exact.tolist() == expected.item_exact.tolist()


def assert_same_parameters(found: object, expected: object) -> None:
    """Up to 4 % of one AdamW step: it divides a gradient by its size, and some are rounding."""
    for a, b in zip(parameters_of(found), parameters_of(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=0.04 * LEARNING_RATE)


def assert_learned_as_alone(
    stack: StackedCausalLmLearners,
    make: Callable[[], CausalLmLearner],
    rows: Sequence[EncodedRow],
) -> None:
    """Every update, the evaluation after the last and the parameters then."""
    steps = draw_steps(rows, stack.num_learners)
    stack.evaluate(rows, learners=[0])  # here and below: frozen layers compute the same batches
    updates = together(stack, steps)
    evaluations = stack.evaluate(rows, learners=range(stack.num_learners))
    for index, evaluation in enumerate(evaluations):
        learner = make()
        learner.evaluate(rows)
        found = [reported[index] for reported in updates]
        assert losses_of(found) == pytest.approx(losses_of(alone(learner, steps, index)), rel=1e-4)
        assert_same_evaluation(evaluation, learner.evaluate(rows))
        assert_same_parameters(stack.snapshot(index), learner.snapshot())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_two_learners_learn_what_each_learns_alone(
    architecture: Any, rows: list[EncodedRow]
) -> None:
    assert_learned_as_alone(new_stack(2, architecture), lambda: new_learner(architecture), rows)


@pytest.mark.parametrize("num_learners", [1, 5])
def test_any_number_learns_what_each_learns_alone(
    num_learners: int, rows: list[EncodedRow]
) -> None:
    assert_learned_as_alone(new_stack(num_learners), new_learner, rows)


@pytest.mark.parametrize("architecture", [LLAMA, GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("part", ADAPTERS)
def test_adapters_learn_what_each_learns_alone(
    part: Any, architecture: Any, rows: list[EncodedRow]
) -> None:
    stack = new_stack(2, architecture, part)
    assert_learned_as_alone(stack, lambda: new_learner(architecture, part), rows)


@pytest.mark.parametrize("architecture", [LLAMA, GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("part", [TOP, *ADAPTERS])
def test_bfloat16_rounds_together_as_alone(
    part: Any, architecture: Any, rows: list[EncodedRow]
) -> None:
    stack = new_stack(2, architecture, part, "bfloat16")
    learner = new_learner(architecture, part, "bfloat16")
    steps = draw_steps(rows, 2)
    stack.evaluate(rows, learners=[0])
    learner.evaluate(rows)

    found = losses_of([reported[1] for reported in together(stack, steps)])

    assert found == pytest.approx(losses_of(alone(learner, steps, 1)), rel=1e-3)


@pytest.mark.parametrize("architecture", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_autocast_reaches_every_stacked_product(architecture: Any, rows: list[EncodedRow]) -> None:
    stack = new_stack(2, architecture, TOP, "bfloat16")

    with Products() as products:
        stack.evaluate(rows, learners=[0, 1])

    assert products.types == {torch.bfloat16}


class Products(TorchDispatchMode):
    """Notes the element types of batched products' results."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.types: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.bmm.default, torch.ops.aten.baddbmm.default):
            self.types.add(out.dtype)
        return out


def test_learners_that_are_idle_stay_as_they_are_to_the_bit(rows: list[EncodedRow]) -> None:
    stack = new_stack(3)
    together(stack, draw_steps(rows, 3)[:1])
    before = [stack.snapshot(index) for index in range(3)]

    stats = stack.update([None, rows[:3], None], progress=[0.5, 0.5, 0.5])

    unchanged = [same(before[index], stack.snapshot(index)) for index in range(3)]
    assert [one is None for one in stats] == [True, False, True]
    assert unchanged == [True, False, True]


def test_nobody_steps_when_all_are_idle() -> None:
    assert new_stack(2).update([None, None], progress=[0.0, 0.0]) == [None, None]


def test_a_learner_that_breaks_reports_nan_and_touches_neither_itself_nor_others(
    rows: list[EncodedRow],
) -> None:
    steps = draw_steps(rows, 3)[1:4]  # the middle one steps three times
    steps = [[batch or rows[:2] for batch in batches] for batches in steps]
    broken, whole = new_stack(3), new_stack(3)
    for stack in (broken, whole):
        stack.evaluate(rows, learners=[0])
    start = broken.snapshot(1)
    parameters_of(start)[0][0, 0] = math.inf
    broken.restore(1, start)

    found, expected = together(broken, steps), together(whole, steps)

    assert all(math.isnan(reported[1].loss) for reported in found if reported[1])
    assert same(broken.snapshot(1), start)
    for index in (0, 2):
        assert same(broken.snapshot(index), whole.snapshot(index))
        assert losses_of([r[index] for r in found]) == losses_of([r[index] for r in expected])


def test_a_learner_goes_on_after_a_batch_that_broke_it(rows: list[EncodedRow]) -> None:
    stack, untouched = new_stack(2), new_stack(2)
    good, step = stack.snapshot(0), draw_steps(rows, 2)[2]
    bad = stack.snapshot(0)
    parameters_of(bad)[0].fill_(math.nan)
    stack.restore(0, bad)
    stack.update([rows[:2], None], progress=[0.0, 0.0])

    stack.restore(0, good)

    assert losses_of(stack.update(step, progress=[0, 0])) == losses_of(
        untouched.update(step, progress=[0, 0])
    )


def test_restore_undoes_every_update_of_one_learner_exactly(rows: list[EncodedRow]) -> None:
    steps = draw_steps(rows, 2)
    stack = new_stack(2)
    together(stack, steps[:2])
    saved = [stack.snapshot(index) for index in range(2)]
    first = [losses_of(reported) for reported in together(stack, steps[2:])]
    ended = stack.snapshot(1)

    stack.restore(0, saved[0])

    assert same(stack.snapshot(0), saved[0])
    assert same(stack.snapshot(1), ended)
    stack.restore(1, saved[1])
    assert [losses_of(reported) for reported in together(stack, steps[2:])] == first


def test_a_snapshot_makes_another_learner_equal(rows: list[EncodedRow]) -> None:
    stack = new_stack(2)
    together(stack, draw_steps(rows, 2)[:3])

    stack.restore(1, stack.snapshot(0))

    first, second = stack.update([rows[:4], rows[:4]], progress=[0.5, 0.5])
    assert losses_of([first]) == losses_of([second])
    assert_same_parameters(stack.snapshot(0), stack.snapshot(1))
    evaluations = stack.evaluate(rows, learners=[0, 1])
    assert_same_evaluation(*evaluations)


def test_a_snapshot_of_a_lone_learner_is_one_of_these(rows: list[EncodedRow]) -> None:
    learner, stack = new_learner(), new_stack(2)
    learner.evaluate(rows)
    stack.evaluate(rows, learners=[0])
    learner.update(rows[:3], progress=0.0)

    stack.restore(1, learner.snapshot())

    learner.update(rows[3:6], progress=0.1)
    stack.update([None, rows[3:6]], progress=[0.0, 0.1])
    assert_same_parameters(stack.snapshot(1), learner.snapshot())


def test_evaluations_come_in_the_order_asked(rows: list[EncodedRow]) -> None:
    stack = new_stack(3)
    together(stack, draw_steps(rows, 3)[:2])
    in_order = stack.evaluate(rows, learners=[0, 1, 2])

    last, first = stack.evaluate(rows, learners=[2, 0])

    assert first.loss == pytest.approx(in_order[0].loss, rel=1e-5)
    assert last.loss == pytest.approx(in_order[2].loss, rel=1e-5)
    assert in_order[0].loss != pytest.approx(in_order[2].loss, rel=1e-5)


def test_an_evaluation_changes_nothing(rows: list[EncodedRow]) -> None:
    stack = new_stack(2)
    before = [stack.snapshot(index) for index in range(2)]

    stack.evaluate(rows, learners=[1])

    assert all(same(before[index], stack.snapshot(index)) for index in range(2))


@pytest.mark.parametrize("part", [TOP, *ADAPTERS])
def test_each_is_charged_as_if_it_ran_alone(part: Any, rows: list[EncodedRow]) -> None:
    steps, stack = draw_steps(rows, 3), new_stack(3, part=part)
    updates = together(stack, steps)
    evaluations = stack.evaluate(rows, learners=[0, 1, 2])

    for index in range(3):
        learner = new_learner(part=part)
        expected = alone(learner, steps, index)
        assert [cost_of(reported[index]) for reported in updates] == [*map(cost_of, expected)]
        assert cost_of(evaluations[index]) == cost_of(learner.evaluate(rows))


@pytest.mark.parametrize("part", [TOP, *ADAPTERS])
def test_a_new_account_makes_every_learner_pay_again(part: Any, rows: list[EncodedRow]) -> None:
    stack = new_stack(2, part=part)
    first = [*map(cost_of, stack.evaluate(rows, learners=[0, 1]))]

    stack.open_account()

    assert [*map(cost_of, stack.evaluate(rows, learners=[0, 1]))] == first


def test_those_that_take_part_share_the_seconds(
    rows: list[EncodedRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = new_stack(3)
    ticks = itertools.count(step=6.0)
    monkeypatch.setattr("raise_mdit.learners.stacked.time.perf_counter", lambda: next(ticks))

    first, second, idle = stack.update([rows[:2], rows[2:4], None], progress=[0, 0, 0])
    evaluations = stack.evaluate(rows, learners=[0, 1, 2])

    assert first is not None
    assert second is not None
    assert idle is None
    assert [first.cost.seconds, second.cost.seconds] == [3.0, 3.0]
    assert [evaluation.cost.seconds for evaluation in evaluations] == [2.0, 2.0, 2.0]


def test_training_every_layer_is_refused() -> None:
    with pytest.raises(ModelError, match=r"learner.trainable.kind: .* full trains all"):
        new_stack(2, part=FullConfig(kind="full"))


@pytest.mark.parametrize(
    ("architecture", "part"),
    [
        pytest.param(LLAMA, LoraConfig(kind="lora", dropout=0.5), id="of-adapters"),
        pytest.param((GPT2Config, {**GPT2_SIZES, "resid_pdrop": 0.5}), TOP, id="of-the-model"),
        pytest.param((LlamaConfig, {**SIZES, "attention_dropout": 0.5}), TOP, id="of-attention"),
    ],
)
def test_dropout_is_refused(architecture: Any, part: Any) -> None:
    with pytest.raises(ModelError, match=r"dropout of 0.5 would be drawn for all"):
        new_stack(2, architecture, part)


def test_modules_that_cannot_be_stacked_are_refused() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return first + self.weight * second

    with pytest.raises(ModelError, match="Gate has trained parameters and is neither"):
        ParameterStack(nn.ModuleList([Gate()]), num_learners=2)
