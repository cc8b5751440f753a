"""The service: its parts, their threads, the deadline of answers, and fallbacks for a missing part."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from features.definitions import FeatureRepo, FeatureView
from features.errors import HeadraceError, StoreError
from features.events import encode_key, parsed_key
from features.online_store import ReadableStore, progress_text, read_status, stuck
from features.rows import Status
from features.times import now_ms
from models.recommender import Artefact, LoadedRecommender
from models.registry import Registry
from serving.config import ServiceConfig
from serving.events import EventSink, OwnClicks, PostedEvents
from serving.http import ProblemError, field_problem, schema
from serving.metrics import Metrics
from serving.recommend import (
    FallbackReason,
    FieldError,
    Inputs,
    ItemFeatures,
    ItemQuery,
    ItemSnapshot,
    ModelAnswer,
    ObservedReader,
    Read,
    Reader,
    Recommendation,
    ServedAnswer,
    ServedLog,
    UserRead,
    UserReader,
    query_of,
    rank,
    rank_query,
    recommend,
    response_of,
    similar,
    substitute,
)
from serving.scoring import EventScores
from serving.versions import ModelVersions, Shadow, ShadowRequest
from serving.workers import OverloadedError, Repeated, Workers

logger = logging.getLogger(__name__)
RequestFeatures = Mapping[str, pa.Array]
Recommender = Callable[[ItemQuery, UserRead, Artefact | None, ItemSnapshot, Inputs | None], Recommendation]


class Service:
    """Answers requests; ``start`` and ``stop`` its threads.

    Args:
        settings: the configuration.
        repo: the definitions.
        reader: reads the features of entities.
        rows: the store behind the reader.
        registry: the registry of models.
        sink: takes posted events; None without Kafka.
        own: makes accepted events count at once; None if they count once the stream has folded them.

    Answers are logged if the repo has the stream of the served log and there is a sink.
    """

    def __init__(
        self,
        settings: ServiceConfig,
        repo: FeatureRepo,
        reader: Reader,
        rows: ReadableStore,
        registry: Registry,
        sink: EventSink | None,
        own: OwnClicks | None = None,
    ) -> None:
        self.settings, self.repo, self.sink = settings, repo, sink
        self.metrics = Metrics(settings.read_age_slo_s)
        reader = ObservedReader(reader, self.metrics.read_age, self.metrics.without_pending)
        self._reader, self._rows = reader, rows
        self.items = ItemFeatures(
            lambda keys: reader.read(settings.item_view, keys),
            self._item_keys,
            settings.trending_weights,
            settings.popular_weights,
            *self._item_views(),
            lambda schema_hash, keys: reader.read(settings.item_view, keys, None, schema_hash),
        )
        self.models = ModelVersions(settings, repo, registry, reader, self.items, self.metrics, self._store_failed)
        uri, share = settings.tracking_uri, settings.shadow_share
        self.scores = EventScores(repo, reader, uri, settings.model_alias, self.metrics, share)
        self._workers = Workers(settings.threads, settings.max_waiting, settings.deadline_ms)
        self.posted = PostedEvents(settings, repo, sink, own, self._workers, self.metrics)
        self._served_log = self._log_of(sink)
        self._shadow = Shadow(
            settings.shadow_share, lambda: self.models.challenger, lambda: self._workers.busy, self.metrics, self._log
        )
        self._users = UserReader(settings.user_view, repo, reader, rows, own, self._store_failed)
        self._store_problem: str | None = "not asked yet"
        self._items_tried = False
        self._repeated = (
            Repeated("items", settings.item_refresh_s, self._refresh_items, self._failed("items")),
            # The first look takes as long as MLflow's import; a much longer rest would delay a new champion.
            Repeated("models", settings.model_poll_s, self.models.look, self._failed("registry"), idle_share=0.5),
        )

    def _item_views(self) -> tuple[FeatureView | None, list[tuple[FeatureView, Read]]]:
        """The items' view, and the other views of the same entity with their reads."""
        main = self.repo.views.get(self.settings.item_view)
        views = [] if main is None else [view for view in self.repo.views.values() if view.entity == main.entity]
        return main, [(view, functools.partial(self._reader.read, view.name)) for view in views if view is not main]

    def _item_keys(self) -> pa.Array:
        """The keys of items that any of their views has rows of."""
        main, others = self._item_views()
        names = [self.settings.item_view] if main is None else [main.name, *(view.name for view, _ in others)]
        return pa.concat_arrays([self._rows.keys(name) for name in names])

    def _log_of(self, sink: EventSink | None) -> ServedLog | None:
        stream = self.repo.streams.get(self.settings.served_stream)
        if sink is None or stream is None or not self.settings.served_log_share:
            return None
        counts = self.metrics.served_log
        return ServedLog(stream, sink, self.settings.served_log_share, lambda status: counts.labels(status).inc())

    def start(self) -> None:
        """Starts the threads that read items and models."""
        for work in self._repeated:
            work.start()
        if self._served_log is not None:
            self._served_log.start()
        self._shadow.start()
        self.scores.shadow.start()

    def stop(self) -> None:
        """Stops all threads; requests in progress end."""
        self.models.stop()
        for work in self._repeated:
            work.stop()
        self._shadow.stop()
        self.scores.shadow.stop()
        if self._served_log is not None:
            self._served_log.stop()
        self._workers.stop()

    # --- recommend, rank, similar ---

    async def recommend(self, request: schema.RecommendRequest) -> schema.RecommendResponse:
        """Recommended items, or a fallback, within the deadline."""
        return await self._personal(request, query_of(request, self._allowed(request.filter)), recommend)

    async def rank(self, request: schema.RankRequest) -> schema.RecommendResponse:
        """The request's items, each once, the best first."""
        return await self._personal(request, rank_query(request), rank)

    async def similar(self, request: schema.SimilarRequest) -> schema.RecommendResponse:
        """Items similar to an item."""
        query = ItemQuery(None, request.k, exclude=tuple(request.exclude), allowed=self._allowed(request.filter))
        served = await self.models.version_for(request.model)

        def answer() -> ModelAnswer:
            artefact = served.model if served is not None else None
            return ModelAnswer(similar(request.item_id, query, artefact, self.items.snapshot), served, UserRead())

        return self._response(await self._in_time(answer, query, served), request)

    async def _personal(
        self, request: schema.PersonalRequest, query: ItemQuery, answer: Recommender
    ) -> schema.RecommendResponse:
        served = await self.models.version_for(request.model, query.user or query.session)
        own_features = self._users.request_features(request.user_features, served)
        work = functools.partial(self._answer, answer, query, own_features, served)
        answered = await self._in_time(work, query, served)
        self._log(ServedAnswer(answered, query, self.items.snapshot))
        if answered.recommendation.by_model and answered.served is self.models.champion.current:
            repeat = functools.partial(self._answer_by, answer, query, own_features, answered.user)
            self._shadow.offer(ShadowRequest(answered, query, self.items.snapshot, repeat))
        return self._response(answered, request)

    def _log(self, answer: ServedAnswer) -> None:
        if self._served_log is not None:
            self._served_log.offer(answer)

    async def _in_time(
        self, work: Callable[[], ModelAnswer], query: ItemQuery, served: LoadedRecommender | None
    ) -> ModelAnswer:
        """The result of the work, or a fallback at the deadline or without a thread."""
        started = time.perf_counter()
        try:
            answer = await self._workers.in_time(work)
        except TimeoutError:
            answer = self._substitute(query, FallbackReason.DEADLINE, served)
        except OverloadedError:
            answer = self._substitute(query, FallbackReason.OVERLOADED, served)
        answer = replace(answer, took_s=time.perf_counter() - started)
        self.metrics.recommend_seconds.observe(answer.took_s)
        if answer.recommendation.reason is not None:
            self.metrics.fallbacks.labels(answer.recommendation.reason.value).inc()
        return answer

    def _response(
        self, answer: ModelAnswer, request: schema.PersonalRequest | schema.SimilarRequest
    ) -> schema.RecommendResponse:
        used = None if answer.served is None else self.models.used(answer.served, request.model)
        return response_of(answer, used, self.items.snapshot, explain=request.explain)

    def _answer(
        self, answer: Recommender, query: ItemQuery, own_features: RequestFeatures, served: LoadedRecommender | None
    ) -> ModelAnswer:
        user = self._users.read(query, own_features, served)
        made = self._attempt(answer, query, own_features, user, served)
        if made is None and served is not None and served.alias is not None:  # its users get the champion's
            made = self._attempt(answer, query, own_features, user, self.models.champion.current)
        return made or self._substitute(query, FallbackReason.MODEL_FAILED, served, user)

    def _attempt(
        self,
        answer: Recommender,
        query: ItemQuery,
        own_features: RequestFeatures,
        user: UserRead,
        served: LoadedRecommender | None,
    ) -> ModelAnswer | None:
        """The version's answer; None if it fails in any way."""
        started = time.perf_counter()
        made = None
        try:
            made = self._answer_by(answer, query, own_features, user, served)
        except Exception:
            logger.exception("model_failed version=%s", served.version if served else None)
            self.metrics.failures.labels("model").inc()
        took_s = time.perf_counter() - started
        failed = made is None or took_s > self.settings.deadline_ms / 1000
        self.models.answered(served, failed, took_s, query.user or query.session)
        return made

    def _answer_by(
        self,
        answer: Recommender,
        query: ItemQuery,
        own_features: RequestFeatures,
        user: UserRead,
        served: LoadedRecommender | None,
    ) -> ModelAnswer:
        """The version's answer; the user is read again if the version was trained on another definition."""
        if user.schema_hash != self._users.schema_hash(served):
            user = self._users.read(query, own_features, served)
        artefact = served.model if served is not None else None
        inputs = self.items.inputs(artefact) if artefact is not None else None
        return ModelAnswer(answer(query, user, artefact, self.items.snapshot, inputs), served, user)

    def _substitute(
        self,
        query: ItemQuery,
        reason: FallbackReason,
        served: LoadedRecommender | None,
        user: UserRead | None = None,
    ) -> ModelAnswer:
        artefact = served.model if served is not None else None
        made = substitute(query, reason, self.items.snapshot, artefact)
        return ModelAnswer(made, served, user or UserRead(problem=reason))

    # --- filters ---

    def _allowed(self, conditions: Mapping[str, Any]) -> frozenset[str] | None:
        """The items that meet the filter; None without one. Raises ProblemError for an impossible condition."""
        if not conditions:
            return None
        try:
            return self.items.snapshot.attributes.matching(conditions)
        except FieldError as error:
            raise field_problem(error.field, error.required, error.got) from None

    # --- features ---

    async def features(self, entity_name: str, id_text: str) -> schema.FeaturesResponse:
        """All features of one entity now. Raises ProblemError for an entity without views."""
        views = [view for view in self.repo.views.values() if view.entity.name == entity_name]
        if not views:
            known = ", ".join(sorted({view.entity.name for view in self.repo.views.values()}))
            errors = [{"field": "entity", "required": f"one of {known}", "got": entity_name}]
            raise ProblemError(404, f"field 'entity' requires one of {known}; got {entity_name}", errors)
        values = parsed_key(views[0].entity, id_text)
        key = encode_key(values, views[0].entity)
        try:
            matrices = await self._workers.in_time(lambda: [self._matrix(view, key) for view in views])
        except (TimeoutError, OverloadedError) as error:
            required = f"an answer within {self.settings.deadline_ms:g} ms"
            raise StoreError("the online store", required, type(error).__name__) from None
        newest = [view.newest_event for view in matrices if view.newest_event is not None]
        age = max(view.as_of for view in matrices) - max(newest) if newest else None
        return schema.FeaturesResponse(entity=entity_name, key=values, age_ms=age, views=matrices)

    def _matrix(self, view: FeatureView, key: str) -> schema.ViewFeatures:
        matrix = self._reader.read(view.name, pa.array([key], pa.string()))
        status = Status(int(matrix.status[0]))
        (values,) = matrix.to_table().to_pylist()
        newest = None if status == Status.NOT_FOUND else int(matrix.newest_event[0])
        return schema.ViewFeatures(
            view=view.name,
            status=status.name,
            as_of=int(matrix.as_of[0]),
            newest_event=newest,
            without_pending=matrix.without_pending,
            features=values,
        )

    # --- readiness ---

    def readiness(self) -> schema.Readiness:
        """Ready once the registry and all items have been read, or could not be, while the fold is not stuck."""
        stream = read_status(Path(self.settings.home), now_ms()) if self.settings.home else {"state": "absent"}
        return schema.Readiness(
            ready=self.models.champion.looked and self._items_tried and "fold" not in stuck(stream),
            store=self._store_problem or "ok",
            items=len(self.items.snapshot.items),
            model=self.models.state,
            canary=self.models.canary.state,
            events="ok" if self.sink is not None else "no Kafka configured",
            stream=progress_text(stream),
        )

    # --- periodic work ---

    def _refresh_items(self) -> None:
        try:
            self.items.refresh(lambda: self.models.artefacts, now_ms())
            self._store_problem = None
        except (HeadraceError, OSError) as error:
            self._store_failed(error)
            raise
        finally:
            self._items_tried = True
        self.metrics.items.set(len(self.items.snapshot.items))
        self.metrics.items_read_at.set(self.items.snapshot.read_at / 1000)
        with suppress(HeadraceError):  # the next look is soon
            self.posted.measure()

    def _store_failed(self, error: Exception) -> None:
        self._store_problem = str(error)
        self.metrics.failures.labels("store").inc()

    def _failed(self, part: str) -> Callable[[], None]:
        return lambda: self.metrics.failures.labels(part).inc()


def sink_of(settings: ServiceConfig) -> EventSink | None:
    """The sink to the configured Kafka; None without one."""
    from serving.events import KafkaSink

    if not settings.bootstrap_servers:
        return None
    return KafkaSink(settings.bootstrap_servers, settings.kafka_client, settings.acknowledge_within_s)
