"""The answers of one recommender: its items, model versions and users, the deadline, and fallbacks."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from features.definitions import FeatureRepo, Recommender
from features.errors import HeadraceError, StoreError
from features.online_store import ChangedKeys, ReadableStore
from features.times import now_ms
from models.recommender import Artefact, LoadedRecommender
from models.registry import Registry
from serving.batches import Batches
from serving.config import ServiceConfig
from serving.events import EventSink, OwnClicks
from serving.http import REQUEST_ID, field_problem, schema
from serving.recommend import (
    Catalogue,
    FallbackReason,
    FieldError,
    Inputs,
    ItemFeatures,
    ItemQuery,
    ItemSnapshot,
    ModelAnswer,
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
    similar_query,
    substitute,
)
from serving.recommender_metrics import RecommenderMetrics
from serving.versions import ModelVersions, Shadow, ShadowRequest
from serving.workers import IDLE_SHARE, Repeated

logger = logging.getLogger(__name__)

FAILING_S = 5.0
"""A store that has failed for longer is down: a single read may fail."""

STALE_S = 120.0
"""Items that were read longer ago are old, whatever the reason; those of a million items take ten seconds to read."""

FOLLOW_S = 0.5
"""Seconds between two looks at what the fold has changed."""

RequestFeatures = Mapping[str, pa.Array]
MakeAnswer = Callable[[ItemQuery, UserRead, Artefact | None, ItemSnapshot, Inputs | None], Recommendation]


@dataclass(frozen=True)
class Question:
    """A request to one version: whose features it needs, and what answers it once they are read."""

    query: ItemQuery
    own_features: RequestFeatures
    answer: Callable[[UserRead], ModelAnswer]
    request_id: str | None = field(default_factory=REQUEST_ID.get)


class Recommendations:
    """Answers requests to one recommender; ``start`` and ``stop`` its threads.

    Args:
        settings: the configuration.
        definition: the recommender.
        repo: all definitions.
        reader: reads the features of entities.
        rows: the store behind the reader.
        registry: the registry of models.
        sink: takes the served log; None without Kafka.
        own: remembers sessions; None if none are remembered.
        batches: where requests are answered, with those to other recommenders.

    Answers are logged if the definition has a served log and there is a sink.
    """

    def __init__(  # noqa: PLR0913  # one parameter for each part of the service that it shares
        self,
        settings: ServiceConfig,
        definition: Recommender,
        repo: FeatureRepo,
        reader: Reader,
        rows: ReadableStore,
        registry: Registry,
        sink: EventSink | None,
        own: OwnClicks | None,
        *,
        batches: Batches[Question, ModelAnswer],
        metrics: RecommenderMetrics,
    ) -> None:
        self.settings, self.definition, self.metrics = settings, definition, metrics
        self._rows, self._batches = rows, batches
        main = definition.item_view
        others = [view for view in repo.views.values() if view.entity == main.entity and view != main]
        self._item_views = (main, *others)
        self.items = ItemFeatures(
            reader,
            self._item_keys,
            definition.trending_weights,
            definition.popular_weights,
            main,
            others,
            catalogue=self._catalogue(),
            changes=[ChangedKeys(rows, view) for view in self._item_views],
        )
        self.models = ModelVersions(
            settings,
            repo,
            registry,
            reader,
            self.items,
            metrics,
            self._store_failed,
            name=definition.name,
        )
        self._served_log = self._log_of(sink)
        self._shadow = Shadow(
            settings.shadow_share, lambda: self.models.challenger, lambda: batches.busy, metrics.service, self._log
        )
        session_items = None if own is None else functools.partial(own.items, definition.name)
        item_key = next(iter(definition.item.keys)) if len(definition.item.keys) == 1 else None
        self._users = UserReader(
            definition.user_view.name,
            item_key,
            repo,
            reader,
            rows,
            session_items,
            self._store_failed,
            metrics.service.read_age,
        )
        self.store_problem: str | None = "not asked yet"
        self._items_at: float | None = None
        self._failing_since: float | None = None
        self._refresh_after = 0.0
        self._repeated = (
            Repeated(
                "items",
                min(settings.item_refresh_s, FOLLOW_S),
                self._follow_items,
                functools.partial(metrics.failed, "items"),
            ),
            # The first look takes as long as MLflow's import; a much longer rest would delay a new champion.
            Repeated(
                "models",
                settings.model_poll_s,
                self.models.look,
                functools.partial(metrics.failed, "registry"),
                idle_share=0.5,
            ),
        )

    @property
    def ready(self) -> bool:
        """Whether it answers as asked: all items were read lately, and a model unless none is registered."""
        champion, now = self.models.champion, time.monotonic()
        failing = self._failing_since is not None and now - self._failing_since > FAILING_S
        items = self._items_at is not None and now - self._items_at <= STALE_S and not failing
        model = champion.looked and (champion.current is not None or champion.registry_problem is None)
        return items and model

    @property
    def readiness(self) -> schema.RecommenderReadiness:
        """Its part of the service's readiness."""
        return schema.RecommenderReadiness(
            ready=self.ready,
            store=self.store_problem or "ok",
            items=len(self.items.snapshot.items),
            model=self.models.state,
            canary=self.models.canary.state,
        )

    def _catalogue(self) -> Catalogue | None:
        """What may be answered; None for all items."""
        catalogue = self.definition.catalogue
        return None if catalogue is None else Catalogue(catalogue, self.definition.availability)

    def _item_keys(self) -> pa.Array:
        """The keys of items that any of their views has rows of."""
        return pa.concat_arrays([self._rows.keys(view.name) for view in self._item_views])

    def _log_of(self, sink: EventSink | None) -> ServedLog | None:
        stream = self.definition.served
        if sink is None or stream is None or not self.settings.served_log_share:
            return None
        counts, share = self.metrics.service.served_log, self.settings.served_log_share
        return ServedLog(stream, sink, share, lambda status: counts.labels(status).inc(), self.definition.name)

    def start(self) -> None:
        """Starts the threads that read items and models."""
        for work in self._repeated:
            work.start()
        if self._served_log is not None:
            self._served_log.start()
        self._shadow.start()

    def stop(self) -> None:
        """Stops its threads; requests in progress end."""
        self.models.stop()
        for work in self._repeated:
            work.stop()
        self._shadow.stop()
        if self._served_log is not None:
            self._served_log.stop()

    # --- recommend, rank, similar ---

    async def recommend(self, request: schema.RecommendRequest) -> schema.RecommendResponse:
        """Recommended items, or a fallback, within the deadline."""
        query, exclude = query_of(request), self.definition.exclude
        if exclude:
            query = replace(
                query, exclude_seen=query.exclude_seen or "seen" in exclude, exclude_taken="bought" in exclude
            )
        return await self._personal(request, query, recommend)

    async def rank(self, request: schema.RankRequest) -> schema.RecommendResponse:
        """The request's items, each once, the best first."""
        return await self._personal(request, rank_query(request), rank)

    async def similar(self, request: schema.SimilarRequest) -> schema.RecommendResponse:
        """Items similar to an item."""
        query = similar_query(request)
        served = await self.models.version_for(request.model)
        question = Question(query, {}, functools.partial(self._similar, request.item_id, query, served))
        return self._response(await self._in_time(question, served), request)

    async def _personal(
        self, request: schema.PersonalRequest, query: ItemQuery, answer: MakeAnswer
    ) -> schema.RecommendResponse:
        if query.diversity and self.definition.category is not None:
            query = replace(query, alike_by=self.definition.category)
        served = await self.models.version_for(request.model, query.user or query.session)
        own_features = self._users.request_features(request.user_features, served)
        question = Question(query, own_features, functools.partial(self._answer, answer, query, own_features, served))
        answered = await self._in_time(question, served)
        self._log(ServedAnswer(answered, query, self.items.snapshot))
        if answered.recommendation.by_model and answered.served is self.models.champion.current:
            repeat = functools.partial(self._answer_by, answer, query, own_features, answered.user)
            self._shadow.offer(ShadowRequest(answered, query, self.items.snapshot, repeat))
        return self._response(answered, request)

    def _log(self, answer: ServedAnswer) -> None:
        if self._served_log is not None:
            self._served_log.offer(answer)

    async def _in_time(self, question: Question, served: LoadedRecommender | None) -> ModelAnswer:
        """The answer, or a fallback at the deadline.

        Raises ProblemError for an impossible filter, StoreError for any before the items have been read, and
        OverloadedError for a question that would have to wait too long.
        """
        self._check(question.query.conditions)
        started = time.perf_counter()
        try:
            answers = functools.partial(self._answers, served)
            answer = await self._batches.in_time((id(self), id(served)), question, answers)
        except TimeoutError:  # in a thread, as a filter is evaluated by the catalogue's size
            late = functools.partial(self._substitute, question.query, FallbackReason.DEADLINE, served)
            answer = await asyncio.to_thread(late)
        answer = replace(answer, took_s=time.perf_counter() - started, request_id=question.request_id)
        reason = answer.recommendation.reason
        self.metrics.answered(answer.took_s, None if reason is None else reason.value)
        return answer

    def _answers(
        self, served: LoadedRecommender | None, questions: Sequence[Question]
    ) -> Iterator[ModelAnswer | Exception]:
        """The answer to each question to this version; their users are read together."""
        users = self._users.read_all([(question.query, question.own_features) for question in questions], served)
        for question, user in zip(questions, users, strict=True):
            REQUEST_ID.set(question.request_id)  # for the log
            try:
                yield question.answer(user)
            except Exception as error:  # noqa: BLE001  (it is this question's alone)
                yield error

    def _similar(self, item: str, query: ItemQuery, served: LoadedRecommender | None, user: UserRead) -> ModelAnswer:
        artefact = self.items.current(served.model)[0] if served is not None else None
        return ModelAnswer(similar(item, query, artefact, self.items.snapshot), served, user)

    def _response(
        self, answer: ModelAnswer, request: schema.PersonalRequest | schema.SimilarRequest
    ) -> schema.RecommendResponse:
        used = None if answer.served is None else self.models.used(answer.served, request.model)
        return response_of(answer, used, self.items.snapshot)

    def _answer(
        self,
        answer: MakeAnswer,
        query: ItemQuery,
        own_features: RequestFeatures,
        served: LoadedRecommender | None,
        user: UserRead,
    ) -> ModelAnswer:
        made = self._attempt(answer, query, own_features, user, served)
        if made is None and served is not None and served.alias is not None:  # its users get the champion's
            made = self._attempt(answer, query, own_features, user, self.models.champion.current)
        return made or self._substitute(query, FallbackReason.MODEL_FAILED, served, user)

    def _attempt(
        self,
        answer: MakeAnswer,
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
            logger.exception("model_failed version=%s request=%s", served and served.version, REQUEST_ID.get())
            self.metrics.failed("model")
        took_s = time.perf_counter() - started
        failed = made is None or took_s > self.settings.deadline_ms / 1000
        self.models.answered(served, failed, took_s, query.user or query.session)
        return made

    def _answer_by(
        self,
        answer: MakeAnswer,
        query: ItemQuery,
        own_features: RequestFeatures,
        user: UserRead,
        served: LoadedRecommender | None,
    ) -> ModelAnswer:
        """The version's answer; the user is read again if the version was trained on another definition."""
        if user.schema_hash != self._users.schema_hash(served):
            user = self._users.read(query, own_features, served)
        artefact, inputs = (None, None) if served is None else self.items.current(served.model)
        return ModelAnswer(answer(query, user, artefact, self.items.snapshot, inputs), served, user)

    def _substitute(
        self,
        query: ItemQuery,
        reason: FallbackReason,
        served: LoadedRecommender | None,
        user: UserRead | None = None,
    ) -> ModelAnswer:
        artefact = self.items.current(served.model)[0] if served is not None else None
        made = substitute(query, reason, self.items.snapshot, artefact)
        return ModelAnswer(made, served, user or UserRead(problem=reason))

    # --- filters ---

    def _check(self, conditions: Mapping[str, Any]) -> None:
        """Passes for a filter that items can be asked for; which meet it is found by the work."""
        items = self.items.snapshot
        try:
            items.attributes.check(conditions)
        except FieldError as error:
            raise field_problem(error.field, error.required, error.got) from None
        if conditions and not items.read_at:
            raise StoreError("a filter", "items whose attributes have been read", "none yet", "Ask again in a moment.")

    # --- periodic work ---

    def _follow_items(self) -> None:
        """Reads what has changed of the items; all of them where that cannot be told, which is done less often."""
        began, models = time.monotonic(), lambda: self.models.artefacts
        try:
            if not self.items.follow(models, now_ms()):
                if began < self._refresh_after:
                    return
                self.items.refresh(models, now_ms())
                ended = time.monotonic()
                self._refresh_after = ended + max(self.settings.item_refresh_s, IDLE_SHARE * (ended - began))
            self.store_problem, self._failing_since, self._items_at = None, None, time.monotonic()
        except (HeadraceError, OSError) as error:
            self._store_failed(error)
            raise
        self.metrics.items_read(len(self.items.snapshot.items), self.items.snapshot.read_at / 1000)

    def _store_failed(self, error: Exception) -> None:
        if self._failing_since is None:
            self._failing_since = time.monotonic()
        self.store_problem = str(error)
        self.metrics.failed("store")
