"""Baselines: one file for each simple rule that an algorithm has to beat."""
