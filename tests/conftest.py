"""What several tests need: a small random model, its tokenizer, and rows for them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
WORDS = [f"w{i}" for i in range(100)]
CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} "
    "{% if m['role'] == 'assistant' %}</s> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs data that is not here, and say so."""
    if SHARED_DATA.is_dir():
        return
    for item in items:
        if item.get_closest_marker("shared"):
            item.add_marker(pytest.mark.skip(reason="the real data is not beside the project"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data."""
    return SHARED_DATA


@pytest.fixture(scope="session")
def model_cache() -> Path:
    """Where converted models are kept: the user's own cache, so that they are converted once."""
    from raise_mdit.runs import cache_directory

    return cache_directory()


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A word-level tokenizer: one word, one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<unk>", "<user>", "<assistant>", "<system>"]
    vocabulary = {word: i for i, word in enumerate(special + WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=CHAT_TEMPLATE,
    )


@pytest.fixture(scope="session")
def random_llama() -> Callable[..., Any]:
    """Makes a small Llama with random weights; the same seed, the same weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(seed: int = 0, *, tied: bool = True) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=107,
                    hidden_size=32,
                    intermediate_size=64,
                    num_hidden_layers=4,
                    num_attention_heads=4,
                    num_key_value_heads=2,
                    max_position_embeddings=128,
                    tie_word_embeddings=tied,
                    bos_token_id=1,
                    eos_token_id=2,
                    pad_token_id=0,
                )
            )
        return model.requires_grad_(False).eval()

    return make


@pytest.fixture(scope="session")
def furnish(random_llama: Callable[..., Any], tokenizer: Any) -> Callable[[Path, str], Path]:
    """Puts all that a small experiment needs into a folder, and its text as `small.yaml`.

    The text, as :func:`helpers.small_experiment.small_experiment` gives it, names the folder as
    ``{folder}``, which holds the model `model` with random weights and the sources `left.jsonl` and
    `right.jsonl` of 40 rows of random words.
    """

    def make(folder: Path, experiment: str) -> Path:
        random_llama().save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
        rng = np.random.default_rng(0)
        for name in ("left", "right"):
            (folder / f"{name}.jsonl").write_text(_rows(rng))
        (folder / "small.yaml").write_text(experiment.replace("{folder}", str(folder)))
        return folder

    return make


@pytest.fixture(scope="module")
def furnish_once(
    tmp_path_factory: pytest.TempPathFactory, furnish: Callable[[Path, str], Path]
) -> Iterator[Callable[[str], Path]]:
    """As `furnish`, a folder for all tests of a file, which has their cache too."""
    with pytest.MonkeyPatch.context() as patch:

        def make(experiment: str) -> Path:
            folder = furnish(tmp_path_factory.mktemp("small"), experiment)
            patch.setenv("RAISE_MDIT_CACHE", str(folder / "cache"))
            return folder

        yield make


def _rows(rng: np.random.Generator) -> str:
    """JSON Lines of 40 rows."""
    rows = (
        {"prompt": _words(rng, 5), "completion": _words(rng, int(rng.integers(2, 6)))}
        for _ in range(40)
    )
    return "".join(json.dumps(row) + "\n" for row in rows)


def _words(rng: np.random.Generator, count: int) -> str:
    return " ".join(f"w{i}" for i in rng.integers(0, 100, count))


@pytest.fixture
def fields() -> dict[str, Any]:
    """A consistent experiment before validation."""
    return {
        "name": "checks",
        "data": {
            "sources": (
                {"name": "tasks", "kind": "playground"},
                {"name": "maths", "kind": "dataset", "hub": {"name": "openai/gsm8k"}},
            ),
            "pool": ({"source": "tasks", "rows": 60}, {"source": "maths", "rows": 40}),
            "reward_validation": ({"source": "tasks", "rows": 16},),
            "test": ({"source": "tasks"},),
        },
        "environment": {"window": 32, "batch_size": 10, "budget": {"steps": 10}},
        "policies": ({"kind": "base"}, {"kind": "random"}, {"kind": "ppo"}),
    }


@pytest.fixture
def random_text() -> Callable[..., Any]:
    """Makes a tokenised conversation of random tokens."""
    from raise_mdit.encoding import TextRow

    def make(rng: np.random.Generator, prompt: int, response: int) -> Any:
        ids = rng.integers(7, 107, prompt + response)
        return TextRow(ids, np.arange(prompt + response) >= prompt)

    return make


@pytest.fixture
def random_rows(random_text: Callable[..., Any]) -> Callable[..., Sequence[Any]]:
    """Makes plain rows of random tokens and lengths."""
    from raise_mdit.encoding import plain_row

    def make(count: int, seed: int = 0) -> Sequence[Any]:
        rng = np.random.default_rng(seed)
        return [
            plain_row(f"row-{seed}-{i}", random_text(rng, *rng.integers(2, 12, 2)))
            for i in range(count)
        ]

    return make


@pytest.fixture(scope="session")
def tiny_model(
    tmp_path_factory: pytest.TempPathFactory, random_llama: Callable[..., Any], tokenizer: Any
) -> Path:
    """A folder that commands read a model from."""
    folder = tmp_path_factory.mktemp("model")
    random_llama().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that commands read rows from."""
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    rng = np.random.default_rng(0)
    path.write_text(_rows(rng))
    return path
