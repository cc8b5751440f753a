"""The composition root: settings → the service → a FastAPI app → a Ray Serve application."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.convertors import Convertor, register_url_convertor
from starlette.datastructures import QueryParams
from starlette.types import ASGIApp, Scope

from features.definitions import FeatureRepo, load_repo
from features.events.avro import schema_registry
from features.online_store import FeatureReader, Pending, RowsWithPending
from features.redaction import redact_output, remember_secrets
from models.registry import MlflowRegistry, allow_sources
from serving.access import OPS, Principal, declare_access, guarded, principal_of
from serving.config import ServiceConfig
from serving.events import EVENTS_BODY, OwnClicks
from serving.http import (
    AllowedHosts,
    BodyLimits,
    CountedAnswers,
    HotRoute,
    HotRoutes,
    SameSite,
    WholeBodies,
    add_docs,
    encoded,
    json_route,
    problems,
    schema,
)
from serving.metrics import CONTENT_TYPE
from serving.recommend import StreamClockReader
from serving.service import Service, sink_of

if TYPE_CHECKING:
    from ray.serve import Application


class AnyText(Convertor[str]):
    """The rest of a path, whatever characters it has: Starlette's own ends at a new line."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("any_text", AnyText())
LAG_EVERY_S = 0.5

EVENTS, MOST_QUESTION_BYTES = "/v1/events", 1 << 18
"""The route of events, and the most bytes of a body of any other."""

METRICS_INTERVAL_S, LOOK_BACK_S = 1.0, 5.0
"""How often a replica tells how many requests it has, and the time of which the mean counts."""

BESIDES = 64
"""Requests of a replica that are no recommendations."""

NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {}}
"""Of operations that can answer that something named does not exist."""


def service_of(settings: ServiceConfig) -> Service:
    """The service of these settings, not started yet; models come from where the settings allow."""
    allow_sources(settings.model_sources)
    repo = load_repo(settings.repo)
    rows = settings.store.open_to_read()
    pending = rows.pending()
    schemas = schema_registry(settings.schema_registry, settings.registry_client)
    readable = RowsWithPending(rows, pending, repo, schemas=schemas) if settings.own_clicks else rows
    reader = StreamClockReader(readable, repo) if settings.clock == "stream" else FeatureReader(readable, repo)
    own = own_clicks_of(settings, repo, pending) if settings.own_clicks else None
    return Service(settings, repo, reader, rows, partial(MlflowRegistry, settings.tracking_uri), sink_of(settings), own)


def own_clicks_of(settings: ServiceConfig, repo: FeatureRepo, pending: Pending) -> OwnClicks:
    """The pending events that make accepted events count at once."""
    ttl_ms, session_ttl_ms = (int(1000 * seconds) for seconds in (settings.pending_ttl_s, settings.session_ttl_s))
    return OwnClicks(pending, repo, repo.chosen_recommenders(settings.recommender_names), ttl_ms, session_ttl_ms)


def build_asgi(settings: ServiceConfig, *, answers_id: bool = True) -> ASGIApp:
    """The app for any ASGI server; the service's threads live as long as the app's lifespan.

    Args:
        answers_id: whether answers have the header X-Request-ID; not where the server adds it.
    """
    remember_secrets(settings.model_dump())
    redact_output()
    return app_of(service_of(settings), answers_id=answers_id)


def app_of(service: Service, *, answers_id: bool = True) -> ASGIApp:
    """The HTTP interface of a service: hosts, the gate, whole bodies, the hot routes, and FastAPI with all routes."""
    settings, metrics = service.settings, service.metrics
    whole = fastapi_of(service)
    most = BodyLimits(min(MOST_QUESTION_BYTES, settings.max_body_bytes), {EVENTS: settings.max_body_bytes})
    bodies = WholeBodies(HotRoutes(whole, hot_routes(service), metrics), most, metrics)
    gate = guarded(bodies, whole.routes, settings, metrics)
    return SameSite(gate, AllowedHosts(settings.host, settings.hosts), metrics, answers_id=answers_id)


