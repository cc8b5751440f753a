"""The champions that the stream asks: looked for by a thread, so that no batch waits for the registry of models."""

from __future__ import annotations

import logging
import threading
from typing import Protocol

from models.event_champion import LOOK_EVERY_S, SQLITE, EventChampion
from models.event_model import EventColumnsOfModel, Loaded

logger = logging.getLogger(__name__)

FIRST_LOOK_S, OWN_FIRST_LOOK_S = 30.0, 300.0
"""A stream that starts waits once for the registry, for so long: it should not begin without a model. A database of
our own is never down, but a busy machine is slow to read it (and MLflow's code) for the first time."""


class Champion(Protocol):
    """Whom the events of a batch are put to."""

    asked: EventColumnsOfModel

    @property
    def problem(self) -> str | None:
        """Why there may be a version that is not known; None where it is known that there is none."""

    def current(self) -> Loaded | None:
        """The version to ask now; None where none is known."""

    def start(self) -> None:
        """It is looked for from now on, and has been found where the registry answers soon."""

    def close(self) -> None:
        """It is asked no more."""


def first_look_s(tracking_uri: str) -> float:
    """How long a stream that starts waits for this registry at most."""
    return OWN_FIRST_LOOK_S if tracking_uri.startswith(SQLITE) else FIRST_LOOK_S


class FollowedChampion:
    """The version that the alias named when a thread looked last, at most a second ago where the registry answers.

    Args:
        champion: who looks.
    """

    def __init__(self, champion: EventChampion, first_look_s: float = FIRST_LOOK_S, every_s: float = LOOK_EVERY_S):
        self.asked = champion.asked
        self._champion, self._first_look_s, self._every_s = champion, first_look_s, every_s
        self._looked, self._stop = threading.Event(), threading.Event()
        self._failure: str | None = None
        self._thread: threading.Thread | None = None

    @property
    def problem(self) -> str | None:
        """Why the registry cannot say who the champion is, or the champion cannot be asked; None where it is known."""
        if not self._looked.is_set():
            return f"the registry of models has not answered in {self._first_look_s:g} s"
        return self._failure or self._champion.problem

    def start(self) -> None:
        """A thread looks for it from now on; its first look is over, or takes longer than anybody should wait."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._follow, name=f"champion {self.asked.model.name}", daemon=True)
            self._thread.start()
            self._looked.wait(self._first_look_s)

    def current(self) -> Loaded | None:
        """What is known now."""
        return self._champion.loaded

    def close(self) -> None:
        """The thread looks no more."""
        self._stop.set()

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                self._champion.current()
                self._failure = None
            except Exception as error:  # whatever a registry does, the stream goes on with the version that it has
                logger.exception("event_champion_not_found name=%s", self.asked.model.name)
                self._failure = f"{type(error).__name__}: {error}"
            self._looked.set()
            self._stop.wait(self._every_s)
