"""Label smoothing and embedding noise against dense labels and hand-made inputs.

A gradient is read off AdamW: after the first step its first moment is a tenth of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from raise_mdit.config import FullConfig, LearnerConfig, LoraConfig, TopLayersConfig
from raise_mdit.core import EncodedRow
from raise_mdit.encoding import mixed_row
from raise_mdit.errors import ModelError
from raise_mdit.learners import causal_lm, losses
from raise_mdit.learners.adamw import LearnerSnapshot
from raise_mdit.learners.causal_lm import CausalLmLearner, build_learner
from raise_mdit.learners.embedding_noise import draw_noise
from raise_mdit.learners.stacked import build_stacked_learners
from raise_mdit.learners.trainable import make_trainable

Make = Callable[..., Any]

FULL = FullConfig(kind="full")
LORA = LoraConfig(kind="lora", rank=4)
LORA_ON_TOP = LoraConfig(kind="lora", rank=4, layers=2)
TOP = TopLayersConfig(kind="top_layers", layers=2)
NUM_WORDS = 107
WIDTH = 32  # of the small random model
MOMENTUM = 0.9  # AdamW's default, of the first moment
SEED = 3
ALPHA = 5.0


def config(part: Any, **controls: Any) -> LearnerConfig:
    return LearnerConfig(trainable=part, learning_rate=1e-2, max_grad_norm=1e9, **controls)


def learner(model: Any, part: Any = FULL, *, seed: int = SEED, **controls: Any) -> CausalLmLearner:
    return build_learner(model, config(part, **controls), precision="float32", seed=seed)


@pytest.fixture
def rows(random_rows: Make, random_text: Make) -> list[EncodedRow]:
    """Plain rows and, last, two interpolated ones."""
    rng = np.random.default_rng(1)
    mixed = [
        mixed_row(f"mixed-{w}", random_text(rng, 3, 4), random_text(rng, 9, 8), weight=w, pad=0)
        for w in (0.3, 0.8)
    ]
    return [*random_rows(4), *mixed]


def gradients_of(tuned: CausalLmLearner) -> list[torch.Tensor]:
    """Of the first update, which was the last."""
    states = sorted(tuned.snapshot().optimizer["state"].items())
    return [state["exp_avg"] / (1 - MOMENTUM) for _, state in states]


def assert_same_gradients(
    tuned: CausalLmLearner, expected: Sequence[torch.Tensor], *, rel: float = 1e-5
) -> None:
    for found, gradient in zip(gradients_of(tuned), expected, strict=True):
        assert float((found - gradient).norm()) <= rel * float(gradient.norm())


# --- Label smoothing


def smoothed_label(row: EncodedRow, smoothing: float) -> torch.Tensor:
    """[S, V] each label's mass, a share of it on every word alike."""
    hot_S2V = nn.functional.one_hot(torch.tensor(row.targets), NUM_WORDS)
    label_SV = (torch.tensor(row.target_weights)[:, :, None] * hot_S2V).sum(1)
    even_SV = label_SV.sum(1, keepdim=True).expand(-1, NUM_WORDS) / NUM_WORDS
    return (1 - smoothing) * label_SV + smoothing * even_SV


def embeddings(model: Any, row: EncodedRow) -> torch.Tensor:
    """[T, H] interpolated where the row is."""
    table = model.get_input_embeddings()
    first: torch.Tensor = table(torch.tensor(row.ids))
    if row.partner_ids is None:
        return first
    second: torch.Tensor = table(torch.tensor(row.partner_ids))
    return row.mix * first + (1 - row.mix) * second


def log_probs(model: Any, embeds_TH: torch.Tensor, row: EncodedRow) -> torch.Tensor:
    """[S, V] by the model's own forward pass."""
    logits_TV: torch.Tensor = model(inputs_embeds=embeds_TH[None]).logits[0]
    return logits_TV[row.scored].log_softmax(-1)


@pytest.mark.parametrize("part", [FULL, LORA], ids=["full", "lora"])
def test_smoothed_labels_of_plain_rows_are_those_of_torch(
    part: Any, random_llama: Make, random_rows: Make
) -> None:
    rows, model = random_rows(5), random_llama()
    parameters = make_trainable(model, part, precision="float32", seed=SEED).parameters
    logits_SV = torch.cat(
        [model(torch.tensor(row.ids)[None]).logits[0, row.scored] for row in rows]
    )
    targets_S = torch.from_numpy(np.concatenate([row.targets[:, 0] for row in rows]))
    expected = nn.functional.cross_entropy(logits_SV, targets_S, label_smoothing=0.1)
    gradients = torch.autograd.grad(expected, parameters)
    tuned = learner(random_llama(), part, label_smoothing=0.1)

    loss = tuned.update(rows, progress=0.0).loss

    assert loss == pytest.approx(expected.item(), rel=1e-6)
    assert_same_gradients(tuned, gradients)


