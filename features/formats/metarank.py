"""Metarank's event format, that of RankLens: items, rankings of shown items and interactions, as our events.

A field may hold values of any type, which column-wise JSON readers refuse; so lines are decoded one by one, in C, into
structs of the fields that are used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa

from features.formats.files import PROBLEM, InputFile, read_lines

Millis = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,18}$")]
"""A number of milliseconds since the epoch, written as text."""


class ItemField(msgspec.Struct):
    """A named value of an item."""

    name: str
    value: Any


class Item(msgspec.Struct, tag_field="event", tag="item"):
    """Fields of an item."""

    id: str
    item: str
    timestamp: Millis
    fields: list[ItemField] = []


class RankedItem(msgspec.Struct):
    """An item of a ranking."""

    id: str


class Ranking(msgspec.Struct, tag_field="event", tag="ranking"):
    """Items that were shown, best first."""

    id: str
    timestamp: Millis
    items: list[RankedItem]
    user: str | None = None
    session: str | None = None


class Interaction(msgspec.Struct, tag_field="event", tag="interaction"):
    """An action on an item, of a ranking or not."""

    id: str
    timestamp: Millis
    type: str
    item: str
    ranking: str | None = None
    user: str | None = None
    session: str | None = None


class User(msgspec.Struct, tag_field="event", tag="user"):
    """Fields of a user; no event of ours."""


Record = Item | Ranking | Interaction | User

ITEM_COLUMNS = ("event_id", "event_time", "item_id", "title", "category")
ACTIVITY_COLUMNS = (
    "event_id",
    "event_time",
    "event_type",
    "user_id",
    "session_id",
    "item_id",
    "recommendation_id",
    "position",
    PROBLEM,
)
TEXT = pa.string()
TYPES = {"position": pa.int64()}


def ranklens(source: InputFile) -> Iterator[tuple[str, pa.Table]]:
    """Items to ``catalogue``; an impression for each shown item, then clicks, to ``activity``.

    As a line may hold many events, ``offset`` counts the stream's events, not lines. A line that is no event of theirs
    is a row of ``activity`` with the reason.
    """
    decoder = msgspec.json.Decoder(Record)
    line = 0
    starts = {"catalogue": 0, "activity": 0}
    for lines in read_lines(source):
        records = [_decoded(decoder, text, number) for number, text in enumerate(lines, line + 1)]
        line += len(lines)
        rows = {
            "catalogue": _table(ITEM_COLUMNS, [_item(record) for record in records if isinstance(record, Item)]),
            "activity": _table(ACTIVITY_COLUMNS, [row for record in records for row in _activity(record)]),
        }
        for stream, table in rows.items():
            offsets = np.arange(starts[stream], starts[stream] + table.num_rows, dtype=np.int64)
            starts[stream] += table.num_rows
            yield stream, table.append_column("offset", pa.array(offsets))


def item_fields(source: InputFile) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(item id, its fields by name) of each item event, in the file's order; also fields that ``catalogue`` lacks."""
    decoder = msgspec.json.Decoder(Record)
    line = 0
    for lines in read_lines(source):
        records = [_decoded(decoder, text, number) for number, text in enumerate(lines, line + 1)]
        line += len(lines)
        items = (record for record in records if isinstance(record, Item))
        yield from ((item.item, {field.name: field.value for field in item.fields}) for item in items)


def _decoded(decoder: msgspec.json.Decoder[Record], line: bytes, number: int) -> Record | str:
    """The line's record, or the reason why it is none."""
    try:
        return decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        got = f"{line[:80].decode(errors='replace')!r} ({error})"
        return f"bad_line: line {number} requires a Metarank event; got {got}"


def _item(record: Item) -> tuple[Any, ...]:
    values = {field.name: _text(field.value) for field in record.fields if field.name in ("title", "genres")}
    return record.id, record.timestamp, record.item, values.get("title"), values.get("genres")


def _text(value: object) -> str | None:
    """A text unchanged; a list of texts joined by |, as MovieLens writes genres."""
    texts = value if isinstance(value, list) else [value]
    return "|".join(text for text in texts if isinstance(text, str)) or None


def _activity(record: Record | str) -> Iterator[tuple[Any, ...]]:
    if isinstance(record, str):
        yield *(None for _ in ACTIVITY_COLUMNS[1:]), record
    elif isinstance(record, Interaction):
        who = (record.user, record.session)
        yield record.id, record.timestamp, record.type, *who, record.item, record.ranking, None, None
    elif isinstance(record, Ranking):
        who = (record.user, record.session)
        for position, shown in enumerate(record.items, 1):
            place = (record.id, position)
            yield f"{record.id}-{position}", record.timestamp, "impression", *who, shown.id, *place, None


def _table(names: Sequence[str], rows: list[tuple[Any, ...]]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    arrays = {name: pa.array(column, TYPES.get(name, TEXT)) for name, column in zip(names, columns, strict=True)}
    return pa.table(arrays).set_column(1, "event_time", arrays["event_time"].cast(pa.int64()))
