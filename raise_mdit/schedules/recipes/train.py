"""Train on the schedule in this folder, in its order, with TRL or with the Hugging Face Trainer.

    python recipes/train.py trl
    python recipes/train.py transformers --model NAME --accumulation 2

It reads `manifest.json` and `sft.jsonl` and needs nothing else of who made them. Loss is on the
assistant's turns only. Interpolated rows stand as their heavier parent; README.md says more.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

IGNORED = -100
"""Label of a token that carries no loss."""


class Schedule:
    """The rows and the recipe of a folder."""

    def __init__(self, folder: Path) -> None:
        self.recipe: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["recipe"]
        self.learner: dict[str, Any] = self.recipe["learner"]
        lines = (folder / "sft.jsonl").read_text("utf-8").rstrip("\n").split("\n")
        self.messages = [json.loads(line)["messages"] for line in lines]
        template = folder / "chat_template.jinja"
        self.template = template.read_text("utf-8") if template.is_file() else None

    def settings(self, accumulation: int, output: Path) -> dict[str, Any]:
        """What both trainers are told; the first line is what keeps the order."""
        ranks = int(torch.distributed.get_world_size()) if torch.distributed.is_initialized() else 1
        rows, left = divmod(self.recipe["batch_size"], accumulation * ranks)
        if left:
            raise SystemExit(f"a step has {self.recipe['batch_size']} rows: {accumulation=} x "
                             f"{ranks=} must divide it")  # fmt: skip
        return {
            "train_sampling_strategy": "sequential",
            "per_device_train_batch_size": rows,
            "gradient_accumulation_steps": accumulation,
            "num_train_epochs": 1,
            "learning_rate": self.learner["learning_rate"],
            "lr_scheduler_type": self.learner["schedule"],
            "warmup_steps": 0,
            "weight_decay": self.learner["weight_decay"],
            "max_grad_norm": self.learner["max_grad_norm"],
            "label_smoothing_factor": self.learner["label_smoothing"],
            "neftune_noise_alpha": self.learner["embedding_noise"] or None,
            "optim": "adamw_torch_fused",
            "seed": self.recipe["seed"],
            "output_dir": str(output),
            "report_to": "none",
            "logging_steps": 1,
            "save_strategy": "no",
            "dataloader_pin_memory": torch.cuda.is_available(),
        }


def load(schedule: Schedule, name: str | None) -> tuple[Any, Any]:
    """Model and tokenizer, with what the run trained left to train and the rest frozen."""
    place = name or schedule.recipe["model"]
    try:
        tokenizer = AutoTokenizer.from_pretrained(place)
    except OSError as error:
        raise SystemExit(f"{place}: no model that can be loaded here by this name; give its folder "
                         f"or its hub name: --model NAME\n{error}") from error  # fmt: skip
    if schedule.template is not None:
        tokenizer.chat_template = schedule.template
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
    return with_trained_part(model, schedule.learner["trainable"]), tokenizer


def with_trained_part(model: Any, trainable: Mapping[str, Any]) -> Any:
    """The model as the run changed it: whole, its last layers, or adapters on them."""
    if trainable["kind"] == "full":
        return model
    model.requires_grad_(False)
    layers = model.get_decoder().layers
    asked = trainable["layers"]
    count = len(layers) if asked == "all" else asked
    if trainable["kind"] == "top_layers":
        layers[len(layers) - count :].requires_grad_(True)
        return model
    from peft import LoraConfig, get_peft_model

    adapters = LoraConfig(
        r=trainable["rank"],
        lora_alpha=trainable["alpha"],
        lora_dropout=trainable["dropout"],
        target_modules="all-linear",
        layers_to_transform=list(range(len(layers) - count, len(layers))),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, adapters)


def with_trl(schedule: Schedule, model: Any, tokenizer: Any, settings: dict[str, Any]) -> Any:
    """A TRL trainer: rows of prompt and completion, of which it scores the completion."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]  # it exports lazily

    settings.setdefault("use_cpu", not torch.accelerator.is_available())  # SFTConfig asks for it
    if any(num_responses(messages) > 1 for messages in schedule.messages):
        raise SystemExit("some rows have several assistant turns, of which TRL would score the "
                         "last: run `transformers` instead")  # fmt: skip
    rows = [{"prompt": turns[:-1], "completion": turns[-1:]} for turns in schedule.messages]
    length = schedule.recipe["max_length"]
    return SFTTrainer(
        model=model,
        args=SFTConfig(packing=False, max_length=length, **settings),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )


def with_transformers(
    schedule: Schedule, model: Any, tokenizer: Any, settings: dict[str, Any]
) -> Trainer:
    """The Hugging Face Trainer on token ids and labels."""
    rows = [encode(tokenizer, turns, schedule.recipe["max_length"]) for turns in schedule.messages]
    return Trainer(
        model=model,
        args=TrainingArguments(remove_unused_columns=False, **settings),
        train_dataset=rows,
        data_collator=pad,
    )


def num_responses(messages: Sequence[Mapping[str, str]]) -> int:
    """Assistant turns of a conversation."""
    return sum(turn["role"] == "assistant" for turn in messages)


def encode(tokenizer: Any, messages: list[dict[str, str]], max_length: int) -> dict[str, list[int]]:
    """Token ids and labels, each assistant turn cut where the model would begin to write it."""
    ids: list[int] = []
    labels: list[int] = []
    done = ""
    for place, turn in enumerate(messages):
        if turn["role"] != "assistant":
            continue
        before = tokenizer.apply_chat_template(
            messages[:place], tokenize=False, add_generation_prompt=True
        )
        after = tokenizer.apply_chat_template(messages[: place + 1], tokenize=False)
        end = after.rfind(tokenizer.eos_token, len(before))
        after = after if end < 0 else after[: end + len(tokenizer.eos_token)]
        for text, scored in ((before[len(done) :], False), (after[len(before) :], True)):
            piece = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids += piece
            labels += piece if scored else [IGNORED] * len(piece)
        done = after
    return {"input_ids": ids[:max_length], "labels": labels[:max_length]}


def pad(rows: Sequence[Mapping[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Rows as one batch, padded on the right; no token attends to what is behind it."""
    width = max(len(row["input_ids"]) for row in rows)

    def filled(key: str, value: int) -> torch.Tensor:
        return torch.tensor([[*row[key], *[value] * (width - len(row[key]))] for row in rows])

    return {"input_ids": filled("input_ids", 0), "labels": filled("labels", IGNORED)}


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("library", choices=("trl", "transformers"))
    parser.add_argument("--model", help="name or folder, where it is not the manifest's")
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("trained"))
    arguments = parser.parse_args()
    schedule = Schedule(Path(__file__).parents[1])
    model, tokenizer = load(schedule, arguments.model)
    build = {"trl": with_trl, "transformers": with_transformers}[arguments.library]
    trainer = build(
        schedule, model, tokenizer, schedule.settings(arguments.accumulation, arguments.output)
    )
    trainer.train()
    trainer.save_model(str(arguments.output))


if __name__ == "__main__":
    main()
