"""What an experiment begins with: the untuned model, and the data as it reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from raise_mdit.config import ExperimentConfig
from raise_mdit.corpus import Corpus, read_corpus
from raise_mdit.encoding import ChatEncoder
from raise_mdit.errors import ModelError
from raise_mdit.learners.forward import Precision, resolve_precision
from raise_mdit.learners.pretrained import Pretrained, load_pretrained
from raise_mdit.progress import Progress
from raise_mdit.sources.mosaic_wording import Wording, wording_of


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """A model and data that it can read."""

    pretrained: Pretrained
    precision: Precision
    encoder: ChatEncoder
    wording: Wording
    """With which mosaics are composed."""
    corpus: Corpus


def load_inputs(config: ExperimentConfig, *, cache: Path, progress: Progress) -> Inputs:
    """Load the model, and read and split the data.

    Args:
        config: The experiment.
        cache: Folder for converted models and what was tokenised before.
        progress: Told of long work.

    Raises:
        UserError: Of any kind, for what cannot be had or does not fit together.
    """
    progress.start("loading the model", None)
    pretrained = load_pretrained(config.model.name, cache=cache, device=config.model.device)
    _check_context(config, pretrained)
    precision = resolve_precision(config.model.precision, pretrained.model.device)
    encoder = ChatEncoder(pretrained.tokenizer, system_prompt=config.model.system_prompt)
    wording = wording_of(config.pools.mosaic, special=encoder.special_tokens)
    progress.start("reading the data", None)
    corpus = read_corpus(config.data, encoder, max_length=config.model.max_length, cache=cache)
    return Inputs(pretrained, precision, encoder, wording, corpus)


def _check_context(config: ExperimentConfig, pretrained: Pretrained) -> None:
    if config.model.max_length > pretrained.context_length:
        raise ModelError(
            f"model.max_length: {config.model.max_length} is longer than the context of "
            f"{config.model.name!r}, {pretrained.context_length} tokens; give at most that"
        )
