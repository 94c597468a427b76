"""Measurements against plain transformers, and their cache."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from raise_mdit.core import EncodedRow
from raise_mdit.encoding import TextRow, plain_row
from raise_mdit.features import ExampleFeatures
from raise_mdit.learners.probe import (
    Reading,
    measure,
    position_weighted_mean,
    read,
    start_token,
)

Make = Callable[..., Any]

START = 1


class Untouchable:
    """Stands for a model that must not be run."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"the model was used: {name}")


@pytest.fixture
def reader(tmp_path: Path) -> Callable[..., Reading]:
    """Reads with a cache of this test's own."""
    return functools.partial(
        read, digest="digest", precision="float32", cache=tmp_path, advance=lambda _done: None
    )


@pytest.fixture
def probe(tmp_path: Path) -> Callable[..., ExampleFeatures]:
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


def same(first: Reading, second: Reading) -> bool:
    return np.array_equal(first.log_probs, second.log_probs) and np.array_equal(
        first.embeddings, second.embeddings
    )


def mean_log_prob(model: Any, ids: Sequence[int], scored: Sequence[int]) -> float:
    log_probs = model(input_ids=torch.tensor(ids)[None]).logits[0].log_softmax(-1)
    return float(np.mean([log_probs[position, ids[position + 1]].item() for position in scored]))


def test_the_conditional_log_prob_is_the_models_own(
    random_llama: Make, random_rows: Make, probe: Make
) -> None:
    model, rows = random_llama(), random_rows(9)

    measured = probe(model, rows)

    expected = [mean_log_prob(model, row.ids.tolist(), row.scored) for row in rows]
    assert measured.names == ("conditional_log_prob", "response_log_prob")
    np.testing.assert_allclose(measured.columns[:, 0], expected, rtol=1e-5)


def test_the_response_log_prob_reads_the_response_behind_a_start_token(
    random_llama: Make, random_rows: Make, probe: Make
) -> None:
    model, rows = random_llama(), random_rows(9)

    measured = probe(model, rows)

    expected = []
    for row in rows:
        response = row.ids[row.scored[0] + 1 :].tolist()
        expected.append(mean_log_prob(model, [START, *response], range(len(response))))
    np.testing.assert_allclose(measured.columns[:, 1], expected, rtol=1e-5)


def test_the_embedding_weighs_final_states_by_position(
    random_llama: Make, random_rows: Make, probe: Make
) -> None:
    model, rows = random_llama(), random_rows(9)

    measured = probe(model, rows)

    for row, embedding in zip(rows, measured.embeddings, strict=True):
        ids = torch.tensor(row.ids)[None]
        states = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0].numpy()
        total = sum((i + 1) * state for i, state in enumerate(states))
        np.testing.assert_allclose(embedding, total / np.linalg.norm(total), atol=1e-5)


def test_padding_has_no_part_in_an_embedding() -> None:
    states = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [9.0, -9.0]]])

    embedding = position_weighted_mean(states, torch.tensor([2]))

    torch.testing.assert_close(embedding, torch.tensor([[1.0, 2.0]]) / 5**0.5)


def test_readings_follow_the_order_of_the_rows(
    random_llama: Make, random_rows: Make, reader: Make
) -> None:
    model, rows = random_llama(), random_rows(6)

    forwards = reader(model, rows)
    backwards = reader(model, rows[::-1])

    np.testing.assert_allclose(backwards.log_probs[::-1], forwards.log_probs, rtol=1e-6)
    np.testing.assert_allclose(backwards.embeddings[::-1], forwards.embeddings, atol=1e-6)


def test_dropout_is_off(
    random_llama: Make, random_rows: Make, reader: Make, tmp_path: Path
) -> None:
    model, rows = random_llama(), random_rows(4)
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train()

    first, second = (reader(model, rows, cache=tmp_path / name) for name in "ab")

    assert same(first, second)


def test_a_second_call_does_not_run_the_model(
    random_llama: Make, random_rows: Make, reader: Make
) -> None:
    rows = random_rows(5)
    first = reader(random_llama(), rows)

    again = reader(Untouchable(), rows)

    assert same(first, again)
    assert again.cost == first.cost
    assert again.embeddings.dtype == first.embeddings.dtype


