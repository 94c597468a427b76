"""Mosaics composed plainly: the whole text is tokenised again at every enlargement.

That is how the method's public code goes about it (arXiv 2405.13326). It is what this project's
composer is compared with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from raise_mdit.candidates import Mosaic, Strategy
from raise_mdit.core import Example, Message
from raise_mdit.encoding import Tokenizer
from raise_mdit.sources.draws import Draws
from raise_mdit.sources.mosaic_choices import Instruction, draw_choices, draw_look
from raise_mdit.sources.mosaic_rendering import render
from raise_mdit.sources.mosaic_wording import Wording

STRATEGIES: tuple[Strategy, ...] = ("format", "permute", "maskout")
SEPARATOR = "\n\n"


def compose_plainly(
    examples: Sequence[Example],
    *,
    passes: int,
    max_instructions: int,
    max_length: int,
    tokenizer: Tokenizer,
    wording: Wording,
    rng: np.random.Generator,
) -> list[tuple[Message, ...]]:
    """Mosaics as conversations, of 1 to ``max_instructions`` examples drawn evenly.

    A mosaic takes the next example while instructions and responses together have fewer than
    ``max_length`` tokens; what is said round them is not counted, as in the public code. An example
    too long alone is lost without a word, as there.
    """
    draws = Draws(rng)
    by_id = {example.id: example for example in examples}
    instructions = {key: Instruction.of(example.prompt) for key, example in by_id.items()}
    made: list[tuple[Message, ...]] = []
    for _ in range(passes):
        order = [examples[row] for row in rng.permutation(len(examples))]
        start = 0
        while start < len(order):
            wanted = order[start : start + 1 + draws.index(max_instructions)]
            taken = _as_many_as_fit(wanted, tokenizer, max_length)
            start += max(1, len(taken))
            if taken:
                recipe = _recipe([example.id for example in taken], instructions, wording, draws)
                made.append(render(recipe, by_id, wording))
    return made


def _as_many_as_fit(
    wanted: Sequence[Example], tokenizer: Tokenizer, max_length: int
) -> list[Example]:
    taken: list[Example] = []
    for example in wanted:
        longer = [*taken, example]
        instructions = SEPARATOR.join(each.prompt for each in longer)
        responses = SEPARATOR.join(each.response for each in longer)
        text = instructions + SEPARATOR + responses
        (ids,) = tokenizer([text], add_special_tokens=False)["input_ids"]
        if len(ids) >= max_length:
            break
        taken = longer
    return taken


def _recipe(
    keys: Sequence[str], instructions: Mapping[str, Instruction], wording: Wording, draws: Draws
) -> Mosaic:
    strategy = draws.pick(STRATEGIES) if len(keys) > 1 else "format"
    look = draw_look(strategy, wording=wording, draws=draws)
    of_keys = [instructions[key] for key in keys]
    choices = draw_choices(strategy, look, of_keys, wording=wording, draws=draws)
    return Mosaic(tuple(keys), strategy, dict(choices))
