"""Registry: versions and aliases of algorithms, in MLflow.

Start reading at catalogue.py (register, list, fetch) and lifecycle.py (gate, promotion, rollback).
May import: core, storage, models.
"""