def fastapi_of(service: Service) -> FastAPI:
    """All routes, and their document."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        lag = asyncio.create_task(_measure_lag(service))
        yield
        lag.cancel()
        service.stop()
        if service.sink is not None:
            service.sink.close()

    app = FastAPI(
        title="Headrace",
        description="Recommendations that react to the last click.",
        version="1",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    problems.install(app)
    app.add_middleware(CountedAnswers, metrics=service.metrics)
    _add_v1(app, service)
    _add_operations(app, service)
    add_docs(app)
    problems.document(app)
    declare_access(app)
    return app


async def _measure_lag(service: Service) -> None:
    """Observes how late the event loop is, until it is cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_EVERY_S
        await asyncio.sleep(LAG_EVERY_S)
        service.metrics.loop_lag.observe(max(loop.time() - due, 0.0))


def hot_routes(service: Service) -> dict[str, HotRoute]:
    """The routes of v1 that plain ASGI answers; FastAPI's own document them and answer what is in doubt."""

    async def score(request: schema.ScoreRequest) -> schema.ScoreResponse:
        return await asyncio.to_thread(service.scores.score, request)

    async def events(scope: Scope, body: bytes) -> tuple[int, bytes]:
        return await _posted(service, body, QueryParams(scope["query_string"]).get("stream"), principal_of(scope))

    return {
        "/v1/recommend": json_route(schema.RecommendRequest, service.recommend),
        "/v1/rank": json_route(schema.RankRequest, service.rank),
        "/v1/similar": json_route(schema.SimilarRequest, service.similar),
        "/v1/score": json_route(schema.ScoreRequest, score),
        EVENTS: events,
    }


async def _posted(service: Service, body: bytes, stream: str | None, principal: Principal) -> tuple[int, bytes]:
    answer = await service.posted.post(body, stream, principal)
    return 207 if answer.refused or answer.unknown else 202, encoded(answer)


def _json(content: bytes, status: int = 200) -> Response:
    return Response(content, status, media_type="application/json")


def _add_v1(app: FastAPI, service: Service) -> None:
    @app.post("/v1/recommend", response_model=schema.RecommendResponse, responses=NOT_FOUND)
    async def recommend(request: schema.RecommendRequest) -> Response:
        """Rank items for a user; says which model and features it used, and whether it is a fallback."""
        return _json(encoded(await service.recommend(request)))

    @app.post("/v1/rank", response_model=schema.RecommendResponse, responses=NOT_FOUND)
    async def rank(request: schema.RankRequest) -> Response:
        """Rank the request's items: every one comes back, and those that nothing is known of come last."""
        return _json(encoded(await service.rank(request)))

    @app.post("/v1/similar", response_model=schema.RecommendResponse, responses=NOT_FOUND)
    async def similar(request: schema.SimilarRequest) -> Response:
        """List items that go with an item; where none does, what is popular, and why."""
        return _json(encoded(await service.similar(request)))

    @app.post("/v1/score", responses=NOT_FOUND)
    async def score(request: schema.ScoreRequest) -> schema.ScoreResponse:
        """Ask an event model about one event, with the features that it would meet now, and say why."""
        return await asyncio.to_thread(service.scores.score, request)

    @app.post(
        EVENTS,
        status_code=202,
        response_model=schema.EventsResponse,
        responses={207: {"model": schema.EventsResponse}},
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": EVENTS_BODY}}}},
    )
    async def post_events(request: Request, stream: str | None = None) -> Response:
        """Send one event, a list, or {"events": [...], "stream": ...}; 202 when Kafka has acknowledged all of them.

        {"messages": [...], "stream": ...} sends messages in the form of the stream's topic: each event in them has an
        outcome of its own, with the ``index`` of its message.
        """
        status, content = await _posted(service, await request.body(), stream, principal_of(request.scope))
        return _json(content, status)

    @app.get("/v1/features/{entity}/{entity_id:any_text}", responses={404: {}, 422: {}, 429: {}})
    async def features(entity: str, entity_id: str) -> schema.FeaturesResponse:
        """Read the features of one entity as they are now."""
        return await service.features(entity, entity_id)

    @app.get("/v1/models")
    async def models() -> schema.ModelsResponse:
        """List the versions of the model in this process."""
        return service.models()


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Answer while the process does."""
        return {"status": "ok"}

    ready = schema.Readiness | schema.Ready

    @app.get("/readyz", response_model=ready, responses={503: {"model": ready}})
    async def readyz(request: Request) -> JSONResponse:
        """Say whether this replica answers as asked: 503 without items, store or model, and while the fold is stuck.

        Where there are keys, only one with the scope ops is told why.
        """
        readiness = service.readiness()
        told = readiness if principal_of(request.scope).has(OPS) else schema.Ready(ready=readiness.ready)
        return JSONResponse(told.model_dump(), status_code=200 if readiness.ready else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Count what all replicas did, as Prometheus reads it."""
        return Response(await asyncio.to_thread(service.replicas.text), media_type=CONTENT_TYPE)


