"""Feature sets, and the views that group them: names, dtypes, order and schema hash of features."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import Any

from features.definitions.aggregations import Aggregation, DecayedCount, ExponentialMean, Ratio
from features.definitions.checks import check_mapping, check_name, freeze, is_stated, nonempty_list
from features.definitions.expressions import (
    Condition,
    Expression,
    FrozenMap,
    check_expression,
    check_where,
    freeze_where,
    where_label,
)
from features.definitions.streams import RESERVED, Entity, Stream
from features.definitions.windows import Tiling, Window, duration_ms, duration_text, nested_tiles
from features.errors import DefinitionError

MOST_HALF_LIVES = 500
"""The longest tile, in half lives."""


@dataclass(frozen=True)
class FeatureSet:
    """Aggregations of a stream by an entity, each over every window; ``where`` filters the events first.

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
        location = f"feature set of '{self.entity.name}' on '{self.source.name}'"
        if self.name is not None:
            check_name(self.name, f"{location}: name")
        self.source.check_keys(self.entity, location)
        where = freeze_where(self.where, location)
        check_where(where, self.source.dtypes, location)
        windows = tuple(
            window if isinstance(window, Window) else Window(window)
            for window in nonempty_list(self.windows, location, "window")
        )
        aggregations = tuple(nonempty_list(self.aggregations, location, "aggregation"))
        for aggregation in aggregations:
            if not isinstance(aggregation, Aggregation):
                raise DefinitionError(location, "aggregations such as Count() or Sum('price')", repr(aggregation))
            aggregation.check(self.source.dtypes, location)
        freeze(self, where=where, windows=windows, aggregations=aggregations)
        if where and not self.label:
            required = "a name=, as its where has no letter of a to z and no digit to name it by"
            raise DefinitionError(location, required, repr(where))

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
        """The part of its feature names that stands for its events: ``name``, or a text made of ``where``."""
        return self.name if self.name is not None else where_label(self.filter)


@dataclass(frozen=True)
class Feature:
    """A named value: an aggregation over a window, or (``expression``) arithmetic on other features of its view."""

    name: str
    dtype: str
    feature_set: FeatureSet | None = None
    aggregation: Aggregation | None = None
    window: Window | None = None
    expression: Expression | None = None


