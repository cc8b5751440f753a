"""Follows an alias of the registry: the version that it names is verified, loaded and swapped in by one assignment.

A version never answers that has no passing verdict, cannot be loaded, was trained on other definitions, or fails its
golden answers.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from features.errors import ArtefactError, HeadraceError
from features.times import now_ms
from models.local_copy import LocalCopy
from models.registry import LoadedVersion, Pinned, Registry

logger = logging.getLogger(__name__)

Model = TypeVar("Model")
Model_co = TypeVar("Model_co", covariant=True)

RETRY_REFUSED_S = 60.0


class OpenFolder(Protocol[Model_co]):
    """Loads the model of an artefact's folder."""

    def __call__(self, folder: Path, digest: str | None, *, trusted: bool) -> Model_co:
        """The model, whose files have this digest and whose golden answers are right; else ArtefactError.

        Args:
            trusted: whether a user's own model may run its code.
        """


class VersionLoader(Generic[Model]):
    """Fetches and verifies a registered version before it may answer.

    Args:
        registry: where models are.
        open_folder: loads the model.
        prepare: called with a loaded model before it answers; raises ArtefactError to refuse it.
        name: of the model, for messages; None if there is only one.
    """

    def __init__(
        self,
        registry: Registry,
        open_folder: OpenFolder[Model],
        prepare: Callable[[Model], None] = lambda _: None,
        name: str | None = None,
    ) -> None:
        self.registry, self._open, self._prepare, self._name = registry, open_folder, prepare, name

    def load(
        self,
        pinned: Pinned,
        *,
        needs_verdict: bool = True,
        files: Callable[[], Path] | None = None,
        in_memory: LoadedVersion[Model] | None = None,
    ) -> LoadedVersion[Model]:
        """The version, verified, loaded and prepared.

        Args:
            needs_verdict: False for a version that answers no one, which only needs a digest.
            files: gives the folder of its files; None to fetch them from the registry.
            in_memory: the same files, verified and loaded before.

        Raises:
            ArtefactError: the version is refused.
            RegistryError: the registry does not answer.
        """
        if pinned.refusal is not None and (needs_verdict or pinned.digest is None):
            raise self._no_verdict(pinned, pinned.refusal)
        loaded = in_memory
        if loaded is None:
            with ExitStack() as fetched:
                folder = fetched.enter_context(self.registry.fetch(pinned)) if files is None else files()
                model = self._open(folder, pinned.digest, trusted=pinned.trusted)
            loaded = LoadedVersion(pinned.version, model, now_ms(), pinned.digest)
        self._prepare(loaded.model)
        return loaded

    def _no_verdict(self, pinned: Pinned, refusal: str) -> ArtefactError:
        model, option = ("model", "") if self._name is None else (f"model '{self._name}'", f" --model {self._name}")
        required = "a verdict of the gate by which it may serve"
        return ArtefactError(
            f"{model} version {pinned.version}", required, refusal, f"See 'headrace models promote{option}'."
        )


@dataclass(frozen=True)
class AliasPolicy:
    """Options of following an alias."""

    needs_verdict: bool = True
    """The version answers requests, for which it needs a passing verdict of the gate."""
    keeps_last: bool = True
    """The last version stays while the alias is gone or names one that is refused; otherwise there is none then."""
    reports_refusals: bool = True
    """A refused version is tagged with the reason in the registry."""
    retry_refused_s: float = RETRY_REFUSED_S
    """A refused version of the same tags and files is tried again after this many seconds."""


CHAMPION_POLICY = AliasPolicy()
CANARY_POLICY = AliasPolicy(keeps_last=False)
CHALLENGER_POLICY = AliasPolicy(needs_verdict=False, keeps_last=False, reports_refusals=False)
EVENT_CHAMPION_POLICY = AliasPolicy(reports_refusals=False, retry_refused_s=math.inf)
EVENT_CHALLENGER_POLICY = replace(CHALLENGER_POLICY, retry_refused_s=math.inf)


@dataclass(frozen=True)
class Refusal:
    """A version that must not answer, the reason, and the time of the refusal (monotonic seconds)."""

    pinned: Pinned
    reason: str
    at: float

    @property
    def version(self) -> str:
        """Its number."""
        return self.pinned.version


