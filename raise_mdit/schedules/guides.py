"""What a bundle holds for people and for other trainers: its README and ready recipes.

Texts are files of this package: templates with ``$names``, and a script that is copied as it is and
reads the manifest beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from raise_mdit.learners.pretrained import EMBEDDED
from raise_mdit.runs import write_json, write_text
from raise_mdit.schedules.bundle import CHAT_FILE

DATASET = "schedule"
"""How LLaMA-Factory calls the rows."""

_CONFIGURATIONS = ("llamafactory.yaml", "axolotl.yaml", "torchtune.yaml")

_INTERPOLATED = """
## What `sft.jsonl` loses

$count of the $rows rows are interpolations of two instructions in embedding space (MDIT, arXiv
2504.07288). Text cannot hold them: in `sft.jsonl` each stands as its heavier parent and is marked
`"interpolated": true`, and the manifest says `"lossy_in_jsonl": true`. `schedule.parquet` keeps
both parents and their shares (lambda and 1 - lambda), `pool.parquet` their texts. Only
`raise-mdit replay` trains on them as the run did.
"""


def write_guides(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Write README, recipes and `dataset_info.json`.

    Args:
        directory: Of the bundle.
        manifest: What its manifest says, as far as it is known.
    """
    names = _names(manifest)
    recipes = directory / "recipes"
    recipes.mkdir(exist_ok=True)
    for name in _CONFIGURATIONS:
        write_text(recipes / name, _text(f"templates/{name}").substitute(names))
    write_text(recipes / "train.py", _text("recipes/train.py").template)
    write_json(directory / "dataset_info.json", _dataset_info())
    write_text(directory / "README.md", _text("templates/README.md").substitute(names))


def _text(name: str) -> Template:
    return Template(files("raise_mdit.schedules").joinpath(name).read_text("utf-8"))


def _dataset_info() -> dict[str, Any]:
    """In LLaMA-Factory's words: chat data with roles and contents under their usual names."""
    tags = {"role_tag": "role", "content_tag": "content"}
    tags |= {"user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}
    return {
        DATASET: {
            "file_name": CHAT_FILE,
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": tags,
        }
    }


def _names(manifest: Mapping[str, Any]) -> dict[str, str]:
    """What stands for each ``$name``; strings are written as JSON, which YAML reads alike."""
    recipe = manifest["recipe"]
    learner, schedule = recipe["learner"], recipe["learning_rate_schedule"]["kind"]
    trainable = learner["trainable"]
    return {
        "policy": manifest["policy"],
        "seed": str(manifest["seed"]),
        "rows": str(manifest["num_rows"]),
        "steps": str(manifest["num_steps"]),
        "model": json.dumps(recipe["model"]),
        "model_note": _EMBEDDED_NOTE if recipe["model"] == EMBEDDED else "",
        "batch": str(recipe["batch_size"]),
        "length": str(recipe["max_length"]),
        "rate": repr(float(learner["learning_rate"])),
        "decay": json.dumps(schedule),
        "weight_decay": repr(float(learner["weight_decay"])),
        "max_grad_norm": repr(float(learner["max_grad_norm"])),
        "data_seed": str(recipe["seed"]),
        "dataset": DATASET,
        "trained": _TRAINED[trainable["kind"]].format(**trainable),
        "llamafactory_trained": _LLAMAFACTORY[trainable["kind"]].format(**trainable),
        "axolotl_trained": _AXOLOTL[trainable["kind"]].format(**trainable),
        "interpolated": _interpolated(manifest),
        "scores": _SCORES[bool(manifest["has_scores"])] + _repeated(manifest),
        "template": _TEMPLATE[recipe["chat_template_sha256"] is not None],
    }


def _interpolated(manifest: Mapping[str, Any]) -> str:
    count = manifest["num_interpolated"]
    if not count:
        return ""
    return Template(_INTERPOLATED).substitute(count=count, rows=manifest["num_rows"])


def _repeated(manifest: Mapping[str, Any]) -> str:
    episode = manifest["repeated_episode"]
    return "" if episode is None else _REPEATED.format(episode=episode)


_EMBEDDED_NOTE = (
    "\n(a copy of HuggingFaceTB/SmolLM2-135M-Instruct that raise-mdit brings; other trainers need "
    "that\nmodel by its folder or hub name: `--model` here, `model_name_or_path` and the like in "
    "recipes)"
)

_TRAINED = {
    "full": "every weight of the model",
    "lora": "adapters of rank {rank}, alpha {alpha}, dropout {dropout} (LoRA) on the linear layers "
    "of the last `{layers}` decoder layers",
    "top_layers": "every weight of the last {layers} decoder layers, and nothing else",
}
"""By the kind of `learner.trainable`."""

_LLAMAFACTORY = {
    "full": "finetuning_type: full",
    "lora": "finetuning_type: lora\nlora_rank: {rank}\nlora_alpha: {alpha:g}\n"
    "lora_dropout: {dropout}\nlora_target: all  # every layer's; the run: `{layers}`, from the top",
    "top_layers": "finetuning_type: freeze\nfreeze_trainable_layers: {layers}\n"
    "freeze_trainable_modules: all",
}

_AXOLOTL = {
    "full": "# Every weight is trained.",
    "lora": "adapter: lora\nlora_r: {rank}\nlora_alpha: {alpha:g}\nlora_dropout: {dropout}\n"
    "lora_target_linear: true  # every layer's; the run: `{layers}`, from the top",
    "top_layers": "# The run trained the last {layers} decoder layers alone. Axolotl asks for "
    "their names;\n# of a model with 30 layers the last two are:\n"
    '# unfrozen_parameters: ["model.layers.28.*", "model.layers.29.*"]',
}

_SCORES = {
    True: "`score` is the log-weight that the policy gave the pick within its window, and\n"
    "  `log_probability` that of drawing it next, given the picks before it in the batch\n"
    "  (Plackett-Luce). A policy that takes its best picks in the final fine-tuning drew nothing;\n"
    "  then it is what drawing would have had.",
    False: "`score` and `log_probability` are null: this policy gives candidates no scores that\n"
    "  its run could keep.",
}

_REPEATED = """
* The policy played several episodes, and this is {episode}: that gained most on the run's
  reward-validation, and was repeated as it was (`final: best`). Scores, where there are such, are
  those that the policy gives these picks after learning, which is not who made them."""
"""Behind what is said of scores, where these did not pick."""

_TEMPLATE = {
    True: "`chat_template.jinja` is the chat template of the run; its hash is in the manifest.",
    False: "The run did not note its chat template (older versions did not); the model's own is\n"
    "  taken.",
}
