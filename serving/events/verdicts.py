"""POST /v1/events: events by our names as messages of their stream, judged by the stream's own parser, sent to Kafka.

The judged bytes are those that are sent, so that an event accepted here cannot be refused there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any, Protocol

import msgspec
import numpy as np
import pyarrow as pa

from features.definitions import TIME_UNITS_PER_MS, Stream, path_text, step_paths, written_path
from features.events import (
    INT64,
    MOST_BYTES,
    Envelopes,
    Parsed,
    Records,
    Verdict,
    implausible,
    implausible_reason,
    parse,
    show,
)
from serving.events.bodies import EVENTS, MAX_EVENT_BYTES, MESSAGES, RECORDS, TooLarge, refuse
from serving.http import (
    ProblemError,
    field_error,
    schema,
    shown,
    struct_of,
)

EPOCH, LAST_MS = datetime(1970, 1, 1, tzinfo=UTC), 10**14
"""Times from EPOCH to LAST_MS are written as text."""

RESERVED_HEADERS = ("hr_", "known_at")
"""Headers that say where and when a record was known are ours to write."""

FIRST_TIME = "hr_first_time"
"""The header by which a record's time in the stream is the one at which it was judged here."""

OF_A_RECORD = {"value", "key", "headers"}

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
    headers: tuple[tuple[str, bytes], ...] = ()


Beside = tuple[bytes | None, tuple[tuple[str, bytes], ...]]
"""Key and headers of a record."""


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


def named_stream(streams: Mapping[str, Stream], name: str | None) -> Stream:
    """The stream of this name; ProblemError where there is none."""
    if name is None or name not in streams:
        refuse("stream", f"one of {', '.join(streams) or 'no streams'}", name)
    return streams[str(name)]


def message_of(event: Mapping[str, Any], stream: Stream) -> dict[str, Any]:
    """The event as a message of the stream's topic, with each field at the path that the stream reads it from.

    Where every element of an array is an event, it is the only one.
    """
    message: dict[str, Any] = {}
    for path, value in _at_paths(event, stream):
        _put(message, path, value)
    if stream.each is not None:
        *parents, last = written_path(stream.each)
        around = reduce(lambda inner, key: inner.setdefault(key, {}), parents, message)
        around[last] = [around.get(last, {})]
    return message


def _put(message: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *parents, last = path
    reduce(lambda inner, key: inner.setdefault(key, {}), parents, message)[last] = value


def _at_paths(event: Mapping[str, Any], stream: Stream) -> list[tuple[tuple[str, ...], Any]]:
    paths = stream.written_paths
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
    """The messages of a request, the verdict and reason of each event in them, and the parser's events.

    ``of``: the index of each verdict's message; several have one where every element of a message is an event.
    """

    messages: list[Message]
    of: list[int]
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
    form: str = EVENTS,
) -> JudgedEvents:
    """The stream's verdict on each event, as if received ``now`` (epoch ms).

    Args:
        events: in this form (Posted.form), in JSON.
        key_fields: the fields of which the first that an event has is its message's key.
    """
    refused = [_not_an_event(event, stream, form) for event in events]
    objects = [{} if reason else event for event, reason in zip(events, refused, strict=True)]
    records = objects if form == RECORDS else [{"value": _value(event, stream, form)} for event in objects]
    values = [msgspec.json.encode(record.get("value", {})) for record in records]
    sent = [_beside(record, stream, now) for record in records]
    parsed = parse(records_of(values, now, sent), stream, horizon_ms, keys=keys)
    of = parsed.records.tolist()
    reasons = [refused[at] or of_parser for at, of_parser in zip(of, parsed.reasons.to_pylist(), strict=True)]
    verdicts = [
        Verdict.DEAD_LETTER if refused[at] else Verdict(int(of_parser))
        for at, of_parser in zip(of, parsed.verdicts, strict=True)
    ]
    without = sorted(set(range(len(objects))).difference(of))
    reasons += [refused[at] or _no_element(stream) for at in without]
    verdicts += [Verdict.DEAD_LETTER] * len(without)
    named = _named(parsed) if form != EVENTS or stream.each is not None else {}
    ids = [_id(objects[at]) for at in of] if not named else [named.get(at, {}).get("event_id") for at in range(len(of))]
    first = {at: named[row] for row, at in reversed(list(enumerate(of))) if row in named}
    takes_records = stream.uses_records
    keyed = [first.get(at, {}) if form != EVENTS else event for at, event in enumerate(objects)]
    messages = [
        Message(stream.topic, own if own is not None or takes_records else key_of(event, key_fields), value, headers)
        for event, value, (own, headers) in zip(keyed, values, sent, strict=True)
    ]
    return JudgedEvents(messages, of + without, ids + [None] * len(without), verdicts, reasons, parsed)


def _value(event: Mapping[str, Any], stream: Stream, form: str) -> Mapping[str, Any]:
    return event if form == MESSAGES else message_of(event, stream)


def _beside(record: Mapping[str, Any], stream: Stream, now: int) -> Beside:
    """What is sent beside the message; a stream that takes times from records is told when it was judged."""
    key = record.get("key")
    headers = [(name, text.encode()) for name, text in (record.get("headers") or {}).items()]
    headers += [(FIRST_TIME, str(now).encode())] if stream.uses_records else []
    return (None if key is None else str(key).encode()), tuple(headers)


