"""The sampled prediction log: calls leave a gateway by a spool and are folded into Parquet.

Start reading at spool.py (in a gateway), then folding.py (in the control process); contents.py says
what of a call may be kept. The files themselves are the storage room's.
"""
