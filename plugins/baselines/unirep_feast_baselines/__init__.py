"""Baselines that a paper must beat, and several representations side by side."""
