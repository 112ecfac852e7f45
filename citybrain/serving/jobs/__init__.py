"""Batch jobs: open what was handed in, answer it chunk by chunk, put the result together.

Start reading at runner.py. The queue itself is `platform/jobs.py`.
"""
