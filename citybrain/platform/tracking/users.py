"""Departments as users of MLflow, made when they first come."""

from __future__ import annotations

import base64
import threading
from typing import Any

import httpx

from citybrain.core.errors import NotReady
from citybrain.core.home import Home
from citybrain.core.schemas import Actor
from citybrain.platform.tracking.server import ADMIN, HOST, password

EXISTS = "RESOURCE_ALREADY_EXISTS"


class Users:
    """What MLflow is told about who may do what; it keeps it in a database of its own."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._known: set[tuple[str, ...]] = set()
        self._lock = threading.Lock()

    def credentials(self, actor: Actor) -> bytes:
        """What the door shows MLflow for this caller; admins are MLflow's admin."""
        user = ADMIN if actor.role == "admin" else actor.department
        shown = password(self._home, user)
        if user != ADMIN:
            self._once(("user", user), "2.0/mlflow/users/create", username=user, password=shown)
        return b"Basic " + base64.b64encode(f"{user}:{shown}".encode())

    def let_manage(self, department: str, model: str) -> None:
        """An algorithm that the platform registered is its owner's in MLflow too."""
        self._once(
            ("model", department, model), "3.0/mlflow/users/permissions/grant",
            username=department, resource_type="registered_model", resource_id=model,
            permission="MANAGE",
        )  # fmt: skip

    def forget(self) -> None:
        """MLflow does not know somebody any more: its database was replaced."""
        with self._lock:
            self._known.clear()

    def _once(self, fact: tuple[str, ...], route: str, **body: Any) -> None:
        if fact in self._known:
            return
        transport = httpx.HTTPTransport(uds=str(self._home.mlflow_socket))
        admin = (ADMIN, password(self._home, ADMIN))
        try:  # once a department and model: not worth a connection that is kept
            with httpx.Client(transport=transport, auth=admin, timeout=30) as client:
                answer = client.post(f"http://{HOST}/api/{route}", json=body)
        except httpx.TransportError as error:
            raise NotReady("MLflow is being started.", hint="Repeat in a few seconds.") from error
        if not answer.is_success and EXISTS not in answer.text:
            raise NotReady(
                f"MLflow answered {answer.status_code} where a department was to be let in.",
                hint="Its log says why: logs/mlflow.out of the home.",
            )
        with self._lock:
            self._known.add(fact)
