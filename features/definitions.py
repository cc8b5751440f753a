"""Features as data: what a user writes in a feature repo, and every name, dtype and order that follows from it.

    user = Entity("user", keys={"user_id": "string"})
    activity = Stream("activity", topic="shop.activity", fields={"user_id": "string", "price": "float64", ...})
    views = FeatureSet(entity=user, source=activity, where={"event_type": "view"},
                       aggregations=[Count(), LastK("item_id", 20)], windows=["5m", "24h"])
    user_activity = FeatureView("user_activity", sets=[views])

Every definition is frozen, hashable and checked when it is made; a wrong one raises DefinitionError, which says where
it is, what is required, what came and what to do.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import Any

from features.aggregates import Aggregation, DecayedCount
from features.errors import DefinitionError
from features.expressions import (
    Condition,
    Expression,
    FrozenMap,
    check_expression,
    check_where,
    freeze_where,
    where_label,
)
from features.windows import Tiling, Window, duration_ms, duration_text, nested_tiles

DTYPES = ("string", "int64", "float64", "bool")
KEY_DTYPES = ("string", "int64")
TIME_UNITS_PER_MS = {"s": 1e-3, "ms": 1.0, "us": 1e3, "ns": 1e6}
RESERVED = ("event_id", "event_time", "known_at", "partition", "offset")
"""Columns that every event has; a stream's own fields take other names."""
MOST_HALF_LIVES = 500
NAME = re.compile(r"[a-z][a-z0-9_]*")


def _set(instance: object, **values: object) -> None:
    """Put the checked form of what a user passed into a frozen definition (only __post_init__ may)."""
    for name, value in values.items():
        object.__setattr__(instance, name, value)


def _check_name(name: object, where: str) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise DefinitionError(where, "a name of lower-case letters, digits and _, starting with a letter", repr(name))


def _check_path(path: object, where: str) -> None:
    if not isinstance(path, str) or not all(path.split(".")):
        raise DefinitionError(where, "a key of the message, dotted for nested objects", repr(path))


def _check_mapping(value: object, where: str) -> None:
    if value is not None and not isinstance(value, Mapping):
        raise DefinitionError(where, "a mapping of name to expression", repr(value))


@dataclass(frozen=True)
class Entity:
    """What features describe: a name and its key columns with their dtypes (several for a composite key)."""

    name: str
    keys: Mapping[str, str]

    def __post_init__(self) -> None:
        _check_name(self.name, f"entity {self.name!r}")
        if not isinstance(self.keys, Mapping) or not self.keys:
            required = "at least one key column, such as keys={'user_id': 'string'}"
            raise DefinitionError(f"entity '{self.name}'", required, repr(self.keys))
        for key, dtype in self.keys.items():
            _check_name(key, f"entity '{self.name}': key")
            if dtype not in KEY_DTYPES:
                raise DefinitionError(
                    f"entity '{self.name}': key '{key}'", f"a dtype of {', '.join(KEY_DTYPES)}", repr(dtype)
                )
        _set(self, keys=FrozenMap(self.keys))


@dataclass(frozen=True)
class Field:
    """One column of a stream: its dtype, where it stands in the message, and what makes a record invalid.

    ``path`` is the key in the message, dotted for nested objects; our own name unless given. A ``required`` field
    that is missing or null, or a value outside ``enum`` or of another type, makes the record a dead letter.
    """

    dtype: str
    path: str | None = None
    required: bool = False
    enum: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise DefinitionError("a field", f"a dtype of {', '.join(DTYPES)}", repr(self.dtype))
        if self.path is not None:
            _check_path(self.path, "a field with path")
        if self.enum is not None:
            texts = not isinstance(self.enum, str) and all(isinstance(v, str) for v in self.enum)
            if self.dtype != "string" or not texts or not self.enum:
                raise DefinitionError("a field with enum", "dtype 'string' and a list of texts", repr(self.enum))
            _set(self, enum=tuple(self.enum))


