"""The event model that serves: the version that the registry's alias names, verified, and followed when it changes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from features.errors import ArtefactError, StoreError
from models import tags as verdicts
from models.event_model import EventColumnsOfModel, Loaded, load_event_model, try_out
from models.tags import CHAMPION, DIGEST_TAG

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0

SQLITE = "sqlite:///"


class EventChampion:
    """Follows the alias of an event model; ``current`` looks at most so often, and keeps what it has where it cannot.

    Args:
        tracking_uri: the registry's.
        asked: the model's definition; a version of another one is refused.
        clock: monotonic seconds.
        answers: whether anybody hears what it says, for which it needs the gate's verdict.
    """

    def __init__(
        self,
        tracking_uri: str,
        asked: EventColumnsOfModel,
        alias: str = CHAMPION,
        look_every_s: float = LOOK_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
        *,
        answers: bool = True,
    ) -> None:
        self._uri, self._alias, self._every_s, self._clock = tracking_uri, alias, look_every_s, clock
        self.asked, self._answers = asked, answers
        self._looking = threading.Lock()
        self._loaded: Loaded | None = None
        self._due = float("-inf")
        self._refused: tuple[str, str | None] | None = None
        self.problem: str | None = None

    @property
    def loaded(self) -> Loaded | None:
        """What the last look left, without another one."""
        return self._loaded

    def current(self) -> Loaded | None:
        """The version that the alias named at the last look; the one before where it cannot be had; None where none."""
        # While one thread looks, others go on with what there is; they wait only where there is nothing yet.
        if self._clock() >= self._due and self._looking.acquire(blocking=self._loaded is None):
            try:
                if self._clock() >= self._due:
                    self._look()
                    self._due = self._clock() + self._every_s
            finally:
                self._looking.release()
        return self._loaded

    def _look(self) -> None:
        seen = None
        try:
            found = self._find()
            seen = None if found is None else (str(found.version), self._refusal(found))
            if found is not None and seen != self._refused and not self._serves(seen):
                self._loaded = self._load(found)
                logger.info("event_model_loaded name=%s version=%s", self.asked.model.name, found.version)
            if found is None and not self._answers:
                self._loaded = None
            self.problem = self.problem if seen and seen == self._refused else None
        except ArtefactError as error:
            # Tried once: a version does not mend itself, but its verdict may come later.
            self._refused, self.problem = seen, str(error)
            logger.warning("event_model_refused name=%s reason=%s", self.asked.model.name, error)
        except StoreError as error:
            self.problem = str(error)

    def _serves(self, seen: tuple[str, str | None] | None) -> bool:
        return self._loaded is not None and seen == (self._loaded.version, None)

    def _refusal(self, found: Any) -> str | None:
        """Why the version must not be asked; one that nobody hears needs no more than to be whole."""
        if self._answers or not found.tags.get(DIGEST_TAG):
            return verdicts.refusal(found.tags)
        return None

    def _find(self) -> Any:
        # Asking MLflow for a SQLite registry that has no file would make one, and race with training.
        if self._uri.startswith(SQLITE) and not Path(self._uri.removeprefix(SQLITE)).exists():
            return None
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            return MlflowClient(self._uri, self._uri).get_model_version_by_alias(self.asked.model.name, self._alias)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise self._failed(error) from error

    def _load(self, found: Any) -> Loaded:
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        refusal = self._refusal(found)
        if refusal is not None:
            where, required = (
                f"model '{found.name}' version {found.version}",
                "a verdict of the gate by which it may serve",
            )
            raise ArtefactError(where, required, refusal, f"See 'headrace models promote --model {found.name}'.")
        try:
            folder = download_artifacts(artifact_uri=found.source, tracking_uri=self._uri, registry_uri=self._uri)
        except (MlflowException, OSError) as error:
            raise self._failed(error) from error
        model = load_event_model(folder, found.tags[DIGEST_TAG], trusted=verdicts.trusted(found.tags))
        model.check(self.asked)
        try_out(model)
        return Loaded(str(found.version), model)

    def _failed(self, error: Exception) -> StoreError:
        return StoreError(f"registry {self._uri}", "an MLflow registry that answers", str(error))
