"""Measurements against plain transformers, and their cache."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from raise_mdit.core import Cost, EncodedRow
from raise_mdit.encoding import TextRow, plain_row
from raise_mdit.features import Measurements
from raise_mdit.learners.probe import measure, position_weighted_mean

Make = Callable[..., Any]

START = 1


class Untouchable:
    """Stands for a model that must not be run."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"the model was used: {name}")


@pytest.fixture
def probe(tmp_path: Path) -> Callable[..., tuple[Measurements, Cost]]:
    """Measures with a cache of this test's own."""
    return functools.partial(
        measure,
        digest="digest",
        start_token=START,
        precision="float32",
        cache=tmp_path,
        advance=lambda _done: None,
    )


def cached_files(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


def same(first: Measurements, second: Measurements) -> bool:
    return all(
        np.array_equal(getattr(first, name), getattr(second, name)) for name in first._fields
    )


def mean_log_prob(model: Any, ids: Sequence[int], scored: Sequence[int]) -> float:
    log_probs = model(input_ids=torch.tensor(ids)[None]).logits[0].log_softmax(-1)
    return float(np.mean([log_probs[position, ids[position + 1]].item() for position in scored]))


def test_the_conditional_log_prob_is_the_models_own(
    random_llama: Make, random_rows: Make, probe: Make
) -> None:
    model, rows = random_llama(), random_rows(9)

    measured, _ = probe(model, rows)

    expected = [mean_log_prob(model, row.ids.tolist(), row.scored) for row in rows]
    np.testing.assert_allclose(measured.conditional_log_prob, expected, rtol=1e-5)


def test_the_response_log_prob_reads_the_response_behind_a_start_token(
    random_llama: Make, random_rows: Make, probe: Make
) -> None:
    model, rows = random_llama(), random_rows(9)

    measured, _ = probe(model, rows)

    expected = []
    for row in rows:
        response = row.ids[row.scored[0] + 1 :].tolist()
        expected.append(mean_log_prob(model, [START, *response], range(len(response))))
    np.testing.assert_allclose(measured.response_log_prob, expected, rtol=1e-5)


def test_the_embedding_weighs_final_states_by_position(
    random_llama: Make, random_rows: Make, probe: Make
) -> None:
    model, rows = random_llama(), random_rows(9)

    measured, _ = probe(model, rows)

    for row, embedding in zip(rows, measured.embeddings, strict=True):
        ids = torch.tensor(row.ids)[None]
        states = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0].numpy()
        total = sum((i + 1) * state for i, state in enumerate(states))
        np.testing.assert_allclose(embedding, total / np.linalg.norm(total), atol=1e-5)


def test_padding_has_no_part_in_an_embedding() -> None:
    states = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [9.0, -9.0]]])

    embedding = position_weighted_mean(states, torch.tensor([2]))

    torch.testing.assert_close(embedding, torch.tensor([[1.0, 2.0]]) / 5**0.5)


def test_measurements_follow_the_order_of_the_rows(
    random_llama: Make, random_rows: Make, probe: Make
) -> None:
    model, rows = random_llama(), random_rows(6)

    forwards, _ = probe(model, rows)
    backwards, _ = probe(model, rows[::-1])

    np.testing.assert_allclose(
        backwards.conditional_log_prob[::-1], forwards.conditional_log_prob, rtol=1e-6
    )
    np.testing.assert_allclose(backwards.embeddings[::-1], forwards.embeddings, atol=1e-6)


def test_dropout_is_off(random_llama: Make, random_rows: Make, probe: Make, tmp_path: Path) -> None:
    model, rows = random_llama(), random_rows(4)
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train()

    first, second = (probe(model, rows, cache=tmp_path / name)[0] for name in "ab")

    assert same(first, second)


def test_a_second_call_does_not_run_the_model(
    random_llama: Make, random_rows: Make, probe: Make
) -> None:
    rows = random_rows(5)
    first, cost = probe(random_llama(), rows)

    again, cached_cost = probe(Untouchable(), rows)

    assert same(first, again)
    assert cached_cost == cost
    assert again.embeddings.dtype == first.embeddings.dtype