def test_the_names_of_rows_do_not_matter_to_the_cache(
    random_llama: Make, random_rows: Make, reader: Make
) -> None:
    rows = random_rows(5)
    reader(random_llama(), rows)

    reader(Untouchable(), [replace(row, key=f"other {row.key}") for row in rows])


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
    reader: Make,
    tmp_path: Path,
) -> None:
    rows = random_rows(5)
    first = reader(random_llama(), rows)
    (file,) = cached_files(tmp_path)
    file.write_bytes(damage(file.read_bytes()))

    again = reader(random_llama(), rows)

    assert same(first, again)
    assert again.cost._replace(seconds=0) == first.cost._replace(seconds=0)
    assert same(first, reader(Untouchable(), rows))


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
def test_other_content_is_read_anew(
    change: Callable[[Any], Any],
    random_llama: Make,
    random_rows: Make,
    reader: Make,
    tmp_path: Path,
) -> None:
    rows = random_rows(5)
    reader(random_llama(), rows)

    with pytest.raises(AssertionError, match="the model was used"):
        reader(Untouchable(), change(rows))
    reader(random_llama(), change(rows))

    assert len(cached_files(tmp_path)) == 2


@pytest.mark.parametrize("setting", [{"digest": "other"}, {"precision": "bfloat16"}])
def test_other_settings_are_read_anew(
    setting: dict[str, Any], random_llama: Make, random_rows: Make, reader: Make, tmp_path: Path
) -> None:
    rows = random_rows(5)
    reader(random_llama(), rows)

    with pytest.raises(AssertionError, match="the model was used"):
        reader(Untouchable(), rows, **setting)
    reader(random_llama(), rows, **setting)

    assert len(cached_files(tmp_path)) == 2


def test_nothing_but_the_result_is_left_in_the_cache(
    random_llama: Make, random_rows: Make, reader: Make, tmp_path: Path
) -> None:
    reader(random_llama(), random_rows(3))

    (file,) = cached_files(tmp_path)
    assert file.suffix == ".safetensors"


def test_progress_counts_every_row_once_cached_or_not(
    random_llama: Make, random_rows: Make, reader: Make
) -> None:
    rows, done = random_rows(7), list[int]()

    reader(random_llama(), rows, advance=done.append)
    assert sum(done) == 7

    done.clear()
    reader(random_llama(), rows, advance=done.append)
    assert sum(done) == 7


def test_measuring_reads_each_response_again_without_its_prompt(
    random_llama: Make, random_rows: Make, probe: Make, reader: Make
) -> None:
    model, rows, done = random_llama(), random_rows(7), list[int]()

    measured = probe(model, rows, advance=done.append)

    whole = reader(Untouchable(), rows).cost  # measuring has left it in the cache
    assert sum(done) == 7
    assert measured.cost.tokens == whole.tokens + sum(1 + row.num_scored for row in rows)
    assert measured.cost.flops > whole.flops


def test_another_start_token_changes_only_the_response_alone(
    random_llama: Make, random_rows: Make, probe: Make
) -> None:
    model, rows = random_llama(), random_rows(5)

    first, second = (probe(model, rows, start_token=token) for token in (START, 2))

    np.testing.assert_array_equal(first.columns[:, 0], second.columns[:, 0])
    assert np.all(first.columns[:, 1] != second.columns[:, 1])


def test_a_response_alone_starts_with_the_first_of_the_tokenizers_marks(tokenizer: Any) -> None:
    without = copy.deepcopy(tokenizer)
    without.bos_token = None

    assert start_token(tokenizer) == tokenizer.bos_token_id == 1
    assert start_token(without) == tokenizer.eos_token_id == 2


def test_cost_counts_real_and_padded_tokens(
    random_llama: Make, random_rows: Make, reader: Make
) -> None:
    rows = random_rows(7)

    cost = reader(random_llama(), rows).cost

    assert cost.tokens == sum(row.num_tokens for row in rows)
    assert cost.padded_tokens > cost.tokens
    assert cost.seconds > 0


def test_flops_agree_with_the_counter_of_torch(
    random_llama: Make, random_rows: Make, reader: Make
) -> None:
    model = random_llama()
    model.set_attn_implementation("eager")  # torch does not count the fused one on a CPU

    with FlopCounterMode(display=False) as counted:
        cost = reader(model, random_rows(7)).cost

    assert cost.flops == pytest.approx(counted.get_total_flops(), rel=0.01)
