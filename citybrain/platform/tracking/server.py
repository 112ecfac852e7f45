"""The MLflow server of a home: its command line, its environment, its users' passwords.

It listens on a Unix socket, believes nobody without a password, and is told to start no jobs, call
no other server and read no file outside its artifacts. Passwords are made from one secret of the
home, so there is nothing to keep in step and nothing to lose but that file.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import sys
from pathlib import Path

from citybrain.core.home import Home, write_private
from citybrain.registry.tracker import ARTIFACTS, tracking_uri

ADMIN = "admin@platform"
"""MLflow's admin; no department can be called so."""
HOST = "mlflow"
"""The only name under which the server answers: the door's."""
PREFIX = "/mlflow"


def artifacts_address(home: Home) -> str:
    """Where artifacts lie, as MLflow writes it down; outside it is `mlflow-artifacts:`."""
    return (home.mlflow / ARTIFACTS).as_uri()


def password(home: Home, user: str) -> str:
    """What a user of MLflow shows; known to the door alone."""
    return _derived(home, f"user:{user}").hex()


def server_command(home: Home) -> list[str]:
    """What `mlflow server --app-name basic-auth` would start, without the process of the command.

    One process takes half the memory and half the time, and the supervisor looks after it itself.
    """
    return [
        sys.executable, "-P", "-m", "uvicorn", "--factory", "mlflow.server.auth:create_app",
        "--uds", str(home.mlflow_socket), "--workers", "1", "--no-access-log", "--no-server-header",
        "--timeout-graceful-shutdown", "5", "--log-level", "warning",
    ]  # fmt: skip


def server_environment(home: Home) -> dict[str, str]:
    """Its secrets and its safe settings; writes the file that it reads its users' database from."""
    config = home.root / "secrets" / "mlflow_auth.ini"
    write_private(config, _config(home.mlflow / "auth.db").encode())
    inside = re.escape(f"{artifacts_address(home)}/")
    return {
        "_MLFLOW_SGI_NAME": "uvicorn",
        "_MLFLOW_SERVER_FILE_STORE": tracking_uri(home.mlflow),
        "_MLFLOW_SERVER_ARTIFACT_ROOT": artifacts_address(home),
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(home.mlflow / ARTIFACTS),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "MLFLOW_SERVER_ALLOWED_HOSTS": HOST,
        "MLFLOW_SERVER_X_FRAME_OPTIONS": "DENY",
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN,
        "MLFLOW_AUTH_ADMIN_PASSWORD": password(home, ADMIN),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": _derived(home, "flask").hex(),
        "MLFLOW_CRYPTO_KEK_PASSPHRASE": _derived(home, "kek").hex(),
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": base64.urlsafe_b64encode(
            _derived(home, "webhooks")
        ).decode(),
        "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
        "MLFLOW_SERVER_ENABLE_GRAPHQL_AUTH": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_ENABLE_AI_GATEWAY": "false",
        "MLFLOW_ENABLE_REMOTE_ASSISTANT": "false",
        "MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS": "false",
        "MLFLOW_ENABLE_WORKSPACES": "false",
        "MLFLOW_ALLOW_HTTP_REDIRECTS": "false",
        "MLFLOW_CREATE_MODEL_VERSION_SOURCE_VALIDATION_REGEX": f"^(runs:/|models:/|{inside})[^%]*$",
    }


def _config(database: Path) -> str:
    # READ: departments look at one another's models, as in the catalogue; who makes an experiment
    # or a model manages it. Passwords never change, so a checked one may be remembered.
    address = f"sqlite:///{database}".replace("%", "%%")
    return (
        "[mlflow]\n"
        "default_permission = READ\n"
        f"database_uri = {address}\n"
        "auth_cache_ttl_seconds = 3600\n"
    )


def _derived(home: Home, purpose: str) -> bytes:
    secret = home.secret(home.root / "secrets" / "mlflow.key")
    return hmac.digest(secret, purpose.encode(), hashlib.sha256)
