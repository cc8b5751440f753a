"""POST /v1/events: judges posted events, sends them to Kafka, and makes them count in the next read."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping

from features.definitions import ChosenRecommenders, FeatureRepo, Stream
from features.errors import HeadraceError
from features.events.avro import schema_registry
from features.times import now_ms
from serving.access import Principal, writable_streams
from serving.config import ServiceConfig
from serving.events import verdicts as events
from serving.events.avro import judge_avro
from serving.events.bodies import EVENTS, read_body
from serving.events.pending import OwnClicks
from serving.events.verdicts import EventSink
from serving.http import PlainText, ProblemError, field_problem, schema
from serving.metrics import Metrics
from serving.workers import OverloadedError, Workers


class PostedEvents:
    """Takes posted events.

    Args:
        recommenders: the default one's stream is that of events that name none.
        sink: takes accepted events; None without Kafka.
        own: makes accepted events count at once; None if they count once the stream has folded them.
        workers: the threads that write pending events.
    """

    def __init__(
        self,
        settings: ServiceConfig,
        repo: FeatureRepo,
        recommenders: ChosenRecommenders,
        sink: EventSink | None,
        own: OwnClicks | None,
        workers: Workers,
        metrics: Metrics,
    ) -> None:
        self._repo, self._sink, self._own = repo, sink, own
        self._workers, self._metrics = workers, metrics
        self._recommenders, default = recommenders, recommenders.default
        self._stream = settings.events_stream or (None if default is None else default.stream.name)
        self._writable = writable_streams(repo, recommenders, settings.writable_streams, settings.own_topics)
        self._schemas = schema_registry(settings.schema_registry, settings.registry_client)

    async def post(self, body: bytes, stream_name: str | None, principal: Principal) -> schema.EventsResponse:
        """The outcome of each event of the body, once Kafka has acknowledged the valid ones.

        Raises ProblemError for a stream that is not for the principal, or that is none, or that HTTP may not write.
        """
        posted = read_body(body)
        name = posted.stream or stream_name or self._stream
        self._check_principal(principal, name)
        stream = events.named_stream(self._repo.streams, name)
        self._check_writable(stream)
        if posted.form == EVENTS and stream.unwritable:
            required = f"{{\"messages\": [...]}} in the form of topic '{stream.topic}', as {stream.unwritable}"
            raise field_problem("events", required, PlainText("events by our names"))
        if self._sink is None:
            raise ProblemError(503, "POST /v1/events requires Kafka's address; got none. See 'headrace serve --help'.")
        now = now_ms()
        horizon_ms, keys = self._repo.horizon_ms(stream.name), self._repo.keys_of(stream.name)
        first = key_fields(self._repo, self._recommenders, stream)
        form = posted.form
        if stream.format == "avro":  # in a thread of its own, as the registry may be read
            judge = functools.partial(judge_avro, posted.events, stream, horizon_ms, now, self._schemas)
            judged = await asyncio.to_thread(judge, keys=keys, key_fields=first, form=form)
        else:
            judged = events.judge(posted.events, stream, horizon_ms, now, keys=keys, key_fields=first, form=form)
        # A pending event is a message alone: what needs its record counts once the stream has folded it.
        own = None if stream.uses_records else self._own
        keep = None if own is None else functools.partial(self._keep, own, stream, judged)
        response = await events.post(judged, self._sink, keep)
        for verdict in response.events:
            self._metrics.events.labels(verdict.status).inc()
        return response

    def _check_principal(self, principal: Principal, name: str | None) -> None:
        if name is not None and not principal.may_write(name):
            self._metrics.access_refused.labels("stream").inc()
            required = f"a stream of the key's scopes ({', '.join(principal.shown)})"
            raise field_problem("stream", required, name, 403)

    def _check_writable(self, stream: Stream) -> None:
        if stream.name not in self._writable:
            self._metrics.access_refused.labels("stream").inc()
            listed = ", ".join(sorted(self._writable)) or "none"
            required = f"a stream that HTTP may write, by serving.writable_streams of the settings: {listed}"
            raise field_problem("stream", required, stream.name, 403)

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
            self._metrics.failed("own_clicks")


def key_fields(repo: FeatureRepo, recommenders: ChosenRecommenders, stream: Stream) -> tuple[str, ...]:
    """The fields whose first value is an event's key, so that a user's events stay in one partition, in order.

    Of a recommender's stream: the user, the session, the item. Of others: the keys of entities, in the repo's order.
    """
    of_stream = (one for one in recommenders.by_name.values() if one.stream.name == stream.name)
    named = [name for one in of_stream for name in (*one.user.keys, one.session, *one.item.keys)]
    others = [key for entity in repo.entities.values() for key in entity.keys if key in stream.mapped]
    return tuple(dict.fromkeys(name for name in (*named, *others) if name is not None))
