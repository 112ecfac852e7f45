"""Runtimes: one file for each way a model is loaded and run."""
