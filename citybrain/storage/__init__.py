"""Storage: every line of SQL, and the usage journal.

Start reading at tables.py and database.py. Records (one file a noun, in records/) return schemas
or plain values; rows never leave this room. May import: core.
"""
