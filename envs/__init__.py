"""Instruction tuning as a Gymnasium environment.

Importing this package registers ``raise_mdit/InstructionSelection-v0``; ``gymnasium.make`` takes
the arguments of :class:`InstructionSelectionEnv`. Many learners at once are in
:mod:`raise_mdit.envs.vectorised`, which alone needs Stable-Baselines3.
"""

import gymnasium

from raise_mdit.envs.episode import Renewal, TrainingPool
from raise_mdit.envs.instruction_selection import InstructionSelectionEnv

ENVIRONMENT_ID = "raise_mdit/InstructionSelection-v0"

if ENVIRONMENT_ID not in gymnasium.registry:
    gymnasium.register(
        id=ENVIRONMENT_ID,
        entry_point="raise_mdit.envs.instruction_selection:InstructionSelectionEnv",
    )

__all__ = ["ENVIRONMENT_ID", "InstructionSelectionEnv", "Renewal", "TrainingPool"]
