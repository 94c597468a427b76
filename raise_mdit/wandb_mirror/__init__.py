"""Weights & Biases as a mirror of run directories: runs, tables, artifacts, dashboards, sweeps."""
