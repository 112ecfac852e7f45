"""The home folder: where everything of an embedded platform lies. Copy it to back it up."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Home:
    """Paths under `CITYBRAIN_HOME`. Folders are 0700, secret files 0600."""

    root: Path

    @property
    def database(self) -> Path:
        """The platform database, when it is SQLite."""
        return self.root / "platform.db"

    @property
    def mlflow(self) -> Path:
        """MLflow's SQLite file and artifacts."""
        return self.root / "mlflow"

    @property
    def features(self) -> Path:
        """Feast's registry and stores."""
        return self.root / "features"

    @property
    def packages(self) -> Path:
        """Verified packages by digest, as replicas load them."""
        return self.root / "packages"

    @property
    def journal(self) -> Path:
        """Usage journals of the gateways."""
        return self.root / "journal"

    @property
    def run(self) -> Path:
        """Sockets, process ids and addresses of what runs now."""
        return self.root / "run"

    @property
    def ray(self) -> Path:
        """Ray's session folder: short, because Unix sockets lie in it and have short names."""
        path = self.run / "ray"
        if len(str(path)) <= 40:
            return path
        short = hashlib.sha256(str(self.root).encode()).hexdigest()[:10]
        return Path(tempfile.gettempdir()) / f"citybrain-{os.getuid()}-{short}"

    @property
    def logs(self) -> Path:
        """A log file for each process."""
        return self.root / "logs"

    @property
    def work(self) -> Path:
        """Data and packages of `train` and `demo`."""
        return self.root / "work"

    @property
    def scenarios(self) -> Path:
        """Scenarios that this city added."""
        return self.root / "scenarios"

    @property
    def admin_key(self) -> Path:
        """The first admin's key."""
        return self.root / "admin.key"

    @property
    def pepper(self) -> Path:
        """The secret that keys are hashed with."""
        return self.root / "secrets" / "pepper"

    @property
    def control_socket(self) -> Path:
        """Where gateways forward what is not data plane."""
        return self.ray.parent / f"{self.ray.name}.control"

    @property
    def lanes(self) -> Path:
        """Where replicas announce their sockets to gateways."""
        return self.ray.parent / f"{self.ray.name}.lanes"

    def make(self) -> Home:
        """Create the folders; safe to call on a home that exists."""
        folders = (
            self.mlflow,
            self.features,
            self.packages,
            self.journal,
            self.run,
            self.logs,
        )
        for folder in (
            self.root,
            *folders,
            self.work,
            self.scenarios,
            self.pepper.parent,
        ):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self

    def secret(self, path: Path, size: int = 32) -> bytes:
        """The secret in this file, made at the first call."""
        if not path.exists():
            write_private(path, secrets.token_bytes(size))
        return path.read_bytes()


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner reads: whole or not at all, whatever the umask."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
