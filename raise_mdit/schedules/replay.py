"""Train on a bundle as the run did, and compare the losses of every step with those it recorded."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, TrainingArguments

from raise_mdit.config import LearnerConfig
from raise_mdit.encoding import ChatEncoder
from raise_mdit.errors import RunError
from raise_mdit.learners.causal_lm import BUCKET_OVERHEAD
from raise_mdit.learners.flops import flops_model
from raise_mdit.learners.forward import LayeredForward, resolve_precision
from raise_mdit.learners.pretrained import Device, Pretrained, load_pretrained
from raise_mdit.learners.trainable import TrainablePart, make_trainable
from raise_mdit.learners.trunk_cache import trunk_cache
from raise_mdit.schedules.bundle import Bundle, read_bundle
from raise_mdit.schedules.replay_rows import NoiseRecipe, ReplayRows, encoded_rows
from raise_mdit.schedules.replay_trainer import ReplayTrainer
from raise_mdit.schedules.verification import check

TOLERANCE = 1e-3
"""Largest difference of two losses of a step, as a share of the recorded one, that still counts as
the same training: sums in another order, another machine. On the machine of the run SmolLM2-135M in
float32 did not differ at all, with adapters on every layer or with its last two trained."""


class Replayed(NamedTuple):
    """What training on a bundle gave."""

    losses: tuple[float, ...]
    """Of each step, before it, in nats a scored token."""
    recorded: tuple[float, ...]
    """The same by the run."""
    notes: tuple[str, ...]
    """What is not as it was in the run, in sentences."""

    @property
    def is_exact(self) -> bool:
        """Whether all losses are the run's to the bit."""
        return self.losses == self.recorded

    @property
    def differences(self) -> tuple[float, ...]:
        """Of each step, as a share of the recorded loss."""
        pairs = zip(self.losses, self.recorded, strict=True)
        return tuple(abs(loss - recorded) / abs(recorded) for loss, recorded in pairs)

    @property
    def sentence(self) -> str:
        """What came out."""
        count = f"{len(self.losses)} steps"
        if self.is_exact:
            return f"{count}: every loss is the run's, bit for bit"
        step = max(range(len(self.losses)), key=self.differences.__getitem__)
        return (
            f"{count}: losses differ from the run's by at most {self.differences[step]:.1e} of "
            f"them (step {step}: {self.losses[step]:.6f}, recorded {self.recorded[step]:.6f}); "
            f"allowed is {TOLERANCE:.0e}"
        )

    def check(self) -> None:
        """Nothing, if the losses are the run's.

        Raises:
            RunError: A step's loss differs by more than :data:`TOLERANCE`, or is not finite.
        """
        for step, difference in enumerate(self.differences):
            if not difference <= TOLERANCE:
                message = f"step {step} is the first whose loss is not the run's: {self.sentence}"
                raise RunError("\n".join((*self.notes, message)))


def replay(
    directory: str | Path,
    *,
    cache: str | Path,
    model: str | None = None,
    accumulation: int = 1,
    device: Device = "auto",
) -> Replayed:
    """Train on a bundle with the Hugging Face Trainer; what is trained is not kept.

    Under ``torchrun`` the rows of a step are shared among the ranks; every rank gets the result.

    Args:
        directory: Of the bundle; nothing else of the run is needed.
        cache: Folder for models converted from GGUF.
        model: The language model, where it has another name here than in the manifest.
        accumulation: Micro-batches of a step.
        device: Where to train.

    Raises:
        ModelError: The model cannot be had or trained.
        RunError: The bundle is not sound, its run failed, or a step's rows cannot be shared evenly.
    """
    directory = Path(directory)
    check(directory)
    bundle = read_bundle(directory)
    recorded = _recorded(bundle, directory)
    rows = _rows_at_once(bundle.recipe["batch_size"], accumulation)
    pretrained = load_pretrained(model or bundle.recipe["model"], cache=Path(cache), device=device)
    notes = _notes(bundle, pretrained)
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        # Of DistributedDataParallel's copy, through which nothing passes; sums are ours.
        warnings.filterwarnings("ignore", message=".*find_unused_parameters.*")
        arguments = _arguments(
            bundle, Path(scratch), rows=rows, accumulation=accumulation, pretrained=pretrained
        )
        trainer = _trainer(bundle, pretrained, arguments)
        trainer.train()
    return Replayed(tuple(trainer.step_losses), recorded, notes)