# --- Ray Serve ------------------------------------------------------------------------------------------------------


SWITCH_S = 0.0005

COLLECTED_AFTER = (10_000, 20, 50)
"""Allocations before a collection of garbage, and collections of a generation before one of the next."""


class Ingress:
    """A replica's app, built where it runs."""

    def __init__(self, settings: ServiceConfig) -> None:
        self._settings = settings

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The app of this replica."""
        stay_on_loopback()
        # A thread that comes back from compiled code waits this long for one that computes: 5 ms are a twentieth of a
        # request's time. What a model and the items have is not garbage, and looking for it stops every answer.
        sys.setswitchinterval(SWITCH_S)
        gc.set_threshold(*COLLECTED_AFTER)
        return build_asgi(self._settings, answers_id=False)  # Ray's replica adds the header


def replicas_of(settings: ServiceConfig) -> dict[str, Any]:
    """The number of replicas, as Ray Serve's deployment takes it."""
    if settings.most_replicas <= settings.replicas:
        return {"num_replicas": settings.replicas}
    from ray.serve.config import AutoscalingConfig

    scaling = AutoscalingConfig(
        min_replicas=settings.replicas,
        max_replicas=settings.most_replicas,
        target_ongoing_requests=settings.requests_a_replica,
        upscale_delay_s=settings.scale_up_after_s,
        downscale_delay_s=settings.scale_down_after_s,
        metrics_interval_s=METRICS_INTERVAL_S,
        look_back_period_s=LOOK_BACK_S,
    )
    return {"num_replicas": "auto", "autoscaling_config": scaling}


def build_app(args: ServiceConfig) -> Application:
    """The Ray Serve application: with bounded queues, beyond which requests get 429 instead of waiting."""
    from ray import serve
    from ray.serve.config import BackpressureConfig

    deployment: Any = serve.deployment(
        serve.ingress()(Ingress),
        name="Recommender",
        **replicas_of(args),
        max_ongoing_requests=args.max_waiting + BESIDES,  # the service's own queue refuses before Ray does
        max_queued_requests=BESIDES,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=10,
        ray_actor_options={"num_cpus": 0.5},
        logging_config={"log_level": "ERROR", "enable_access_log": False},  # the service counts its own answers
    )
    application: Application = deployment.bind(args)
    return application


def stay_on_loopback() -> None:
    """Opens this replica's port for calls between deployments on loopback, not on every interface as Ray does."""
    from importlib import import_module

    replica: Any = import_module("ray.serve._private.replica")  # there is no public name for it
    add_port = replica.add_port_to_grpc_server

    def on_loopback(server: Any, address: str) -> int:
        return int(add_port(server, address.replace("[::]", "127.0.0.1")))

    replica.add_port_to_grpc_server = on_loopback
