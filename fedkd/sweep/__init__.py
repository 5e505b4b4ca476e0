"""Sweeps: many cells of one table, each an experiment with a seed, run side by side and kept as files."""
