"""Records: one file a noun.

They take a `Database`, return schemas, and write the audit row of an act in its transaction.
"""
