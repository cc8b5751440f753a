"""MLflow's registry of models: its address, its clients, where its artefacts may be, and the versions in it.

Clients of MLflow are made here only. A database of our own is not queried before it has a file: MLflow would create it,
and race with training.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from features.errors import ArtefactError, HeadraceError, StoreError
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

Model = TypeVar("Model")

QUICK = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""MLflow's own timeouts are minutes, for which a start without the registry would wait."""

SQLITE = "sqlite:///"

MOST_LISTED = 1_000
"""Versions of a model that are read at once; older ones can be promoted, not named in a request."""

GONE = "RESOURCE_DOES_NOT_EXIST"
"""MLflow's code for a version that does not exist or was deleted."""


DEFAULT_EXPERIMENT = "0"
"""MLflow makes it with its database, below the folder or address that its operator gave it for artefacts."""

STEPS = 4
"""Addresses that lead to one another (models:/, runs:/) before one that can be fetched."""

_allowed: tuple[str, ...] = ()


def resolve_uri(tracking_uri: str, root: Path) -> tuple[str, Path | None]:
    """The store's address, and the folder for artefacts beside a database of our own; None for a server."""
    if not tracking_uri.startswith(SQLITE):
        return tracking_uri, None
    path = (root / tracking_uri.removeprefix(SQLITE)).resolve()
    return f"{SQLITE}{path}", path.parent


def absolute_uri(tracking_uri: str, root: Path) -> str:
    """The registry's address; a database of a relative path is below ``root``."""
    return resolve_uri(tracking_uri, root)[0]


def registry_exists(uri: str) -> bool:
    """False without an address, and while a database of our own has no file, which a query would create."""
    return bool(uri) and (not uri.startswith(SQLITE) or Path(uri.removeprefix(SQLITE)).exists())


def client_of(uri: str) -> MlflowClient:
    """A client of the registry, without a request to it."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def connect(uri: str, artefacts: Path | None) -> MlflowClient:
    """A client of the store; a database of our own is created if missing, which takes seconds.

    Args:
        artefacts: the folder beside a database of our own; None for a server, which must answer.

    Raises StoreError if a server does not answer.
    """
    if artefacts is not None:
        artefacts.mkdir(parents=True, exist_ok=True)
    client = client_of(uri)
    if artefacts is None:
        _check_answers(client, uri)
    return client


def _check_answers(client: MlflowClient, uri: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        with quick():
            client.search_registered_models(max_results=1)
    except MlflowException as error:
        next_step = "See mlflow.tracking_uri of the settings."
        raise StoreError(f"registry {uri}", "an MLflow registry that answers", str(error), next_step) from error


@contextmanager
def quick() -> Iterator[None]:
    """Short timeouts of MLflow in the block, unless the environment sets others."""
    new = {name: value for name, value in QUICK.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


@contextmanager
def downloaded(source: str, uri: str) -> Iterator[Path]:
    """An artefact of this registry until the block ends: its own path on this machine, else a copy that is removed.

    Raises ArtefactError for a source from which nothing may be fetched.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.utils.uri import is_local_uri

    source = checked_source(source, client_of(uri), uri)
    with tempfile.TemporaryDirectory(prefix="headrace-model-", ignore_cleanup_errors=True) as scratch:
        # Without dst_path MLflow downloads into a temporary folder of its own, which nobody removes.
        target = None if is_local_uri(source) else scratch  # type: ignore[no-untyped-call]
        where = {"artifact_uri": source, "dst_path": target, "tracking_uri": uri, "registry_uri": uri}
        yield Path(download_artifacts(**where))


# --- sources: whoever may write to the registry names addresses, and none is followed unseen ---


def allow_sources(prefixes: Sequence[str]) -> None:
    """Models may also be fetched from these folders and addresses, in this process, and from none allowed before."""
    global _allowed  # noqa: PLW0603  (a setting of the process, as its secrets are)
    _allowed = tuple(prefixes)


