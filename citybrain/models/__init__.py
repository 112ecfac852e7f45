"""Models: what an algorithm is and how it runs, with no server around it.

Start reading at package.py (the folder that a developer hands in) and predictor.py (one
algorithm, ready to answer). Plug-ins, one file each: a runtime in runtimes/, a task in tasks/,
a recipe in recipes/. May import: core; frameworks only inside functions.
"""
