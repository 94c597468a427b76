"""What was picked in the best episode is remembered, of one environment or of several."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from raise_mdit.agents.best_episode import BestEpisode


def told(callback: BestEpisode, *steps: tuple[float, list[int], bool]) -> None:
    """One step of each environment: its gain, what was picked, whether the episode ended."""
    infos = [{"gain": gain, "rows": np.array(rows), "kept_steps": 99} for gain, rows, _ in steps]
    callback.locals = {"infos": infos, "dones": np.array([done for *_, done in steps])}
    callback.model = SimpleNamespace()  # type: ignore[assignment]  # it is not asked
    callback._on_step()


def batches(callback: BestEpisode) -> list[list[Any]]:
    assert callback.best is not None
    return [batch.tolist() for batch in callback.best.batches]


def test_nothing_is_best_before_an_episode_has_ended() -> None:
    callback = BestEpisode()
    told(callback, (0.5, [1, 2], False))

    assert callback.best is None


def test_the_episode_with_the_most_gain_is_remembered_whole() -> None:
    callback = BestEpisode()
    told(callback, (0.1, [1, 2], False))
    told(callback, (0.3, [3, 4], True))
    told(callback, (0.4, [5, 6], False))
    told(callback, (-0.2, [7, 8], True))

    assert batches(callback) == [[1, 2], [3, 4]]
    assert callback.best is not None
    assert callback.best.total == 0.1 + 0.3


def test_of_equals_the_first_is_remembered() -> None:
    callback = BestEpisode()
    told(callback, (0.25, [1], True))
    told(callback, (0.25, [2], True))

    assert batches(callback) == [[1]]


def test_episodes_that_step_together_are_kept_apart() -> None:
    callback = BestEpisode()
    told(callback, (0.1, [1], False), (0.9, [2], False))
    told(callback, (0.1, [3], True), (0.2, [4], True))
    told(callback, (0.2, [5], False), (0.3, [6], True))

    assert batches(callback) == [[2], [4]]


def test_what_an_early_stop_undoes_is_left_out() -> None:
    callback = BestEpisode()
    for kept, rows in ((1, [1]), (2, [2]), (2, [3])):
        callback.locals = {
            "infos": [{"gain": 0.1, "rows": np.array(rows), "kept_steps": kept}],
            "dones": np.array([rows == [3]]),
        }
        callback.model = SimpleNamespace()  # type: ignore[assignment]  # it is not asked
        callback._on_step()

    assert batches(callback) == [[1], [2]]
