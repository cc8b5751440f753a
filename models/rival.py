"""A version beside the champion, by an alias of its own: there while the alias names it, and gone with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from features.errors import ArtefactError, HeadraceError
from models.followed import RETRY_REFUSED_S, Refused, Served, is_of, verified
from models.recommender import Artefact
from models.registry import Pinned, Registry


class Rival:
    """Follows an alias; ``look`` is called now and then in a thread, ``current`` is read by every request.

    Args:
        registry: where models are.
        alias: what names the version.
        prepare: called with a loaded artefact before it is asked; raises ArtefactError to refuse it.
        answers: whether it is to answer requests, for which it needs the gate's verdict; one that is only compared
            need not have passed, but is whole and answers its golden questions all the same.
    """

    def __init__(self, registry: Registry, alias: str, prepare: Callable[[Artefact], None], *, answers: bool) -> None:
        self._registry, self.alias, self._prepare, self._answers = registry, alias, prepare, answers
        self.named: Pinned | None = None
        self.current: Served | None = None
        self.refused: Refused | None = None

    def look(self, champion: Served | None) -> None:
        """The version that the alias names now is there, unless it must not be, or is the champion itself.

        Raises RegistryError where the registry does not answer; then all stays as it was.
        """
        pinned = self._registry.find(self.alias)
        self.named = pinned
        if pinned is None or is_of(champion, pinned):
            self.current = self.refused = None
        elif not is_of(self.current, pinned) or (self._answers and pinned.refusal is not None):
            self.current = None
            if not self._tried(pinned):
                self._take(pinned)

    def _tried(self, pinned: Pinned) -> bool:
        refused = self.refused
        return refused is not None and refused.pinned == pinned and time.monotonic() - refused.at < RETRY_REFUSED_S

    def _take(self, pinned: Pinned) -> None:
        try:
            artefact = verified(
                pinned if self._answers or pinned.digest is None else replace(pinned, refusal=None),
                self._registry.fetch,
            )
            self._prepare(artefact)
        except ArtefactError as error:
            self._refuse(pinned, str(error))
        else:
            now_ms = time.time_ns() // 1_000_000
            self.refused = None
            self.current = Served(pinned.version, artefact, now_ms, pinned.digest, self.alias)

    def _refuse(self, pinned: Pinned, reason: str) -> None:
        self.refused = Refused(pinned, reason, time.monotonic())
        if not self._answers:
            return
        try:
            self._registry.tell(pinned, reason)
        except HeadraceError:  # it is refused all the same
            return
