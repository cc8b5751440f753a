"""POST /v1/events: events in our names → messages of their stream, judged by the stream's own parser, sent to Kafka.

What is judged is the very bytes that are sent, so that nothing accepted here can be refused there.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
import numpy as np
import pyarrow as pa

from features.definitions import TIME_UNITS_PER_MS, Stream
from features.events import Parsed, Records, Verdict, parse
from serving.http import EventsResponse, EventVerdict, Nothing, ProblemError, field_error, field_problem

MAX_EVENTS = 1_000

KEY_FIELDS = ("user_id", "session_id", "item_id")
"""The first of them that an event has is its key: what one user does stays in one partition, in order."""

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
class Placed:
    """A message's place in Kafka, and its time there: epoch ms, by the broker where its topic has append times."""

    partition: int
    offset: int
    known_at: int


class EventSink(Protocol):
    """The place that accepted events are sent to."""

    async def send(self, messages: Sequence[Message]) -> list[Placed | str]:
        """For each message where it durably is, else why that is not known (it may be there)."""

    def offer(self, message: Message, on_delivery: Callable[[bool], None]) -> None:
        """Send the message and wait for nothing; ``on_delivery`` is called once with whether it is durably there."""

    def close(self) -> None:
        """Nothing more is sent."""


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
            400, f"the body requires JSON; got {error}", [field_error("body", "JSON", Nothing(str(error)))]
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
        _refuse("events", f"1 to {MAX_EVENTS} events", Nothing(f"{len(events)}"))
    return list(events)


def _refuse(field: str, required: str, got: object) -> None:
    raise field_problem(field, required, got)


def named_stream(streams: Mapping[str, Stream], name: str) -> Stream:
    """The stream of this name; ProblemError where there is none."""
    if name not in streams:
        _refuse("stream", f"one of {', '.join(streams) or 'no streams'}", name)
    return streams[name]


def message_of(event: Mapping[str, Any], stream: Stream) -> dict[str, Any]:
    """The event as the stream's topic has it: each of our names at the path that the stream reads it from."""
    message: dict[str, Any] = {}
    for path, value in _placed(event, stream):
        *parents, last = path.split(".")
        inner = message
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return message


def _placed(event: Mapping[str, Any], stream: Stream) -> list[tuple[str, Any]]:
    paths = {name: field.path or name for name, field in stream.mapped.items()}
    paths["event_time"] = stream.event_time
    if stream.event_id is not None:
        paths["event_id"] = stream.event_id
    placed = {name: value for name, value in event.items() if name in paths}
    if type(placed.get("event_time")) is int:
        placed["event_time"] = _in_unit(placed["event_time"], stream.time_unit)
    return [(paths[name], value) for name, value in placed.items()]


def _in_unit(ms: int, unit: str) -> int | str:
    """Epoch ms in the stream's unit; in seconds as text, which keeps the milliseconds."""
    if unit == "s":
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat() if 0 < ms < 10**14 else ms // 1000
    return ms * int(TIME_UNITS_PER_MS[unit])


def key_of(event: Mapping[str, Any]) -> bytes | None:
    """The message's key: the text of whom or what the event is about."""
    return next((str(event[name]).encode() for name in KEY_FIELDS if event.get(name) not in (None, "")), None)


@dataclass(frozen=True)
class JudgedEvents:
    """The messages of a request with the verdict and reason of each, and what the stream's parser made of them."""

    messages: list[Message]
    ids: list[str | None]
    verdicts: list[Verdict]
    reasons: list[str | None]
    parsed: Parsed


def judge(events: Sequence[Any], stream: Stream, horizon_ms: int | None, now: int) -> JudgedEvents:
    """The stream's verdict on each event, had it come ``now`` (epoch ms)."""
    refused = [_not_an_event(event, stream) for event in events]
    objects = [event if isinstance(event, dict) else {} for event in events]
    values = [msgspec.json.encode(message_of(event, stream)) for event in objects]
    parsed = parse(records_of(values, now), stream, horizon_ms)
    reasons = [mine or theirs for mine, theirs in zip(refused, parsed.reasons.to_pylist(), strict=True)]
    verdicts = [
        Verdict.DEAD_LETTER if mine else Verdict(int(theirs))
        for mine, theirs in zip(refused, parsed.verdicts, strict=True)
    ]
    messages = [Message(stream.topic, key_of(event), value) for event, value in zip(objects, values, strict=True)]
    return JudgedEvents(messages, [_id(event) for event in objects], verdicts, reasons, parsed)


