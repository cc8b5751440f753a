"""Entities, which features describe, and streams: topics mapped to our columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from features.definitions.checks import check_mapping, check_name, freeze, later
from features.definitions.conversions import Cast, Time, Value, check_cast, check_others, frozen_map
from features.definitions.expressions import Expression, FrozenMap, check_expression
from features.definitions.paths import (
    OfRecord,
    Origin,
    Path,
    checked_origin,
    checked_path,
    is_inside,
    keys_of,
    path_text,
    step_paths,
    without_record,
    written_path,
)
from features.definitions.windows import duration_ms
from features.errors import DefinitionError

DTYPES = ("string", "int64", "float64", "bool")
KEY_DTYPES = ("string", "int64")
RESERVED = ("event_id", "event_time", "known_at", "partition", "offset")
"""Columns that every event has; a stream's own fields have other names."""
MOST_TOPICS, PARTITIONS_OF_A_TOPIC = 4, 1_024
"""A stream's partitions are numbered across its topics: those of the second topic begin at 1,024."""


@dataclass(frozen=True)
class Entity:
    """Subject of features: a name, and key columns with their dtypes (two or more: a composite key)."""

    name: str
    keys: Mapping[str, str]

    def __post_init__(self) -> None:
        check_name(self.name, f"entity {self.name!r}")
        if not isinstance(self.keys, Mapping) or not self.keys:
            required = "at least one key column, such as keys={'user_id': 'string'}"
            raise DefinitionError(f"entity '{self.name}'", required, repr(self.keys))
        for key, dtype in self.keys.items():
            check_name(key, f"entity '{self.name}': key")
            if dtype not in KEY_DTYPES:
                raise DefinitionError(
                    f"entity '{self.name}': key '{key}'", f"a dtype of {', '.join(KEY_DTYPES)}", repr(dtype)
                )
        freeze(self, keys=FrozenMap(self.keys))


@dataclass(frozen=True)
class Field:
    """A column of a stream: its dtype, its path in the message, and what makes a record invalid.

    ``path`` is the key in the message, dotted for nested objects, a list of keys (which may have dots), or FirstOf
    several such paths; by default our own name. A ``required`` field
    that is missing or null, or a value outside ``enum`` or of another type, makes the record a dead letter.

    Args:
        cast: 'text' for numbers and truths in text, or for whole numbers as the text of a string field;
            NumberText(…), Base64Decimal(…), or Time(…) for an int64 of epoch ms.
        map: their text (or whole number) → our value, or None for null. What is left is cast.
        others: what becomes of a value that the map lacks: 'refuse' (a dead letter; the default), 'null' or 'keep'.
    """

    dtype: str
    path: Origin | None = None
    required: bool = False
    enum: Sequence[str] | None = None
    cast: Cast | None = later()
    map: Mapping[str | int, Value | None] | None = later()
    others: str | None = later()

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise DefinitionError("a field", f"a dtype of {', '.join(DTYPES)}", repr(self.dtype))
        check_cast(self.cast, self.dtype)
        check_others(self.others, has_map=self.map is not None)
        if self.map is not None:
            freeze(self, map=frozen_map(self.map, self.dtype))
        if self.map is not None and isinstance(self.cast, Time):
            raise DefinitionError("a field with cast", "no map beside a Time", repr(self.map))
        if self.path is not None:
            freeze(self, path=checked_origin(self.path, "a field with path"))
        if self.enum is not None:
            texts = not isinstance(self.enum, str) and all(isinstance(v, str) for v in self.enum)
            if self.dtype != "string" or not texts or not self.enum:
                raise DefinitionError("a field with enum", "dtype 'string' and a list of texts", repr(self.enum))
            freeze(self, enum=tuple(self.enum))

    @property
    def is_converted(self) -> bool:
        """True if values may be other than the dtype's own."""
        return self.cast is not None or self.map is not None

    @property
    def mapping(self) -> Mapping[str, Value | None]:
        """The checked form of ``map``; empty without one."""
        return self.map or {}  # type: ignore[return-value]  # __post_init__ made its keys texts


