"""Import paths of version 0.1 that feature repos and ``feature_store.yaml`` may still use.

``RENAMED`` maps each to its module of today. Importing an old path gives a module with the same names.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

RENAMED = {
    "features.aggregates": "features.definitions.aggregations",
    "features.expressions": "features.definitions.expressions",
    "features.windows": "features.definitions.windows",
    "features.repo": "features.definitions.repo",
    "features.served": "features.events.served_answers",
    "features.feast_objects": "features.feast.objects",
    "features.offline_store": "features.feast.offline_store",
    "features.online_store.plugin": "features.feast.online_store",
    "features.history_on_spark": "features.history.on_spark",
}


class ForwardingLoader(Loader):
    """Fills a module of an old name with the names of its module of today."""

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        today = importlib.import_module(RENAMED[module.__name__])
        module.__doc__ = today.__doc__
        module.__dict__.update({name: value for name, value in vars(today).items() if not name.startswith("__")})


class RenamedFinder(MetaPathFinder):
    """Finds the modules of RENAMED; it is the last finder, so that a module that exists is never hidden."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, ForwardingLoader()) if fullname in RENAMED else None


def accept_old_paths() -> None:
    """Let old import paths work from now on."""
    if not any(isinstance(finder, RenamedFinder) for finder in sys.meta_path):
        sys.meta_path.append(RenamedFinder())
