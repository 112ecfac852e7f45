"""A shelf of plug-ins: one new file in a folder is one new ability.

Scanning a shelf imports the plug-in's file and never its framework: frameworks are imported
inside functions, under `needs(...)`. Other packages add plug-ins through an entry point whose
group is the folder's dotted name.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from citybrain.core.errors import MissingLibrary, PluginNotFound

Plugin = TypeVar("Plugin")


class Shelf(Generic[Plugin]):
    """The plug-ins of one kind, found by scanning one folder."""

    def __init__(self, kind: str, folder: str) -> None:
        self.kind = kind
        self.folder = folder
        self._plugins: dict[str, type[Plugin]] = {}
        self._scanned = False

    def add(self, name: str) -> Callable[[type[Plugin]], type[Plugin]]:
        """Class decorator: put this plug-in on the shelf under this name."""

        def put(plugin: type[Plugin]) -> type[Plugin]:
            self._plugins[name] = plugin
            return plugin

        return put

    def names(self) -> list[str]:
        """What is on the shelf, sorted."""
        self._scan()
        return sorted(self._plugins)

    def get(self, name: str) -> Plugin:
        """A new instance of the plug-in; an unknown name suggests the nearest known one."""
        self._scan()
        if name not in self._plugins:
            near = difflib.get_close_matches(name, self._plugins, n=1)
            hint = (
                f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(self.names())}."
            )
            raise PluginNotFound(f"No {self.kind} called {name[:80]!r}.", hint=hint)
        return self._plugins[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _scan(self) -> None:
        if self._scanned:
            return
        package = importlib.import_module(self.folder)
        for module in pkgutil.iter_modules(package.__path__):
            if not module.name.startswith("_"):
                importlib.import_module(f"{self.folder}.{module.name}")
        for entry in entry_points(group=self.folder):
            entry.load()
        self._scanned = True


@contextmanager
def needs(extra: str = "") -> Iterator[None]:
    """Turn the absence of an optional library into a sentence with the command that mends it."""
    try:
        yield
    except ModuleNotFoundError as error:
        command = f"pip install 'citybrain[{extra}]'" if extra else f"pip install {error.name}"
        raise MissingLibrary(f"{error.name} is not installed.", hint=f"Run: {command}") from error
