"""Unit tests use the plain classes: no cluster, no network."""

import socket
import sys

import pytest


@pytest.fixture(autouse=True)
def no_cluster_no_network(monkeypatch):
    connect = socket.socket.connect

    def local(self, address):
        if self.family != socket.AF_UNIX:
            raise RuntimeError("Unit tests use the plain class, not the cluster.")
        return connect(self, address)

    monkeypatch.setattr("socket.socket.connect", local)
    monkeypatch.setitem(sys.modules, "ray", None)