def test_the_names_of_rows_do_not_matter_to_the_cache(
    random_llama: Make, random_rows: Make, probe: Make
) -> None:
    rows = random_rows(5)
    probe(random_llama(), rows)

    probe(Untouchable(), [replace(row, key=f"other {row.key}") for row in rows])


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: b"", id="empty"),
        pytest.param(lambda content: content[: len(content) // 2], id="cut"),
        pytest.param(lambda content: b"garbage" * 100, id="garbage"),
    ],
)
def test_a_damaged_cache_is_computed_again_and_mended(
    damage: Callable[[bytes], bytes],
    random_llama: Make,
    random_rows: Make,
    probe: Make,
    tmp_path: Path,
) -> None:
    rows = random_rows(5)
    first, cost = probe(random_llama(), rows)
    (file,) = cached_files(tmp_path)
    file.write_bytes(damage(file.read_bytes()))

    again, again_cost = probe(random_llama(), rows)

    assert same(first, again)
    assert again_cost._replace(seconds=0) == cost._replace(seconds=0)
    assert same(first, probe(Untouchable(), rows)[0])


def _with_another_token(rows: Sequence[EncodedRow]) -> list[EncodedRow]:
    text = TextRow(rows[0].ids.copy(), np.arange(rows[0].num_tokens) > rows[0].scored[0])
    text.ids[0] ^= 1
    return [plain_row(rows[0].key, text), *rows[1:]]


def _with_another_response(rows: Sequence[EncodedRow]) -> list[EncodedRow]:
    text = TextRow(rows[0].ids, np.arange(rows[0].num_tokens) > rows[0].scored[0] - 1)
    return [plain_row(rows[0].key, text), *rows[1:]]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_with_another_token, id="another token"),
        pytest.param(_with_another_response, id="another response"),
        pytest.param(lambda rows: rows[:-1], id="fewer rows"),
        pytest.param(lambda rows: rows[::-1], id="another order"),
    ],
)
def test_other_content_is_measured_anew(
    change: Callable[[Any], Any],
    random_llama: Make,
    random_rows: Make,
    probe: Make,
    tmp_path: Path,
) -> None:
    rows = random_rows(5)
    probe(random_llama(), rows)

    with pytest.raises(AssertionError, match="the model was used"):
        probe(Untouchable(), change(rows))
    probe(random_llama(), change(rows))

    assert len(cached_files(tmp_path)) == 2


@pytest.mark.parametrize(
    "setting", [{"digest": "other"}, {"start_token": 2}, {"precision": "bfloat16"}]
)
def test_other_settings_are_measured_anew(
    setting: dict[str, Any], random_llama: Make, random_rows: Make, probe: Make, tmp_path: Path
) -> None:
    rows = random_rows(5)
    probe(random_llama(), rows)

    with pytest.raises(AssertionError, match="the model was used"):
        probe(Untouchable(), rows, **setting)
    probe(random_llama(), rows, **setting)

    assert len(cached_files(tmp_path)) == 2


def test_nothing_but_the_result_is_left_in_the_cache(
    random_llama: Make, random_rows: Make, probe: Make, tmp_path: Path
) -> None:
    probe(random_llama(), random_rows(3))

    (file,) = cached_files(tmp_path)
    assert file.suffix == ".safetensors"


def test_progress_counts_every_row_once_cached_or_not(
    random_llama: Make, random_rows: Make, probe: Make
) -> None:
    rows, done = random_rows(7), list[int]()

    probe(random_llama(), rows, advance=done.append)
    assert sum(done) == 7

    done.clear()
    probe(random_llama(), rows, advance=done.append)
    assert sum(done) == 7


def test_cost_counts_the_tokens_of_both_readings(
    random_llama: Make, random_rows: Make, probe: Make
) -> None:
    rows = random_rows(7)

    _, cost = probe(random_llama(), rows)

    assert cost.tokens == sum(row.num_tokens + 1 + row.num_scored for row in rows)
    assert cost.padded_tokens > cost.tokens
    assert cost.seconds > 0


def test_flops_agree_with_the_counter_of_torch(
    random_llama: Make, random_rows: Make, probe: Make
) -> None:
    model = random_llama()
    model.set_attn_implementation("eager")  # torch does not count the fused one on a CPU

    with FlopCounterMode(display=False) as counted:
        _, cost = probe(model, random_rows(7))

    assert cost.flops == pytest.approx(counted.get_total_flops(), rel=0.01)
