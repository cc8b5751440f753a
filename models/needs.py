"""The definitions of views that registered models need: those of the training of each version with an alias."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.errors import StoreError
from models.registry import GONE, absolute_uri, client_of, downloaded, quick, registry_exists

if TYPE_CHECKING:
    from models.folder import ViewInputs


@dataclass(frozen=True)
class Need:
    """A model version that an alias names, and one view of its inputs: the definition's hash and the features."""

    model: str
    version: str
    aliases: tuple[str, ...]
    view: str
    schema_hash: int
    names: tuple[str, ...]


def needed_schemas(tracking_uri: str, root: Path) -> set[tuple[str, int]]:
    """The definitions (view, schema_hash) that a model with an alias needs; StoreError as model_needs()."""
    return {(need.view, need.schema_hash) for need in model_needs(tracking_uri, root)}


def model_needs(tracking_uri: str, root: Path) -> list[Need]:
    """The needs of the versions with an alias, of every registered model; empty without a registry.

    Args:
        tracking_uri: MLflow's; the database of a relative path is below ``root``.

    Raises:
        StoreError: the registry does not answer, or a manifest cannot be read.
    """
    uri = absolute_uri(tracking_uri, root)
    if not registry_exists(uri):
        return []
    from mlflow.exceptions import MlflowException

    client = client_of(uri)
    try:
        with quick():
            return [need for model in client.search_registered_models() for need in _of_model(client, model, uri)]
    except (MlflowException, OSError) as error:
        raise StoreError(f"registry {uri}", "an MLflow registry that answers", str(error)) from error


def _of_model(client: Any, model: Any, uri: str) -> list[Need]:
    versions: dict[str, list[str]] = {}
    for alias, version in sorted(dict(model.aliases).items()):
        versions.setdefault(str(version), []).append(alias)
    needs = []
    for version, aliases in versions.items():
        for inputs in _inputs(client.get_model_version(model.name, version).source, uri):
            schema_hash = int(inputs.schema_hash, 16)
            needs.append(Need(model.name, version, tuple(aliases), inputs.view, schema_hash, inputs.names))
    return needs


def _inputs(source: str, uri: str) -> Sequence[ViewInputs]:
    from pydantic import ValidationError

    from models.folder import MANIFEST

    where = f"{source}/{MANIFEST}"
    try:
        with downloaded(where, uri) as path:
            return inputs_of_manifest(path.read_bytes())
    except ValidationError as error:
        raise StoreError(f"manifest '{where}'", "what training writes", str(error.errors()[0]["msg"])) from error


def ranker_inputs_of(
    tracking_uri: str, root: Path, model: str, version: str
) -> tuple[Sequence[str], Sequence[str]] | None:
    """All inputs of the ranker of a recommender's version, in order, and the user's among them.

    None if the registry has no such version, or no more. Raises StoreError where it does not answer.
    """
    uri = absolute_uri(tracking_uri, root)
    if not registry_exists(uri):
        return None
    from mlflow.exceptions import MlflowException

    from models.folder import MANIFEST
    from models.recommender import Manifest

    try:
        with quick():
            source = client_of(uri).get_model_version(model, version).source
            with downloaded(f"{source}/{MANIFEST}", uri) as path:
                manifest = Manifest.model_validate_json(path.read_bytes())
    except (MlflowException, OSError, ValueError) as error:
        if getattr(error, "error_code", None) == GONE:
            return None
        raise StoreError(f"model '{model}' version {version} in {uri}", "its manifest", str(error)) from error
    user = manifest.user.names
    return (*manifest.pair_features, *user, *manifest.item.names), user


def inputs_of_manifest(text: bytes) -> Sequence[ViewInputs]:
    """The inputs of each view: of a recommender's users and items, or of an event model.

    Raises:
        ValidationError: the manifest of neither.
    """
    from pydantic_core import from_json

    from models.event_model import SCORERS, EventManifest
    from models.recommender import Manifest

    try:
        kind = dict(from_json(text)).get("kind")
    except (ValueError, TypeError):
        kind = None
    if kind in SCORERS:
        return EventManifest.model_validate_json(text).views
    manifest = Manifest.model_validate_json(text)
    return manifest.user, manifest.item
