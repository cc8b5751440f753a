"""Posted events of an Avro stream: judged as JSON first, for reasons that name fields, then as encoded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from operator import getitem
from typing import Any

import numpy as np

from features.definitions import Stream
from features.errors import FormatError
from features.events import RefusedError, Verdict, parse
from features.events.avro import AvroWriter, SchemaRegistry, avro_writer
from serving.events.bodies import EVENTS, RECORDS
from serving.events.verdicts import JudgedEvents, judge, message_of, records_of


def judge_avro(
    events: Sequence[Any],
    stream: Stream,
    horizon_ms: int | None,
    now: int,
    registry: SchemaRegistry | None,
    *,
    keys: Collection[str] = (),
    key_fields: Sequence[str] = (),
    form: str = EVENTS,
) -> JudgedEvents:
    """As judge(), with the encoded message of each event.

    Raises:
        FormatError: the stream has no schema to write with.
        StoreError: the registry does not answer.
    """
    in_json = replace(stream, format="json", schema=None)
    plain = judge(events, in_json, horizon_ms, now, keys=keys, key_fields=key_fields, form=form)
    writer = avro_writer(stream, registry)
    verdicts, reasons, messages = list(plain.verdicts), list(plain.reasons), list(plain.messages)
    good = {at for at, verdict in zip(plain.of, verdicts, strict=True) if verdict != Verdict.DEAD_LETTER}
    unwritable: dict[int, str] = {}
    times = _times(plain)
    for at in sorted(good):
        try:
            messages[at] = replace(messages[at], value=_written(events[at], times.get(at), writer, form))
        except RefusedError as refused:
            unwritable[at] = str(refused)
    written = sorted(good.difference(unwritable))
    beside = [(messages[at].key, messages[at].headers) for at in written]
    records = records_of([messages[at].value for at in written], now, beside)
    parsed = parse(records, stream, horizon_ms, registry, keys=keys)
    # The same elements of the same messages, so that each verdict has one of the JSON's.
    places = {place: at for at, place in enumerate(zip(plain.of, plain.parsed.numbers.tolist(), strict=False))}
    found = np.array(
        [
            places[written[record], number]
            for record, number in zip(parsed.records.tolist(), parsed.numbers.tolist(), strict=True)
        ],
        dtype=np.int64,
    )
    for at, verdict, reason in zip(found.tolist(), parsed.verdicts, parsed.reasons.to_pylist(), strict=True):
        verdicts[at], reasons[at] = Verdict(int(verdict)), reason
    for at, message in enumerate(plain.of):
        if message in unwritable and verdicts[at] != Verdict.DEAD_LETTER:
            verdicts[at], reasons[at] = Verdict.DEAD_LETTER, unwritable[message]
    whole = replace(plain.parsed, events=parsed.events, rows=found[parsed.rows])
    return JudgedEvents(messages, plain.of, plain.ids, verdicts, reasons, whole)


def _times(judged: JudgedEvents) -> dict[int, int]:
    """Message → the time of its event, epoch ms."""
    parsed = judged.parsed
    messages = parsed.records[parsed.rows].tolist()
    return dict(zip(messages, parsed.events["event_time"].to_pylist(), strict=True))


def _written(event: Mapping[str, Any], event_time: int | None, writer: AvroWriter, form: str) -> bytes:
    """The event's message, or the message itself; event_time is in epoch ms.

    Raises RefusedError for a field that the schema lacks.
    """
    if form != EVENTS or event_time is None:
        return _encoded(event["value"] if form == RECORDS else event, writer)
    paths = writer.stream.written_paths
    for name in writer.stream.mapped:
        if event.get(name) is not None and not writer.has(paths[name]):
            raise RefusedError(f"unwritable: field '{name}' requires a place in the stream's Avro schema; got none")
    message = message_of(event, writer.stream)
    *parents, last = paths["event_time"]
    try:
        reduce(getitem, parents, message)[last] = writer.time(event_time)
    except OverflowError as error:
        raise _unwritable(str(error)) from None
    return _encoded(message, writer)


def _encoded(message: Mapping[str, Any], writer: AvroWriter) -> bytes:
    try:
        return writer.encode(message)
    except (FormatError, OverflowError) as error:
        raise _unwritable(error.got if isinstance(error, FormatError) else str(error)) from None


def _unwritable(got: str) -> RefusedError:
    return RefusedError(f"unwritable: requires values that the stream's Avro schema holds; got {got}")
