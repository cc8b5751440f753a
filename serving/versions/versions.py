"""The versions of the model in this process, and the choice of the one that answers a request."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress

from features.definitions import FeatureRepo, FeatureView
from features.errors import ArtefactError, HeadraceError, StoreError, UsageError
from features.times import now_ms
from models.followed import CHALLENGER_POLICY, FollowedAlias, VersionLoader
from models.local_copy import local_copy_in
from models.recommender import Artefact, LoadedRecommender, open_recommender
from models.registry import Registry
from models.tags import CHALLENGER
from serving.config import ServiceConfig
from serving.http import field_problem, schema, struct_of
from serving.recommend import ItemFeatures, Reader
from serving.recommender_metrics import RecommenderMetrics
from serving.versions.canary import Canary
from serving.versions.named import NamedVersions, UnknownModelError

logger = logging.getLogger(__name__)

ModelUsed = struct_of(schema.ModelUsed)


class ModelVersions:
    """The champion, the canary and the challenger beside it, and versions that requests name.

    Args:
        name: of the recommender, and of its registered model.
        registry: the registry of models.
        reader: finds the definitions that have rows.
        items: reads the features of a version's items before it answers.
        store_failed: called with the error if the store cannot be read.
    """

    def __init__(
        self,
        settings: ServiceConfig,
        repo: FeatureRepo,
        registry: Registry,
        reader: Reader,
        items: ItemFeatures,
        metrics: RecommenderMetrics,
        store_failed: Callable[[Exception], None],
        *,
        name: str,
    ) -> None:
        self.name = name
        self._settings, self._repo, self._reader, self._items = settings, repo, reader, items
        self._metrics, self._store_failed = metrics, store_failed
        loader = VersionLoader(registry, open_recommender, self._prepare)
        self.champion = FollowedAlias(
            loader, settings.model_alias, swapped=self._swapped, local_copy=local_copy_in(settings.kept_model)
        )
        self.canary = Canary(loader, settings.canary_share, settings.canary_slower, self._canary_stopped)
        self._challenger = FollowedAlias(loader, CHALLENGER, CHALLENGER_POLICY)
        self._others = NamedVersions(loader, self._prepared)
        self._preparing: dict[int, Artefact] = {}

    @property
    def artefacts(self) -> list[Artefact]:
        """The artefacts in memory, including those that a thread is preparing."""
        followed = (self.champion.current, self.champion.previous, self.canary.served, self.challenger)
        loaded = [version.model for version in followed if version is not None]
        every = [*self._preparing.values(), *loaded, *self._others.artefacts]
        return list({id(artefact): artefact for artefact in every}.values())

    @property
    def challenger(self) -> LoadedRecommender | None:
        """The version that repeats the champion's requests as its shadow; None without one."""
        return self._challenger.current

    def look(self) -> None:
        """Loads the versions that the aliases name now."""
        with self._prepared():
            self._look()

    def _look(self) -> None:
        self.champion.follow()
        if self.champion.registry_problem is not None:
            self._metrics.failed("registry")
            return
        try:
            self.canary.look(self.champion.current)
            if self._settings.shadow_share:
                self._challenger.look(self.champion.current)
            self._others.look()
        except HeadraceError:  # they stay as they were
            self._metrics.failed("registry")

    def stop(self) -> None:
        """Stops loading versions."""
        self._others.stop()

    async def version_for(self, name: str | None, key: str | None = None) -> LoadedRecommender | None:
        """The version that answers this user or session key, or the one that the request names, once it is loaded.

        Raises ProblemError for an unknown version and for one that must not answer, OverloadedError for one too many.
        """
        if name is None:
            return self.canary.for_user(key) or self.champion.current
        current = self.champion.current
        if current is not None and name in (self.champion.alias, current.version):
            return current
        try:
            found = self._others.get(name, current, self.champion.previous)
            if isinstance(found, Future):  # others may wait for it, too
                found = await asyncio.shield(asyncio.wrap_future(found))
            return found
        except UnknownModelError as error:
            raise field_problem("model", error.required, name, 404) from None
        except ArtefactError as error:
            raise field_problem("model", f"a model that can serve: {error}", name) from None

    def answered(self, served: LoadedRecommender | None, failed: bool, took_s: float, key: str | None = None) -> None:
        """Counts an attempt of this version to answer this user or session."""
        if served is None:
            return
        alias = served.alias or self._settings.model_alias
        self._metrics.model_answered(served.version, alias, "failed" if failed else "answered", took_s)
        self.canary.answered(served, failed, took_s, key)

    def used(self, served: LoadedRecommender, name: str | None) -> schema.ModelUsed:
        """The part of a response about the version that answered; ``name`` is that of the request, if any."""
        followed = served.alias or self._settings.model_alias
        alias = followed if name is None else None if name.isdecimal() else name
        return ModelUsed(name=self.name, version=served.version, alias=alias)

    def listed(self) -> schema.RecommenderModels:
        """The recommender's part of the answer to GET /v1/models."""
        champion = self.champion
        refused = champion.refused
        return schema.RecommenderModels(
            name=self.name,
            alias=self._settings.model_alias,
            current=_version(champion.current),
            previous=_version(champion.previous),
            refused=None if refused is None else schema.RefusedVersion(version=refused.version, reason=refused.reason),
            canary=_version(self.canary.served),
            canary_state=self.canary.state,
            challenger=_version(self.challenger),
            problem=champion.registry_problem,
        )

    @property
    def state(self) -> str:
        """The version that serves, or the reason for none, as text."""
        current = self.champion.current
        return f"version {current.version}" if current is not None else self.champion.registry_problem or "none yet"

    def _prepare(self, artefact: Artefact) -> None:
        """The model fits the definitions, or older ones whose rows are kept for it, and has its items' features."""
        artefact.check_views({**self._repo.views, **self._own_views(artefact)})
        self._preparing[threading.get_ident()] = artefact
        try:
            self._items.refresh(lambda: self.artefacts, now_ms())
        except (
            StoreError,
            OSError,
        ) as error:  # it answers without them; they are read when the store is back
            self._store_failed(error)
        current, inputs = self._items.current(artefact)
        current.recommend(artefact.items[:1], None, inputs, 1)
        _keep_out_of_collections()

    @contextmanager
    def _prepared(self) -> Iterator[None]:
        """Keeps a model that this thread prepares among ``artefacts`` until the end of the block, when it is loaded.

        Items are refreshed all the time: a refresh between preparation and swap must not drop the model's items.
        """
        try:
            yield
        finally:
            self._preparing.pop(threading.get_ident(), None)

    def _own_views(self, artefact: Artefact) -> dict[str, FeatureView]:
        """The definitions of the model's training that have rows. Raises StoreError."""
        views = {}
        for inputs in (artefact.manifest.user, artefact.manifest.item):
            with suppress(UsageError):  # without rows it is missing here, which the check reports
                views[inputs.view] = self._reader.view(inputs.view, int(inputs.schema_hash, 16))
        return views

    def _canary_stopped(self, served: LoadedRecommender, _: str) -> None:
        self._metrics.canary_stopped(served.version)

    def _swapped(self, served: LoadedRecommender) -> None:
        self._metrics.serving(served.version)
        logger.info("model_swapped name=%s version=%s", self.name, served.version)


def _keep_out_of_collections() -> None:
    """Collections of garbage pass over all that is there now: a full one of a service's objects stops it for 0.2 s.

    Reference counts still free a model that nobody uses any more; cycles among what is there now stay.
    """
    gc.collect()
    gc.freeze()


def _version(served: LoadedRecommender | None) -> schema.ModelVersion | None:
    if served is None:
        return None
    return schema.ModelVersion(
        version=served.version,
        loaded_at=served.loaded_at,
        items=len(served.model.items),
        metrics=served.model.manifest.metrics,
    )
