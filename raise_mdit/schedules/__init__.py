"""Schedules that leave the run directory: a folder that anyone can check and train on."""
