"""Another model than the tuned one reads the pool: by its own tokenizer, and gone afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from raise_mdit.core import EncodedRow, Example
from raise_mdit.encoding import ChatEncoder, TextRow, plain_row
from raise_mdit.errors import ModelError
from raise_mdit.features import ExampleFeatures
from raise_mdit.learners.forward import Precision
from raise_mdit.learners.pretrained import Device, Pretrained, load_pretrained
from raise_mdit.learners.probe import measure, start_token


def measure_by_auxiliary(
    name: str,
    examples: Sequence[Example],
    *,
    system_prompt: str | None,
    max_length: int,
    device: Device,
    precision: Precision,
    cache: Path,
    advance: Callable[[int], None],
) -> ExampleFeatures:
    """RAISE's difficulty and the embedding of every example by the model called ``name``.

    Args:
        name: As :func:`raise_mdit.learners.pretrained.load_pretrained` takes it.
        examples: What is read.
        system_prompt: System turn put before every conversation that has none.
        max_length: Longest row, in the model's own tokens; its context limits it further.
        device: Where it reads.
        precision: Arithmetic of the passes.
        cache: Folder for converted models and cached results.
        advance: Called with the number of examples done.

    Raises:
        ModelError: The model cannot be loaded, or its chat template refuses a conversation.
    """
    try:
        pretrained = load_pretrained(name, cache=cache, device=device)
        rows = _encoded(pretrained, examples, system_prompt, max_length)
    except ModelError as error:
        raise ModelError(f"features.auxiliary_model: {error}") from error
    return measure(
        pretrained.model,
        rows,
        digest=pretrained.digest,
        start_token=start_token(pretrained.tokenizer),
        precision=precision,
        cache=cache,
        advance=advance,
    )


def _encoded(
    pretrained: Pretrained, examples: Sequence[Example], system_prompt: str | None, max_length: int
) -> list[EncodedRow]:
    limit = min(max_length, pretrained.context_length)
    encoder = ChatEncoder(pretrained.tokenizer, system_prompt=system_prompt)
    texts = encoder.encode([example.messages for example in examples])
    return [
        plain_row(example.id, _fitted(text, limit))
        for example, text in zip(examples, texts, strict=True)
    ]


def _fitted(text: TextRow, limit: int) -> TextRow:
    """The first tokens; the last where a prompt, in this model's tokens, leaves no room."""
    if text.truncated(limit).num_response_tokens > 0:
        return text.truncated(limit)
    return TextRow(text.ids[-limit:], text.in_response[-limit:])