class FollowedAlias(Generic[Model]):
    """Keeps the version that an alias names loaded; ``look`` is called by one thread, ``current`` read by any.

    Args:
        loader: makes a version ready to answer.
        alias: the alias to follow.
        swapped: called after a swap.
        local_copy: takes a copy of the version, for a start without the registry; None for no copy.
    """

    def __init__(
        self,
        loader: VersionLoader[Model],
        alias: str,
        policy: AliasPolicy = CHAMPION_POLICY,
        swapped: Callable[[LoadedVersion[Model]], None] = lambda _: None,
        local_copy: LocalCopy | None = None,
    ) -> None:
        self.alias, self.policy = alias, policy
        self._loader, self._swapped, self._local_copy = loader, swapped, local_copy
        self.named: Pinned | None = None
        self.current: LoadedVersion[Model] | None = None
        self.previous: LoadedVersion[Model] | None = None
        self.refused: Refusal | None = None
        self.registry_problem: str | None = None
        self.looked = False

    @property
    def problem(self) -> str | None:
        """The error of the registry at the last look, or the reason why the named version is refused; None for none."""
        refused = self.refused
        if self.registry_problem is not None or refused is None:
            return self.registry_problem
        return refused.reason if refused.pinned == self.named else None

    def follow(self) -> None:
        """As ``look``; an error of the registry is the ``registry_problem``, and the local copy stands in for it."""
        try:
            self.registry_problem = self.look()
        except HeadraceError as error:
            self.registry_problem = str(error)
        finally:
            if self.current is None and self.registry_problem is not None:
                self._take_local_copy()
            self.looked = True

    def look(self, champion: LoadedVersion[Model] | None = None) -> str | None:
        """The version that the alias names now is loaded, or refused with its reason.

        Returns the error where a refusal could not be reported. Raises RegistryError where the registry does not
        answer; then all stays as it was.

        Args:
            champion: a version that needs no second copy in memory: an alias that names it counts as gone.
        """
        pinned = self.named = self._loader.registry.find(self.alias)
        if pinned is None or is_of(champion, pinned):
            if not self.policy.keeps_last:
                self.current = self.refused = None
            return None
        if self._stays(pinned):
            return None
        if not self.policy.keeps_last:
            self.current = None
        return None if self._was_refused(pinned) else self._take(pinned)

    def _stays(self, pinned: Pinned) -> bool:
        lost = self.policy.needs_verdict and not self.policy.keeps_last and pinned.refusal is not None
        return is_of(self.current, pinned) and not lost

    def _was_refused(self, pinned: Pinned) -> bool:
        refused = self.refused
        if refused is None or refused.pinned != pinned:
            return False
        return time.monotonic() - refused.at < self.policy.retry_refused_s

    def _take(self, pinned: Pinned) -> str | None:
        before = self.previous if is_of(self.previous, pinned) else None  # a rollback: still in memory, still verified
        with ExitStack() as fetched:
            files = cache(lambda: fetched.enter_context(self._loader.registry.fetch(pinned)))
            try:
                needs_verdict = self.policy.needs_verdict
                loaded = self._loader.load(pinned, needs_verdict=needs_verdict, files=files, in_memory=before)
            except ArtefactError as error:
                return self._refuse(pinned, str(error))
            self._swap(loaded)
            if self._local_copy is not None and pinned.digest is not None:
                self._local_copy.keep(pinned.version, pinned.digest, files, trusted=pinned.trusted)
        return None

    def _refuse(self, pinned: Pinned, reason: str) -> str | None:
        self.refused = Refusal(pinned, reason, time.monotonic())
        logger.warning("model_refused alias=%s version=%s reason=%s", self.alias, pinned.version, reason)
        if not self.policy.reports_refusals:
            return None
        try:
            self._loader.registry.report(pinned, reason)
        except HeadraceError as error:  # it is refused all the same
            return str(error)
        return None

    def _swap(self, loaded: LoadedVersion[Model]) -> None:
        if self.policy.keeps_last:
            self.previous, self.current = self.current, loaded
        else:
            self.current = replace(loaded, alias=self.alias)
        self.refused = None
        self._swapped(loaded)

    def _take_local_copy(self) -> None:
        """The model that served here last serves again, verified anew."""
        last = None if self._local_copy is None else self._local_copy.last()
        if last is None:
            return
        pinned = Pinned(last.version, str(last.folder), last.digest, trusted=last.trusted)
        try:
            loaded = self._loader.load(pinned, files=lambda: last.folder)
        except HeadraceError as error:
            self.refused = Refusal(pinned, str(error), time.monotonic())
        else:
            self._swap(loaded)


def is_of(loaded: LoadedVersion[Model] | None, pinned: Pinned) -> bool:
    """True if the loaded version is of these files."""
    return loaded is not None and (loaded.version, loaded.digest) == (pinned.version, pinned.digest)
