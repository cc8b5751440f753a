"""Definitions of features as frozen data: what a user writes in a feature repo.

In: Python objects, or a folder of them (``load_repo``). Out: the names, dtypes, order, windows, tiles and schema hashes
that every other package computes with.

    user = Entity("user", keys={"user_id": "string"})
    activity = Stream("activity", topic="shop.activity", fields={"user_id": "string", "price": "float64", ...})
    views = FeatureSet(entity=user, source=activity, where={"event_type": "view"},
                       aggregations=[Count(), LastK("item_id", 20)], windows=["5m", "24h"])
    user_activity = FeatureView("user_activity", sets=[views])

Every definition is hashable and checked when it is made; a wrong one raises DefinitionError, which says where it is,
what is required, what came and what to do.
"""

from features.definitions.aggregations import (
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
from features.definitions.changes import Retyped, StreamHistory, ViewPlan, plan_changes, rebuild_of
from features.definitions.describe import view_summary
from features.definitions.event_models import AtPrecision, EventModel, Rule, TopADay
from features.definitions.expressions import (
    NUMERIC,
    Compare,
    Condition,
    Expression,
    OneOf,
    above,
    at_least,
    at_most,
    below,
    difference,
    evaluate,
    hour_within,
    log1p,
    matches,
    other_than,
    product,
    ratio,
    total,
    weekday_within,
)
from features.definitions.repo import FeatureRepo, load_repo
from features.definitions.serialized import views_of_text, views_text
from features.definitions.streams import (
    PARTITIONS_OF_A_TOPIC,
    RESERVED,
    SERVED_FIELDS,
    TIME_UNITS_PER_MS,
    Entity,
    Field,
    Stream,
    Topic,
    served_log,
)
from features.definitions.views import Feature, FeatureSet, FeatureView, used_columns
from features.definitions.windows import (
    FUTURE_TOLERANCE_MS,
    UNITS_MS,
    Bounds,
    Tiling,
    Window,
    age_text,
    duration_ms,
    duration_text,
    floored,
)

__all__ = [
    "SERVED_FIELDS",
    "served_log",
    "Aggregation",
    "AtPrecision",
    "Bounds",
    "Compare",
    "Condition",
    "Count",
    "DecayedCount",
    "DistinctCount",
    "Entity",
    "EventModel",
    "Expression",
    "FUTURE_TOLERANCE_MS",
    "Feature",
    "FeatureRepo",
    "FeatureSet",
    "FeatureView",
    "Field",
    "Retyped",
    "StreamHistory",
    "Last",
    "LastK",
    "Max",
    "Mean",
    "Min",
    "NUMERIC",
    "OneOf",
    "PARTITIONS_OF_A_TOPIC",
    "Quantile",
    "RESERVED",
    "Ratio",
    "Rule",
    "Stream",
    "Sum",
    "TIME_UNITS_PER_MS",
    "Tiling",
    "TimeSinceLast",
    "TopADay",
    "Topic",
    "UNITS_MS",
    "ViewPlan",
    "Window",
    "above",
    "age_text",
    "aggregations",
    "at_least",
    "at_most",
    "below",
    "difference",
    "duration_ms",
    "duration_text",
    "evaluate",
    "floored",
    "hour_within",
    "load_repo",
    "log1p",
    "matches",
    "other_than",
    "plan_changes",
    "product",
    "ratio",
    "rebuild_of",
    "total",
    "used_columns",
    "view_summary",
    "views_of_text",
    "views_text",
    "weekday_within",
]
