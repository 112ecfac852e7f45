"""The gateway: one ASGI callable and one gRPC door before all algorithms.

Start reading at asgi.py (routes), then gateway.py (what happens to a call), coalescer.py (how
calls share a frame) and directory.py (keys, grants and routes in memory).
"""
