"""POST /v1/events: judges posted events, sends them to Kafka, and makes them count in the next read."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping

from features.definitions import FeatureRepo, Stream
from features.errors import HeadraceError
from features.events.avro import schema_registry
from features.times import now_ms
from serving.config import ServiceConfig
from serving.events import verdicts as events
from serving.events.avro import judge_avro
from serving.events.pending import OwnClicks
from serving.events.verdicts import EventSink
from serving.http import ProblemError, schema
from serving.metrics import Metrics
from serving.workers import OverloadedError, Workers


class PostedEvents:
    """Takes posted events.

    Args:
        sink: takes accepted events; None without Kafka.
        own: makes accepted events count at once; None if they count once the stream has folded them.
        workers: the threads that write pending events.
    """

    def __init__(
        self,
        settings: ServiceConfig,
        repo: FeatureRepo,
        sink: EventSink | None,
        own: OwnClicks | None,
        workers: Workers,
        metrics: Metrics,
    ) -> None:
        self._repo, self._sink, self._own = repo, sink, own
        self._workers, self._metrics = workers, metrics
        self._stream = settings.events_stream
        self._schemas = schema_registry(settings.schema_registry, settings.registry_client)

    async def post(self, body: bytes, stream_name: str | None) -> schema.EventsResponse:
        """The outcome of each event of the body, once Kafka has acknowledged the valid ones."""
        posted = events.read_body(body)
        name = posted.stream or stream_name or self._stream
        stream = events.named_stream(self._repo.streams, name)
        if self._sink is None:
            raise ProblemError(503, "POST /v1/events requires Kafka's address; got none. See 'headrace serve --help'.")
        now = now_ms()
        horizon_ms, keys = self._repo.horizon_ms(name), self._repo.keys_of(name)
        if stream.format == "avro":  # in a thread of its own, as the registry may be read
            judge = functools.partial(judge_avro, posted.events, stream, horizon_ms, now, self._schemas, keys=keys)
            judged = await asyncio.to_thread(judge)
        else:
            judged = events.judge(posted.events, stream, horizon_ms, now, keys=keys)
        keep = None if self._own is None else functools.partial(self._keep, self._own, stream, judged)
        response = await events.post(judged, self._sink, keep)
        for verdict in response.events:
            self._metrics.events.labels(verdict.status).inc()
        return response

    def measure(self) -> None:
        """Let the metrics say how much is pending. Raises StoreError."""
        if self._own is not None:
            entries, size = self._own.size()
            self._metrics.pending.set(entries)
            self._metrics.pending_bytes.set(size)

    async def _keep(
        self,
        own: OwnClicks,
        stream: Stream,
        judged: events.JudgedEvents,
        acknowledged: Mapping[int, events.Acknowledgement],
    ) -> None:
        """Makes the events count in the next read; on errors they count once the stream has folded them."""
        try:
            refused = await self._workers.in_time(functools.partial(own.keep, stream, judged, acknowledged))
            self._metrics.pending_refused.inc(refused)
        except (HeadraceError, TimeoutError, OverloadedError):
            self._metrics.failures.labels("own_clicks").inc()
