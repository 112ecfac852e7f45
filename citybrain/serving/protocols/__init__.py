"""Codecs: bytes of one protocol to task tensors, and task tensors to its answer.

One module a protocol, each with `decode` and `encode`.
"""
