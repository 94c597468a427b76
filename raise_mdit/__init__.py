"""Reinforcement-learned selection of instruction data for tuning language models."""

__version__ = "0.1.0"
