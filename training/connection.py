"""A client of MLflow: where its database or server is, and whether that answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from features.errors import StoreError

if TYPE_CHECKING:
    from mlflow import MlflowClient

SQLITE = "sqlite:///"
QUICK = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""For the first question, after which MLflow may be as patient as it is."""


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
