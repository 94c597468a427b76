"""Training on interpolated rows against plain training and against dense soft labels.

A gradient is read off AdamW: after the first step its first moment is a tenth of it. The dense side
is the model's own forward pass over one row at a time, a label for every word of the vocabulary,
and autograd. Weights are random; the models are Llama where nothing else is said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig, GPT2Config

from raise_mdit.config import FullConfig, LearnerConfig, LoraConfig, TopLayersConfig
from raise_mdit.core import EncodedRow
from raise_mdit.encoding import TextRow, mixed_row, plain_row
from raise_mdit.learners import causal_lm
from raise_mdit.learners.batches import collate
from raise_mdit.learners.causal_lm import CausalLmLearner, build_learner
from raise_mdit.learners.forward import LayeredForward, Precision
from raise_mdit.learners.trainable import make_trainable

Make = Callable[..., Any]
CPU = torch.device("cpu")

FULL = FullConfig(kind="full")
LORA = LoraConfig(kind="lora", rank=4)
LORA_ON_TOP = LoraConfig(kind="lora", rank=4, layers=2)
TOP = TopLayersConfig(kind="top_layers", layers=2)
MOMENTUM = 0.9  # AdamW's default, of the first moment
LEARNING_RATE = 1e-4
PAD = 0
NUM_WORDS = 107
WEIGHTS = (0.2, 0.37, 0.5, 0.9)


class Case(NamedTuple):
    """What is trained, in which arithmetic, and whether frozen layers are read from the cache."""

    part: Any
    precision: Precision
    cached: bool

    @property
    def tolerances(self) -> tuple[float, float]:
        """Of the loss and of gradients, relative.

        Where something is rounded to bfloat16, three times the largest error measured here (CPU):
        6.5e-4 and 0.016 under autocast, 4.2e-5 and 0.0029 from cached states.
        """
        if self.precision == "bfloat16":
            return 2e-3, 0.05
        return (1.5e-4, 0.009) if self.cached else (1e-5, 1e-5)


FULL_CASE = Case(FULL, "float32", cached=False)
each_case = pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(part, precision, cached), id=f"{name}-{precision}")
        for precision in ("float32", "bfloat16")
        for name, part, cached in (
            ("full", FULL, False),
            ("lora", LORA, False),
            ("lora-on-top", LORA_ON_TOP, False),
            ("lora-on-top-cached", LORA_ON_TOP, True),
            ("top_layers", TOP, False),
            ("top_layers-cached", TOP, True),
        )
        if cached or precision == "float32" or part in (FULL, LORA)
    ],
)
each_head = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])

SIZES: dict[str, Any] = {
    "vocab_size": NUM_WORDS,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": 4,
    "max_position_embeddings": 64,
    "pad_token_id": PAD,
}
GPT2_SIZES: dict[str, Any] = {
    "vocab_size": NUM_WORDS,
    "n_embd": 32,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 64,
    "attn_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
}
OTHER_ARCHITECTURES = [
    pytest.param(GPT2Config, GPT2_SIZES, id="gpt2-random-weights"),
    pytest.param(Gemma2Config, SIZES, id="gemma2-random-weights"),
    pytest.param(Gemma3TextConfig, SIZES, id="gemma3-random-weights"),
]
each_other_architecture = pytest.mark.parametrize(("kind", "sizes"), OTHER_ARCHITECTURES)


@torch.no_grad()
def sharpened(model: Any) -> Any:
    """Larger weights, so that losses depend on them; and a pad token's embedding that is not 0."""
    for weight in model.parameters():
        if weight.dim() == 2:
            weight.mul_(6.0)
    table = model.get_input_embeddings().weight
    table[PAD] = table[7] - table[8]
    return model


@pytest.fixture
def new_model(random_llama: Make) -> Make:
    """Makes the same small Llama each time."""
    return lambda *, tied=True: sharpened(random_llama(tied=tied))