@dataclass(frozen=True)
class Stream:
    """A topic as it is, mapped to our columns; its producers change nothing.

    Args:
        name: how definitions and reports call it.
        topic: the Kafka topic.
        fields: our column → Field, or just a dtype where the message uses our name.
        format: 'json', or 'avro' (with or without the Confluent header).
        event_time: path of the event's own time: RFC 3339 text, or a number in ``time_unit`` since the epoch.
        event_id: path of an id that a producer repeats when it sends again; None makes topic-partition-offset the id.
        computed: more columns, from arithmetic on numeric fields: {"amount": product("price", "quantity")}.
        schema: for Avro without a registry, the reader schema as JSON text; a wider one may evolve in the messages.
        dedupe_horizon: how long an event_id is remembered.
    """

    name: str
    topic: str
    fields: Mapping[str, Field | str]
    format: str = "json"
    event_time: str = "event_time"
    time_unit: str = "ms"
    event_id: str | None = "event_id"
    computed: Mapping[str, Expression] | None = None
    schema: str | None = None
    dedupe_horizon: str | int = "1h"

    def __post_init__(self) -> None:
        where = f"stream '{self.name}'"
        _check_name(self.name, where)
        if not isinstance(self.topic, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", self.topic):
            raise DefinitionError(where, "a topic of letters, digits, '.', '_' and '-'", repr(self.topic))
        if self.format not in ("json", "avro"):
            raise DefinitionError(where, "format 'json' or 'avro'", repr(self.format))
        _check_path(self.event_time, f"{where}: event_time")
        if self.event_id is not None:
            _check_path(self.event_id, f"{where}: event_id")
        _check_mapping(self.computed, f"{where}: computed")
        if self.time_unit not in tuple(TIME_UNITS_PER_MS):
            raise DefinitionError(where, f"a time_unit of {', '.join(TIME_UNITS_PER_MS)}", repr(self.time_unit))
        if not isinstance(self.fields, Mapping) or not self.fields:
            raise DefinitionError(where, "at least one field", repr(self.fields))
        duration_ms(self.dedupe_horizon, f"{where}: dedupe_horizon")
        _set(self, fields=FrozenMap({name: self._field(name, value) for name, value in self.fields.items()}))
        dtypes = {name: value.dtype for name, value in self.mapped.items()}
        for name, expression in (self.computed or {}).items():
            _check_name(name, f"{where}: computed field")
            if name in self.fields or name in RESERVED:
                raise DefinitionError(f"{where}: computed field '{name}'", "a name that is free", "one that is taken")
            check_expression(expression, dtypes, f"{where}: computed field '{name}'")
        _set(self, computed=FrozenMap(self.computed))

    def _field(self, name: str, value: Field | str) -> Field:
        where = f"stream '{self.name}': field '{name}'"
        _check_name(name, where)
        if name in RESERVED:
            next_step = "Map it with event_time=, event_id= or another name."
            raise DefinitionError(where, f"a name other than {', '.join(RESERVED)}", f"'{name}'", next_step)
        if isinstance(value, Field):
            return value
        try:
            return Field(value)
        except DefinitionError as error:
            raise DefinitionError(where, error.required, error.got) from None

    @property
    def mapped(self) -> Mapping[str, Field]:
        """Our columns that stand in the message, with their Field."""
        return self.fields  # type: ignore[return-value]  # __post_init__ made every value a Field

    @cached_property
    def dtypes(self) -> dict[str, str]:
        """Every column that a feature may use, with its dtype, in order."""
        return {name: value.dtype for name, value in self.mapped.items()} | dict.fromkeys(
            self.computed or {}, "float64"
        )


@dataclass(frozen=True)
class FeatureSet:
    """Aggregations of one entity over one stream, each over every window; ``where`` filters the events first.

    ``name`` replaces the part of the feature names that is otherwise derived from ``where``.
    """

    entity: Entity
    source: Stream
    aggregations: Sequence[Aggregation]
    windows: Sequence[Window | str]
    where: Mapping[str, Any] | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.entity, Entity) or not isinstance(self.source, Stream):
            raise DefinitionError(
                "a feature set", "entity=Entity(…) and source=Stream(…)", f"{self.entity!r}, {self.source!r}"
            )
        place = f"feature set of '{self.entity.name}' on '{self.source.name}'"
        if self.name is not None:
            _check_name(self.name, f"{place}: name")
        self._check_keys(place)
        where = freeze_where(self.where, place)
        check_where(where, self.source.dtypes, place)
        windows = tuple(
            window if isinstance(window, Window) else Window(window)
            for window in _several(self.windows, place, "window")
        )
        aggregations = tuple(_several(self.aggregations, place, "aggregation"))
        for aggregation in aggregations:
            if not isinstance(aggregation, Aggregation):
                raise DefinitionError(place, "aggregations such as Count() or Sum('price')", repr(aggregation))
            aggregation.check(self.source.dtypes, place)
        _set(self, where=where, windows=windows, aggregations=aggregations)
        if where and not self.label:
            required = "a name=, as its where has no letter of a to z and no digit to name it by"
            raise DefinitionError(place, required, repr(where))

    def _check_keys(self, place: str) -> None:
        for key, dtype in self.entity.keys.items():
            if self.source.dtypes.get(key) != dtype:
                got = f"{self.source.dtypes.get(key, 'no such field')}"
                raise DefinitionError(place, f"field '{key}' ({dtype}) in stream '{self.source.name}'", got)

    @property
    def filter(self) -> FrozenMap[Condition]:
        """The checked form of ``where``."""
        return self.where  # type: ignore[return-value]  # __post_init__ froze it

    @property
    def window_list(self) -> tuple[Window, ...]:
        """The checked form of ``windows``."""
        return self.windows  # type: ignore[return-value]  # __post_init__ made every one a Window

    @property
    def label(self) -> str:
        """The part of its feature names that says which events they are about."""
        return self.name if self.name is not None else where_label(self.filter)


