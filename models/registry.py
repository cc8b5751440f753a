"""A client of MLflow: where its database or server is, and whether that answers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from features.errors import HeadraceError, StoreError
from models.tags import (
    CANARY_BEGUN,
    CANARY_SHARE,
    CANARY_STOPPED,
    DIGEST_TAG,
    MOST_SHARE,
    SERVING_REFUSED,
    refusal,
    trusted,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

QUICK = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""MLflow's own patience is minutes, for which a start without the registry would wait."""

SQLITE = "sqlite:///"


def absolute(tracking_uri: str, root: Path) -> tuple[str, Path | None]:
    """The store's address, and the folder for artefacts where we choose it: beside a database of our own."""
    if not tracking_uri.startswith(SQLITE):
        return tracking_uri, None
    path = (root / tracking_uri.removeprefix(SQLITE)).resolve()
    return f"{SQLITE}{path}", path.parent


def made(uri: str) -> bool:
    """False while a database of our own has no file: asking MLflow would make it."""
    return not uri.startswith(SQLITE) or Path(uri.removeprefix(SQLITE)).exists()


def connected(uri: str, artefacts: Path | None) -> MlflowClient:
    """A client of the store; a database of our own is made where there is none yet, which takes seconds.

    Args:
        artefacts: the folder beside a database of our own; None for a server, which must answer.

    Raises StoreError where a server does not.
    """
    from mlflow import MlflowClient

    if artefacts is not None:
        artefacts.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    if artefacts is None:
        _asked(client, uri)
    return client


def _asked(client: MlflowClient, uri: str) -> None:
    """Passes when the registry answers; StoreError where not, sooner than MLflow's own patience of minutes ends."""
    from mlflow.exceptions import MlflowException

    before = {name: os.environ.get(name) for name in QUICK}
    os.environ.update({name: value for name, value in QUICK.items() if before[name] is None})
    try:
        client.search_registered_models(max_results=1)
    except MlflowException as error:
        next_step = "See mlflow.tracking_uri of the settings."
        raise StoreError(f"registry {uri}", "an MLflow registry that answers", str(error), next_step) from error
    finally:
        for name in (one for one, value in before.items() if value is None):
            del os.environ[name]


def absolute_uri(tracking_uri: str, root: Path) -> str:
    """The registry's address; a database of a relative path is below ``root``."""
    prefix = "sqlite:///"
    if not tracking_uri.startswith(prefix):
        return tracking_uri
    return f"{prefix}{(root / tracking_uri.removeprefix(prefix)).resolve()}"


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
