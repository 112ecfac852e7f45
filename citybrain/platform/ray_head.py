"""The Ray head: its environment, its certificates, its command line.

Ray's listeners stay on loopback, its control plane asks for a token, and its gRPC ports (each
replica opens one that unpickles what it receives) ask for a certificate of this home's own CA.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import secrets
import socket
import sys
from pathlib import Path

from citybrain.core.home import Home, write_private
from citybrain.platform.logs import LOG_BYTES

NO_PORT = 65536
TEN_YEARS = dt.timedelta(days=3650)


def ray_environment(home: Home) -> dict[str, str]:
    """What every Ray process of this home, and every driver, must have set before it starts."""
    folder = home.root / "secrets"
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "ray.token"),
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": str(folder / "ray.crt"),
        "RAY_TLS_SERVER_KEY": str(folder / "ray.key"),
        "RAY_TLS_CA_CERT": str(folder / "ray-ca.crt"),
        # The one switch that makes every listener of a Linux node loopback-only.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "0",  # the switch above would open ports without keys
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
        "RAY_worker_niceness": "0",  # replicas answer calls; Ray would let everything else go first
        "RAY_DEDUP_LOGS": "0",
        "RAY_ROTATION_MAX_BYTES": str(
            LOG_BYTES
        ),  # of each process's log; Ray's own: 512 MB, 20 times
        "RAY_ROTATION_BACKUP_COUNT": "2",
        # Two services show Ray's own figures to anybody, and have no switch: there is no such port.
        "AUTOSCALER_METRIC_PORT": str(NO_PORT),
        "DASHBOARD_METRIC_PORT": str(NO_PORT),
        "PYTHONUNBUFFERED": "1",
    }


def make_ray_secrets(home: Home) -> None:
    """The token and the private CA of this home, made at the first start."""
    folder = home.root / "secrets"
    if not (folder / "ray.token").exists():
        write_private(folder / "ray.token", secrets.token_hex(32).encode())
    if not (folder / "ray.crt").exists():
        _make_certificates(folder)


def _make_certificates(folder: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    def name(common: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])

    start = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca = (
        x509.CertificateBuilder()
        .subject_name(name("citybrain ray ca"))
        .issuer_name(name("citybrain ray ca"))
        .public_key(ca_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + TEN_YEARS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    hosts = [x509.DNSName("localhost"), x509.DNSName(socket.gethostname())]
    addresses = [x509.IPAddress(ipaddress.ip_address(ip)) for ip in ("127.0.0.1", "::1")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name("citybrain ray"))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + TEN_YEARS)
        .add_extension(x509.SubjectAlternativeName([*hosts, *addresses]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    write_private(folder / "ray-ca.crt", ca.public_bytes(pem))
    write_private(
        folder / "ray.key",
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    write_private(folder / "ray.crt", certificate.public_bytes(pem))


def head_command(port: int, temporary: Path, cpus: int, memory: int) -> list[str]:
    """`ray start` for a head that stays in the foreground, in a process group of its own."""
    return [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block",
        f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false",
        f"--dashboard-agent-listen-port={free_port()}", f"--metrics-export-port={free_port()}",
        f"--num-cpus={cpus}", f"--object-store-memory={memory}", f"--temp-dir={temporary}",
        f"--ray-client-server-port={free_port()}",  # it has no switch; its own number is the same for all
        "--disable-usage-stats",
    ]  # fmt: skip


def free_port() -> int:
    """A TCP port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
