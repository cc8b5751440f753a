"""Event models by an alias of the registry, looked up on demand, or by a thread so that no batch waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from features.redaction import redacted
from models.event_model import EventModelColumns, EventScorer, open_event_model
from models.followed import EVENT_CHAMPION_POLICY, AliasPolicy, FollowedAlias, VersionLoader
from models.registry import SQLITE, LoadedVersion, MlflowRegistry
from models.tags import CHAMPION

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0

FIRST_LOOK_S, OWN_FIRST_LOOK_S = 30.0, 300.0
"""The longest wait of a starting stream for the registry, as it should not begin without a model. A database of our own
is never down, but a busy machine is slow to read it (and MLflow's code) for the first time."""


class EventAlias(FollowedAlias[EventScorer]):
    """An event model by an alias; ``latest`` looks it up at most every ``look_every_s``, and keeps it on errors.

    Args:
        tracking_uri: the registry's.
        columns: the model's definition; a version of another one is refused.
        policy: a challenger needs no verdict, as it answers no one.
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

    def latest(self) -> LoadedVersion[EventScorer] | None:
        """The version that the alias named at the last look, or the last that could be loaded; None without one."""
        # While a thread looks, others go on with the current version; they wait only if there is none yet.
        if self._clock() >= self._due and self._looking.acquire(blocking=self.current is None):
            try:
                if self._clock() >= self._due:
                    self.follow()
                    self._due = self._clock() + self._every_s
            finally:
                self._looking.release()
        return self.current

    def _loaded(self, loaded: LoadedVersion[EventScorer]) -> None:
        logger.info("event_model_loaded name=%s version=%s", self.columns.model.name, loaded.version)


class Champion(Protocol):
    """The version of an event model that scores the events of a batch."""

    columns: EventModelColumns

    @property
    def problem(self) -> str | None:
        """The reason for which a version may exist that is not known; None where none is known to exist."""

    def current(self) -> LoadedVersion[EventScorer] | None:
        """The version that scores now; None where none is known."""

    def start(self) -> None:
        """Starts looking for it; on return it has been found if the registry answered in time."""

    def close(self) -> None:
        """Stops looking for it."""


def first_look_s(tracking_uri: str) -> float:
    """The longest that a stream waits for this registry when it starts."""
    return OWN_FIRST_LOOK_S if tracking_uri.startswith(SQLITE) else FIRST_LOOK_S


class PolledChampion:
    """The version that the alias named at a thread's last look, at most a second ago while the registry answers."""

    def __init__(self, alias: EventAlias, first_look_s: float = FIRST_LOOK_S, every_s: float = LOOK_EVERY_S):
        self.columns = alias.columns
        self._alias, self._first_look_s, self._every_s = alias, first_look_s, every_s
        self._looked, self._stop = threading.Event(), threading.Event()
        self._failure: str | None = None
        self._thread: threading.Thread | None = None

    @property
    def problem(self) -> str | None:
        """The reason for which no champion is known or it cannot score; None where it can."""
        if not self._looked.is_set():
            return f"the registry of models has not answered in {self._first_look_s:g} s"
        return self._failure or self._alias.problem

    def start(self) -> None:
        """Starts the thread; on return its first look is over, or has taken ``first_look_s``."""
        if self._thread is None:
            name = f"champion {self.columns.model.name}"
            self._thread = threading.Thread(target=self._follow, name=name, daemon=True)
            self._thread.start()
            self._looked.wait(self._first_look_s)

    def current(self) -> LoadedVersion[EventScorer] | None:
        """The version that is known now."""
        return self._alias.current

    def close(self) -> None:
        """Stops the thread."""
        self._stop.set()

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                self._alias.latest()
                self._failure = None
            except Exception as error:  # whatever a registry raises, the stream goes on with its version
                logger.exception("event_champion_not_found name=%s", self.columns.model.name)
                self._failure = redacted(f"{type(error).__name__}: {error}")
            self._looked.set()
            self._stop.wait(self._every_s)
