"""Refusals of the control process's own requests, and those of all processes on their way into the audit."""

from __future__ import annotations

from pathlib import Path

from citybrain.serving.denials import Denials
from citybrain.storage.database import Database
from citybrain.storage.records.denials import DenialLog


class DenialDesk:
    """What the control process counts itself, and the loader of what everybody counted."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.own = Denials(folder)
        self._folder = folder
        self._log = DenialLog(database)

    def run(self) -> None:
        """Write down what was counted here, and fold what is due."""
        self.own.step()
        self._log.load(self._folder)
