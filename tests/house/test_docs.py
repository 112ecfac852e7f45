"""Docs are checked, not hoped for."""

from pathlib import Path

from typer.main import get_command

from citybrain.core.errors import all_errors
from citybrain.core.settings import (
    IntakeSettings,
    JobSettings,
    PredictionSettings,
    RemoteSettings,
    ServingSettings,
    Settings,
    TraceSettings,
)
from citybrain.models.recipe import RECIPES
from citybrain.models.runtime import RUNTIMES
from citybrain.models.task import TASKS
from citybrain.platform.cli.main import app
from citybrain.platform.policy import as_markdown

ROOT = Path(__file__).resolve().parents[2]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_error_code_is_documented():
    missing = {code for code in all_errors() if f"`{code}`" not in text("docs/errors.md")}
    assert not missing, f"Describe these in docs/errors.md: {sorted(missing)}"


def test_every_setting_is_documented():
    page = text("docs/settings.md")
    parts = {"serving": ServingSettings, "intake": IntakeSettings, "jobs": JobSettings,
             "remote": RemoteSettings, "predictions": PredictionSettings, "traces": TraceSettings}  # fmt: skip
    names = [f"CITYBRAIN_{n.upper()}" for n in Settings.model_fields if n not in parts]
    for part, schema in parts.items():
        names += [f"CITYBRAIN_{part.upper()}__{n.upper()}" for n in schema.model_fields]
    assert not [name for name in names if f"`{name}`" not in page]


def test_every_command_is_documented_and_shows_an_example():
    commands = get_command(app).commands
    page = text("docs/commands.md")
    assert not [name for name in commands if f"`citybrain {name}" not in page]
    silent = [
        name
        for name, command in commands.items()
        if not hasattr(command, "commands") and "Example" not in (command.help or "")
    ]
    assert not silent


def test_every_plug_in_is_documented():
    page = text("docs/plugins.md")
    names = [*TASKS.names(), *RUNTIMES.names(), *RECIPES.names()]
    assert not [name for name in names if f"`{name}`" not in page]


def test_who_may_do_what_is_the_policy_itself():
    page = text("docs/access.md")
    shown = page.partition("<!-- policy: begin -->\n")[2].partition("<!-- policy: end -->")[0]
    assert shown == as_markdown(), "python -m citybrain.platform.policy prints the table"


def test_the_lock_names_no_index_and_no_path():
    lock = text("requirements.lock")
    assert "://" not in lock
    assert "--index" not in lock.replace("--no-emit-index-url", "")
    assert "--find-links" not in lock
    pinned = [line for line in lock.splitlines() if line and line[0].isalnum()]
    assert pinned
    assert all("==" in line for line in pinned)
