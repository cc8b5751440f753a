"""The parts of the service put together: who reads what, within which time, and what answers when a part is missing."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import pyarrow as pa

from features.artefact import Artefact
from features.columns import encode_key
from features.definitions import FeatureView
from features.errors import HeadraceError, StoreError
from features.events.registry import schema_registry
from features.feature_reader import ReadableRows
from features.inspection import parsed_key
from features.repo import FeatureRepo
from features.state import FeatureMatrix, Status
from serving import events, schema
from serving.avro_events import judge_avro
from serving.background import Repeated
from serving.events import EventSink
from serving.item_features import ItemFeatures
from serving.metrics import Metrics
from serving.model_watch import ModelWatch, Registry, Served
from serving.problems import ProblemError
from serving.recommender import (
    SENTENCES,
    Question,
    Reason,
    Recommendation,
    UserRead,
    as_of,
    newest_event,
    recommend,
    substitute,
)
from serving.settings import ServingSettings

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Reader(Protocol):
    """The features of entities now, from the online store (see features.feature_reader)."""

    def read(self, view_name: str, keys: pa.Array, as_of: int | None = None) -> FeatureMatrix:
        """One row for each key. Raises StoreError."""


class Rows(ReadableRows, Protocol):
    """What else is asked of the online store."""

    def current(self, view: str, /) -> int | None:
        """The generation that readers read; None before the first."""

    def keys(self, view: str, /) -> pa.Array:
        """The key of every row that readers read."""


@dataclass(frozen=True)
class Answer:
    """A recommendation, and the model version and user that it was made of."""

    recommendation: Recommendation
    served: Served | None
    user: UserRead


class OverloadedError(Exception):
    """Raised when more requests wait for a thread than may."""


class Service:
    """Answers questions; ``start`` and ``stop`` are the life of its threads.

    Args:
        settings: what was chosen.
        repo: the definitions.
        reader: features of entities.
        rows: the store behind it.
        registry: where models are.
        sink: where posted events go; None where no Kafka is configured.
    """

    def __init__(
        self,
        settings: ServingSettings,
        repo: FeatureRepo,
        reader: Reader,
        rows: Rows,
        registry: Registry,
        sink: EventSink | None,
    ) -> None:
        self.settings, self.repo, self.sink = settings, repo, sink
        self.metrics = Metrics()
        self._reader, self._rows = reader, rows
        self._schemas = schema_registry(settings.schema_registry, settings.registry_client)
        self.items = ItemFeatures(
            lambda keys: reader.read(settings.item_view, keys),
            lambda: rows.keys(settings.item_view),
            settings.trending_weights,
            settings.popular_weights,
        )
        self.models = ModelWatch(registry, self._prepare, self._swapped)
        self._store_problem: str | None = "not asked yet"
        self._waiting = threading.BoundedSemaphore(settings.threads + settings.max_waiting)
        self._pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="answer")
        self._repeated = (
            Repeated("items", settings.item_refresh_s, self._refresh_items, self._failed("items")),
            Repeated("models", settings.model_poll_s, self._look, self._failed("registry")),
        )

    def start(self) -> None:
        """Items and models are read from now on."""
        for work in self._repeated:
            work.start()

    def stop(self) -> None:
        """Nothing is read any more; a request that is worked on ends."""
        for work in self._repeated:
            work.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)

    # --- recommend ---

    async def recommend(self, request: schema.RecommendRequest) -> schema.RecommendResponse:
        """An answer within the deadline, whatever the store and the model do."""
        started = time.perf_counter()
        question = question_of(request)
        try:
            answer = await self._in_time(functools.partial(self._answer, question))
        except TimeoutError:
            answer = self._substitute(question, Reason.DEADLINE)
        except OverloadedError:
            answer = self._substitute(question, Reason.OVERLOADED)
        took_s = time.perf_counter() - started
        self.metrics.recommend_seconds.observe(took_s)
        if answer.recommendation.reason is not None:
            self.metrics.fallbacks.labels(answer.recommendation.reason.value).inc()
        return self._response(answer, took_s * 1000, explain=request.explain)

    async def _in_time(self, work: Callable[[], T]) -> T:
        """The result of the work in a thread. Raises TimeoutError at the deadline, OverloadedError at once."""
        if not self._waiting.acquire(blocking=False):
            raise OverloadedError
        future = self._pool.submit(work)
        future.add_done_callback(lambda _: self._waiting.release())
        return await asyncio.wait_for(asyncio.wrap_future(future), self.settings.deadline_ms / 1000)

    def _answer(self, question: Question) -> Answer:
        user = self._read_user(question.user)
        served = self.models.current
        artefact = served.artefact if served is not None else None
        inputs = self.items.inputs(artefact) if artefact is not None else None
        try:
            return Answer(recommend(question, user, artefact, self.items.snapshot, inputs), served, user)
        except Exception:  # whatever a model does, there is an answer
            logger.exception("model_failed version=%s", served.version if served else None)
            self.metrics.failures.labels("model").inc()
            failed = substitute(question, Reason.MODEL_FAILED, self.items.snapshot, artefact)
            return Answer(failed, served, user)

    def _substitute(self, question: Question, reason: Reason) -> Answer:
        served = self.models.current
        artefact = served.artefact if served is not None else None
        return Answer(substitute(question, reason, self.items.snapshot, artefact), served, UserRead(problem=reason))

    def _read_user(self, key: str | None) -> UserRead:
        if key is None:
            return UserRead()
        view = self.settings.user_view
        try:
            matrix = self._reader.read(view, pa.array([key], pa.string()))
            if matrix.status[0] == Status.NOT_FOUND and self._rows.current(view) is None:
                return UserRead(problem=Reason.EMPTY_STORE)
        except (HeadraceError, OSError) as error:
            self._tell_store(error)
            return UserRead(problem=Reason.STORE_DOWN)
        return UserRead(matrix)

    def _response(self, answer: Answer, took_ms: float, *, explain: bool) -> schema.RecommendResponse:
        items, made = self.items.snapshot, answer.recommendation
        at = as_of(answer.user, items) or _now_ms()
        newest = newest_event(answer.user, items)
        status = answer.user.status
        return schema.RecommendResponse(
            recommendation_id=uuid.uuid4().hex,
            model=self._model_used(answer.served) if answer.served is not None else None,
            features=schema.FeaturesUsed(
                as_of=at,
                age_ms=None if newest is None else max(0, at - newest),
                status=None if status is None else status.name,
            ),
            fallback=schema.Fallback(used=made.reason is not None, reason=made.reason and made.reason.value),
            took_ms=round(took_ms, 3),
            items=[
                schema.RecommendedItem(
                    item_id=one.item_id,
                    score=one.score,
                    rank=rank,
                    source=one.source,
                    reasons=[SENTENCES.get(one.source, one.source)] if explain else None,
                )
                for rank, one in enumerate(made.items, start=1)
            ],
        )

    def _model_used(self, served: Served) -> schema.ModelUsed:
        return schema.ModelUsed(name=self.settings.model_name, version=served.version, alias=self.settings.model_alias)

    # --- features ---

    async def features(self, entity_name: str, id_text: str) -> schema.FeaturesResponse:
        """Every feature of one entity now. Raises ProblemError for an entity that no view describes."""
        views = [view for view in self.repo.views.values() if view.entity.name == entity_name]
        if not views:
            known = ", ".join(sorted({view.entity.name for view in self.repo.views.values()}))
            errors = [{"field": "entity", "required": f"one of {known}", "got": entity_name}]
            raise ProblemError(404, f"field 'entity' requires one of {known}; got {entity_name}", errors)
        values = parsed_key(views[0].entity, id_text)
        key = encode_key(values, views[0].entity)
        try:
            matrices = await self._in_time(lambda: [self._matrix(view, key) for view in views])
        except (TimeoutError, OverloadedError) as error:
            required = f"an answer within {self.settings.deadline_ms:g} ms"
            raise StoreError("the online store", required, type(error).__name__) from None
        newest = [one.newest_event for one in matrices if one.newest_event is not None]
        age = max(one.as_of for one in matrices) - max(newest) if newest else None
        return schema.FeaturesResponse(entity=entity_name, key=values, age_ms=age, views=matrices)

    def _matrix(self, view: FeatureView, key: str) -> schema.ViewFeatures:
        matrix = self._reader.read(view.name, pa.array([key], pa.string()))
        status = Status(int(matrix.status[0]))
        (values,) = matrix.to_table().to_pylist()
        newest = None if status == Status.NOT_FOUND else int(matrix.newest_event[0])
        return schema.ViewFeatures(
            view=view.name, status=status.name, as_of=int(matrix.as_of[0]), newest_event=newest, features=values
        )

    # --- events ---

    async def post_events(self, body: bytes, stream_name: str | None) -> schema.EventsResponse:
        """What became of each event of the body, once Kafka has those that are good."""
        posted = events.read_body(body)
        name = posted.stream or stream_name or self.settings.events_stream
        stream = events.named_stream(self.repo.streams, name)
        if self.sink is None:
            raise ProblemError(503, "POST /v1/events requires Kafka's address; got none. See 'headrace serve --help'.")
        horizon_ms, now = self.repo.horizon_ms(name), _now_ms()
        if stream.format == "avro":  # in a thread of its own: the registry may be asked
            judged = await asyncio.to_thread(judge_avro, posted.events, stream, horizon_ms, now, self._schemas)
        else:
            judged = events.judge(posted.events, stream, horizon_ms, now)
        response = await events.post(judged, self.sink)
        for one in response.events:
            self.metrics.events.labels(one.status).inc()
        return response

    # --- models and readiness ---

    def list_models(self) -> schema.ModelsResponse:
        """The versions of the model in this process."""
        watch = self.models
        refused = watch.refused
        return schema.ModelsResponse(
            name=self.settings.model_name,
            alias=self.settings.model_alias,
            current=_version(watch.current),
            previous=_version(watch.previous),
            refused=None if refused is None else schema.RefusedVersion(version=refused.version, reason=refused.reason),
            problem=watch.problem,
        )

    def readiness(self) -> schema.Readiness:
        """Whether everything was tried once, so that answers are as good as they get."""
        current = self.models.current
        model = f"version {current.version}" if current is not None else self.models.problem or "none yet"
        tried = self.models.looked and self._store_problem != "not asked yet"
        return schema.Readiness(
            ready=tried,
            store=self._store_problem or "ok",
            items=len(self.items.snapshot.items),
            model=model,
            events="ok" if self.sink is not None else "no Kafka configured",
        )

    # --- work of the threads ---

    def _refresh_items(self) -> None:
        served = [one.artefact for one in (self.models.current, self.models.previous) if one is not None]
        try:
            self.items.refresh(served, _now_ms())
        except (HeadraceError, OSError) as error:
            self._tell_store(error)
            raise
        self._store_problem = None
        self.metrics.items.set(len(self.items.snapshot.items))
        self.metrics.items_read_at.set(self.items.snapshot.read_at / 1000)

    def _look(self) -> None:
        self.models.look()
        if self.models.problem is not None:
            self.metrics.failures.labels("registry").inc()

    def _prepare(self, artefact: Artefact) -> None:
        """The model fits the definitions, has its items' features, and has answered once."""
        artefact.check_views(self.repo.views)
        current = self.models.current
        try:
            self.items.refresh([artefact, *([current.artefact] if current is not None else [])], _now_ms())
        except (StoreError, OSError) as error:  # the model can do without, and items come when the store does
            self._tell_store(error)
        artefact.recommend(artefact.items[:1], None, self.items.inputs(artefact), 1)

    def _swapped(self, served: Served) -> None:
        self.metrics.serving(self.settings.model_name, served.version)
        logger.info("model_swapped name=%s version=%s", self.settings.model_name, served.version)

    def _tell_store(self, error: Exception) -> None:
        self._store_problem = str(error)
        self.metrics.failures.labels("store").inc()

    def _failed(self, part: str) -> Callable[[], None]:
        return lambda: self.metrics.failures.labels(part).inc()


def question_of(request: schema.RecommendRequest) -> Question:
    """The request as the recommender takes it."""
    first = () if request.context.item_id is None else (request.context.item_id,)
    context = tuple(dict.fromkeys((*first, *request.context.items)))
    return Question(request.user_id, request.k, context, tuple(request.exclude), request.exclude_seen)


def _version(served: Served | None) -> schema.ModelVersion | None:
    if served is None:
        return None
    return schema.ModelVersion(
        version=served.version,
        loaded_at=served.loaded_at,
        items=len(served.artefact.items),
        metrics=served.artefact.manifest.metrics,
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def sink_of(settings: ServingSettings) -> EventSink | None:
    """The sink of the configured Kafka; None where none is."""
    from serving.kafka_sink import KafkaSink

    if not settings.bootstrap_servers:
        return None
    return KafkaSink(settings.bootstrap_servers, settings.kafka_client, settings.acknowledge_within_s)
