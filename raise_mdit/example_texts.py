"""The texts that recipes refer to, as a run directory keeps them: one example a line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from raise_mdit.candidates import make_example
from raise_mdit.core import Example, Message
from raise_mdit.errors import RunError
from raise_mdit.runs import write_text

EXAMPLES_FILE = "examples.jsonl"


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Write examples, at once."""
    texts = (
        {"id": example.id, "source": example.source, "messages": [*map(list, example.messages)]}
        for example in examples
    )
    write_text(path, "".join(json.dumps(text, ensure_ascii=False) + "\n" for text in texts))


def read_examples(path: Path) -> dict[str, Example]:
    """Examples by id; an id that does not match its text was altered.

    Raises:
        RunError: The file is missing, damaged or altered.
    """
    try:
        lines = path.read_text("utf-8").rstrip("\n").split("\n")
    except FileNotFoundError as error:
        raise RunError(f"{path}: no such file; is {path.parent} a run directory?") from error
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: damaged ({error})") from error
    examples = {}
    for number, line in enumerate(lines, start=1):
        try:
            fields = json.loads(line)
            messages = [Message(*turn) for turn in fields["messages"]]
            example, written = make_example(fields["source"], messages), fields["id"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path}:{number}: damaged ({error})") from error
        if example.id != written:
            raise RunError(f"{path}:{number}: altered since it was written")
        examples[example.id] = example
    return examples
