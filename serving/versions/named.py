"""Versions that requests name: verified and loaded at the first request; a few stay in memory."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import Any

from features.errors import HeadraceError
from models.followed import VersionLoader
from models.recommender import Artefact, LoadedRecommender
from models.registry import Pinned

MOST_LOADED = 3
"""The number of versions in memory besides those of the aliases."""

MOST_NAMES = 64


class UnknownModelError(HeadraceError):
    """Raised for a name that is no version or alias of the registered model."""


class NamedVersions:
    """Versions by number or alias; may be shared by threads.

    Args:
        loader: makes a version ready to answer.
        again_s: the time for which an answer of the registry is cached.
    """

    def __init__(self, loader: VersionLoader[Artefact], again_s: float) -> None:
        self._loader, self._again_s = loader, again_s
        self._names: OrderedDict[str, tuple[float, Pinned | None]] = OrderedDict()
        self._loaded: OrderedDict[str, LoadedRecommender] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def artefacts(self) -> list[Artefact]:
        """The artefacts in memory."""
        with self._lock:
            return [loaded.model for loaded in self._loaded.values()]

    def get(self, name: str, *serving: LoadedRecommender | None) -> LoadedRecommender:
        """The version of this number or alias; one of ``serving`` is not loaded again.

        Raises:
            UnknownModelError: there is none.
            ArtefactError: the version must not serve, is damaged, or was trained on other definitions.
            RegistryError: the registry does not answer.
        """
        pinned = self._pinned(name)
        if pinned is None:
            raise UnknownModelError(f"model '{name}'", "a version or an alias of the registered model", "none such")
        return next((loaded for loaded in serving if loaded and loaded.version == pinned.version), None) or self._load(
            pinned
        )

    def _pinned(self, name: str) -> Pinned | None:
        with self._lock:
            looked_at, pinned = self._names.get(name, (float("-inf"), None))
        if time.monotonic() - looked_at < self._again_s:
            return pinned
        pinned = self._loader.registry.find(name)
        with self._lock:
            self._names[name] = (time.monotonic(), pinned)
            _drop_oldest(self._names, MOST_NAMES)
        return pinned

    def _load(self, pinned: Pinned) -> LoadedRecommender:
        with self._lock:
            if pinned.version in self._loaded:
                self._loaded.move_to_end(pinned.version)
                return self._loaded[pinned.version]
        loaded = self._loader.load(pinned)
        with self._lock:
            self._loaded[pinned.version] = loaded
            _drop_oldest(self._loaded, MOST_LOADED)
        return loaded


def _drop_oldest(entries: OrderedDict[str, Any], most: int) -> None:
    while len(entries) > most:
        entries.popitem(last=False)
