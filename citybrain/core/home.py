"""The home folder: where everything of an embedded platform lies. Copy it to back it up."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from citybrain.core.errors import Conflict, Unavailable
from citybrain.core.sockets import address_of

RAY_BYTES = 40
"""Ray adds some sixty more, and the kernel takes 107."""
SHORT_BASES = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))  # noqa: S108 - names of our own


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
    def shadows(self) -> Path:
        """What shadow deployments answered, beside what callers got."""
        return self.root / "shadows"

    @property
    def predictions(self) -> Path:
        """The sampled prediction log, by algorithm and day."""
        return self.root / "predictions"

    @property
    def spool(self) -> Path:
        """Sampled calls on their way from gateways into the prediction log."""
        return self.root / "spool"

    @property
    def journal(self) -> Path:
        """Usage journals of the gateways."""
        return self.root / "journal"

    @property
    def denials(self) -> Path:
        """Refusals on their way from gateways into the audit trail."""
        return self.root / "denials"

    @property
    def audit(self) -> Path:
        """Signed checkpoints of the audit trail."""
        return self.root / "audit"

    @property
    def run(self) -> Path:
        """Sockets, process ids and addresses of what runs now."""
        return self.root / "run"

    @property
    def limits(self) -> Path:
        """The counters of all limits, shared by the processes that answer calls."""
        return self.run / "limits.book"

    @property
    def writers(self) -> Path:
        """Which of those processes live."""
        return self.run / "writers"

    @property
    def ray(self) -> Path:
        """Ray's session folder, which Ray opens to everybody: what it lies in keeps others out."""
        return self.short / "ray"

    @property
    def short(self) -> Path:
        """`run`, or a folder with a shorter name: Unix sockets lie in it and have short names.

        Every process of a home finds the same one, so `TMPDIR` has no say.
        """
        if len(os.fsencode(self.run)) <= RAY_BYTES - len("/ray"):
            return self.run
        short = hashlib.sha256(str(self.root).encode()).hexdigest()[:10]
        for base in SHORT_BASES:
            if os.access(base, os.W_OK | os.X_OK):
                return base / f"citybrain-{os.getuid()}-{short}"
        raise Unavailable(
            f"{self.root} is too long a path for the sockets that lie below it.",
            hint=f"Choose a home of at most {RAY_BYTES - len('/run/ray')} bytes, or make "
            f"{SHORT_BASES[0]} writable.",
        )

    @property
    def logs(self) -> Path:
        """A log file for each process."""
        return self.root / "logs"

    @property
    def work(self) -> Path:
        """Data and packages of `train` and `demo`."""
        return self.root / "work"

    @property
    def jobs(self) -> Path:
        """What batch jobs were handed, and their results, by the job's id."""
        return self.root / "jobs"

    @property
    def scenarios(self) -> Path:
        """Scenarios that this city added."""
        return self.root / "scenarios"

    @property
    def admin_key(self) -> Path:
        """The first admin's key."""
        return self.root / "admin.key"

    @property
    def auditor_key(self) -> Path:
        """The first auditor's key: no admin reads the audit trail."""
        return self.root / "auditor.key"

    @property
    def pepper(self) -> Path:
        """The secret that keys are hashed with."""
        return self.root / "secrets" / "pepper"

    @property
    def control_socket(self) -> Path:
        """Where gateways forward what is not data plane."""
        return self.short / "control.sock"

    @property
    def mlflow_socket(self) -> Path:
        """Where the control process reaches the MLflow server."""
        return self.short / "mlflow.sock"

    @property
    def mlflow_wanted(self) -> Path:
        """Exists while the platform runs with its MLflow server."""
        return self.run / "mlflow.wanted"

    @property
    def lengths(self) -> Path:
        """Where gateways tell how many calls wait."""
        return self.run / "lengths"

    @property
    def lanes(self) -> Path:
        """Where replicas announce their sockets to gateways."""
        return self.short / "lanes"

    def make(self) -> Home:
        """Create the folders; safe to call on a home that exists."""
        folders = (
            self.mlflow,
            self.features,
            self.packages,
            self.journal,
            self.denials,
            self.shadows,
            self.predictions,
            self.spool,
            self.run,
            self.logs,
        )
        for folder in (
            self.root,
            *folders,
            self.work,
            self.jobs,
            self.scenarios,
            self.pepper.parent,
        ):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.short.mkdir(mode=0o700, exist_ok=True)
        if not is_private(self.short):  # its name can be guessed by who made it before us
            raise Conflict(
                f"{self.short} is not this user's alone.", hint=f"Remove it: rm -r {self.short}"
            )
        return self

    def secret(self, path: Path, size: int = 32) -> bytes:
        """The secret in this file, made at the first call."""
        if not path.exists():
            write_private(path, secrets.token_bytes(size))
        return path.read_bytes()


def is_private(folder: Path) -> bool:
    """Whether a folder is this user's own, and closed to everybody else."""
    found = folder.lstat()
    return (
        stat.S_ISDIR(found.st_mode)
        and found.st_uid == os.getuid()
        and not stat.S_IMODE(found.st_mode) & 0o077
    )


def reserve_socket(path: Path) -> None:
    """Leave a stale Unix socket that only its owner may open; uvicorn keeps the mode it finds."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as stale, address_of(path) as address:
        stale.bind(address)
    path.chmod(0o600)


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
