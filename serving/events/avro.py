"""Posted events of an Avro stream: judged as JSON first, for reasons that name fields, then as encoded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from operator import getitem
from typing import Any

import numpy as np

from features.definitions import Stream, written_path
from features.errors import FormatError
from features.events import RefusedError, Verdict, parse
from features.events.avro import AvroWriter, SchemaRegistry, avro_writer
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
) -> JudgedEvents:
    """The stream's verdict on each event, as if received ``now`` (epoch ms), with its encoded message.

    Raises:
        FormatError: the stream has no schema to write with.
        StoreError: the registry does not answer.
    """
    plain = judge(
        events, replace(stream, format="json", schema=None), horizon_ms, now, keys=keys, key_fields=key_fields
    )
    writer = avro_writer(stream, registry)
    verdicts, reasons, messages = list(plain.verdicts), list(plain.reasons), list(plain.messages)
    times = dict(zip(plain.parsed.rows.tolist(), plain.parsed.events["event_time"].to_pylist(), strict=True))
    good = [at for at, verdict in enumerate(verdicts) if verdict != Verdict.DEAD_LETTER]
    for at in good:
        try:
            messages[at] = replace(messages[at], value=_written(events[at], times[at], writer))
        except RefusedError as refused:
            verdicts[at], reasons[at] = Verdict.DEAD_LETTER, str(refused)
    written = [at for at in good if verdicts[at] != Verdict.DEAD_LETTER]
    records = records_of([messages[at].value for at in written], now)
    parsed = parse(records, stream, horizon_ms, registry, keys=keys)
    for at, verdict, reason in zip(written, parsed.verdicts, parsed.reasons.to_pylist(), strict=True):
        verdicts[at], reasons[at] = Verdict(int(verdict)), reason
    rows = np.array(written, dtype=np.int64)[parsed.rows]
    return JudgedEvents(messages, plain.ids, verdicts, reasons, replace(parsed, rows=rows))


def _written(event: Mapping[str, Any], event_time: int, writer: AvroWriter) -> bytes:
    """The event's message; event_time is in epoch ms. Raises RefusedError for a field that the schema lacks."""
    for name, field in writer.stream.mapped.items():
        if event.get(name) is not None and not writer.has(written_path(field.path or name)):
            raise RefusedError(f"unwritable: field '{name}' requires a place in the stream's Avro schema; got none")
    message = message_of(event, writer.stream)
    *parents, last = written_path(writer.stream.event_time)
    try:
        reduce(getitem, parents, message)[last] = writer.time(event_time)
        return writer.encode(message)
    except (FormatError, OverflowError) as error:
        got = error.got if isinstance(error, FormatError) else str(error)
        raise RefusedError(f"unwritable: requires values that the stream's Avro schema holds; got {got}") from None
