"""The names that users import: definitions of a feature repo, and readers of files and history.

    from headrace import Count, Entity, FeatureSet, FeatureView, Stream

Nothing heavy is imported with it: no Spark, Ray, Feast or Kafka client. Feast's plug-ins are in ``headrace.feast``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from features.definitions import (
        Anomaly,
        AtPrecision,
        Base64Decimal,
        Change,
        Classifier,
        Count,
        DecayedCount,
        DistinctCount,
        ElementWith,
        Entity,
        EventModel,
        ExponentialMean,
        FalseAlerts,
        FeatureSet,
        FeatureView,
        Field,
        First,
        FirstOf,
        Habit,
        JsonText,
        Last,
        LastK,
        Max,
        Mean,
        Min,
        MostFrequent,
        NumberText,
        Quantile,
        Ratio,
        Recommender,
        RecordHeader,
        RecordKey,
        RecordTime,
        Regressor,
        Rule,
        Silence,
        Slope,
        StdDev,
        Stream,
        Sum,
        Time,
        TimeSinceLast,
        TopADay,
        Topic,
        Variance,
        Window,
        ZScore,
        above,
        any_of,
        at_least,
        at_most,
        below,
        difference,
        hour_within,
        is_null,
        load_repo,
        local_hour,
        local_weekday,
        log1p,
        not_null,
        other_than,
        product,
        ratio,
        scored_stream,
        served_log,
        starts_with,
        total,
        weekday_within,
    )
    from features.formats import read_events
    from features.history import history_on_spark

__all__ = [
    "Anomaly",
    "AtPrecision",
    "Base64Decimal",
    "Classifier",
    "Change",
    "Count",
    "DecayedCount",
    "DistinctCount",
    "ElementWith",
    "Entity",
    "EventModel",
    "ExponentialMean",
    "FalseAlerts",
    "FeatureSet",
    "FeatureView",
    "Field",
    "First",
    "Habit",
    "FirstOf",
    "JsonText",
    "Last",
    "LastK",
    "Max",
    "Mean",
    "Min",
    "MostFrequent",
    "NumberText",
    "Quantile",
    "Ratio",
    "Recommender",
    "RecordHeader",
    "RecordKey",
    "RecordTime",
    "Regressor",
    "Rule",
    "Silence",
    "Slope",
    "StdDev",
    "Stream",
    "Sum",
    "Time",
    "TimeSinceLast",
    "TopADay",
    "Topic",
    "Variance",
    "Window",
    "ZScore",
    "above",
    "any_of",
    "at_least",
    "at_most",
    "below",
    "difference",
    "history_on_spark",
    "hour_within",
    "is_null",
    "load_repo",
    "local_hour",
    "local_weekday",
    "log1p",
    "not_null",
    "other_than",
    "product",
    "ratio",
    "read_events",
    "scored_stream",
    "served_log",
    "starts_with",
    "total",
    "weekday_within",
]

HOMES = {
    "read_events": "features.formats",
    "history_on_spark": "features.history",
}
"""Name → package, of the names that are not definitions."""


def __getattr__(name: str) -> Any:
    """The public name, imported from its package when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module 'headrace' has no attribute '{name}'")
    import importlib

    value = getattr(importlib.import_module(HOMES.get(name, "features.definitions")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
