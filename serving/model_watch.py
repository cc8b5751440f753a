"""The model that serves: the version which the registry's alias names, verified, loaded and swapped in one assignment.

A version that has no passing verdict, cannot be loaded, was trained on other definitions, or does not answer as on the
day it was made never serves: the one before goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from features.artefact import DIGEST_TAG, Artefact, load
from features.errors import ArtefactError, HeadraceError
from features.trial import try_out
from features.verdicts import CANARY_BEGUN, CANARY_SHARE, CANARY_STOPPED, MOST_SHARE, SERVING_REFUSED, refusal, trusted
from serving.kept_model import KeptModel

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

QUICK = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""MLflow's own patience is minutes, for which a start without the registry would wait."""
RETRY_REFUSED_S = 60.0


class RegistryError(HeadraceError):
    """Raised when the registry of models does not answer."""


@dataclass(frozen=True)
class Pinned:
    """A version of the model: what the alias named when it was asked, where it is, and its manifest's digest."""

    version: str
    source: str
    digest: str | None
    refusal: str | None = None
    """Why its tags say that it must not serve; None where they do not."""
    trusted: bool = False
    """Whether its tags say that these files may run their own code."""
    canary_share: float | None = None
    """The share of the users that it answers as the canary; None for the setting's."""
    canary_begun: str | None = None
    """When it was made the canary, as its tag has it."""
    canary_stopped: str | None = None
    """Why a service stopped it as the canary; None where none did."""


class Registry(Protocol):
    """Where models are registered."""

    def resolve(self) -> Pinned | None:
        """The version that the alias names now; None for none. Raises RegistryError."""

    def find(self, name: str) -> Pinned | None:
        """The version of this number, or that this alias names now; None for none. Raises RegistryError."""

    def fetch(self, pinned: Pinned) -> Path:
        """A local folder with the version's artefact. Raises RegistryError."""

    def tell(self, pinned: Pinned, reason: str, tag: str = SERVING_REFUSED) -> None:
        """Whoever lists the versions reads that this one was refused, or stopped, and why. Raises RegistryError."""


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


def _pinned(found: ModelVersion) -> Pinned:
    tags = found.tags
    return Pinned(
        str(found.version),
        str(found.source),
        tags.get(DIGEST_TAG),
        refusal(tags),
        trusted(tags),
        _share(tags.get(CANARY_SHARE)),
        tags.get(CANARY_BEGUN),
        tags.get(CANARY_STOPPED),
    )


def _share(text: str | None) -> float | None:
    """The share that a tag says; None for a tag that is none, and for one that somebody wrote wrongly."""
    try:
        share = float(text or "")
    except ValueError:
        return None
    return share if 0 <= share <= MOST_SHARE else None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class MlflowRegistry:
    """MLflow's registry: the alias is resolved once a look, and the version that it named is what is fetched."""

    def __init__(self, tracking_uri: str, name: str, alias: str) -> None:
        self._tracking_uri, self._name, self._alias = tracking_uri, name, alias

    def resolve(self) -> Pinned | None:
        """The version that the alias names now; None while there is no registry, model or alias."""
        return self.find(self._alias)

    def find(self, name: str) -> Pinned | None:
        """The version of this number, or that this alias names now; None where there is none."""
        if not self._exists():
            return None
        from mlflow.exceptions import MlflowException

        client = self._client()
        ask = client.get_model_version if name.isdecimal() else client.get_model_version_by_alias
        try:
            found = ask(self._name, name)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise self._failed(error) from error
        return _pinned(found)

    def tell(self, pinned: Pinned, reason: str, tag: str = SERVING_REFUSED) -> None:
        """The version's tag says why it was refused, or stopped."""
        from mlflow.exceptions import MlflowException

        client = self._client()
        try:
            told = client.get_model_version(self._name, pinned.version).tags.get(tag)
            if told != reason:
                client.set_model_version_tag(self._name, pinned.version, tag, reason)
        except MlflowException as error:
            raise self._failed(error) from error

    def _client(self) -> MlflowClient:
        from mlflow import MlflowClient

        for name, value in QUICK.items():
            os.environ.setdefault(name, value)
        return MlflowClient(self._tracking_uri)

    def fetch(self, pinned: Pinned) -> Path:
        """The version's folder, downloaded where it is not on this machine."""
        import mlflow
        from mlflow.exceptions import MlflowException

        try:
            path = mlflow.artifacts.download_artifacts(
                artifact_uri=pinned.source, tracking_uri=self._tracking_uri, registry_uri=self._tracking_uri
            )
        except (MlflowException, OSError) as error:
            raise self._failed(error) from error
        return Path(path)

    def _exists(self) -> bool:
        """False while a SQLite registry has no file: asking MLflow would make one, and race with training."""
        prefix = "sqlite:///"
        if not self._tracking_uri:
            return False
        return not self._tracking_uri.startswith(prefix) or Path(self._tracking_uri.removeprefix(prefix)).exists()

    def _failed(self, error: Exception) -> RegistryError:
        return RegistryError(f"registry {self._tracking_uri}", "an MLflow registry that answers", str(error))