@dataclass(frozen=True)
class Topic:
    """A further topic with events of a stream, in messages of another form; parameters are those of Stream.

    Args:
        paths: our field → its path in these messages, if that is not the stream's own path.
    """

    topic: str
    paths: Mapping[str, Origin] | None = None
    format: str = "json"
    event_time: Origin = "event_time"
    time_unit: str = "ms"
    event_id: Origin | None = "event_id"
    schema: str | None = None
    time_zone: str | None = later()
    time_format: str | Sequence[str] | None = later()
    each: Path | None = later()

    def __post_init__(self) -> None:
        where = f"topic {self.topic!r}"
        check_mapping(self.paths, f"{where}: paths")
        paths = {name: checked_origin(path, f"{where}: paths: '{name}'") for name, path in (self.paths or {}).items()}
        freeze(self, paths=FrozenMap(paths), **_identity(self, where))


def _identity(definition: Topic | Stream, where: str) -> dict[str, Origin | None]:
    """Where a message has its events, their time and their id, checked."""
    event_id, each = definition.event_id, definition.each
    return {
        "each": None if each is None else _checked_array(each, f"{where}: each"),
        "event_time": checked_origin(definition.event_time, f"{where}: event_time"),
        "event_id": None if event_id is None else checked_origin(event_id, f"{where}: event_id"),
    }


def _checked_array(each: object, where: str) -> Path:
    path = checked_path(each, where)
    if keys_of(step_paths(path)[0]) is None:
        raise DefinitionError(where, "keys of the message alone, which lead to an array", repr(each))
    return path