def _named(parsed: Parsed) -> dict[int, dict[str, Any]]:
    """Verdict → its event by our names."""
    return dict(zip(parsed.rows.tolist(), parsed.events.to_pylist(), strict=True))


def _no_element(stream: Stream) -> str:
    name = path_text(step_paths(stream.each or ())[0])
    return f"missing_field: field '{name}' requires an array with an element; got none"


def records_of(values: Sequence[bytes], now: int, beside: Sequence[Beside] = ()) -> Records:
    """The messages, and what stands beside them, as records that the stream received ``now``."""
    count = len(values)
    partition, offset = np.zeros(count, np.int32), np.arange(count, dtype=np.int64)
    headers = [[{"key": name, "value": text} for name, text in pairs] for _, pairs in beside]
    envelopes = Envelopes(
        pa.array([key for key, _ in beside], pa.binary()),
        pa.array(headers, pa.list_(pa.struct({"key": pa.string(), "value": pa.binary()}))),
        np.full(count, now),
    )
    known = np.full(count, now)
    return Records(pa.array(values, pa.binary()), known, partition, offset, envelopes=envelopes if beside else None)


def _id(event: Mapping[str, Any]) -> str | None:
    """The event's id as answers have it: cut short where it cannot be one."""
    given = event.get("event_id")
    return None if given is None else given[:MOST_BYTES] if isinstance(given, str) else shown(given)


def _not_an_event(event: Any, stream: Stream, form: str) -> str | None:
    """The reason for which the value cannot be an event of the stream; None if it may be one."""
    if isinstance(event, TooLarge):
        return f"too_large: field 'event' requires at most {MAX_EVENT_BYTES} bytes; got {event.size}"
    if not isinstance(event, dict):
        return f"not_an_object: field 'event' requires an object; got {field_error('', '', event)['got']}"
    if form == RECORDS:
        return _not_a_record(event)
    if form == MESSAGES:
        return None
    own_id = () if stream.event_id is None else ("event_id",)
    names = (*own_id, "event_time", *stream.mapped)
    unknown = next((name for name in event if name not in names), None)
    if unknown is not None:
        return f"unknown_field: field '{unknown}' requires a name of {', '.join(names)}; got another"
    time = event.get("event_time")  # in ms here, whatever the messages have
    if type(time) is int and time in INT64 and implausible(time):
        return implausible_reason("event_time", time, "ms")
    return None


def _not_a_record(record: Mapping[str, Any]) -> str | None:
    key, headers = record.get("key"), record.get("headers")
    if set(record) - OF_A_RECORD or not isinstance(record.get("value"), dict):
        return "unknown_field: field 'value' requires a message, beside key and headers at most; got another"
    if not isinstance(key, str | int | None):
        return f"wrong_type: field 'key' requires text; got {field_error('', '', key)['got']}"
    texts = isinstance(headers or {}, dict) and all(isinstance(text, str) for text in (headers or {}).values())
    reserved = texts and any(name.startswith(RESERVED_HEADERS) for name in headers or {})
    if not texts or reserved:
        return f"wrong_type: field 'headers' requires texts by names that do not begin with hr_; got {show(headers)}"
    return None


Keep = Callable[[Mapping[int, Acknowledgement]], Awaitable[None]]
"""Takes the acknowledged events: index in the request → acknowledgement."""


async def post(judged: JudgedEvents, sink: EventSink, keep: Keep | None = None) -> schema.EventsResponse:
    """The outcome of every event, once those that are not refused are acknowledged or given up, and kept pending.

    Raises ProblemError when no event was accepted.
    """
    good = (at for at, verdict in zip(judged.of, judged.verdicts, strict=True) if verdict != Verdict.DEAD_LETTER)
    sent = sorted(set(good))
    outcomes = dict(zip(sent, await sink.send([judged.messages[at] for at in sent]), strict=True)) if sent else {}
    acknowledged = {at: outcome for at, outcome in outcomes.items() if isinstance(outcome, Acknowledgement)}
    if keep is not None and acknowledged:
        await keep(acknowledged)
    verdicts = sorted(
        (_verdict(judged, at, outcomes) for at in range(len(judged.verdicts))), key=lambda verdict: verdict.index
    )
    counts = {status: sum(verdict.status == status for verdict in verdicts) for status in ("refused", "unknown")}
    accepted = len(verdicts) - counts["refused"] - counts["unknown"]
    if not accepted:
        raise _nothing_accepted(verdicts)
    return EventsResponse(accepted=accepted, refused=counts["refused"], unknown=counts["unknown"], events=verdicts)


def _verdict(judged: JudgedEvents, at: int, outcomes: Mapping[int, Acknowledgement | str]) -> schema.EventVerdict:
    index, event_id, verdict, reason = judged.of[at], judged.ids[at], judged.verdicts[at], judged.reasons[at]
    if verdict == Verdict.DEAD_LETTER:
        return EventVerdict(index=index, event_id=event_id, status="refused", reason=reason)
    outcome = outcomes[index]
    if isinstance(outcome, str):
        return EventVerdict(index=index, event_id=event_id, status="unknown", reason=outcome)
    status = "late" if verdict == Verdict.LATE else "accepted"
    return EventVerdict(index=index, event_id=event_id, status=status, reason=reason)


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
