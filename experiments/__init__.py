"""Reproducible runs: experiment files, reference models, training scripts, and the demo."""
