"""Seeds of random draws."""

from __future__ import annotations

from raise_mdit.candidates import content_hash


def stream(label: str, seed: int, purpose: str) -> int:
    """A seed of its own for each policy, seed and purpose; 31 bits, as Gymnasium and SB3 take.

    Args:
        label: Of the policy, or what else draws.
        seed: Of the arm.
        purpose: What is drawn.
    """
    return int(content_hash([label, seed, purpose]), 16) % 2**31
