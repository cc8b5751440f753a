"""The service: what every recommender shares, features of entities, scores of events, and readiness."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pyarrow as pa

from features.definitions import FeatureRepo, FeatureView
from features.errors import StoreError
from features.events import encode_key, parsed_key
from features.online_store import ReadableStore, progress_text, read_status, stuck
from features.rows import Status
from features.times import now_ms
from models.registry import Registry
from serving.batches import Batches
from serving.config import ServiceConfig
from serving.events import EventSink, KafkaSink, OwnClicks, PostedEvents
from serving.http import ProblemError, field_problem, schema
from serving.metrics import Metrics
from serving.recommend import ModelAnswer, ObservedReader, Reader
from serving.recommendations import Question, Recommendations
from serving.recommender_metrics import RecommenderFamilies, RecommenderMetrics
from serving.replicas import ReplicaMetrics
from serving.scoring import EventScores
from serving.workers import Repeated, Workers

UNKNOWN_MODELS = schema.RecommenderModels(
    name="",
    alias="",
    current=None,
    previous=None,
    refused=None,
    canary=None,
    canary_state="none",
    challenger=None,
    problem="there is no default recommender",
)
"""GET /v1/models of a service without a default recommender."""


METRICS_EVERY_S = 2.0


class Service:
    """Answers requests; ``start`` and ``stop`` its threads.

    Args:
        settings: the configuration.
        repo: the definitions.
        reader: reads the features of entities.
        rows: the store behind the reader.
        registry_of: the registry of the models of a name.
        sink: takes posted events; None without Kafka.
        own: makes accepted events count at once; None if they count once the stream has folded them.
    """

    def __init__(
        self,
        settings: ServiceConfig,
        repo: FeatureRepo,
        reader: Reader,
        rows: ReadableStore,
        registry_of: Callable[[str], Registry],
        sink: EventSink | None,
        own: OwnClicks | None = None,
    ) -> None:
        self.settings, self.repo, self.sink = settings, repo, sink
        self.metrics = Metrics(settings.read_age_slo_s)
        self._reader = ObservedReader(reader, self.metrics.read_age, self.metrics.without_pending)
        self._workers = Workers(settings.threads, settings.max_waiting, settings.deadline_ms)
        self._batches: Batches[Question, ModelAnswer] = Batches(
            settings.threads, settings.max_waiting, settings.deadline_ms, self.metrics
        )
        self.chosen = repo.chosen_recommenders(settings.recommender_names)
        families = RecommenderFamilies(self.metrics)
        self.recommendations = {
            name: Recommendations(
                settings.model_copy(update={"kept_model": self._kept_model(name)}),
                definition,
                repo,
                self._reader,
                rows,
                registry_of(name),
                sink,
                own,
                batches=self._batches,
                metrics=RecommenderMetrics(self.metrics, families, name, definition == self.chosen.default),
            )
            for name, definition in self.chosen.by_name.items()
        }
        uri, share = settings.tracking_uri, settings.shadow_share
        self.scores = EventScores(repo, self._reader, uri, settings.model_alias, self.metrics, share)
        self.posted = PostedEvents(settings, repo, self.chosen, sink, own, self._workers, self.metrics)
        folder = Path(settings.run_folder) if settings.run_folder else None
        self.replicas = ReplicaMetrics(self.metrics, folder)
        self._writing = Repeated(
            "metrics", METRICS_EVERY_S, self.replicas.write, partial(self.metrics.failed, "metrics")
        )
        self._pending = Repeated("pending", settings.item_refresh_s, self.posted.measure, lambda: None)

    def start(self) -> None:
        """Starts all threads."""
        for recommendations in self.recommendations.values():
            recommendations.start()
        self.scores.shadow.start()
        self._pending.start()
        self._writing.start()

    def stop(self) -> None:
        """Stops all threads; requests in progress end."""
        for recommendations in self.recommendations.values():
            recommendations.stop()
        self._pending.stop()
        self.scores.shadow.stop()
        self._batches.stop()
        self._workers.stop()
        self._writing.stop()
        with suppress(OSError):  # the folder may have gone with the run
            self.replicas.end()

    def _kept_model(self, name: str) -> str:
        """The folder of the recommender's kept model; the default one has that of the settings."""
        default, folder = self.chosen.default, self.settings.kept_model
        return folder if not folder or (default is not None and default.name == name) else f"{folder}-{name}"

    # --- recommend, rank, similar ---

    async def recommend(self, request: schema.RecommendRequest) -> schema.RecommendResponse:
        """See Recommendations; by the request's recommender. Raises ProblemError for one that there is not."""
        return await self._asked(request.recommender).recommend(request)

    async def rank(self, request: schema.RankRequest) -> schema.RecommendResponse:
        """As recommend."""
        return await self._asked(request.recommender).rank(request)

    async def similar(self, request: schema.SimilarRequest) -> schema.RecommendResponse:
        """As recommend."""
        return await self._asked(request.recommender).similar(request)

    def _asked(self, name: str | None) -> Recommendations:
        found = self.default if name is None else self.recommendations.get(name)
        if found is None:
            required = f"one of {', '.join(self.recommendations) or 'no recommenders: the feature repo defines none'}"
            raise field_problem("recommender", required, name)
        return found

    @property
    def default(self) -> Recommendations | None:
        """The recommender of requests that name none; None where there are several and none is marked, or none."""
        return None if self.chosen.default is None else self.recommendations[self.chosen.default.name]

    def models(self) -> schema.ModelsResponse:
        """The answer to GET /v1/models."""
        listed = {name: one.models.listed() for name, one in self.recommendations.items()}
        shown = UNKNOWN_MODELS if self.default is None else listed[self.default.definition.name]
        return schema.ModelsResponse(**dict(shown), recommenders=listed)

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
        except TimeoutError:
            required = f"an answer within {self.settings.deadline_ms:g} ms"
            raise StoreError("the online store", required, "none") from None
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
        """Ready while every recommender answers as asked and the fold is not stuck."""
        stream = read_status(Path(self.settings.home), now_ms()) if self.settings.home else {"state": "absent"}
        parts = {name: one.readiness for name, one in self.recommendations.items()}
        problems = [part.store for part in parts.values() if part.store != "ok"]
        shown = None if self.default is None else parts[self.default.definition.name]
        return schema.Readiness(
            ready=all(part.ready for part in parts.values()) and "fold" not in stuck(stream),
            store=shown.store if shown is not None else next(iter(problems), "ok"),
            items=0 if shown is None else shown.items,
            model="no default recommender" if shown is None else shown.model,
            canary="none" if shown is None else shown.canary,
            recommenders=parts,
            events="ok" if self.sink is not None else "no Kafka configured",
            stream=progress_text(stream),
        )


def sink_of(settings: ServiceConfig) -> EventSink | None:
    """The sink to the configured Kafka; None without one."""
    if not settings.bootstrap_servers:
        return None
    return KafkaSink(settings.bootstrap_servers, settings.kafka_client, settings.acknowledge_within_s)
