"""How a release meets live traffic: splits, canaries that undo themselves, shadows, fallbacks.

Start with `traffic.py` (what a gateway does with a call), then `judge.py` and `canary.py`.
"""
