"""Candidates as text: what a person is shown, and what another library reads from the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from raise_mdit import pool_inspection
from raise_mdit.candidate_encoding import CandidateEncoder
from raise_mdit.candidates import Candidate, Custom, Mdit, Mosaic, Original, Recipe, make_example
from raise_mdit.config import ExperimentConfig
from raise_mdit.core import KINDS, Example, Kind, Message
from raise_mdit.encoding import ChatEncoder
from raise_mdit.errors import UserError
from raise_mdit.pool import Pool
from raise_mdit.pool_inspection import (
    NUM_POSITIONS_SHOWN,
    MixedView,
    TextView,
    Viewer,
    check_kind,
    check_text_file,
    draw_rows,
    nearest_tokens,
    write_texts,
)
from raise_mdit.progress import Silent
from raise_mdit.sources.mosaic_wording import load_wording

WORDING = load_wording()


def example(prompt: str, response: str, source: str = "toy") -> Example:
    return make_example(source, [Message("user", prompt), Message("assistant", response)])


SHORT = example("w1 w2", "w3 w4")
LONG = example("w5 w6 w7", "w8 w9 w10 w11")
ENDLESS = example("w12", " ".join(["w13"] * (NUM_POSITIONS_SHOWN + 7)))
EXAMPLES = {each.id: each for each in (SHORT, LONG, ENDLESS)}

OWN = Custom((SHORT.id,), (Message("system", "w20"), *SHORT.messages, *LONG.messages))
JOINED = Mosaic((SHORT.id, LONG.id), "primary", {})


def tagged(*rules: dict[str, Any], answers: Sequence[int]) -> dict[str, Any]:
    return {
        "wording": WORDING.fingerprint,
        "tag": 0,
        "punctuation": 0,
        "new_line": False,
        "marks": None,
        "sentence": None,
        "rules": list(rules),
        "answers": list(answers),
    }


def rule(name: str, *, masks: bool) -> dict[str, Any]:
    listed = 0 if name == "listed" else None
    return {"index": 0, "at": "before", "name": name, "masks": masks, "list_shape": listed}


@pytest.fixture
def encoder(tokenizer: Any) -> CandidateEncoder:
    chat = ChatEncoder(tokenizer)
    encoded = chat.encode([each.messages for each in EXAMPLES.values()])
    texts = dict(zip(EXAMPLES, encoded, strict=True))
    return CandidateEncoder(EXAMPLES, texts, encoder=chat, wording=WORDING, pad=0)


@pytest.fixture
def pool_of(encoder: CandidateEncoder) -> Callable[..., Pool]:
    """Makes a pool of recipes, with their true numbers of tokens."""

    def make(*recipes: Recipe) -> Pool:
        rows = [encoder.row("", recipe) for recipe in recipes]
        return Pool.of(
            Candidate(recipe, "toy", row.num_tokens, row.num_scored)
            for recipe, row in zip(recipes, rows, strict=True)
        )

    return make


@pytest.fixture
def view_of(
    encoder: CandidateEncoder,
    pool_of: Callable[..., Pool],
    random_llama: Callable[..., Any],
    tokenizer: Any,
) -> Callable[[Recipe], Any]:
    """Makes a view of a recipe by the tiny random model."""
    weights = random_llama().get_input_embeddings().weight.numpy()

    def make(recipe: Recipe) -> TextView | MixedView:
        def decode(token: int) -> str:
            return str(tokenizer.decode([token]))

        return Viewer(pool_of(recipe), encoder, EXAMPLES, weights, decode).view(0)

    return make


# --- Interpolations.


@pytest.mark.parametrize(("weight", "parent"), [(1.0, SHORT), (0.0, LONG)])
def test_with_no_share_of_the_other_a_mixture_is_nearest_to_the_parents_own_tokens(
    weight: float, parent: Example, view_of: Callable[[Recipe], MixedView]
) -> None:
    view = view_of(Mdit(SHORT.id, LONG.id, weight))

    own = [*parent.response.split(), "</s>"]
    assert [position.nearest for position in view.positions] == own
    assert [position.cosine for position in view.positions] == pytest.approx([1.0] * len(own))
    tokens = [(position.first, position.second) for position in view.positions]
    assert tokens == [(token, None) if weight else (None, token) for token in own]


def test_a_mixture_is_nearest_to_what_the_embeddings_say(
    view_of: Callable[[Recipe], MixedView], random_llama: Callable[..., Any], tokenizer: Any
) -> None:
    view = view_of(Mdit(SHORT.id, LONG.id, 0.3))

    first = ["w3", "w4", "</s>", None, None]
    second = ["w8", "w9", "w10", "w11", "</s>"]
    assert [position.first for position in view.positions] == first
    assert [position.second for position in view.positions] == second
    table = random_llama().get_input_embeddings().weight.double().numpy()
    for position, one, two in zip(view.positions, first, second, strict=True):
        ids = tokenizer.convert_tokens_to_ids([one or "<pad>", two])
        mixed = 0.3 * table[ids[0]] + 0.7 * table[ids[1]]
        cosines = [
            float(mixed @ row) / float(np.linalg.norm(mixed) * np.linalg.norm(row) or 1)
            for row in table
        ]
        best = int(np.argmax(cosines))
        assert position.nearest == tokenizer.decode([best])
        assert position.cosine == pytest.approx(cosines[best], abs=1e-6)


def test_both_parents_and_lambda_are_told(view_of: Callable[[Recipe], MixedView]) -> None:
    view = view_of(Mdit(SHORT.id, LONG.id, 0.25))

    assert view.parents == (SHORT, LONG)
    assert "lambda 0.25" in view.heading.made
    assert (view.heading.kind, view.heading.num_response_tokens) == ("mdit", 5)


def test_of_a_long_response_the_beginning_is_shown(
    view_of: Callable[[Recipe], MixedView],
) -> None:
    view = view_of(Mdit(SHORT.id, ENDLESS.id, 0.25))

    assert len(view.positions) == NUM_POSITIONS_SHOWN
    assert view.num_positions == NUM_POSITIONS_SHOWN + 7 + 1  # and the end token


def test_nearness_goes_by_angle_and_not_by_length() -> None:
    table = np.array([[0, 0], [1, 0], [0, 9], [-5, -5]], np.float32)
    mixed = np.array([[7, 1], [0.1, 0.2], [-1, -2], [0, 0]], np.float32)

    found, cosines = nearest_tokens(mixed, table)

    assert found[:3].tolist() == [1, 2, 3]
    expected = [7 / np.sqrt(50), 2 / np.sqrt(5), 3 / np.sqrt(10), 0.0]
    assert cosines.tolist() == pytest.approx(expected, abs=1e-6)


# --- Conversations.


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (Original(SHORT.id), "an example as it is"),
        (OWN, "made from 1 example"),
        (JOINED, "primary of 2 examples"),
        (Mosaic((SHORT.id,), "format", tagged(answers=[1])), "format of 1 example"),
        (
            Mosaic(
                (SHORT.id, LONG.id, ENDLESS.id),
                "permute",
                tagged(rule("reverse", masks=False), answers=[3, 2, 1]),
            ),
            "permute of 3 examples; responses in the order 3, 2, 1 (reverse)",
        ),
        (
            Mosaic(
                (SHORT.id, LONG.id, ENDLESS.id),
                "permute_maskout",
                tagged(rule("even", masks=True), rule("fewest_words", masks=False), answers=[3, 1]),
            ),
            "permute_maskout of 3 examples; no response to 2 (even); responses in the order 3, 1 "
            "(fewest words)",
        ),
    ],
    ids=["original", "custom", "primary", "format", "permute", "both"],
)
def test_how_a_candidate_was_made_is_told_in_words(
    recipe: Recipe, words: str, view_of: Callable[[Recipe], TextView]
) -> None:
    assert view_of(recipe).heading.made == words


def test_a_view_holds_the_conversation_and_its_counts(
    view_of: Callable[[Recipe], TextView],
) -> None:
    view = view_of(JOINED)

    assert view.messages == (
        Message("user", "w1 w2\n\nw5 w6 w7"),
        Message("assistant", "w3 w4\n\nw8 w9 w10 w11"),
    )
    # <user>, five words, <assistant>, six words, </s>: the last seven carry loss.
    assert (view.heading.num_tokens, view.heading.num_response_tokens) == (14, 7)


# --- Drawing.


def mixed_pool(num_originals: int, num_mosaics: int) -> Pool:
    originals: list[Recipe] = [Original(f"o{number}") for number in range(num_originals)]
    mosaics = [Mosaic((f"m{number}",), "primary", {}) for number in range(num_mosaics)]
    return Pool.of(Candidate(recipe, "toy", 4, 2) for recipe in [*originals, *mosaics])


def test_each_kind_gives_as_many_as_asked_and_no_row_twice() -> None:
    rows = draw_rows(mixed_pool(20, 3), 5, kind=None, seed=0)

    assert len(rows) == len(set(rows)) == 8
    assert all(row < 20 for row in rows[:5])
    assert sorted(rows[5:]) == [20, 21, 22]


def test_a_draw_hangs_on_its_seed_alone() -> None:
    pool = mixed_pool(50, 50)

    assert draw_rows(pool, 5, kind=None, seed=1)[5:] == draw_rows(pool, 5, kind="mosaic", seed=1)
    assert draw_rows(pool, 5, kind="mosaic", seed=1) != draw_rows(pool, 5, kind="mosaic", seed=2)


def test_every_candidate_of_a_kind_can_be_drawn() -> None:
    pool = mixed_pool(4, 4)

    drawn = {draw_rows(pool, 1, kind="mosaic", seed=seed)[0] for seed in range(60)}

    assert drawn == {4, 5, 6, 7}


def test_a_kind_that_the_pool_lacks_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="no mdit candidates, only original, mosaic"):
        draw_rows(mixed_pool(2, 2), 1, kind="mdit", seed=0)


def test_a_kind_is_one_of_the_projects(fields: dict[str, Any]) -> None:
    source = {"kind": "somewhere:Something", "name": "own"}
    fields["pools"] = {"mosaic": {}, "mdit": {}, "custom": (source,)}
    config = ExperimentConfig.model_validate(fields)

    assert [check_kind(kind, config) for kind in KINDS] == list(KINDS)
    with pytest.raises(UserError, match="Did you mean 'mosaic'"):
        check_kind("mosiac", config)


def test_a_kind_that_the_file_does_not_make_is_the_users_mistake(fields: dict[str, Any]) -> None:
    config = ExperimentConfig.model_validate(fields)

    with pytest.raises(
        UserError, match=r"^--kind: `pools` makes no mdit candidates, only original"
    ):
        check_kind("mdit", config)


# --- Files.


@pytest.fixture
def texts(pool_of: Callable[..., Pool]) -> Pool:
    """A pool of every kind, whose interpolation stands in the middle."""
    rows: list[Recipe] = [Original(LONG.id), JOINED, Mdit(SHORT.id, LONG.id, 0.5), OWN]
    return pool_of(*rows, Original(ENDLESS.id))


def expected_rows(pool: Pool) -> list[dict[str, Any]]:
    """What the file is to hold, written by hand."""
    conversations: list[tuple[int, Kind, Sequence[Message]]] = [
        (0, "original", LONG.messages),
        (
            1,
            "mosaic",
            [
                Message("user", "w1 w2\n\nw5 w6 w7"),
                Message("assistant", "w3 w4\n\nw8 w9 w10 w11"),
            ],
        ),
        (3, "custom", OWN.messages),
        (4, "original", ENDLESS.messages),
    ]
    return [
        {
            "id": pool.ids[row],
            "kind": kind,
            "source": "toy",
            "messages": [{"role": turn.role, "content": turn.content} for turn in turns],
            "num_tokens": int(pool.num_tokens[row]),
            "num_response_tokens": int(pool.num_response_tokens[row]),
        }
        for row, kind, turns in conversations
    ]


@pytest.mark.parametrize(("suffix", "reader"), [(".parquet", "parquet"), (".jsonl", "json")])
def test_the_datasets_library_reads_every_row_as_it_is(
    suffix: str, reader: str, texts: Pool, encoder: CandidateEncoder, tmp_path: Path
) -> None:
    import datasets

    path = tmp_path / f"pool{suffix}"

    written = write_texts(texts, encoder, path, Silent())

    read = datasets.load_dataset(
        reader, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert list(read) == expected_rows(texts)
    assert written == (4, 1)


def test_a_file_is_written_in_blocks(
    texts: Pool, encoder: CandidateEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_inspection, "TEXT_BLOCK", 3)

    write_texts(texts, encoder, tmp_path / "pool.parquet", Silent())

    with pq.ParquetFile(tmp_path / "pool.parquet") as file:
        groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        rows = file.read().to_pylist()
    assert groups == [3, 1]
    assert rows == expected_rows(texts)


def test_rows_are_told_as_they_are_written(
    texts: Pool, encoder: CandidateEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, int | None] | int] = []

    class Listener(Silent):
        def start(self, stage: str, total: int | None) -> None:
            told.append((stage, total))

        def advance(self, amount: int = 1, **_figures: float) -> None:
            told.append(amount)

    monkeypatch.setattr(pool_inspection, "TEXT_BLOCK", 3)

    write_texts(texts, encoder, tmp_path / "pool.jsonl", Listener())

    assert told == [("writing pool.jsonl", 4), 3, 1]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_file_that_is_not_finished_never_appears(
    suffix: str,
    texts: Pool,
    encoder: CandidateEncoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / f"pool{suffix}"
    path.write_text("what was there before")

    class Stopping(Silent):
        def advance(self, amount: int = 1, **_figures: float) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(pool_inspection, "TEXT_BLOCK", 2)

    with pytest.raises(KeyboardInterrupt):
        write_texts(texts, encoder, path, Stopping())

    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "what was there before"


def test_interpolations_alone_make_no_file(
    pool_of: Callable[..., Pool], encoder: CandidateEncoder, tmp_path: Path
) -> None:
    pool = pool_of(Mdit(SHORT.id, LONG.id, 0.5))

    with pytest.raises(UserError, match="all 1 candidates are interpolations"):
        write_texts(pool, encoder, tmp_path / "pool.parquet", Silent())

    assert list(tmp_path.iterdir()) == []


def test_folders_on_the_way_are_made(
    texts: Pool, encoder: CandidateEncoder, tmp_path: Path
) -> None:
    write_texts(texts, encoder, tmp_path / "some" / "where" / "pool.jsonl", Silent())

    assert (tmp_path / "some" / "where" / "pool.jsonl").read_text().count("\n") == 4


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pool.csv", "should end in one of .parquet, .jsonl"),
        ("pool", "should end in one of .parquet, .jsonl"),
        ("pool.json", "Did you mean '.jsonl'"),
        ("folder.parquet", "is a folder"),
        ("file/pool.parquet", "is no folder"),
    ],
)
def test_a_name_that_cannot_be_written_is_the_users_mistake(
    name: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "file").touch()

    with pytest.raises(UserError, match=words):
        check_text_file(tmp_path / name)