@pytest.mark.parametrize("positions", [1, 3, 1000])
def test_smoothed_labels_of_interpolated_rows_keep_their_mass(
    positions: int, random_llama: Make, rows: list[EncodedRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CHUNK_LOGITS", positions * NUM_WORDS)
    model = random_llama().requires_grad_(True)
    labels = [smoothed_label(row, 0.3) for row in rows]
    sums = [
        -(label * log_probs(model, embeddings(model, row), row)).sum()
        for label, row in zip(labels, rows, strict=True)
    ]
    expected = torch.stack(sums).sum() / sum(float(row.target_weights.sum()) for row in rows)
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    tuned = learner(random_llama(), label_smoothing=0.3)

    loss = tuned.update(rows, progress=0.0).loss

    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert_same_gradients(tuned, gradients)


@pytest.mark.parametrize("part", [LORA, LORA_ON_TOP, TOP], ids=["lora", "lora-on-top", "top"])
def test_learners_that_step_together_smooth_as_each_does_alone(
    part: Any, random_llama: Make, rows: list[EncodedRow]
) -> None:
    batches = [rows[:2], rows[1:]]  # the first is filled up with a row that is not scored
    settings = config(part, label_smoothing=0.2)
    stack = build_stacked_learners(
        random_llama(), settings, num_learners=2, precision="float32", seed=SEED
    )
    stack.evaluate(rows, learners=[0])  # here and below: frozen layers compute the same batches

    found = [stack.update(batches, progress=[0.0, 0.0]) for _ in range(3)]

    for index, batch in enumerate(batches):
        alone = learner(random_llama(), part, label_smoothing=0.2)
        alone.evaluate(rows)
        expected = [alone.update(batch, progress=0.0).loss for _ in range(3)]
        reported = [step[index] for step in found]
        assert [one.loss for one in reported if one] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("control", [{"label_smoothing": 0.3}, {"embedding_noise": ALPHA}])
def test_evaluation_knows_no_control(
    control: Any, random_llama: Make, rows: list[EncodedRow]
) -> None:
    plain, controlled = learner(random_llama()), learner(random_llama(), **control)

    found, expected = controlled.evaluate(rows), plain.evaluate(rows)

    assert found.item_losses.tolist() == expected.item_losses.tolist()


def test_stacked_evaluation_knows_no_smoothing(random_llama: Make, rows: list[EncodedRow]) -> None:
    plain, smoothed = (
        build_stacked_learners(
            random_llama(),
            config(TOP, label_smoothing=smoothing),
            num_learners=2,
            precision="float32",
            seed=SEED,
        ).evaluate(rows, learners=[0, 1])
        for smoothing in (0.0, 0.3)
    )

    assert [each.loss for each in smoothed] == [each.loss for each in plain]


class MeansOverWords(TorchDispatchMode):
    """Counts means over the vocabulary."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.mean.dim and args[0].shape[-1] == NUM_WORDS:
            self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("smoothing", "means"), [(0.0, 0), (0.1, 1)])
def test_labels_that_are_not_smoothed_cost_nothing_more(
    smoothing: float,
    means: int,
    random_llama: Make,
    rows: list[EncodedRow],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(causal_lm, "BUCKET_OVERHEAD", {"cpu": 10**9})  # one batch
    tuned = learner(random_llama(), label_smoothing=smoothing)

    with MeansOverWords() as counted:
        tuned.update(rows, progress=0.0)

    assert counted.count == means


# --- Embedding noise


def draw(rows: Sequence[EncodedRow], *, alpha: float = ALPHA, seed: int = 0) -> torch.Tensor:
    return draw_noise(rows, alpha=alpha, size=WIDTH, rng=np.random.default_rng(seed))


def test_noise_fills_its_bounds_evenly(random_rows: Make) -> None:
    rows = random_rows(40)

    noise_BTH = draw(rows)

    for row, noise_TH in zip(rows, noise_BTH, strict=True):
        bound = ALPHA / np.sqrt(row.num_tokens * WIDTH)  # of the row alone, not of the batch
        own = noise_TH[: row.num_tokens] / bound
        assert own.abs().max() <= 1.0
        assert own.min() < -0.9
        assert own.max() > 0.9
    spread = torch.cat(
        [
            noise[: row.num_tokens].flatten() * np.sqrt(row.num_tokens * WIDTH) / ALPHA
            for row, noise in zip(rows, noise_BTH, strict=True)
        ]
    )
    error = 4 / np.sqrt(spread.numel())  # four standard errors and more
    assert spread.mean().item() == pytest.approx(0.0, abs=error)
    assert spread.square().mean().item() == pytest.approx(1 / 3, abs=error)


def test_padding_has_no_noise(random_rows: Make) -> None:
    rows = random_rows(6)

    noise_BTH = draw(rows)

    assert noise_BTH.shape == (6, max(row.num_tokens for row in rows), WIDTH)
    for row, noise_TH in zip(rows, noise_BTH, strict=True):
        assert noise_TH[: row.num_tokens].ne(0).all()
        assert noise_TH[row.num_tokens :].eq(0).all()


def test_noise_does_not_depend_on_how_rows_are_cut_into_batches(random_rows: Make) -> None:
    rows, rng = random_rows(6), np.random.default_rng(0)

    together = draw(rows)

    for row, noise_TH in zip(rows, together, strict=True):
        alone = draw_noise([row], alpha=ALPHA, size=WIDTH, rng=rng)[0]
        assert torch.equal(noise_TH[: row.num_tokens], alone)


@pytest.mark.parametrize("part", [FULL, LORA], ids=["full", "lora"])
def test_training_reads_embeddings_with_the_noise_of_its_own_stream(
    part: Any, random_llama: Make, rows: list[EncodedRow]
) -> None:
    model = random_llama()
    parameters = make_trainable(model, part, precision="float32", seed=SEED).parameters
    by_length = sorted(rows, key=lambda row: row.num_tokens)
    rng = np.random.default_rng((SEED, 0))  # of the first update
    sums = []
    for row in by_length:
        bound = ALPHA / np.sqrt(row.num_tokens * WIDTH)
        drawn = torch.from_numpy(rng.random((row.num_tokens, WIDTH), np.float32))
        noisy = embeddings(model, row) + bound * (2 * drawn - 1)
        sums.append(-(smoothed_label(row, 0.0) * log_probs(model, noisy, row)).sum())
    expected = torch.stack(sums).sum() / sum(float(row.target_weights.sum()) for row in rows)
    gradients = torch.autograd.grad(expected, parameters)
    tuned = learner(random_llama(), part, embedding_noise=ALPHA)

    loss = tuned.update(rows, progress=0.0).loss

    assert loss == pytest.approx(expected.item(), rel=1e-6)
    assert_same_gradients(tuned, gradients)
    untouched = learner(random_llama(), part).update(rows, progress=0.0).loss
    assert loss != pytest.approx(untouched, rel=1e-4)


def test_noise_is_drawn_anew_at_each_step_and_repeated_after_restoring(
    random_llama: Make, rows: list[EncodedRow]
) -> None:
    tuned = learner(random_llama(), embedding_noise=ALPHA)
    start = tuned.snapshot()
    tuned.update(rows, progress=0.0)
    later = with_parameters_of(start, tuned.snapshot())
    tuned.restore(later)
    torch.rand(7)
    second = [tuned.update(rows, progress=0.0).loss for _ in range(2)]

    tuned.restore(later)

    assert [tuned.update(rows, progress=0.0).loss for _ in range(2)] == second
    tuned.restore(start)
    assert tuned.update(rows, progress=0.0).loss != pytest.approx(second[0], rel=1e-5)


def with_parameters_of(earlier: LearnerSnapshot, later: LearnerSnapshot) -> LearnerSnapshot:
    return LearnerSnapshot(earlier.parameters, later.optimizer, later.num_updates)


def test_another_seed_draws_other_noise(random_llama: Make, rows: list[EncodedRow]) -> None:
    first, second = (
        learner(random_llama(), seed=seed, embedding_noise=ALPHA).update(rows, progress=0.0).loss
        for seed in (1, 2)
    )

    assert first != pytest.approx(second, rel=1e-5)


def test_noise_leaves_the_global_generator_alone(
    random_llama: Make, rows: list[EncodedRow]
) -> None:
    tuned = learner(random_llama(), embedding_noise=ALPHA)
    before = torch.get_rng_state()

    tuned.update(rows, progress=0.0)

    assert torch.equal(torch.get_rng_state(), before)


def test_without_noise_none_is_drawn(
    random_llama: Make, rows: list[EncodedRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causal_lm, "draw_noise", lambda *_, **__: pytest.fail("it was drawn"))

    learner(random_llama(), embedding_noise=0.0).update(rows, progress=0.0)


@pytest.mark.parametrize("part", [FULL, LORA], ids=["full", "lora"])
def test_controls_cost_no_operations(part: Any, random_llama: Make, rows: list[EncodedRow]) -> None:
    models = [random_llama() for _ in range(2)]
    for model in models:
        model.set_attn_implementation("eager")  # torch does not count the fused one on a CPU
    plain = learner(models[0], part).update(rows, progress=0.0)
    tuned = learner(models[1], part, label_smoothing=0.1, embedding_noise=ALPHA)

    with FlopCounterMode(display=False) as counted:
        controlled = tuned.update(rows, progress=0.0)

    assert controlled.cost.flops == plain.cost.flops
    assert controlled.cost.flops == pytest.approx(counted.get_total_flops(), rel=0.001)


@pytest.mark.parametrize("part", [LORA_ON_TOP, TOP], ids=["lora-on-top", "top"])
def test_noise_below_frozen_layers_is_the_users_mistake(part: Any, random_llama: Make) -> None:
    message = r"^learner.embedding_noise: .* outputs of the 2 frozen layers are computed once"
    with pytest.raises(ModelError, match=message):
        learner(random_llama(), part, embedding_noise=ALPHA)


def test_noise_of_learners_that_step_together_is_the_users_mistake(random_llama: Make) -> None:
    settings = config(LORA, embedding_noise=ALPHA)
    with pytest.raises(ModelError, match=r"^learner.embedding_noise: .* parallel_episodes to 1"):
        build_stacked_learners(
            random_llama(), settings, num_learners=2, precision="float32", seed=SEED
        )
