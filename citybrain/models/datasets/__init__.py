"""Data sets: one file for each format that a task reads for training and evaluation."""