def other_model(kind: Any, sizes: dict[str, Any]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(kind(**sizes))
    return sharpened(model.requires_grad_(False).eval())


@pytest.fixture
def pairs(random_text: Make) -> list[tuple[TextRow, TextRow]]:
    """Parents, of which either has the longer prompt or response."""
    rng = np.random.default_rng(4)
    lengths = [((3, 4), (9, 8)), ((6, 9), (2, 3)), ((2, 7), (8, 2)), ((5, 2), (4, 9))]
    return [(random_text(rng, *first), random_text(rng, *second)) for first, second in lengths]


@pytest.fixture
def mixed_rows(pairs: list[tuple[TextRow, TextRow]]) -> list[EncodedRow]:
    return [mixed(*pair, weight) for pair, weight in zip(pairs, WEIGHTS, strict=True)]


def mixed(first: TextRow, second: TextRow, weight: float) -> EncodedRow:
    return mixed_row(f"mixed-{weight}", first, second, weight=weight, pad=PAD)


# --- Two ways to a loss and its gradients


class Step(NamedTuple):
    """What one update did."""

    loss: float
    gradients: list[torch.Tensor]
    """Of every trained parameter."""
    parameters: list[torch.Tensor]
    """After it."""


def start_adapters(parameters: Sequence[torch.Tensor], part: Any) -> None:
    """Away from zero, where half of their gradients would be zero too."""
    if isinstance(part, LoraConfig):
        rng = np.random.default_rng(7)
        for weight in parameters:
            weight.data.copy_(torch.from_numpy(0.1 * rng.standard_normal(weight.shape)))


def learner(model: Any, case: Case) -> CausalLmLearner:
    config = LearnerConfig(trainable=case.part, learning_rate=LEARNING_RATE, max_grad_norm=1e9)
    built = build_learner(model, config, precision=case.precision, seed=0)
    start_adapters(built.part.parameters, case.part)
    if case.cached or built.trunk_cache is None:
        return built
    return CausalLmLearner(built.part, flops=built.flops, cache=None, config=config, seed=0)


def step(tuned: CausalLmLearner, rows: Sequence[EncodedRow]) -> Step:
    """The learner's first; then it is as it was."""
    before = tuned.snapshot()
    loss = tuned.update(rows, progress=0.0).loss
    after = tuned.snapshot()
    tuned.restore(before)
    moments = [state["exp_avg"] for _, state in sorted(after.optimizer["state"].items())]
    assert len(moments) == len(after.parameters)
    return Step(loss, [moment / (1 - MOMENTUM) for moment in moments], after.parameters)


def dense_step(
    model: Any, case: Case, rows: Sequence[EncodedRow]
) -> tuple[float, list[torch.Tensor]]:
    """The loss over label mass and its gradients, with no pass of the learner's."""
    parameters = make_trainable(model, case.part, precision="float32", seed=0).parameters
    start_adapters(parameters, case.part)
    total, mass = torch.zeros(()), 0.0
    for row in rows:
        embeds = dense_embeddings(model, row)
        label = dense_label(row)
        log_probs = dense_log_probs(model, embeds, case.precision)[row.scored]
        total = total - (label * log_probs).sum()
        mass += float(label.sum())
    loss = total / mass
    return loss.item(), list(torch.autograd.grad(loss, parameters))


def dense_embeddings(model: Any, row: EncodedRow) -> torch.Tensor:
    """[T, H] by the model's own table, whose pad token gets no gradient from being looked up."""
    table = model.get_input_embeddings()
    first: torch.Tensor = table(torch.tensor(row.ids))
    if row.partner_ids is None:
        return first
    second: torch.Tensor = table(torch.tensor(row.partner_ids))
    return row.mix * first + (1 - row.mix) * second


def dense_label(row: EncodedRow) -> torch.Tensor:
    """[S, V] the interpolated one-hot labels."""
    hot_S2V = nn.functional.one_hot(torch.tensor(row.targets), NUM_WORDS).float()
    return (torch.tensor(row.target_weights)[:, :, None] * hot_S2V).sum(1)


def dense_log_probs(model: Any, embeds_TH: torch.Tensor, precision: Precision) -> torch.Tensor:
    """[T, V] the full softmax at every position."""
    arithmetic: AbstractContextManager[object] = nullcontext()
    if precision == "bfloat16":
        arithmetic = torch.autocast("cpu", torch.bfloat16)
    with arithmetic:
        logits_TV: torch.Tensor = model(inputs_embeds=embeds_TH[None]).logits[0]
    return logits_TV.float().softmax(-1).log()


def assert_same(
    found: Step, loss: float, gradients: Sequence[torch.Tensor], tolerances: tuple[float, float]
) -> None:
    """Gradients by norm, each parameter's own where nothing was rounded, else of all at once."""
    of_loss, of_gradients = tolerances
    assert found.loss == pytest.approx(loss, rel=of_loss)
    a, b = found.gradients, list(gradients)
    if of_gradients > 1e-5:
        a, b = ([torch.cat([each.flatten() for each in one])] for one in (a, b))
    assert max(float((x - y).norm() / y.norm()) for x, y in zip(a, b, strict=True)) < of_gradients


def assert_same_parameters(found: Step, expected: Step) -> None:
    """Within a tenth of one step: AdamW divides even the smallest gradients by their size."""
    for a, b in zip(found.parameters, expected.parameters, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0.1 * LEARNING_RATE)


# --- Plain training


@pytest.mark.parametrize("parent", [0, 1])
@each_case
def test_a_parent_without_a_share_has_no_part_in_training(
    case: Case,
    parent: int,
    new_model: Make,
    pairs: list[tuple[TextRow, TextRow]],
) -> None:
    texts = [pair[parent] for pair in pairs]
    others = np.random.default_rng(5)
    rows = [at_the_end(plain_row("x", text), parent, others) for text in texts]
    tuned = learner(new_model(), case)

    found = step(tuned, rows)

    expected = step(tuned, [plain_row("x", text) for text in texts])
    assert_same(found, expected.loss, expected.gradients, (1e-5, 1e-5))
    assert_same_parameters(found, expected)


def at_the_end(row: EncodedRow, parent: int, rng: np.random.Generator) -> EncodedRow:
    """As interpolation with lambda 1, or 0, that is computed as such; the other is of any words."""
    other = rng.integers(7, NUM_WORDS, row.num_tokens)
    ids = [row.ids, other][:: 1 - 2 * parent]
    targets = [row.targets[:, 0], other[row.scored]][:: 1 - 2 * parent]
    return replace(
        row,
        ids=ids[0],
        partner_ids=ids[1],
        mix=1.0 - parent,
        targets=np.stack(targets, axis=1),
        target_weights=row.target_weights[:, :: 1 - 2 * parent].copy(),
    )


@each_head
@each_case
def test_the_mean_of_a_row_and_itself_trains_as_the_row(
    case: Case, tied: bool, new_model: Make, pairs: list[tuple[TextRow, TextRow]]
) -> None:
    rows = [mixed(text, text, 0.5) for text, _ in pairs]  # halves are not rounded
    tuned = learner(new_model(tied=tied), case)

    found = step(tuned, rows)

    expected = step(tuned, [plain_row("x", text) for text, _ in pairs])
    assert_same(found, expected.loss, expected.gradients, (1e-5, 1e-5))
    assert_same_parameters(found, expected)


@each_case
def test_any_interpolation_of_a_row_and_itself_trains_as_the_row(
    case: Case, new_model: Make, pairs: list[tuple[TextRow, TextRow]]
) -> None:
    texts = [first for first, _ in pairs]
    rows = [mixed(text, text, weight) for text, weight in zip(texts, WEIGHTS, strict=True)]
    tuned = learner(new_model(), case)

    found = step(tuned, rows)

    expected = step(tuned, [plain_row("x", text) for text in texts])
    assert_same(found, expected.loss, expected.gradients, case.tolerances)


# --- Dense soft labels


@each_head
@each_case
def test_the_loss_and_its_gradients_are_those_of_dense_soft_labels(
    case: Case,
    tied: bool,
    new_model: Make,
    mixed_rows: list[EncodedRow],
    random_rows: Make,
) -> None:
    rows = [*mixed_rows, *random_rows(2)]

    found = step(learner(new_model(tied=tied), case), rows)

    assert_same(found, *dense_step(new_model(tied=tied), case, rows), case.tolerances)


@each_other_architecture
def test_other_architectures_learn_from_dense_soft_labels_too(
    kind: Any, sizes: Any, mixed_rows: list[EncodedRow]
) -> None:
    found = step(learner(other_model(kind, sizes), FULL_CASE), mixed_rows)

    loss, gradients = dense_step(other_model(kind, sizes), FULL_CASE, mixed_rows)
    assert_same(found, loss, gradients, FULL_CASE.tolerances)


@each_head
def test_a_row_that_is_aligned_by_hand_has_the_loss_of_its_dense_labels(
    tied: bool, new_model: Make
) -> None:
    first = TextRow(np.array([10, 11, 20, 21, 2]), np.array([0, 0, 1, 1, 1], np.bool_))
    second = TextRow(np.array([12, 13, 14, 30, 2]), np.array([0, 0, 0, 1, 1], np.bool_))
    table = new_model(tied=tied).get_input_embeddings().weight
    ids = torch.tensor([PAD, 10, 11, 20, 21, 2])  # one prompt token fewer: padded on the left
    partner_ids = torch.tensor([12, 13, 14, 30, 2, PAD])  # one response token fewer: on the right
    label = torch.zeros(3, NUM_WORDS)  # of the tokens behind positions 2, 3 and 4
    label[0, 20], label[0, 30] = 0.3, 0.7
    label[1, 21], label[1, 2] = 0.3, 0.7
    label[2, 2] = 0.3  # the second response has ended
    embeds = 0.3 * table[ids] + 0.7 * table[partner_ids]
    log_probs = dense_log_probs(new_model(tied=tied), embeds, "float32")[2:5]
    total = float(-(label * log_probs).sum())

    tuned = learner(new_model(tied=tied), FULL_CASE)
    row = mixed(first, second, 0.3)

    assert tuned.evaluate([row]).loss == pytest.approx(total / 3, rel=1e-5)  # a position's mean
    assert tuned.update([row], progress=0.0).loss == pytest.approx(total / 2.3, rel=1e-5)


@pytest.mark.parametrize("weight", WEIGHTS)
@each_other_architecture
def test_the_first_layer_reads_the_mix_of_what_it_reads_of_either_parent(
    kind: Any, sizes: Any, weight: float, pairs: list[tuple[TextRow, TextRow]]
) -> None:
    model, row = other_model(kind, sizes), mixed(*pairs[0], weight)
    assert row.partner_ids is not None
    forward = LayeredForward(model, split=0, precision="float32")
    first, second = (first_input(model, forward, ids) for ids in (row.ids, row.partner_ids))

    found = forward.trunk(forward.embed(collate([row], device=CPU)))

    torch.testing.assert_close(found, weight * first + (1 - weight) * second, rtol=1e-5, atol=1e-5)


def first_input(model: Any, forward: LayeredForward, ids: Any) -> torch.Tensor:
    """What the model, scaling or adding positions as it does, gives its first layer to read."""
    read: list[torch.Tensor] = []
    hook = forward.layers[0].register_forward_pre_hook(lambda _, args: read.append(args[0]))
    model(input_ids=torch.tensor(ids)[None])
    hook.remove()
    return read[0]


# --- Batches


@each_case
def test_a_rows_loss_does_not_depend_on_who_is_beside_it(
    case: Case, new_model: Make, mixed_rows: list[EncodedRow], random_text: Make
) -> None:
    rng = np.random.default_rng(6)
    short, long = (plain_row("other", random_text(rng, n, n)) for n in (2, 25))
    tuned = learner(new_model(), case)
    alone = [tuned.evaluate([row]).item_losses[0] for row in mixed_rows]

    for others in ([short] * 3, [short, long]):
        found = learner(new_model(), case).evaluate([*mixed_rows, *others]).item_losses

        np.testing.assert_allclose(found[: len(alone)], alone, rtol=case.tolerances[0])


@each_case
def test_a_batchs_gradient_is_the_mean_of_its_rows_own_by_label_mass(
    case: Case,
    new_model: Make,
    mixed_rows: list[EncodedRow],
    random_rows: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [*mixed_rows[:3], *random_rows(1)]
    masses = [float(row.target_weights.sum()) for row in rows]
    tuned = learner(new_model(), case)
    alone = [step(tuned, [row]) for row in rows]
    loss = np.average([each.loss for each in alone], weights=masses)
    of_parameters = zip(*(each.gradients for each in alone), strict=True)
    shares = [mass / sum(masses) for mass in masses]
    gradients = [
        torch.stack([share * own for share, own in zip(shares, each, strict=True)]).sum(0)
        for each in of_parameters
    ]
    for overhead in (0, 10**9):  # a group for each length, and one for all
        monkeypatch.setattr(causal_lm, "BUCKET_OVERHEAD", {"cpu": overhead})
        found = step(learner(new_model(), case), rows)

        assert_same(found, float(loss), gradients, case.tolerances)


@each_case
def test_exchanging_the_parents_and_their_shares_changes_nothing(
    case: Case,
    new_model: Make,
    pairs: list[tuple[TextRow, TextRow]],
    mixed_rows: list[EncodedRow],
) -> None:
    exchanged = [
        mixed(second, first, 1 - weight)
        for (first, second), weight in zip(pairs, WEIGHTS, strict=True)
    ]
    tuned = learner(new_model(), case)

    found = step(tuned, exchanged)

    expected = step(tuned, mixed_rows)
    assert_same(found, expected.loss, expected.gradients, case.tolerances)
