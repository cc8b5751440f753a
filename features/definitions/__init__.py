"""Features as data: what a user writes in a feature repo, and every name, dtype and order that follows from it.

    user = Entity("user", keys={"user_id": "string"})
    activity = Stream("activity", topic="shop.activity", fields={"user_id": "string", "price": "float64", ...})
    views = FeatureSet(entity=user, source=activity, where={"event_type": "view"},
                       aggregations=[Count(), LastK("item_id", 20)], windows=["5m", "24h"])
    user_activity = FeatureView("user_activity", sets=[views])

Every definition is frozen, hashable and checked when it is made; a wrong one raises DefinitionError, which says where
it is, what is required, what came and what to do.
"""

from features.aggregates import (
    Aggregation,
    Count,
    DecayedCount,
    DistinctCount,
    Last,
    LastK,
    Max,
    Mean,
    Min,
    Quantile,
    Ratio,
    Sum,
    TimeSinceLast,
)
from features.definitions.event_models import AtPrecision, EventModel, Rule, TopADay
from features.definitions.streams import (
    DTYPES,
    KEY_DTYPES,
    PARTITIONS_OF_A_TOPIC,
    RESERVED,
    TIME_UNITS_PER_MS,
    Entity,
    Field,
    Stream,
    Topic,
)
from features.definitions.views import Feature, FeatureSet, FeatureView, canonical
from features.expressions import (
    above,
    at_least,
    at_most,
    below,
    difference,
    hour_within,
    log1p,
    other_than,
    product,
    ratio,
    total,
    weekday_within,
)
from features.windows import Window

__all__ = [
    "Aggregation",
    "AtPrecision",
    "Count",
    "DTYPES",
    "DecayedCount",
    "DistinctCount",
    "Entity",
    "EventModel",
    "Feature",
    "FeatureSet",
    "FeatureView",
    "Field",
    "KEY_DTYPES",
    "Last",
    "LastK",
    "Max",
    "Mean",
    "Min",
    "PARTITIONS_OF_A_TOPIC",
    "Quantile",
    "RESERVED",
    "Ratio",
    "Rule",
    "Stream",
    "Sum",
    "TIME_UNITS_PER_MS",
    "TimeSinceLast",
    "TopADay",
    "Topic",
    "Window",
    "above",
    "at_least",
    "at_most",
    "below",
    "canonical",
    "difference",
    "hour_within",
    "log1p",
    "other_than",
    "product",
    "ratio",
    "total",
    "weekday_within",
]