def records_of(values: Sequence[bytes], now: int) -> Records:
    """The messages as the stream would get them, had they come ``now``."""
    count = len(values)
    places = np.zeros(count, np.int32), np.arange(count, dtype=np.int64)
    return Records(pa.array(values, pa.binary()), np.full(count, now), *places)


def _id(event: Mapping[str, Any]) -> str | None:
    return None if event.get("event_id") is None else str(event["event_id"])


def _not_an_event(event: Any, stream: Stream) -> str | None:
    """Why the value cannot be an event of the stream at all; None where it may be one."""
    if not isinstance(event, dict):
        return f"not_an_object: field 'event' requires an object; got {field_error('', '', event)['got']}"
    own_id = () if stream.event_id is None else ("event_id",)
    names = (*own_id, "event_time", *stream.mapped)
    unknown = next((name for name in event if name not in names), None)
    if unknown is None:
        return None
    return f"unknown_field: field '{unknown}' requires a name of {', '.join(names)}; got another"


Keep = Callable[[Mapping[int, Placed]], Awaitable[None]]
"""Takes, by their numbers, the events that Kafka has."""


async def post(judged: JudgedEvents, sink: EventSink, keep: Keep | None = None) -> EventsResponse:
    """The outcome of every event, once those that are not refused are acknowledged or given up, and kept.

    Raises ProblemError when none of them got through.
    """
    sent = [at for at, verdict in enumerate(judged.verdicts) if verdict != Verdict.DEAD_LETTER]
    outcomes = dict(zip(sent, await sink.send([judged.messages[at] for at in sent]), strict=True)) if sent else {}
    placed = {at: outcome for at, outcome in outcomes.items() if isinstance(outcome, Placed)}
    if keep is not None and placed:
        await keep(placed)
    verdicts = [_verdict(judged, at, outcomes) for at in range(len(judged.messages))]
    counts = {status: sum(one.status == status for one in verdicts) for status in ("refused", "unknown")}
    accepted = len(verdicts) - counts["refused"] - counts["unknown"]
    if not accepted:
        raise _nothing_accepted(verdicts)
    return EventsResponse(accepted=accepted, refused=counts["refused"], unknown=counts["unknown"], events=verdicts)


def _verdict(judged: JudgedEvents, at: int, outcomes: Mapping[int, Placed | str]) -> EventVerdict:
    verdict, reason = judged.verdicts[at], judged.reasons[at]
    if verdict == Verdict.DEAD_LETTER:
        return EventVerdict(index=at, event_id=judged.ids[at], status="refused", reason=reason)
    outcome = outcomes[at]
    if isinstance(outcome, str):
        return EventVerdict(index=at, event_id=judged.ids[at], status="unknown", reason=outcome)
    return EventVerdict(
        index=at, event_id=judged.ids[at], status="late" if verdict == Verdict.LATE else "accepted", reason=reason
    )


def _nothing_accepted(verdicts: Sequence[EventVerdict]) -> ProblemError:
    listed = {"events": [one.model_dump() for one in verdicts]}
    unknown = next((one for one in verdicts if one.status == "unknown"), None)
    if unknown is not None:
        detail = f"Kafka did not acknowledge ({unknown.reason}); send the same event_id again: it counts once"
        return ProblemError(503, detail, more=listed)
    errors = [_error(one) for one in verdicts]
    return ProblemError(422, str(verdicts[0].reason), errors, listed)


def _error(verdict: EventVerdict) -> dict[str, str]:
    found = REASON.fullmatch(verdict.reason or "")
    place = f"events.{verdict.index}"
    if found is None:
        return {"field": place, "required": "a valid event", "got": verdict.reason or "something else"}
    name = found["field"]
    return {"field": f"{place}.{name}" if name else place, "required": found["required"], "got": found["got"]}