@dataclass(frozen=True)
class Stream:
    """A topic mapped to our columns; its producers need not change anything.

    Args:
        name: its name in definitions and reports.
        topic: the Kafka topic.
        fields: our column → Field, or just a dtype if the message uses our name.
        format: 'json', or 'avro' (with or without the Confluent header).
        event_time: path (as Field.path) of the event's own time: RFC 3339 text, or a number in ``time_unit`` since
            the epoch.
        event_id: path of an id that a producer repeats when it retries; None makes topic-partition-offset the id.
        computed: further columns, from arithmetic on numeric fields or from the event's time:
            {"amount": product("price", "quantity"), "by_night": hour_within("event_time", 0, 6)}.
        schema: for Avro without a registry, the reader schema as JSON text; a wider one may evolve in the messages.
        dedupe_horizon: how long an event_id is remembered.
        each: path of an array of which every element is an event: order lines, products. A path that begins with it
            leads into the element, any other into the message around it. The id of an event is the message's and the
            element's number ('o1-0'), or the element's own if event_id leads into it. A message whose array is empty,
            null or missing has no events. Adding or removing it changes what offsets mean: name the stream anew.
        also: more topics with the same events in other forms. Events that we send go to ``topic``; removing or moving a
            topic in the list changes what the offsets of the archive mean.
        time_zone: IANA name of the zone of times that have none, and of dates; see Time.
        time_format: how else texts write the event's time, such as '%d.%m.%Y %H:%M', or 'epoch'; see Time.
    """

    name: str
    topic: str
    fields: Mapping[str, Field | str]
    format: str = "json"
    event_time: Origin = "event_time"
    time_unit: str = "ms"
    event_id: Origin | None = "event_id"
    computed: Mapping[str, Expression] | None = None
    schema: str | None = None
    dedupe_horizon: str | int = "1h"
    also: Sequence[Topic] = ()
    time_zone: str | None = later()
    time_format: str | Sequence[str] | None = later()
    each: Path | None = later()

    def __post_init__(self) -> None:
        where = f"stream '{self.name}'"
        check_name(self.name, where)
        if not isinstance(self.topic, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", self.topic):
            raise DefinitionError(where, "a topic of letters, digits, '.', '_' and '-'", repr(self.topic))
        if self.format not in ("json", "avro"):
            raise DefinitionError(where, "format 'json' or 'avro'", repr(self.format))
        freeze(self, **_identity(self, where))
        check_mapping(self.computed, f"{where}: computed")
        try:
            freeze(self, time_format=self.time.format)
        except DefinitionError as error:
            raise DefinitionError(f"{where}: event_time", error.required, error.got, error.next_step) from None
        if not isinstance(self.fields, Mapping) or not self.fields:
            raise DefinitionError(where, "at least one field", repr(self.fields))
        duration_ms(self.dedupe_horizon, f"{where}: dedupe_horizon")
        freeze(self, fields=FrozenMap({name: self._field(name, value) for name, value in self.fields.items()}))
        dtypes = {name: value.dtype for name, value in self.mapped.items()} | {"event_time": "time"}
        for name, expression in (self.computed or {}).items():
            check_name(name, f"{where}: computed field")
            if name in self.fields or name in RESERVED:
                raise DefinitionError(f"{where}: computed field '{name}'", "a name that is free", "one that is taken")
            check_expression(expression, dtypes, f"{where}: computed field '{name}'")
        freeze(self, computed=FrozenMap(self.computed))
        self._check_each(where)
        self._check_topics(where)

    def _check_each(self, where: str) -> None:
        paths = [path for field, path in self._paths.items() if field not in ("event_time", "event_id")]
        if self.each is not None and not any(self.is_of_elements(path) for path in paths):
            each = path_text(step_paths(self.each)[0])
            got = ", ".join(path_text(steps) for origin in paths for steps in step_paths(origin))
            next_step = f"Begin the paths of what an element has with '{each}': '{each}.id'."
            raise DefinitionError(f"{where}: each '{each}'", "a field whose path leads into an element", got, next_step)

    @property
    def _paths(self) -> dict[str, Origin]:
        """Our columns that the message has, each with where it is."""
        own = {} if self.event_id is None else {"event_id": self.event_id}
        fields = {name: field.path or name for name, field in self.mapped.items()}
        return {"event_time": self.event_time, **own, **fields}

    @cached_property
    def written_paths(self) -> Mapping[str, tuple[str, ...]]:
        """Our columns that the message has, each with its written_path: found once, as every sent event asks."""
        return {name: written_path(origin) for name, origin in self._paths.items()}

    def is_of_elements(self, origin: Origin) -> bool:
        """True if the value is in an element of the array at ``each``."""
        return any(is_inside(steps, self.each) for steps in step_paths(origin))

    @property
    def unwritable(self) -> str | None:
        """Why an event by our names cannot be written as a message of the topic; None if it can."""
        if self.each is not None and not self.has_element_ids:
            return f"its messages have several events, in '{path_text(step_paths(self.each)[0])}'"
        lacking = [name for name, path in self.written_paths.items() if not path]
        return f"'{lacking[0]}' is at no path of keys alone" if lacking else None

    def without_records(self) -> Stream:
        """The stream as files have it: with our names where the topic's records have a key, a header or a time."""
        if not self.uses_records:
            return self
        paths = {name: without_record(origin, name) for name, origin in self._paths.items()}
        fields = {name: replace(field, path=paths[name]) for name, field in self.mapped.items()}
        return replace(self, fields=fields, also=(), event_time=paths["event_time"], event_id=paths.get("event_id"))

    @property
    def nested_columns(self) -> frozenset[str]:
        """The keys of a message behind which a path has another step than keys, or the array of events is."""
        paths = [path for origin in self.without_records()._paths.values() for path in step_paths(origin)]
        each = [] if self.each is None else [step_paths(self.each)[0]]
        return frozenset(str(path[0]) for path in [*each, *(path for path in paths if keys_of(path) is None)])

    @cached_property
    def uses_records(self) -> bool:
        """True if a field is taken from what a record has beside its message."""
        return any(isinstance(path[0], OfRecord) for origin in self._paths.values() for path in step_paths(origin))

    @property
    def has_element_ids(self) -> bool:
        """True if the elements at ``each`` have ids of their own."""
        return self.event_id is not None and self.is_of_elements(self.event_id)

    def _check_topics(self, where: str) -> None:
        also = self.also
        if isinstance(also, str) or not isinstance(also, Sequence) or not all(isinstance(t, Topic) for t in also):
            raise DefinitionError(f"{where}: also", "a list of Topic(…)", repr(also))
        freeze(self, also=tuple(also))
        if len(set(self.topics)) < len(self.topics) or len(self.topics) > MOST_TOPICS:
            got = ", ".join(self.topics)
            raise DefinitionError(f"{where}: also", f"at most {MOST_TOPICS} topics that differ, with its own", got)
        for topic in also:
            unknown = [name for name in topic.paths or () if name not in self.fields]
            if unknown:
                paths = f"{where}: topic '{topic.topic}': paths"
                raise DefinitionError(paths, f"fields of the stream ({', '.join(self.fields)})", ", ".join(unknown))
        len(self.parts)  # making them checks them

    @property
    def topics(self) -> tuple[str, ...]:
        """Every topic with its events."""
        return (self.topic, *(topic.topic for topic in self.also))

    @cached_property
    def parts(self) -> tuple[Stream, ...]:
        """A stream for each of its topics, in order, with the same name and columns; itself if it has only one."""
        if not self.also:
            return (self,)
        return (replace(self, also=()), *map(self._part, self.also))

    def _part(self, topic: Topic) -> Stream:
        paths = topic.paths or {}
        fields = {name: replace(field, path=paths.get(name, field.path)) for name, field in self.mapped.items()}
        return replace(
            self,
            topic=topic.topic,
            fields=fields,
            format=topic.format,
            event_time=topic.event_time,
            time_unit=topic.time_unit,
            event_id=topic.event_id,
            schema=topic.schema,
            time_zone=topic.time_zone,
            time_format=topic.time_format,
            each=topic.each,
            also=(),
        )

    def _field(self, name: str, value: Field | str) -> Field:
        where = f"stream '{self.name}': field '{name}'"
        check_name(name, where)
        if name in RESERVED:
            next_step = "Map it with event_time=, event_id= or another name."
            raise DefinitionError(where, f"a name other than {', '.join(RESERVED)}", f"'{name}'", next_step)
        if isinstance(value, Field):
            return value
        try:
            return Field(value)
        except DefinitionError as error:
            raise DefinitionError(where, error.required, error.got) from None

    @cached_property
    def time(self) -> Time:
        """How the event's time is written."""
        return Time(self.time_unit, self.time_zone, self.time_format)

    @property
    def mapped(self) -> Mapping[str, Field]:
        """Our columns that the message has, each with its Field."""
        return self.fields  # type: ignore[return-value]  # __post_init__ made every value a Field

    @cached_property
    def dtypes(self) -> dict[str, str]:
        """Every column that a feature may use, with its dtype, in order."""
        return {name: value.dtype for name, value in self.mapped.items()} | dict.fromkeys(
            self.computed or {}, "float64"
        )

    def check_keys(self, entity: Entity, where: str) -> None:
        """Raises DefinitionError unless the stream's events have the entity's keys."""
        for key, dtype in entity.keys.items():
            if self.dtypes.get(key) != dtype:
                got = self.dtypes.get(key, "no such field")
                raise DefinitionError(where, f"field '{key}' ({dtype}) in stream '{self.name}'", got)


SERVED_FIELDS: dict[str, Field | str] = {
    "recommendation_id": Field("string", required=True),
    "recommender": "string",
    "user_id": "string",
    "session_id": "string",
    "placement": "string",
    "model": "string",
    "model_version": "string",
    "inputs": "string",
    "user_schema": "string",
    "item_schema": "string",
    "as_of": "int64",
    "features_status": "string",
    "user_newest": "int64",
    "fallback": "string",
    "items": Field("string", required=True),
    "shadow": "bool",
    "overlap": "float64",
    "took_ms": "float64",
}
"""Columns of the served log (features.events.served_answers reads them).

``inputs`` is inputs_hash of the columns of rows, ``items`` is [[item_id, score, source, [the row] or null], …], ranked.
``user_newest`` is the time of the newest event in the user's features, epoch ms; null for a user without events, and
where the request brought features of its own. ``shadow`` is true for a challenger's answer beside the answer of the
same recommendation_id, which was shown to nobody; ``overlap`` is the share of its items that were in that answer.
"""


LOGGED_USER = "user_id"
"""The served log's column with the text of the user's key, whatever the user's entity calls its own."""


def served_log(topic: str, name: str = "served") -> Stream:
    """The stream of the served log: answers are logged where the definitions have it, and nowhere else."""
    return Stream(name, topic=topic, fields={**SERVED_FIELDS, "request_id": "string"})
