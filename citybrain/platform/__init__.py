"""Platform: the processes and the doors that are not the hot path.

Start reading at wiring.py (what is connected to what) and supervisor.py (which processes run).
May import: every room. Say `from citybrain.platform.wiring import build`: inside this folder
`import platform` is still Python's own module, because all imports are absolute.
"""
