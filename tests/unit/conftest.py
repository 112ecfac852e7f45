"""Unit tests use the plain classes: no cluster, no network."""

import sys

import pytest


@pytest.fixture(autouse=True)
def no_cluster_no_network(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("Unit tests use the plain class, not the cluster.")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setitem(sys.modules, "ray", None)