def _several(values: object, place: str, what: str) -> Sequence[Any]:
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise DefinitionError(place, f"a list of at least one {what}", repr(values))
    return values


@dataclass(frozen=True)
class Feature:
    """One named value: an aggregation over a window, or (``expression``) arithmetic on other features of its view."""

    name: str
    dtype: str
    feature_set: FeatureSet | None = None
    aggregation: Aggregation | None = None
    window: Window | None = None
    expression: Expression | None = None


@dataclass(frozen=True)
class FeatureView:
    """All feature sets of one entity that are kept, read and versioned together: one state row per entity.

    Args:
        name: Feast's feature view name.
        sets: FeatureSets of the same entity, from one stream or several.
        derived: more features, from arithmetic on these: {"conversion_24h": ratio("user_…", "user_…")}.
        version: change it to say that the meaning changed where the data does not show it.
        ttl: how long after its newest event an entity still counts; at least the longest window + delay.
    """

    name: str
    sets: Sequence[FeatureSet]
    derived: Mapping[str, Expression] | None = None
    version: int = 1
    ttl: str | int | None = None
    description: str = ""

    def __post_init__(self) -> None:
        where = f"feature view '{self.name}'"
        _check_name(self.name, where)
        sets = tuple(_several(self.sets, where, "feature set"))
        if not all(isinstance(one, FeatureSet) for one in sets):
            raise DefinitionError(where, "sets=[FeatureSet(…), …]", repr(self.sets))
        entities = {one.entity for one in sets}
        if len(entities) > 1:
            got = ", ".join(sorted(entity.name for entity in entities))
            raise DefinitionError(where, "feature sets of one entity", got, "Give each entity a view of its own.")
        streams: dict[str, Stream] = {}
        for one in sets:
            if streams.setdefault(one.source.name, one.source) != one.source:
                raise DefinitionError(
                    where, "one definition of each stream", f"two that are called '{one.source.name}'"
                )
        if not isinstance(self.version, int) or isinstance(self.version, bool) or self.version < 1:
            raise DefinitionError(where, "a version of 1 or more", repr(self.version))
        _check_mapping(self.derived, f"{where}: derived")
        _set(self, sets=sets)
        self._check_tiles(where)
        self._check_ttl(where)
        self._check_features(where)
        self._check_half_lives(where)
        _set(self, derived=FrozenMap(self.derived))

    def _check_tiles(self, where: str) -> None:
        try:
            nested_tiles([window for one in self.sets for window in one.window_list])
        except DefinitionError as error:
            raise DefinitionError(f"{where}: {error.where}", error.required, error.got, error.next_step) from None

    def _check_ttl(self, where: str) -> None:
        if self.ttl is not None and duration_ms(self.ttl, where) < self.horizon_ms:
            required = f"a ttl of at least its longest window + delay ({self.horizon_ms} ms)"
            raise DefinitionError(where, required, repr(self.ttl), "Leave ttl out to have just that.")

    def _check_features(self, where: str) -> None:
        seen: set[str] = set()
        for feature in self.aggregated:
            if feature.name in seen:
                next_step = "Give one of the sets a name= of its own, or take the repetition out."
                raise DefinitionError(where, "feature names that differ", f"two of '{feature.name}'", next_step)
            seen.add(feature.name)
        dtypes = {feature.name: feature.dtype for feature in self.aggregated}
        for name, expression in (self.derived or {}).items():
            place = f"{where}: derived feature '{name}'"
            _check_name(name, place)
            check_expression(expression, dtypes, place)
            full = f"{self.entity.name}_{name}"
            if full in dtypes:
                raise DefinitionError(place, "a name that is free", f"'{full}', which is taken")
            dtypes[full] = "float64"

    def _check_half_lives(self, where: str) -> None:
        """A tile keeps its decayed events at their weight by its start, which must not overflow: 2^500 at the most."""
        for feature in self.aggregated:
            if feature.aggregation is None or feature.window is None:
                continue
            tile = self.tiling.bounds(feature.window).tile_ms
            for part in feature.aggregation.parts:
                if isinstance(part, DecayedCount) and tile > MOST_HALF_LIVES * part.half_life_ms:
                    required = (
                        f"a half_life of at least 1/{MOST_HALF_LIVES} of the window's tile ({duration_text(tile)})"
                    )
                    next_step = "Take a shorter window: what is older has no weight left."
                    raise DefinitionError(f"{where}: '{feature.name}'", required, repr(part.half_life), next_step)

    @property
    def entity(self) -> Entity:
        """What the view describes."""
        return self.sets[0].entity

    @cached_property
    def streams(self) -> tuple[Stream, ...]:
        """The streams that the view reads, in the order of its sets."""
        return tuple(dict.fromkeys(one.source for one in self.sets))

    @cached_property
    def tiling(self) -> Tiling:
        """The tiles that all its windows share."""
        return Tiling([window for one in self.sets for window in one.window_list])

    @property
    def horizon_ms(self) -> int:
        """An event older than this before its known_at comes too late for this view."""
        return self.tiling.horizon_ms

    @property
    def ttl_ms(self) -> int:
        """An entity whose newest event is older than this is OUTSIDE_MAX_AGE; older than twice this, NOT_FOUND."""
        return self.horizon_ms if self.ttl is None else duration_ms(self.ttl)

    @cached_property
    def aggregated(self) -> tuple[Feature, ...]:
        """The features that come straight from windows, in order."""
        return tuple(
            Feature(
                _feature_name(one, aggregation, window), aggregation.dtype(one.source.dtypes), one, aggregation, window
            )
            for one in self.sets
            for aggregation in one.aggregations
            for window in one.window_list
        )

    @cached_property
    def features(self) -> tuple[Feature, ...]:
        """Every feature in the order in which vectors, training sets and models have it."""
        derived = (self.derived or {}).items()
        return self.aggregated + tuple(
            Feature(f"{self.entity.name}_{name}", "float64", expression=expression) for name, expression in derived
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The features' names, in order."""
        return tuple(feature.name for feature in self.features)

    @cached_property
    def schema_hash(self) -> int:
        """64 bits that change when anything does that changes what a stored row means."""
        meaning = {"version": self.version, "sets": [canonical(one) for one in self.sets]}
        digest = hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).digest()
        return int.from_bytes(digest[:8], "little")


def _feature_name(one: FeatureSet, aggregation: Aggregation, window: Window) -> str:
    parts = (one.entity.name, one.label, aggregation.label, window.label)
    return "_".join(part for part in parts if part)


def canonical(value: object) -> Any:
    """A definition as plain JSON values, the same for the same meaning."""
    if is_dataclass(value):
        named = {f.name: canonical(getattr(value, f.name)) for f in fields(value)}
        return {"is": type(value).__name__, **named}
    if isinstance(value, Mapping):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [canonical(item) for item in value]
    return value
