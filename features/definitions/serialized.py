"""Definitions as text and back: a generation stores its views this way, to be folded and read later.

The text is `canonical` as JSON; reading it gives the same frozen definitions, checked as any others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from features.definitions import aggregations as aggregates
from features.definitions import expressions
from features.definitions.checks import LATER
from features.definitions.conversions import Base64Decimal, NumberText, Time
from features.definitions.paths import ElementWith, FirstOf, JsonText, RecordHeader, RecordKey, RecordTime
from features.definitions.streams import Entity, Field, Stream, Topic
from features.definitions.views import FeatureSet, FeatureView, canonical
from features.definitions.windows import Window
from features.errors import DefinitionError

KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        *(Base64Decimal, NumberText, Time),
        *(Entity, Field, Stream, Topic, FeatureSet, FeatureView, Window),
        *(FirstOf, ElementWith, JsonText, RecordHeader, RecordKey, RecordTime),
        *(expressions.TextTest, expressions.Presence, expressions.AnyOf, expressions.ByClock),
        *(expressions.Compare, expressions.OneOf, expressions.Expression, expressions.Within),
        *(aggregates.Count, aggregates.Sum, aggregates.Mean, aggregates.Min, aggregates.Max, aggregates.Last),
        *(aggregates.LastK, aggregates.DistinctCount, aggregates.TimeSinceLast, aggregates.DecayedCount),
        *(aggregates.Quantile, aggregates.Ratio, aggregates.Variance, aggregates.StdDev, aggregates.ZScore),
        *(aggregates.Change, aggregates.Slope, aggregates.ExponentialMean, aggregates.First, aggregates.MostFrequent),
    )
}


def views_text(views: Iterable[FeatureView]) -> str:
    """The views as JSON text, equal for equal definitions."""
    return json.dumps([canonical(view) for view in views], sort_keys=False, ensure_ascii=False)


def views_of_text(text: str) -> tuple[FeatureView, ...]:
    """The views that views_text() wrote.

    Raises:
        DefinitionError: the text is not from views_text(), or this version no longer accepts its definitions.
    """
    try:
        views = _restored(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        got = f"{type(error).__name__}: {error}"
        raise DefinitionError("stored definitions", "what views_text() wrote", got) from error
    if not isinstance(views, tuple) or not all(isinstance(view, FeatureView) for view in views):
        raise DefinitionError("stored definitions", "a list of feature views", text[:80])
    return views


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_restored, value))
    if not isinstance(value, dict):
        return value
    kind = KINDS.get(value["is"]) if isinstance(value.get("is"), str) else None
    # A column may be called 'is': only the exact fields of a class make a definition.
    if kind is None or not _needed(kind) <= value.keys() <= {"is", *(field.name for field in fields(kind))}:
        return {name: _restored(item) for name, item in value.items()}
    return kind(**{name: _restored(item) for name, item in value.items() if name != "is"})


def _needed(kind: type) -> set[str]:
    """The names that the text of every definition of the class has."""
    return {"is", *(field.name for field in fields(kind) if LATER not in field.metadata)}
