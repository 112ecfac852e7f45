"""Evaluation: is an algorithm good enough for a business question, and is it still.

Start reading at scenario.py and evaluator.py. Plug-ins, one file each: a metric in metrics/, a
baseline in baselines/, a scenario in scenarios/ (a YAML file). May import: core, storage,
models, registry, feature_store.
"""
