"""Metrics: one file for each number that a gate can ask for."""
