"""Descriptions of features, derived from their definitions: for `headrace features list`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from features.definitions import aggregations as agg
from features.definitions.expressions import (
    AnyOf,
    Compare,
    Condition,
    Expression,
    OneOf,
    Presence,
    TextTest,
)
from features.definitions.models import Recommender
from features.definitions.views import Feature, FeatureView
from features.definitions.windows import Window, duration_text

RELATIONS = {"above": ">", "at_least": ">=", "below": "<", "at_most": "<=", "other_than": "!="}

SIGNS = {"product": " * ", "ratio": " / ", "difference": " - ", "total": " + "}

WORDS: dict[type[agg.Aggregation], Callable[[Any], str]] = {
    agg.Count: lambda spec: f"events with a {spec.column}" if spec.column else "events",
    agg.Sum: lambda spec: f"sum of {spec.column}",
    agg.Mean: lambda spec: f"mean {spec.column}",
    agg.Min: lambda spec: f"smallest {spec.column}",
    agg.Max: lambda spec: f"largest {spec.column}",
    agg.Last: lambda spec: f"newest {spec.column}",
    agg.First: lambda spec: f"oldest {spec.column}",
    agg.LastK: lambda spec: f"newest {spec.k} {spec.column}; newest first",
    agg.DistinctCount: lambda spec: f"different {spec.column}; estimated beyond {spec.k}",
    agg.MostFrequent: lambda spec: f"most frequent {spec.column}; none beyond {spec.k} different ones",
    agg.TimeSinceLast: lambda spec: "ms since the newest event",
    agg.DecayedCount: lambda spec: f"events; each counts half after every {duration_text(spec.half_life_ms)}",
    agg.Quantile: lambda spec: f"{spec.q:g} quantile of {spec.column}; within {100 * spec.relative_error:g} %",
    agg.Variance: lambda spec: f"variance of {spec.column}",
    agg.StdDev: lambda spec: f"standard deviation of {spec.column}",
    agg.ZScore: lambda spec: f"newest {spec.column} less its mean; in standard deviations",
    agg.Slope: lambda spec: f"slope of {spec.column} over time; per {duration_text(spec.per_ms)}",
    agg.ExponentialMean: lambda spec: (
        f"mean {spec.column}; each value counts half after every {duration_text(spec.half_life_ms)}"
    ),
    agg.Change: lambda spec: f"newest {spec.column} less the one before",
    agg.Ratio: lambda spec: f"({aggregation_text(spec.numerator)}) / ({aggregation_text(spec.denominator)})",
}
"""Aggregation → its description; a remark on the value follows a semicolon."""


def aggregation_text(aggregation: agg.Aggregation, where: Mapping[str, Condition] | None = None) -> str:
    """The description of an aggregation: 'mean price where event_type is view'."""
    noun, _, remark = WORDS[type(aggregation)](aggregation).partition("; ")
    conditions = dict.fromkeys([*(where or {}).items(), *aggregation.filter.items()])
    texts = [condition_text(column, condition) for column, condition in conditions]
    filtered = f"{noun} where {' and '.join(texts)}" if texts else noun
    return f"{filtered}; {remark}" if remark else filtered


def condition_text(column: str, condition: Condition) -> str:
    """The description of a condition: 'event_type is view'."""
    match condition:
        case AnyOf(conditions):
            return f"({' or '.join(condition_text(column, each) for each in conditions)})"
        case TextTest(relation, text):
            return f"{column} is not {text}" if relation == "other_than" else f"{column} starts with {text}"
        case Presence(there):
            return f"{column} is {'not ' if there else ''}null"
        case Compare(relation, value):
            return f"{column} {RELATIONS[relation]} {value:.15g}"
        case OneOf(values):
            return (
                f"{column} is {', '.join(map(str, values[:-1]))} or {values[-1]}"
                if values[1:]
                else f"{column} is {values[0]}"
            )
        case bool():
            return column if condition else f"not {column}"
        case _:
            return f"{column} is {condition}"


def expression_text(expression: Expression, entity: str) -> str:
    """The formula of a derived feature, operands without the entity's name: 'click_count_24h / view_count_24h'."""
    operands = [operand.removeprefix(f"{entity}_") for operand in expression.operands]
    if expression.operation in SIGNS:
        return SIGNS[expression.operation].join(operands)
    return f"{expression.operation}({', '.join(operands)})"


def window_text(window: Window) -> str:
    """'24h', or '7d, 7d ago' for a window that ends before as_of."""
    text = duration_text(window.length_ms)
    return f"{text}, {duration_text(window.delay_ms)} ago" if window.delay_ms else text


def feature_row(view: FeatureView, feature: Feature) -> dict[str, Any]:
    """A feature as `features list` shows it: name, dtype, stream, window, tile and meaning."""
    row: dict[str, Any] = {
        "feature": feature.name,
        "dtype": feature.dtype,
        "stream": None,
        "window": None,
        "tile": None,
    }
    if feature.feature_set is not None and feature.aggregation is not None and feature.window is not None:
        row["stream"] = feature.feature_set.source.name
        row["window"] = window_text(feature.window)
        row["tile"] = duration_text(view.tiling.bounds(feature.window).tile_ms)
        row["meaning"] = aggregation_text(feature.aggregation, feature.feature_set.filter)
    elif feature.expression is not None:
        row["meaning"] = expression_text(feature.expression, view.entity.name)
    return row


def view_summary(view: FeatureView) -> dict[str, Any]:
    """A view as `features list` shows it: its entity, streams, version, schema hash and features."""
    return {
        "view": view.name,
        "description": view.description,
        "entity": view.entity.name,
        "keys": dict(view.entity.keys),
        "streams": [stream.name for stream in view.streams],
        "version": view.version,
        "schema_hash": f"{view.schema_hash:016x}",
        "ttl": duration_text(view.ttl_ms),
        "features": [feature_row(view, feature) for feature in view.features],
    }


def recommender_summary(recommender: Recommender, is_default: bool) -> dict[str, Any]:
    """A recommender as `features list` shows it: what it learns from, by which fields and kinds, and of which views."""
    served, catalogue = recommender.served, recommender.catalogue
    available = [condition_text(name, condition) for name, condition in recommender.availability.items()]
    return {
        "recommender": recommender.name,
        "default": is_default,
        "stream": recommender.stream.name,
        "kind": recommender.kind,
        "targets": list(recommender.targets),
        "weights": dict(recommender.counts),
        "user_view": recommender.user_view.name,
        "item_view": recommender.item_view.name,
        "user_inputs": len(recommender.user_features),
        "item_inputs": len(recommender.item_features),
        "catalogue": None if catalogue is None else catalogue.name,
        "available": available,
        "session": recommender.session,
        "repeats": recommender.repeats,
        "exclude": list(recommender.exclude),
        "served": None if served is None else served.name,
    }