def _recorded(bundle: Bundle, directory: Path) -> tuple[float, ...]:
    losses = [step.loss for step in bundle.steps]
    known = [loss for loss in losses if loss is not None]
    if len(known) < len(losses):
        raise RunError(
            f"{directory}: the loss of step {losses.index(None)} was not finite and ended the run; "
            "there is no training to repeat"
        )
    return tuple(known)


def _rows_at_once(batch_size: int, accumulation: int) -> int:
    """Rows of a micro-batch on one rank."""
    ranks = _num_ranks()
    rows, left = divmod(batch_size, ranks * accumulation)
    if left or not rows:
        raise RunError(
            f"--accumulation {accumulation} on {ranks} ranks: a step has {batch_size} rows, which "
            "accumulation x ranks must divide"
        )
    return rows


def _num_ranks() -> int:
    """As ``torchrun`` says it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _notes(bundle: Bundle, pretrained: Pretrained) -> tuple[str, ...]:
    recipe, notes = bundle.recipe, []
    if recipe["model_digest"] != pretrained.digest:
        notes.append(
            f"The model here is not the run's to the bit ({pretrained.digest}, recorded "
            f"{recipe['model_digest']}): other weights, or another torch."
        )
    if bundle.template is None:
        notes.append("The run did not note its chat template; the tokenizer's own is taken.")
    return tuple(notes)


def _arguments(
    bundle: Bundle, scratch: Path, *, rows: int, accumulation: int, pretrained: Pretrained
) -> TrainingArguments:
    on_cpu = pretrained.model.device.type == "cpu"
    return TrainingArguments(
        output_dir=str(scratch),
        train_sampling_strategy="sequential",
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=1,
        max_grad_norm=bundle.recipe["learner"]["max_grad_norm"],
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        use_cpu=on_cpu,
        ddp_backend="gloo" if on_cpu and _num_ranks() > 1 else None,
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
        seed=bundle.recipe["seed"],
    )


def _trainer(bundle: Bundle, pretrained: Pretrained, arguments: TrainingArguments) -> ReplayTrainer:
    model, recipe = pretrained.model, bundle.recipe
    config = LearnerConfig.model_validate(recipe["learner"])
    precision = resolve_precision(recipe["precision"], model.device)
    whole = LayeredForward(model, split=0, precision=precision)
    flops = flops_model(model, whole.layers)
    part = make_trainable(model, config.trainable, precision=precision, seed=recipe["seed"])
    noise = NoiseRecipe(
        alpha=config.embedding_noise,
        size=part.forward.embedding_size,
        overhead=BUCKET_OVERHEAD[model.device.type],
        seed=recipe["seed"],
    )
    trainer = ReplayTrainer(
        part,
        trunk_cache(part.forward, flops, None),
        config,
        seed=recipe["seed"],
        model=model,
        args=arguments,
        train_dataset=ReplayRows(
            _encoded(bundle, pretrained), batch_size=recipe["batch_size"], noise=noise
        ),
        optimizers=_optimizer(part, config, [step.learning_rate for step in bundle.steps]),
    )
    trainer.remove_callback(PrinterCallback)  # what is printed is the caller's to say
    return trainer


def _encoded(bundle: Bundle, pretrained: Pretrained) -> list[Any]:
    tokenizer = pretrained.tokenizer
    if bundle.template is not None:
        tokenizer.chat_template = bundle.template
    encoder = ChatEncoder(tokenizer, system_prompt=bundle.recipe["system_prompt"])
    return encoded_rows(bundle, encoder, pad=tokenizer.pad_token_id)


def _optimizer(
    part: TrainablePart, config: LearnerConfig, rates: Sequence[float]
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """The learner's own, with the rate that each step had."""
    optimizer = torch.optim.AdamW(
        part.parameters, lr=1.0, weight_decay=config.weight_decay, fused=True
    )
    last = len(rates) - 1
    return optimizer, LambdaLR(optimizer, lambda step: rates[min(step, last)])
