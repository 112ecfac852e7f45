"""Serving: answer calls, and keep what should run running.

Start reading at gateway/asgi.py (where a call arrives), replica.py (where the model answers) and
reconciler.py (who starts it). May import: core, storage, models, registry, feature_store.
"""
