"""Label noise: responses that other examples gave."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raise_mdit.candidates import make_example
from raise_mdit.core import Example, Message
from raise_mdit.label_noise import with_label_noise


def example(at: int) -> Example:
    turns = [
        Message("system", "be brief"),
        Message("user", f"question {at}"),
        Message("assistant", f"answer {at}"),
    ]
    return make_example("mine", turns, task="sums")


@given(
    num_examples=st.integers(0, 40),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_as_many_as_asked_have_the_response_of_another(
    num_examples: int, share: float, seed: int
) -> None:
    clean = [example(at) for at in range(num_examples)]

    noisy = with_label_noise(clean, share, np.random.default_rng(seed))

    asked = round(share * num_examples)
    assert sum(new != old for new, old in zip(noisy, clean, strict=True)) == asked * (asked > 1)
    assert Counter(each.response for each in noisy) == Counter(each.response for each in clean)
    for new, old in zip(noisy, clean, strict=True):
        assert (new.messages[:-1], new.source, new.task) == (
            old.messages[:-1], old.source, old.task
        )  # fmt: skip
        assert (new.id == old.id) == (new.response == old.response)


def test_two_change_with_each_other() -> None:
    """The one circle of two."""
    first, second = with_label_noise([example(0), example(1)], 1.0, np.random.default_rng(0))

    assert (first.response, second.response) == ("answer 1", "answer 0")


def test_a_seed_draws_the_same() -> None:
    clean = [example(at) for at in range(30)]

    drawn = [with_label_noise(clean, 0.5, np.random.default_rng(seed)) for seed in (1, 1, 2)]

    assert drawn[0] == drawn[1] != drawn[2]


def test_a_response_is_no_longer_among_the_choices_of_another_question() -> None:
    turns = [Message("user", "red or blue?"), Message("assistant", "red")]
    clean = [make_example("mine", turns, choices=("red", "blue")), example(0)]

    noisy, _ = with_label_noise(clean, 1.0, np.random.default_rng(0))

    assert (noisy.response, noisy.choices) == ("answer 0", None)
