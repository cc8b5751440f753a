"""POST /v1/events: events by our names as messages of their stream, judged by the stream's own parser, sent to Kafka.

The judged bytes are those that are sent, so that an event accepted here cannot be refused there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import msgspec
import numpy as np
import pyarrow as pa

from features.definitions import TIME_UNITS_PER_MS, Stream, written_path
from features.events import INT64, Parsed, Records, Verdict, implausible, implausible_reason, parse
from serving.http import PlainText, ProblemError, field_error, field_problem, schema, struct_of

MAX_EVENTS = 1_000

EPOCH, LAST_MS = datetime(1970, 1, 1, tzinfo=UTC), 10**14
"""Times from EPOCH to LAST_MS are written as text."""

EventVerdict, EventsResponse = struct_of(schema.EventVerdict), struct_of(schema.EventsResponse)

REASON = re.compile(
    r"(?P<code>\w+): (?:field '(?P<field>[^']*)' )?requires (?P<required>.*?); got (?P<got>.*)", re.DOTALL
)


@dataclass(frozen=True)
class Message:
    """One message on its way to a topic."""

    topic: str
    key: bytes | None
    value: bytes


@dataclass(frozen=True)
class Acknowledgement:
    """A message's partition, offset and time in Kafka (epoch ms; the broker's if the topic has append times)."""

    partition: int
    offset: int
    known_at: int


class EventSink(Protocol):
    """Takes accepted events."""

    async def send(self, messages: Sequence[Message]) -> list[Acknowledgement | str]:
        """The acknowledgement of each message, or the reason for none (it may be durable all the same)."""

    def offer(self, message: Message, on_delivery: Callable[[bool], None]) -> None:
        """Send the message and wait for nothing; ``on_delivery`` is called once with whether it is durably there."""

    def close(self) -> None:
        """Ends sending."""


@dataclass(frozen=True)
class Posted:
    """The events of one request, and the stream that it names (None: the default)."""

    events: list[Any]
    stream: str | None


def read_body(body: bytes) -> Posted:
    """One event, a list of them, or {"events": [...], "stream": ...}. Raises ProblemError for anything else."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProblemError(
            400, f"the body requires JSON; got {error}", [field_error("body", "JSON", PlainText(str(error)))]
        ) from None
    if isinstance(value, dict) and "events" in value:
        _check_envelope(value)
        return Posted(_counted(value["events"]), value.get("stream"))
    return Posted(_counted(value if isinstance(value, list) else [value]), None)


def _check_envelope(value: Mapping[str, Any]) -> None:
    unknown = sorted(set(value) - {"events", "stream"})
    if unknown:
        _refuse(unknown[0], "no such field: only events and stream stand beside each other", value[unknown[0]])
    if not isinstance(value.get("stream"), str | None):
        _refuse("stream", "the name of a stream", value["stream"])


def _counted(events: Any) -> list[Any]:
    if not isinstance(events, list):
        _refuse("events", "a list of events", events)
    if not 1 <= len(events) <= MAX_EVENTS:
        _refuse("events", f"1 to {MAX_EVENTS} events", PlainText(f"{len(events)}"))
    return list(events)


def _refuse(field: str, required: str, got: object) -> None:
    raise field_problem(field, required, got)


def named_stream(streams: Mapping[str, Stream], name: str | None) -> Stream:
    """The stream of this name; ProblemError where there is none."""
    if name is None or name not in streams:
        _refuse("stream", f"one of {', '.join(streams) or 'no streams'}", name)
    return streams[str(name)]


def message_of(event: Mapping[str, Any], stream: Stream) -> dict[str, Any]:
    """The event as a message of the stream's topic, with each field at the path that the stream reads it from."""
    message: dict[str, Any] = {}
    for path, value in _at_paths(event, stream):
        *parents, last = path
        inner = message
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return message


def _at_paths(event: Mapping[str, Any], stream: Stream) -> list[tuple[tuple[str, ...], Any]]:
    paths = {name: written_path(field.path or name) for name, field in stream.mapped.items()}
    paths["event_time"] = written_path(stream.event_time)
    if stream.event_id is not None:
        paths["event_id"] = written_path(stream.event_id)
    fields = {name: value for name, value in event.items() if name in paths}
    if type(fields.get("event_time")) in (int, float):
        fields["event_time"] = _in_messages(fields["event_time"], stream)
    return [(paths[name], value) for name, value in fields.items()]


def _in_messages(ms: float, stream: Stream) -> float | str:
    """Epoch ms in the stream's unit; as text where that is seconds, and where patterns may read numbers."""
    if isinstance(ms, float) and not (stream.time.takes_fractions and math.isfinite(ms)):
        return ms  # which the stream refuses
    whole = math.floor(ms)
    if stream.time_unit == "s" or stream.time.patterns:
        in_range = 0 < whole < LAST_MS
        return (EPOCH + timedelta(milliseconds=whole)).isoformat() if in_range else whole // 1000
    return whole * int(TIME_UNITS_PER_MS[stream.time_unit])


def key_of(event: Mapping[str, Any], fields: Sequence[str]) -> bytes | None:
    """The message's key: the text of the first of these fields that the event has, such as its user."""
    return next((str(event[name]).encode() for name in fields if event.get(name) not in (None, "")), None)


@dataclass(frozen=True)
class JudgedEvents:
    """The messages of a request with the verdict and reason of each, and the parser's events."""

    messages: list[Message]
    ids: list[str | None]
    verdicts: list[Verdict]
    reasons: list[str | None]
    parsed: Parsed


