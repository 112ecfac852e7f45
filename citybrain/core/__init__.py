"""Core: the words that every room shares.

Errors, names, settings, the shelf of plug-ins, tensors and the schemas that the API, the SDK
and the services have in common. May import: the standard library, pydantic and numpy.
"""
