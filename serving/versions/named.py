"""Versions that requests name: those that the registry listed last, loaded at the first request; a few stay in memory.

No request asks the registry which there are: whoever looks at it reads that. What a request may cause is a load of one
that is listed, one at a time and MOST_LOADS a minute, whoever asks.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from features.errors import ArtefactError, HeadraceError
from models.followed import RETRY_REFUSED_S, VersionLoader
from models.recommender import Artefact, LoadedRecommender
from models.registry import Pinned, RegistryError
from serving.workers import OverloadedError

MOST_LOADED = 3
"""The number of versions in memory besides those of the aliases."""

LISTED_FOR_S = 60.0
"""While nobody has named a version for so long, the list is read so often; else at every look."""

MOST_LOADS, LOADS_WITHIN_S = 6, 60.0

MOST_REFUSED = 64


class UnknownModelError(HeadraceError):
    """Raised for a name that is no version or alias of the registered model."""


class NamedVersions:
    """Versions by number or alias; may be shared by threads.

    Args:
        loader: makes a version ready to answer.
        prepared: a block in which its thread loads a version and puts it into memory.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        loader: VersionLoader[Artefact],
        prepared: Callable[[], AbstractContextManager[None]] = nullcontext,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loader, self._prepared, self._clock = loader, prepared, clock
        self._listed: Mapping[str, Pinned] | None = None
        self._listed_at = self._named_at = float("-inf")
        self._loaded: OrderedDict[str, LoadedRecommender] = OrderedDict()
        self._refused: OrderedDict[str, tuple[Pinned, float, ArtefactError]] = OrderedDict()
        self._loading: dict[str, Future[LoadedRecommender]] = {}
        self._begun: deque[float] = deque(maxlen=MOST_LOADS)
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="load-model")

    @property
    def artefacts(self) -> list[Artefact]:
        """The artefacts in memory."""
        with self._lock:
            return [loaded.model for loaded in self._loaded.values()]

    def look(self) -> None:
        """Reads the registry's list if somebody has named a version of late, or it is old. Raises RegistryError."""
        now = self._clock()
        asked = now - self._named_at < LISTED_FOR_S
        if self._listed is None or asked or now - self._listed_at > LISTED_FOR_S:
            self._listed = self._loader.registry.listed()
            self._listed_at = now

    def get(self, name: str, *serving: LoadedRecommender | None) -> LoadedRecommender | Future[LoadedRecommender]:
        """The version of this number or alias, or its load; one of ``serving`` is not loaded again. Waits for nothing.

        Raises:
            UnknownModelError: there was none at the last look.
            RegistryError: the registry has not been read yet.
            ArtefactError: the version was refused less than RETRY_REFUSED_S ago.
            OverloadedError: another version is being loaded, or there were too many.
        """
        pinned = self._pinned(name)
        found = next((loaded for loaded in serving if loaded and loaded.version == pinned.version), None)
        return found or self._loaded_or_loading(pinned)

    def stop(self) -> None:
        """Stops loading versions."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _pinned(self, name: str) -> Pinned:
        self._named_at, listed = self._clock(), self._listed
        if listed is None:
            required = "a registry whose versions have been read"
            raise RegistryError(f"model '{name}'", required, "none yet", "Ask again in a moment.")
        pinned = listed.get(name)
        if pinned is None:
            raise UnknownModelError(f"model '{name}'", "a version or an alias of the registered model", "none such")
        return pinned

    def _loaded_or_loading(self, pinned: Pinned) -> LoadedRecommender | Future[LoadedRecommender]:
        with self._lock:
            loaded = self._loaded.get(pinned.version)
            if loaded is not None and loaded.digest == pinned.digest:
                self._loaded.move_to_end(pinned.version)
                return loaded
            self._check_refused(pinned)
            loading = self._loading.get(pinned.version)
            if loading is None:
                self._check_room()
                self._begun.append(self._clock())
                loading = self._loading[pinned.version] = self._threads.submit(self._load, pinned)
            return loading

    def _check_refused(self, pinned: Pinned) -> None:
        known, at, error = self._refused.get(pinned.version, (None, 0.0, None))
        if error is not None and known == pinned and self._clock() - at < RETRY_REFUSED_S:
            raise error

    def _check_room(self) -> None:
        if self._loading:
            raise OverloadedError
        if len(self._begun) == MOST_LOADS:
            wait = self._begun[0] + LOADS_WITHIN_S - self._clock()
            if wait > 0:
                raise OverloadedError(int(wait) + 1)

    def _load(self, pinned: Pinned) -> LoadedRecommender:
        loaded, refused = None, None
        with self._prepared():
            try:
                loaded = self._loader.load(pinned)
                return loaded
            except ArtefactError as error:
                refused = error
                raise
            finally:  # at once: a request finds it loading, or what became of it
                with self._lock:
                    del self._loading[pinned.version]
                    if loaded is not None:
                        self._loaded[pinned.version] = loaded
                        _drop_oldest(self._loaded, MOST_LOADED)
                    if refused is not None:
                        self._refused[pinned.version] = pinned, self._clock(), refused
                        _drop_oldest(self._refused, MOST_REFUSED)


def _drop_oldest(entries: OrderedDict[str, Any], most: int) -> None:
    while len(entries) > most:
        entries.popitem(last=False)