def checked_source(source: str, client: MlflowClient, uri: str) -> str:
    """The address itself of an artefact that may be fetched: ``runs:`` and ``models:`` lead to it.

    It may be below the folder of a database of our own, below the root of the registry's artefacts, on the tracking
    server, or below what ``allow_sources`` has named.

    Args:
        source: as the registry has it.
        uri: the registry's address.

    Raises:
        ArtefactError: it is elsewhere.
        MlflowException: the registry does not answer, or lacks what the source names.
    """
    address = source
    for _ in range(STEPS):
        following = _led_to(address, client)
        if following is None:
            break
        address = following
    roots = [*_roots(client, uri), *_allowed]
    if not _is_below(address, roots, uri):
        known = ", ".join(sorted(set(roots))) or "the tracking server's own artefacts"
        next_step = "If it is right, add its folder or prefix to mlflow.sources of settings.toml."
        raise ArtefactError("the source of a model", f"an address below {known}", address, next_step)
    return address


def _led_to(address: str, client: MlflowClient) -> str | None:
    """The address for which ``runs:/ID/path``, ``models:/m-ID`` or ``models:/name/version`` stands, else None."""
    parts = urlsplit(address)
    if parts.scheme not in ("runs", "models"):
        return None
    first, _, rest = parts.path.lstrip("/").partition("/")
    if parts.scheme == "runs":
        return _joined(str(client.get_run(first).info.artifact_uri), rest)
    if first.startswith("m-"):
        return _joined(str(client.get_logged_model(first).artifact_location), rest)
    version, _, inner = rest.partition("/")
    if not version.isdecimal():
        version = str(client.get_model_version_by_alias(first, version).version)
    return _joined(str(client.get_model_version_download_uri(first, version)), inner)


def _joined(address: str, rest: str) -> str:
    return f"{address.rstrip('/')}/{rest}" if rest else address


def _roots(client: MlflowClient, uri: str) -> list[str]:
    """The folder of a database of our own, and the registry's own root of artefacts."""
    from mlflow.exceptions import MlflowException

    roots = [str(Path(uri.removeprefix(SQLITE)).parent)] if uri.startswith(SQLITE) else []
    try:
        location = str(client.get_experiment(DEFAULT_EXPERIMENT).artifact_location)
    except MlflowException:  # it may have been deleted
        return roots
    root = location.removesuffix(f"/{DEFAULT_EXPERIMENT}")
    return [*roots, root] if root != location and urlsplit(root).path.strip("/") else roots


def _is_below(address: str, roots: Iterable[str], uri: str) -> bool:
    path, parts = _path(address), urlsplit(address)
    if path is not None:
        return any(path.is_relative_to(folder) for folder in map(_path, roots) if folder is not None)
    if ".." in unquote(parts.path).split("/"):
        return False
    if parts.scheme == "mlflow-artifacts":
        return parts.netloc in ("", urlsplit(uri).netloc)
    return any(address == root or address.startswith(f"{root.rstrip('/')}/") for root in roots if root.strip("/"))


def _path(address: str) -> Path | None:
    """The path on this machine, links followed; None for an address elsewhere."""
    parts = urlsplit(address)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path)).resolve()
    return Path(address).resolve() if not parts.scheme else None


# --- versions ---


class RegistryError(HeadraceError):
    """Raised when the registry of models does not answer."""


@dataclass(frozen=True)
class Pinned:
    """A version of the model that a number or an alias named: its source, its manifest's digest, and its tags."""

    version: str
    source: str
    digest: str | None
    refusal: str | None = None
    """The reason in its tags for which it must not serve; None if it may."""
    trusted: bool = False
    """Whether its files may run their own code, by its tags."""
    canary_share: float | None = None
    """The share of the users that it answers as the canary; None for the share of the settings."""
    canary_begun: str | None = None
    """The text of the tag with the time at which it became the canary."""
    canary_stopped: str | None = None
    """The reason for which a service stopped it as the canary; None if none did."""


@dataclass(frozen=True)
class LoadedVersion(Generic[Model]):
    """A version in memory."""

    version: str
    model: Model
    loaded_at: int = 0
    """Epoch ms."""
    digest: str | None = None
    """The digest of its manifest."""
    alias: str | None = None
    """The alias by which it answers; None for the champion's."""


