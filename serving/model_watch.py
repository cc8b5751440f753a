"""The model that serves: the version which the registry's alias names, verified, loaded and swapped in one assignment.

A version that cannot be loaded, or was trained on other definitions, never serves: the one before goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from features.artefact import DIGEST_TAG, Artefact, load
from features.errors import ArtefactError, HeadraceError

RETRY_REFUSED_S = 60.0


class RegistryError(HeadraceError):
    """Raised when the registry of models does not answer."""


@dataclass(frozen=True)
class Pinned:
    """A version of the model: what the alias named when it was asked, where it is, and its manifest's digest."""

    version: str
    source: str
    digest: str | None


class Registry(Protocol):
    """Where models are registered."""

    def resolve(self) -> Pinned | None:
        """The version that the alias names now; None for none. Raises RegistryError."""

    def find(self, name: str) -> Pinned | None:
        """The version of this number, or that this alias names now; None for none. Raises RegistryError."""

    def fetch(self, pinned: Pinned) -> Path:
        """A local folder with the version's artefact. Raises RegistryError."""


@dataclass(frozen=True)
class Served:
    """A loaded version."""

    version: str
    artefact: Artefact
    loaded_at: int
    """Epoch ms."""


@dataclass(frozen=True)
class Refused:
    """A version that must not serve, why, and when that was found (monotonic seconds)."""

    version: str
    reason: str
    at: float


class ModelWatch:
    """Follows the alias; ``look`` is called now and then in a thread, ``current`` is read by every request.

    Args:
        registry: where models are.
        prepare: called with a loaded artefact before it serves; raises ArtefactError to refuse it.
        swapped: called after the swap.
    """

    def __init__(
        self,
        registry: Registry,
        prepare: Callable[[Artefact], None] = lambda _: None,
        swapped: Callable[[Served], None] = lambda _: None,
    ) -> None:
        self._registry, self._prepare, self._swapped = registry, prepare, swapped
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
            self.refused = Refused(pinned.version if pinned else "?", str(error), time.monotonic())
        except HeadraceError as error:
            self.problem = str(error)
        finally:
            self.looked = True

    def _is_news(self, pinned: Pinned) -> bool:
        if self.current is not None and self.current.version == pinned.version:
            return False
        refused = self.refused
        tried = refused is not None and refused.version == pinned.version
        return not (tried and refused is not None and time.monotonic() - refused.at < RETRY_REFUSED_S)

    def _take(self, pinned: Pinned) -> None:
        before = self.previous
        if before is not None and before.version == pinned.version:  # a rollback: still in memory, still verified
            taken = before
        else:
            taken = Served(pinned.version, load(self._registry.fetch(pinned), pinned.digest), _now_ms())
        self._prepare(taken.artefact)
        self.previous, self.current = self.current, taken
        self.refused = None
        self._swapped(taken)


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
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        client = MlflowClient(self._tracking_uri)
        ask = client.get_model_version if name.isdecimal() else client.get_model_version_by_alias
        try:
            found = ask(self._name, name)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise self._failed(error) from error
        return Pinned(str(found.version), str(found.source), found.tags.get(DIGEST_TAG))

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
