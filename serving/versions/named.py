"""Models that a request names, beside the one that serves: loaded at the first request, verified as any, a few kept."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from features.errors import HeadraceError
from models.followed import Served, verified
from models.recommender import Artefact
from models.registry import Pinned, Registry

KEPT = 3
"""How many versions stay in memory beside those of the alias that serves."""

NAMES_KEPT = 64


class UnknownModelError(HeadraceError):
    """Raised when no version or alias of the registered model has the name."""


class OtherModels:
    """Versions by the name that a request gives; may be shared by threads.

    Args:
        registry: where models are.
        prepare: called with a loaded artefact before it answers; raises ArtefactError to refuse it.
        again_s: how long an answer of the registry counts.
    """

    def __init__(self, registry: Registry, prepare: Callable[[Artefact], None], again_s: float) -> None:
        self._registry, self._prepare, self._again_s = registry, prepare, again_s
        self._names: OrderedDict[str, tuple[float, Pinned | None]] = OrderedDict()
        self._loaded: OrderedDict[str, Served] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def artefacts(self) -> list[Artefact]:
        """Those in memory."""
        with self._lock:
            return [one.artefact for one in self._loaded.values()]

    def get(self, name: str, *serving: Served | None) -> Served:
        """The version of this number, or that this alias names; one that serves already is not loaded again.

        Raises:
            UnknownModelError: there is none.
            ArtefactError: it must not serve, is damaged, or was trained on other definitions.
            RegistryError: the registry does not answer.
        """
        pinned = self._named(name)
        if pinned is None:
            raise UnknownModelError(f"model '{name}'", "a version or an alias of the registered model", "none such")
        ready = next((one for one in serving if one is not None and one.version == pinned.version), None)
        return ready or self._taken(pinned)

    def _named(self, name: str) -> Pinned | None:
        with self._lock:
            asked_at, pinned = self._names.get(name, (float("-inf"), None))
        if time.monotonic() - asked_at < self._again_s:
            return pinned
        pinned = self._registry.find(name)
        with self._lock:
            self._names[name] = (time.monotonic(), pinned)
            _bounded(self._names, NAMES_KEPT)
        return pinned

    def _taken(self, pinned: Pinned) -> Served:
        with self._lock:
            if pinned.version in self._loaded:
                self._loaded.move_to_end(pinned.version)
                return self._loaded[pinned.version]
        artefact = verified(pinned, self._registry.fetch)
        taken = Served(pinned.version, artefact, time.time_ns() // 1_000_000, pinned.digest)
        self._prepare(taken.artefact)
        with self._lock:
            self._loaded[pinned.version] = taken
            _bounded(self._loaded, KEPT)
        return taken


def _bounded(kept: OrderedDict[str, Any], most: int) -> None:
    while len(kept) > most:
        kept.popitem(last=False)
