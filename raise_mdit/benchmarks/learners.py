"""The learners that are compared, on models of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from raise_mdit.benchmarks.naive import NaiveLearner
from raise_mdit.benchmarks.setting import Setting
from raise_mdit.config import LearnerConfig, LoraConfig, TopLayersConfig
from raise_mdit.learners.causal_lm import CausalLmLearner, build_learner
from raise_mdit.learners.flops import FlopsModel, PartFlops, flops_model, part_flops
from raise_mdit.learners.forward import LayeredForward
from raise_mdit.learners.pretrained import Pretrained, load_pretrained
from raise_mdit.learners.stacked import StackedCausalLmLearners, build_stacked_learners
from raise_mdit.learners.trainable import make_trainable
from raise_mdit.learners.trunk_store import TrunkStore, sections_of

Trained = Literal["lora", "top_layers"]

RANK = 8
ALPHA = 16.0
LEARNING_RATE = 5e-4  # the quick start's
STORE_BYTES = 8 * 2**30


def naive_learner(setting: Setting) -> NaiveLearner:
    """Fine-tuning as it is usually written."""
    return NaiveLearner(
        _pretrained(setting).model,
        rank=RANK,
        alpha=ALPHA,
        learning_rate=LEARNING_RATE,
        precision=setting.precision,
        seed=setting.sizes.seed,
    )


def uncached_learner(setting: Setting) -> CausalLmLearner:
    """One that computes the frozen layers at every pass, and counts them."""
    model, sizes = _pretrained(setting).model, setting.sizes
    whole = flops_model(model, LayeredForward(model, split=0, precision=setting.precision).layers)
    config = learner_config("lora", sizes.top_layers)
    part = make_trainable(model, config.trainable, precision=setting.precision, seed=sizes.seed)
    top = part_flops(model, part.forward)
    flops = _WithFrozenLayers(
        top.layers,
        top.head,
        top.attention_width,
        top.backward_attention_products,
        frozen=whole,
        num_frozen=part.forward.split,
    )
    return CausalLmLearner(part, flops=flops, cache=None, config=config, seed=sizes.seed)


@contextmanager
def cached_learner(setting: Setting, config: LearnerConfig) -> Iterator[CausalLmLearner]:
    """One whose frozen layers are computed once for each row; no state is there at first."""
    with TemporaryDirectory(dir=setting.scratch) as folder:
        yield stored_learner(setting, config, Path(folder))


def stored_learner(setting: Setting, config: LearnerConfig, states: Path) -> CausalLmLearner:
    """The same, with the states that learners before it left in a folder.

    Args:
        setting: Model and precision.
        config: What is trained, and how.
        states: An existing folder.
    """
    pretrained = _pretrained(setting)
    sections = sections_of(
        TrunkStore(states, max_bytes=STORE_BYTES),
        model_digest=pretrained.digest,
        precision=setting.precision,
        device_type=pretrained.model.device.type,
    )
    return build_learner(
        pretrained.model,
        config,
        precision=setting.precision,
        seed=setting.sizes.seed,
        store=sections,
    )


def stacked_learners(setting: Setting, num_learners: int) -> StackedCausalLmLearners:
    """Several of `cached` that step together, with states in memory."""
    return build_stacked_learners(
        _pretrained(setting).model,
        learner_config("lora", setting.sizes.top_layers),
        num_learners=num_learners,
        precision=setting.precision,
        seed=setting.sizes.seed,
    )


def learner_config(
    trained: Trained, layers: int, *, learning_rate: float = LEARNING_RATE
) -> LearnerConfig:
    """What is trained of the top layers: adapters, or all of them."""
    match trained:
        case "lora":
            part: LoraConfig | TopLayersConfig = LoraConfig(
                kind="lora", rank=RANK, alpha=ALPHA, layers=layers
            )
        case "top_layers":
            part = TopLayersConfig(kind="top_layers", layers=layers)
    return LearnerConfig(trainable=part, learning_rate=learning_rate)


def _pretrained(setting: Setting) -> Pretrained:
    return load_pretrained(setting.model, cache=setting.models, device=setting.device)


@dataclass(frozen=True, slots=True)
class _WithFrozenLayers(PartFlops):
    """Counts the frozen layers too: they are passed forward, and nothing goes back through them."""

    frozen: FlopsModel
    num_frozen: int

    def forward(self, *, rows: int, length: int, scored: int) -> float:
        top = PartFlops.forward(self, rows=rows, length=length, scored=scored)
        below = self.frozen.layers(rows=rows, length=length, num_layers=self.num_frozen)
        return top + below
