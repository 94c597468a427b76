"""Words and draws from which the families of the embedded data set are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

SMALL = (2, 9)
MEDIUM = (10, 99)
LARGE = (100, 499)
"""Value ranges, both ends included. Short numbers: most tokenizers spend a token on each digit."""

NAMES = (
    *("Ada", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Iris", "Jonas", "Kate"),
    *("Leo", "Maria", "Nora", "Oscar", "Paula", "Ruth", "Simon", "Tara", "Victor"),
)
CITIES = (
    *("Athens", "Berlin", "Cairo", "Dublin", "Geneva", "Hanoi", "Lima", "London", "Madrid"),
    *("Oslo", "Paris", "Prague", "Rome", "Seoul", "Tokyo", "Vienna"),
)
THINGS = (
    *("apples", "books", "coins", "cups", "eggs", "flags", "hats", "keys", "lamps", "pens"),
    *("plates", "shells", "stamps", "tickets"),
)
WORDS = (
    *("apple", "bridge", "cloud", "desert", "engine", "forest", "garden", "harbor", "island"),
    *("jacket", "kettle", "lemon", "mirror", "needle", "orange", "paper", "queen", "river"),
    *("silver", "table", "uncle", "valley", "window", "yellow", "zebra", "candle", "dragon"),
)
MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September"),
    *("October", "November", "December"),
)
"""Not from the calendar module, whose names follow the locale."""

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

T = TypeVar("T")


def pick(rng: np.random.Generator, *options: T) -> T:
    """One of the options, all equally likely."""
    return options[int(rng.integers(len(options)))]


def pick_distinct(rng: np.random.Generator, options: Sequence[T], count: int) -> list[T]:
    """So many different options, in random order."""
    return [options[int(index)] for index in rng.permutation(len(options))[:count]]


def number(rng: np.random.Generator, *ranges: tuple[int, int]) -> int:
    """A number from one of the ranges: first the range is drawn, then the number in it."""
    low, high = pick(rng, *ranges)
    return int(rng.integers(low, high + 1))


def invented_word(rng: np.random.Generator) -> str:
    """A pronounceable word of four to seven letters that no dictionary has on purpose."""
    syllables = [
        pick(rng, *"bdfgklmnprstvz") + pick(rng, *"aeiou") for _ in range(number(rng, (2, 3)))
    ]
    return "".join(syllables) + pick(rng, "", "", "l", "n", "r", "s")
