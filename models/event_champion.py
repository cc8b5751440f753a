"""Event models by an alias of the registry: looked for on demand, or by a thread so that no batch waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from models.event_model import EventClassifier, EventModelColumns, open_event_model
from models.followed import EVENT_CHAMPION_POLICY, AliasPolicy, FollowedAlias, VersionLoader
from models.registry import SQLITE, LoadedVersion, MlflowRegistry
from models.tags import CHAMPION

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0

FIRST_LOOK_S, OWN_FIRST_LOOK_S = 30.0, 300.0
"""A stream that starts waits once for the registry, for so long: it should not begin without a model. A database of
our own is never down, but a busy machine is slow to read it (and MLflow's code) for the first time."""


class EventAlias(FollowedAlias[EventClassifier]):
    """An event model by an alias; ``latest`` looks at most so often, and keeps what it has where it cannot.

    Args:
        tracking_uri: the registry's.
        columns: the model's definition; a version of another one is refused.
        policy: a challenger is one that nobody hears, and needs no verdict.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        tracking_uri: str,
        columns: EventModelColumns,
        alias: str = CHAMPION,
        look_every_s: float = LOOK_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
        policy: AliasPolicy = EVENT_CHAMPION_POLICY,
    ) -> None:
        name = columns.model.name
        loader = VersionLoader(
            MlflowRegistry(tracking_uri, name), open_event_model, lambda model: model.check(columns), name
        )
        super().__init__(loader, alias, policy, self._loaded)
        self.columns, self._every_s, self._clock = columns, look_every_s, clock
        self._looking = threading.Lock()
        self._due = float("-inf")

    def latest(self) -> LoadedVersion[EventClassifier] | None:
        """The version that the alias named at the last look; the one before where it cannot be had; None where none."""
        # While one thread looks, others go on with what there is; they wait only where there is nothing yet.
        if self._clock() >= self._due and self._looking.acquire(blocking=self.current is None):
            try:
                if self._clock() >= self._due:
                    self.follow()
                    self._due = self._clock() + self._every_s
            finally:
                self._looking.release()
        return self.current

    def _loaded(self, loaded: LoadedVersion[EventClassifier]) -> None:
        logger.info("event_model_loaded name=%s version=%s", self.columns.model.name, loaded.version)


class Champion(Protocol):
    """The version of an event model that scores the events of a batch."""

    columns: EventModelColumns

    @property
    def problem(self) -> str | None:
        """Why there may be a version that is not known; None where it is known that there is none."""

    def current(self) -> LoadedVersion[EventClassifier] | None:
        """The version that scores now; None where none is known."""

    def start(self) -> None:
        """It is looked for from now on, and has been found where the registry answers soon."""

    def close(self) -> None:
        """It is looked for no more."""


def first_look_s(tracking_uri: str) -> float:
    """The longest that a stream waits for this registry when it starts."""
    return OWN_FIRST_LOOK_S if tracking_uri.startswith(SQLITE) else FIRST_LOOK_S


class PolledChampion:
    """The version that the alias named when a thread looked last, at most a second ago where the registry answers."""

    def __init__(self, alias: EventAlias, first_look_s: float = FIRST_LOOK_S, every_s: float = LOOK_EVERY_S):
        self.columns = alias.columns
        self._alias, self._first_look_s, self._every_s = alias, first_look_s, every_s
        self._looked, self._stop = threading.Event(), threading.Event()
        self._failure: str | None = None
        self._thread: threading.Thread | None = None

    @property
    def problem(self) -> str | None:
        """Why the registry cannot name the champion, or the champion cannot score; None where it is known."""
        if not self._looked.is_set():
            return f"the registry of models has not answered in {self._first_look_s:g} s"
        return self._failure or self._alias.problem

    def start(self) -> None:
        """A thread looks for it from now on; its first look is over, or takes longer than anybody should wait."""
        if self._thread is None:
            name = f"champion {self.columns.model.name}"
            self._thread = threading.Thread(target=self._follow, name=name, daemon=True)
            self._thread.start()
            self._looked.wait(self._first_look_s)

    def current(self) -> LoadedVersion[EventClassifier] | None:
        """The version that is known now."""
        return self._alias.current

    def close(self) -> None:
        """The thread looks no more."""
        self._stop.set()

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                self._alias.latest()
                self._failure = None
            except Exception as error:  # whatever a registry does, the stream goes on with the version that it has
                logger.exception("event_champion_not_found name=%s", self.columns.model.name)
                self._failure = f"{type(error).__name__}: {error}"
            self._looked.set()
            self._stop.wait(self._every_s)