@dataclass(frozen=True)
class FeatureView:
    """The feature sets of an entity that are stored, read and versioned together, in one state row per key.

    Args:
        name: Feast's feature view name.
        sets: FeatureSets of the same entity, from one stream or more.
        derived: further features, by arithmetic on the aggregated: {"conversion_24h": ratio("user_…", "user_…")}.
        version: increase it when the meaning of the data changes without a change of the definition.
        ttl: the age of an entity's newest event up to which it is PRESENT; at least the longest window + delay.
    """

    name: str
    sets: Sequence[FeatureSet]
    derived: Mapping[str, Expression] | None = None
    version: int = 1
    ttl: str | int | None = None
    description: str = ""

    def __post_init__(self) -> None:
        where = f"feature view '{self.name}'"
        check_name(self.name, where)
        sets = tuple(nonempty_list(self.sets, where, "feature set"))
        if not all(isinstance(feature_set, FeatureSet) for feature_set in sets):
            raise DefinitionError(where, "sets=[FeatureSet(…), …]", repr(self.sets))
        entities = {feature_set.entity for feature_set in sets}
        if len(entities) > 1:
            got = ", ".join(sorted(entity.name for entity in entities))
            raise DefinitionError(where, "feature sets of one entity", got, "Give each entity a view of its own.")
        streams: dict[str, Stream] = {}
        for stream in (feature_set.source for feature_set in sets):
            if streams.setdefault(stream.name, stream) != stream:
                raise DefinitionError(where, "one definition of each stream", f"two that are called '{stream.name}'")
        if not isinstance(self.version, int) or isinstance(self.version, bool) or self.version < 1:
            raise DefinitionError(where, "a version of 1 or more", repr(self.version))
        check_mapping(self.derived, f"{where}: derived")
        freeze(self, sets=sets)
        self._check_tiles(where)
        self._check_ttl(where)
        self._check_features(where)
        self._check_half_lives(where)
        freeze(self, derived=FrozenMap(self.derived))

    @property
    def _windows(self) -> list[Window]:
        return [window for feature_set in self.sets for window in feature_set.window_list]

    def _check_tiles(self, where: str) -> None:
        try:
            nested_tiles(self._windows)
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
            location = f"{where}: derived feature '{name}'"
            check_name(name, location)
            check_expression(expression, dtypes, location)
            full = f"{self.entity.name}_{name}"
            if full in dtypes:
                raise DefinitionError(location, "a name that is free", f"'{full}', which is taken")
            dtypes[full] = "float64"

    def _check_half_lives(self, where: str) -> None:
        """A tile weights its decayed events relative to its start, which must not overflow: 2^500 at the most."""
        for feature in self.aggregated:
            if feature.aggregation is None or feature.window is None:
                continue
            tile = self.tiling.bounds(feature.window).tile_ms
            for part in feature.aggregation.parts:
                if isinstance(part, DecayedCount | ExponentialMean) and tile > MOST_HALF_LIVES * part.half_life_ms:
                    required = (
                        f"a half_life of at least 1/{MOST_HALF_LIVES} of the window's tile ({duration_text(tile)})"
                    )
                    next_step = "Take a shorter window: what is older has no weight left."
                    raise DefinitionError(f"{where}: '{feature.name}'", required, repr(part.half_life), next_step)

    def __hash__(self) -> int:
        """The schema hash, computed once: plans are looked up by their view at every read."""
        return self.schema_hash

    @property
    def entity(self) -> Entity:
        """The entity that the view describes."""
        return self.sets[0].entity

    @cached_property
    def streams(self) -> tuple[Stream, ...]:
        """The streams that the view reads, in the order of its sets."""
        return tuple(dict.fromkeys(feature_set.source for feature_set in self.sets))

    @cached_property
    def tiling(self) -> Tiling:
        """The tiles of all its windows."""
        return Tiling(self._windows)

    @property
    def horizon_ms(self) -> int:
        """The age (known_at - event_time) beyond which an event is late for this view."""
        return self.tiling.horizon_ms

    @property
    def ttl_ms(self) -> int:
        """An entity whose newest event is older than this is OUTSIDE_MAX_AGE; older than twice this, NOT_FOUND."""
        return self.horizon_ms if self.ttl is None else duration_ms(self.ttl)

    @cached_property
    def aggregated(self) -> tuple[Feature, ...]:
        """The features that are aggregations over windows, in order."""
        return tuple(
            _aggregated(feature_set, aggregation, window)
            for feature_set in self.sets
            for aggregation in feature_set.aggregations
            for window in feature_set.window_list
        )

    @cached_property
    def features(self) -> tuple[Feature, ...]:
        """Every feature, in the order of vectors, training sets and models."""
        derived = (self.derived or {}).items()
        return self.aggregated + tuple(
            Feature(f"{self.entity.name}_{name}", "float64", expression=expression) for name, expression in derived
        )

    @cached_property
    def cache(self) -> dict[str, Any]:
        """A cache for plans and programs derived from the view; a look-up does not compare equal views."""
        return {}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The features' names, in order."""
        return tuple(feature.name for feature in self.features)

    @cached_property
    def schema_hash(self) -> int:
        """The identity of the definition: 64 bits that change with the meaning of a stored row."""
        meaning = {"version": self.version, "sets": [canonical(feature_set) for feature_set in self.sets]}
        digest = hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).digest()
        return int.from_bytes(digest[:8], "little")


def _aggregated(feature_set: FeatureSet, aggregation: Aggregation, window: Window) -> Feature:
    parts = (feature_set.entity.name, feature_set.label, aggregation.label, window.label)
    name = "_".join(part for part in parts if part)
    return Feature(name, aggregation.dtype(feature_set.source.dtypes), feature_set, aggregation, window)


def canonical(value: object) -> Any:
    """A definition as plain JSON values, equal for equal meanings."""
    if is_dataclass(value):
        stated = {f.name: getattr(value, f.name) for f in fields(value) if is_stated(f, getattr(value, f.name))}
        named = {name: canonical(item) for name, item in stated.items()}
        return {"is": type(value).__name__, **named}
    if isinstance(value, Mapping):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [canonical(item) for item in value]
    return value


def used_columns(view: FeatureView, stream: Stream) -> list[str]:
    """The columns of the stream's events that the view's features depend on."""
    used = {*RESERVED, *view.entity.keys}
    for feature_set in view.sets:
        if feature_set.source.name == stream.name:
            used |= set(feature_set.filter)
            for aggregation in feature_set.aggregations:
                used |= _columns_of(aggregation)
    return [*RESERVED, *(name for name in stream.dtypes if name in used)]


def _columns_of(aggregation: Aggregation) -> set[str]:
    parts = (aggregation.numerator, aggregation.denominator) if isinstance(aggregation, Ratio) else ()
    column: str | None = getattr(aggregation, "column", None)
    own = {*aggregation.filter, *([] if column is None else [column])}
    return own.union(*map(_columns_of, parts))