class Registry(Protocol):
    """A registry of models."""

    def find(self, name: str) -> Pinned | None:
        """The version of this number or alias; None for none. Raises RegistryError."""

    def listed(self) -> Mapping[str, Pinned]:
        """The versions of all numbers and aliases, of the newest MOST_LISTED at most. Raises RegistryError."""

    def fetch(self, pinned: Pinned) -> AbstractContextManager[Path]:
        """A local folder with the version's artefact, until the block ends. Raises RegistryError."""

    def report(self, pinned: Pinned, reason: str, tag: str = SERVING_REFUSED) -> None:
        """Tags the version with the reason for which it was refused or stopped. Raises RegistryError."""


def _pinned(version: ModelVersion) -> Pinned:
    tags = version.tags
    return Pinned(
        str(version.version),
        str(version.source),
        tags.get(DIGEST_TAG),
        refusal(tags),
        trusted(tags),
        _share(tags.get(CANARY_SHARE)),
        tags.get(CANARY_BEGUN),
        tags.get(CANARY_STOPPED),
    )


def _share(text: str | None) -> float | None:
    """The share in a tag; None without the tag and for a text that is no share."""
    try:
        share = float(text or "")
    except ValueError:
        return None
    return share if 0 <= share <= MOST_SHARE else None


class MlflowRegistry:
    """The versions of one model in MLflow's registry, for processes that read it as long as they live."""

    def __init__(self, tracking_uri: str, name: str) -> None:
        self._uri, self._name = tracking_uri, name

    def find(self, name: str) -> Pinned | None:
        """The version of this number or alias; None without the registry, the model or the name."""
        if not registry_exists(self._uri):
            return None
        from mlflow.exceptions import MlflowException

        client = self._client()
        get = client.get_model_version if name.isdecimal() else client.get_model_version_by_alias
        try:
            version = get(self._name, name)
        except MlflowException as error:
            if error.error_code in (GONE, "INVALID_PARAMETER_VALUE"):
                return None
            raise self._failed(error) from error
        return _pinned(version)

    def listed(self) -> Mapping[str, Pinned]:
        """The versions of all numbers and aliases, the newest MOST_LISTED at most; none without registry or model."""
        if not registry_exists(self._uri):
            return {}
        from mlflow.exceptions import MlflowException

        client = self._client()
        try:
            # A name in double quotes may have single ones; MLflow takes no double ones in a name.
            versions = client.search_model_versions(f'name="{self._name}"', MOST_LISTED, ["version_number DESC"])
            aliases = client.get_registered_model(self._name).aliases if versions else {}
        except MlflowException as error:
            if error.error_code == GONE:
                return {}
            raise self._failed(error) from error
        numbered = {str(version.version): _pinned(version) for version in versions}
        named = {name: numbered[str(number)] for name, number in aliases.items() if str(number) in numbered}
        return named | numbered

    def report(self, pinned: Pinned, reason: str, tag: str = SERVING_REFUSED) -> None:
        """The version's tag has the reason for which it was refused or stopped."""
        from mlflow.exceptions import MlflowException

        client = self._client()
        try:
            present = client.get_model_version(self._name, pinned.version).tags.get(tag)
            if present != reason:
                client.set_model_version_tag(self._name, pinned.version, tag, reason)
        except MlflowException as error:
            raise self._failed(error) from error

    @contextmanager
    def fetch(self, pinned: Pinned) -> Iterator[Path]:
        """The version's folder until the block ends, downloaded unless it is on this machine."""
        from mlflow.exceptions import MlflowException

        with ExitStack() as files:
            try:
                folder = files.enter_context(downloaded(pinned.source, self._uri))
            except (MlflowException, OSError) as error:
                raise self._failed(error) from error
            yield folder

    def _client(self) -> MlflowClient:
        for name, value in QUICK.items():  # for good: threads of this process poll the registry, and none may hang
            os.environ.setdefault(name, value)
        return client_of(self._uri)

    def _failed(self, error: Exception) -> RegistryError:
        return RegistryError(f"registry {self._uri}", "an MLflow registry that answers", str(error))
