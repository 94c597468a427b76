"""How many generations of candidates an experiment makes."""

from typing import Any

import pytest

from raise_mdit.config import ExperimentConfig
from raise_mdit.renewal import (
    generations_per_episode,
    num_generations,
    num_learning_episodes,
    steps_per_generation,
)


def experiment(renew: Any, *episodes: int, steps: int = 10) -> ExperimentConfig:
    shares = ({"source": "tasks"},)
    return ExperimentConfig.model_validate(
        {
            "name": "renewal",
            "data": {
                "sources": ({"name": "tasks", "kind": "playground"},),
                "pool": shares,
                "reward_validation": shares,
                "test": shares,
            },
            "pools": {"mosaic": {}, "renew": renew},
            "environment": {"budget": {"steps": steps}},
            "policies": (
                {"kind": "base"},
                *(
                    {"kind": "ppo", "name": f"ppo{i}", "episodes": count}
                    for i, count in enumerate(episodes)
                ),
            ),
        }
    )


@pytest.mark.parametrize(
    ("renew", "episodes", "expected"),
    [
        ("never", (24,), (0, None, 0)),
        ("episode", (24,), (1, None, 25)),
        ("episode", (24, 48), (1, None, 49)),
        ("episode", (), (1, None, 1)),  # nobody learns: the final fine-tuning alone
        ({"steps": 5}, (24,), (2, 5, 50)),
        ({"steps": 4}, (24,), (3, 4, 75)),  # steps 0-3, 4-7 and 8-9
        ({"steps": 99}, (24,), (1, 99, 25)),
    ],
)
def test_every_episode_and_the_final_one_have_generations_of_their_own(
    renew: Any, episodes: tuple[int, ...], expected: tuple[int, int | None, int]
) -> None:
    config = experiment(renew, *episodes)

    found = (generations_per_episode(config), steps_per_generation(config), num_generations(config))

    assert found == expected
    assert num_learning_episodes(config) == max(episodes, default=0)