def judge(
    events: Sequence[Any],
    stream: Stream,
    horizon_ms: int | None,
    now: int,
    *,
    keys: Collection[str] = (),
    key_fields: Sequence[str] = (),
) -> JudgedEvents:
    """The stream's verdict on each event, as if received ``now`` (epoch ms).

    Args:
        key_fields: the fields of which the first that an event has is its message's key.
    """
    refused = [_not_an_event(event, stream) for event in events]
    objects = [event if isinstance(event, dict) else {} for event in events]
    values = [msgspec.json.encode(message_of(event, stream)) for event in objects]
    parsed = parse(records_of(values, now), stream, horizon_ms, keys=keys)
    reasons = [own or of_parser for own, of_parser in zip(refused, parsed.reasons.to_pylist(), strict=True)]
    verdicts = [
        Verdict.DEAD_LETTER if own else Verdict(int(of_parser))
        for own, of_parser in zip(refused, parsed.verdicts, strict=True)
    ]
    messages = [
        Message(stream.topic, key_of(event, key_fields), value) for event, value in zip(objects, values, strict=True)
    ]
    return JudgedEvents(messages, [_id(event) for event in objects], verdicts, reasons, parsed)


def records_of(values: Sequence[bytes], now: int) -> Records:
    """The messages as records that the stream received ``now``."""
    count = len(values)
    partition, offset = np.zeros(count, np.int32), np.arange(count, dtype=np.int64)
    return Records(pa.array(values, pa.binary()), np.full(count, now), partition, offset)


def _id(event: Mapping[str, Any]) -> str | None:
    return None if event.get("event_id") is None else str(event["event_id"])


def _not_an_event(event: Any, stream: Stream) -> str | None:
    """The reason for which the value cannot be an event of the stream; None if it may be one."""
    if not isinstance(event, dict):
        return f"not_an_object: field 'event' requires an object; got {field_error('', '', event)['got']}"
    own_id = () if stream.event_id is None else ("event_id",)
    names = (*own_id, "event_time", *stream.mapped)
    unknown = next((name for name in event if name not in names), None)
    if unknown is not None:
        return f"unknown_field: field '{unknown}' requires a name of {', '.join(names)}; got another"
    time = event.get("event_time")  # in ms here, whatever the messages have
    if type(time) is int and time in INT64 and implausible(time):
        return implausible_reason("event_time", time, "ms")
    return None


Keep = Callable[[Mapping[int, Acknowledgement]], Awaitable[None]]
"""Takes the acknowledged events: index in the request → acknowledgement."""


async def post(judged: JudgedEvents, sink: EventSink, keep: Keep | None = None) -> schema.EventsResponse:
    """The outcome of every event, once those that are not refused are acknowledged or given up, and kept pending.

    Raises ProblemError when no event was accepted.
    """
    sent = [at for at, verdict in enumerate(judged.verdicts) if verdict != Verdict.DEAD_LETTER]
    outcomes = dict(zip(sent, await sink.send([judged.messages[at] for at in sent]), strict=True)) if sent else {}
    acknowledged = {at: outcome for at, outcome in outcomes.items() if isinstance(outcome, Acknowledgement)}
    if keep is not None and acknowledged:
        await keep(acknowledged)
    verdicts = [_verdict(judged, at, outcomes) for at in range(len(judged.messages))]
    counts = {status: sum(verdict.status == status for verdict in verdicts) for status in ("refused", "unknown")}
    accepted = len(verdicts) - counts["refused"] - counts["unknown"]
    if not accepted:
        raise _nothing_accepted(verdicts)
    return EventsResponse(accepted=accepted, refused=counts["refused"], unknown=counts["unknown"], events=verdicts)


def _verdict(judged: JudgedEvents, at: int, outcomes: Mapping[int, Acknowledgement | str]) -> schema.EventVerdict:
    verdict, reason = judged.verdicts[at], judged.reasons[at]
    if verdict == Verdict.DEAD_LETTER:
        return EventVerdict(index=at, event_id=judged.ids[at], status="refused", reason=reason)
    outcome = outcomes[at]
    if isinstance(outcome, str):
        return EventVerdict(index=at, event_id=judged.ids[at], status="unknown", reason=outcome)
    return EventVerdict(
        index=at, event_id=judged.ids[at], status="late" if verdict == Verdict.LATE else "accepted", reason=reason
    )


def _nothing_accepted(verdicts: Sequence[schema.EventVerdict]) -> ProblemError:
    listed = {"events": msgspec.to_builtins(verdicts)}
    unknown = next((verdict for verdict in verdicts if verdict.status == "unknown"), None)
    if unknown is not None:
        detail = f"Kafka did not acknowledge ({unknown.reason}); send the same event_id again: it counts once"
        return ProblemError(503, detail, more=listed)
    errors = [_error(verdict) for verdict in verdicts]
    return ProblemError(422, str(verdicts[0].reason), errors, listed)


def _error(verdict: schema.EventVerdict) -> dict[str, str]:
    match = REASON.fullmatch(verdict.reason or "")
    field = f"events.{verdict.index}"
    if match is None:
        return {"field": field, "required": "a valid event", "got": verdict.reason or "something else"}
    name = match["field"]
    return {"field": f"{field}.{name}" if name else field, "required": match["required"], "got": match["got"]}
