"""All settings, read from the environment (`CITYBRAIN_…`) in this one file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

from pydantic import BaseModel, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1 << 20


class ServingSettings(BaseModel):
    """The data plane: `CITYBRAIN_SERVING__GATEWAYS=4` and so on."""

    gateways: int = Field(default=0, ge=0, le=64, description="0: one for every four cores.")
    max_body: int = Field(default=64 * MIB, description="Largest body of a call, in bytes.")
    max_json: int = Field(default=8 * MIB, description="Largest JSON body of a call, in bytes.")
    max_queued: int = Field(
        default=2048, ge=1, description="Calls to one algorithm waiting in one gateway."
    )
    max_queued_department: int = Field(
        default=1024, ge=1, description="Calls of one department waiting in one gateway."
    )
    max_queued_bytes: int = Field(
        default=256 * MIB, ge=1, description="Bytes of all calls waiting in one gateway."
    )
    max_connections: int = Field(default=8192, ge=1, description="HTTP connections of one gateway.")
    max_grpc_calls: int = Field(
        default=2048, ge=1, description="gRPC calls and streams open in one gateway."
    )
    max_frame_calls: int = Field(default=64, description="Calls that share one frame.")
    max_frame_bytes: int = Field(default=16 * MIB, description="Bytes that share one frame.")
    call_timeout: float = Field(default=30.0, description="Seconds until a call is given up.")
    drain: float = Field(
        default=30.0, ge=0, description="Seconds for the calls under way when a gateway ends."
    )
    slow_client: float = Field(
        default=30.0,
        gt=0,
        description="Seconds for a request to come in (more at 1 kB/s), or for an event to be read.",
    )
    refresh: float = Field(default=0.5, description="Seconds between looks for changed keys.")
    journal_sync: float = Field(default=0.2, description="Seconds between fsyncs of a journal.")
    verify: float = Field(
        default=300.0, gt=0, description="Seconds between a replica's looks at its files."
    )
    shared_bytes: int = Field(
        default=1 << 30, ge=1 << 20, description="Memory of the models that share a replica."
    )
    repeat_hours: float = Field(
        default=24.0, gt=0, description="How long an Idempotency-Key is remembered."
    )
    repeat_bytes: int = Field(
        default=4 * MIB, ge=0, description="Largest answer that is kept for a repeated call."
    )
    ray_cpus: int = Field(default=0, description="Logical CPUs of the Ray node; 0: 4 per core.")

    @model_validator(mode="after")
    def _largest_call_may_wait(self) -> ServingSettings:
        if self.max_queued_bytes < max(self.max_body, self.max_json):
            raise ValueError("max_queued_bytes must be at least max_body, or no such call may wait")
        return self


class IntakeSettings(BaseModel):
    """What `register` may take and fetch: `CITYBRAIN_INTAKE__MEMORY=…` and so on."""

    seconds: float = Field(default=600.0, description="Longest admission of one model.")
    memory: int = Field(default=4 << 30, description="Resident bytes of one admission.")
    disk: int = Field(default=8 << 30, description="Bytes that one admission may write.")
    fetch_seconds: float = Field(default=30.0, description="Longest silence of a hub.")
    hf_url: str = Field(default="https://huggingface.co", description="Of `hf:` or its mirror.")
    torchvision_url: str = Field(
        default="https://download.pytorch.org", description="Of `torchvision:` or its mirror."
    )
    ultralytics_url: str = Field(
        default="https://github.com/ultralytics/assets/releases/latest/download",
        description="Of `ultralytics:` or its mirror.",
    )


class RemoteSettings(BaseModel):
    """Models on other servers: `CITYBRAIN_REMOTE__HOSTS=gpu-1,gpu-2:9000` and so on."""

    hosts: str = Field(
        default="", description="Servers that `triton://` may name, by commas; empty: none."
    )
    seconds: float = Field(default=20.0, gt=0, description="Until a call there is given up.")
    max_answer: int = Field(default=64 * MIB, gt=0, description="Largest answer, in bytes.")

    def environment(self) -> dict[str, str]:
        """The variables that say the same, for a process that inherits none of ours."""
        return {f"CITYBRAIN_REMOTE__{k.upper()}": str(v) for k, v in self.model_dump().items()}


class JobSettings(BaseModel):
    """Batch jobs: `CITYBRAIN_JOBS__MAX_ROWS=…` and so on."""

    max_bytes: int = Field(default=512 * MIB, ge=1, description="Largest upload of one job.")
    max_rows: int = Field(default=1_000_000, ge=1, description="Rows of one job.")
    max_open: int = Field(default=20, ge=1, description="Open jobs of one department.")
    chunk: int = Field(
        default=500, ge=1, description="Rows that are finished, written and metered together."
    )
    chunk_files: int = Field(default=16, ge=1, description="The same where rows are files.")
    frame_seconds: float = Field(
        default=0.01, gt=0, description="About how long a caller may wait behind a job's rows."
    )
    patience: float = Field(
        default=600.0, gt=0, description="Seconds that a job waits for its deployment."
    )
    keep_hours: float = Field(default=168.0, gt=0, description="Until a result is removed.")
    disk: int = Field(default=20 << 30, ge=1, description="Bytes of the files of all jobs.")


class PredictionSettings(BaseModel):
    """The sampled prediction log: `CITYBRAIN_PREDICTIONS__RATE=0.1` and so on."""

    rate: float = Field(
        default=0.01, ge=0, le=1, description="Share of calls kept, where an algorithm says none."
    )
    keep_days: int = Field(
        default=30, ge=1, le=3650, description="Days kept, where an algorithm says none."
    )
    max_bytes: int = Field(
        default=5 << 30, ge=1 << 20, description="Bytes of the whole log; the oldest go first."
    )
    seconds: float = Field(
        default=60.0, gt=0, le=3600, description="Until sampled calls can be read."
    )


class TraceSettings(BaseModel):
    """OpenTelemetry traces of calls: `CITYBRAIN_TRACES__ENDPOINT=…`; off while neither is set."""

    endpoint: str = Field(
        default="", pattern=r"^(https?://\S+)?$", description="Collector's OTLP/HTTP address."
    )
    file: str = Field(default="", description="File that spans are appended to, a JSON line each.")
    rate: float = Field(
        default=0.01, ge=0, le=1, description="Share of calls that come without `traceparent`."
    )


class Settings(BaseSettings):
    """Everything that can be set. Each part of the platform gets only the part it needs."""

    model_config = SettingsConfigDict(
        env_prefix="CITYBRAIN_", env_nested_delimiter="__", frozen=True, extra="ignore"
    )

    home: Path = Field(default=Path("~/.citybrain"), description="Folder of an embedded platform.")
    profile: Literal["embedded", "production"] = "embedded"
    host: str = Field(default="127.0.0.1", description="Address that the public ports bind to.")
    port: int = Field(default=8080, ge=0, le=65535)
    grpc_port: int = Field(default=8081, ge=0, le=65535)
    tls_cert: str = Field(
        default="", description="PEM file of the doors' certificate (and those above it)."
    )
    tls_key: str = Field(default="", description="PEM file of its key, readable by its owner only.")
    proxies: str = Field(
        default="", description="Proxies before the doors, by commas: believed about callers."
    )
    mlflow: bool = Field(default=False, description="Serve MLflow to other machines: /mlflow.")
    url: str = Field(default="", description="Platform that the command line and SDK talk to.")
    ca: str = Field(
        default="", description="PEM file that the command line trusts besides the system's."
    )
    key: SecretStr = Field(default=SecretStr(""), description="Key that they show.")
    database_url: str = Field(default="", description="Platform database; empty: SQLite at home.")
    timezone: str = Field(default="Asia/Shanghai", description="Whose days and months are counted.")
    audit_export: str = Field(
        default="", description="Another folder for the audit trail's signed checkpoints."
    )
    poll_seconds: float = Field(default=3.0, description="Between looks for plain MLflow versions.")
    test_data: str = Field(default="", description="Folder of real data that tests may read.")
    serving: ServingSettings = ServingSettings()
    intake: IntakeSettings = IntakeSettings()
    remote: RemoteSettings = RemoteSettings()
    jobs: JobSettings = JobSettings()
    predictions: PredictionSettings = PredictionSettings()
    traces: TraceSettings = TraceSettings()

    @property
    def zone(self) -> ZoneInfo:
        """The time zone of days and months."""
        return ZoneInfo(self.timezone)

    @property
    def beyond(self) -> bool:
        """Whether the doors can be reached from other machines."""
        try:
            return not ip_address(self.host).is_loopback
        except ValueError:
            return self.host != "localhost"

    @property
    def tls(self) -> bool:
        """Whether the doors speak TLS themselves."""
        return bool(self.tls_cert and self.tls_key)

    @property
    def here(self) -> str:
        """The doors' address as this machine calls it, without a port."""
        try:
            found = ip_address(self.host)
        except ValueError:
            return self.host
        if found.is_unspecified:
            return "127.0.0.1" if found.version == 4 else "[::1]"
        return str(found) if found.version == 4 else f"[{found}]"

    @property
    def gateways(self) -> int:
        """How many gateway processes share the public ports."""
        return self.serving.gateways or max(1, (os.cpu_count() or 1) // 4)

    def at(self, home: Path) -> Settings:
        """The same settings for another home."""
        return self.model_copy(update={"home": home})


def child_environment(extra: dict[str, str]) -> dict[str, str]:
    """The environment of a process that we start: ours, less other platforms' Ray, plus `extra`."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return ours | extra


def put_environment(extra: dict[str, str]) -> None:
    """Set variables that libraries read at import (telemetry off, offline), in this process."""
    os.environ.update(extra)


def is_in_environment(name: str) -> bool:
    """Whether a variable that is none of ours is set where we were started."""
    return name in os.environ


def swap_environment(extra: Mapping[str, str | None]) -> dict[str, str | None]:
    """Set variables (None: remove) in this process; what they were before, to be swapped back."""
    before = {name: os.environ.pop(name, None) for name in extra}
    put_environment({name: text for name, text in extra.items() if text is not None})
    return before


def gpus_are_hidden() -> bool:
    """Whether this process shall see no GPU."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") == ""


class TlsFiles(NamedTuple):
    """Where a process finds its certificate, its key, and whose certificates it believes."""

    certificate: str
    key: str
    authority: str


def tls_of_ray() -> TlsFiles | None:
    """What this process shows to those of other nodes; None where Ray runs without TLS."""
    names = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
    found = [os.environ.get(name, "") for name in names]
    return TlsFiles(*found) if all(found) and os.environ.get("RAY_USE_TLS") == "1" else None


QUIET_LIBRARIES = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "DO_NOT_TRACK": "true",
    "FEAST_USAGE": "false",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "ULTRALYTICS_SAFE_LOAD": "1",
    "YOLO_AUTOINSTALL": "false",
    "YOLO_OFFLINE": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
}
