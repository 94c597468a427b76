"""Instruction tuning as a Gymnasium environment.

Importing this package registers ``raise_mdit/InstructionSelection-v0``; ``gymnasium.make`` takes
the arguments of :class:`InstructionSelectionEnv`.
"""

import gymnasium

from raise_mdit.envs.instruction_selection import InstructionSelectionEnv, TrainingPool

ENVIRONMENT_ID = "raise_mdit/InstructionSelection-v0"

if ENVIRONMENT_ID not in gymnasium.registry:
    gymnasium.register(
        id=ENVIRONMENT_ID,
        entry_point="raise_mdit.envs.instruction_selection:InstructionSelectionEnv",
    )

__all__ = ["ENVIRONMENT_ID", "InstructionSelectionEnv", "TrainingPool"]
