"""The model that serves: the version which the registry's alias names, verified, loaded and swapped in one assignment.

A version that has no passing verdict, cannot be loaded, was trained on other definitions, or does not answer as on the
day it was made never serves: the one before goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from features.errors import ArtefactError, HeadraceError
from models.local_copy import KeptModel
from models.recommender import Artefact, load, try_out
from models.registry import Pinned, Registry

RETRY_REFUSED_S = 60.0


def verified(pinned: Pinned, fetch: Callable[[Pinned], Path]) -> Artefact:
    """The version's artefact, which may serve, is whole, and answers. Raises ArtefactError, or what fetch raises."""
    if pinned.refusal is not None:
        where, required = f"model version {pinned.version}", "a verdict of the gate by which it may serve"
        raise ArtefactError(where, required, pinned.refusal, "See 'headrace models promote'.")
    artefact = load(fetch(pinned), pinned.digest, trusted=pinned.trusted)
    try_out(artefact)
    return artefact


@dataclass(frozen=True)
class Served:
    """A loaded version."""

    version: str
    artefact: Artefact
    loaded_at: int
    """Epoch ms."""
    digest: str | None = None
    """Of its manifest."""
    alias: str | None = None
    """The alias by which it answers, where that is not the champion's."""


@dataclass(frozen=True)
class Refused:
    """A version that must not serve, why, and when that was found (monotonic seconds)."""

    pinned: Pinned
    reason: str
    at: float

    @property
    def version(self) -> str:
        """Its number."""
        return self.pinned.version


class ModelWatch:
    """Follows the alias; ``look`` is called now and then in a thread, ``current`` is read by every request.

    Args:
        registry: where models are.
        prepare: called with a loaded artefact before it serves; raises ArtefactError to refuse it.
        swapped: called after the swap.
        kept: where the model that serves is copied to, for a start without the registry; None for nowhere.
    """

    def __init__(
        self,
        registry: Registry,
        prepare: Callable[[Artefact], None] = lambda _: None,
        swapped: Callable[[Served], None] = lambda _: None,
        kept: KeptModel | None = None,
    ) -> None:
        self._registry, self._prepare, self._swapped, self._kept = registry, prepare, swapped, kept
        self.current: Served | None = None
        self.previous: Served | None = None
        self.refused: Refused | None = None
        self.problem: str | None = None
        self.looked = False

    def look(self) -> None:
        """The version that the alias names serves, or is refused with its reason; whatever fails, one still serves."""
        pinned: Pinned | None = None
        try:
            pinned = self._registry.resolve()
            if pinned is not None and self._is_news(pinned):
                self._take(pinned)
            self.problem = None
        except ArtefactError as error:
            if pinned is not None:
                self._refuse(pinned, str(error))
        except HeadraceError as error:
            self.problem = str(error)
        finally:
            if self.current is None and self.problem is not None:
                self._take_kept()
            self.looked = True

    def _refuse(self, pinned: Pinned, reason: str) -> None:
        self.refused = Refused(pinned, reason, time.monotonic())
        try:
            self._registry.tell(pinned, reason)
        except HeadraceError as error:  # it is refused all the same
            self.problem = str(error)

    def _is_news(self, pinned: Pinned) -> bool:
        if is_of(self.current, pinned):
            return False
        refused = self.refused
        tried = refused is not None and refused.pinned == pinned
        return not (tried and refused is not None and time.monotonic() - refused.at < RETRY_REFUSED_S)

    def _take(self, pinned: Pinned) -> None:
        before = self.previous
        if before is not None and is_of(before, pinned):  # a rollback: still in memory, still verified
            taken = before
        else:
            taken = Served(pinned.version, verified(pinned, self._registry.fetch), _now_ms(), pinned.digest)
        self._prepare(taken.artefact)
        self._swap(taken)
        if self._kept is not None and pinned.digest is not None:
            self._kept.keep(pinned.version, pinned.digest, self._registry.fetch(pinned))

    def _swap(self, taken: Served) -> None:
        self.previous, self.current = self.current, taken
        self.refused = None
        self._swapped(taken)

    def _take_kept(self) -> None:
        """The model that served here last, verified anew, where the registry does not answer."""
        last = None if self._kept is None else self._kept.last()
        if last is None:
            return
        pinned = Pinned(last.version, str(last.folder), last.digest, trusted=True)  # it was when it was copied here
        try:
            taken = Served(last.version, verified(pinned, lambda _: last.folder), _now_ms(), last.digest)
            self._prepare(taken.artefact)
        except HeadraceError as error:
            self.refused = Refused(pinned, str(error), time.monotonic())
        else:
            self._swap(taken)


def is_of(served: Served | None, pinned: Pinned) -> bool:
    """True where what is in memory are these files."""
    return served is not None and (served.version, served.digest) == (pinned.version, pinned.digest)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
