"""MLflow for developers on other machines: its server, and the door in front of it.

Start reading at door.py. `citybrain up --mlflow` starts the server, on a Unix socket in the home;
nothing reaches it but what the door lets through.
"""
