"""Texts that have to fit."""

from __future__ import annotations

import pytest

from raise_mdit.shortening import shortened


@pytest.mark.parametrize(
    ("text", "expected"), [("", ""), ("abcd", "abcd"), ("abcde", "abc…"), ("abcdefgh", "abc…")]
)
def test_a_text_fits_whole_or_says_that_it_goes_on(text: str, expected: str) -> None:
    assert shortened(text, 4) == expected
