"""All settings, read from the environment (`CITYBRAIN_…`) in this one file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1 << 20


class ServingSettings(BaseModel):
    """The data plane: `CITYBRAIN_SERVING__GATEWAYS=4` and so on."""

    gateways: int = Field(default=0, ge=0, le=64, description="0: one for every four cores.")
    max_body: int = Field(default=64 * MIB, description="Largest body of a call, in bytes.")
    max_json: int = Field(default=8 * MIB, description="Largest JSON body of a call, in bytes.")
    max_queued: int = Field(default=2048, description="Calls waiting in one gateway.")
    max_frame_calls: int = Field(default=64, description="Calls that share one frame.")
    max_frame_bytes: int = Field(default=16 * MIB, description="Bytes that share one frame.")
    call_timeout: float = Field(default=30.0, description="Seconds until a call is given up.")
    refresh: float = Field(default=0.5, description="Seconds between looks for changed keys.")
    journal_sync: float = Field(default=0.2, description="Seconds between fsyncs of a journal.")
    ray_cpus: int = Field(default=0, description="Logical CPUs of the Ray node; 0: 4 per core.")


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
    url: str = Field(default="", description="Platform that the command line and SDK talk to.")
    key: SecretStr = Field(default=SecretStr(""), description="Key that they show.")
    database_url: str = Field(default="", description="Platform database; empty: SQLite at home.")
    timezone: str = Field(default="Asia/Shanghai", description="Whose days and months are counted.")
    poll_seconds: float = Field(default=3.0, description="Between looks for plain MLflow versions.")
    test_data: str = Field(default="", description="Folder of real data that tests may read.")
    serving: ServingSettings = ServingSettings()
    intake: IntakeSettings = IntakeSettings()

    @property
    def zone(self) -> ZoneInfo:
        """The time zone of days and months."""
        return ZoneInfo(self.timezone)

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
