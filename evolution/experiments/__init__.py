"""Experiments: their settings, their benchmarks and baselines."""
