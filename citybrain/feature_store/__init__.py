"""Feature store: what is known of each sensor now and in the past, kept by Feast as a library.

Start reading at definitions.py (what is kept) and store.py (`FeatureStore`: apply, push, read).
Feast runs inside our processes only; none of its servers is ever started, and no view of ours
carries code, because Feast runs what its registry holds. A new view: one entry in definitions.py.
May import: core, storage.
"""
