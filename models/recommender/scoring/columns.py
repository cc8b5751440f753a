"""The columns of pair features, in order."""

from __future__ import annotations

PAIR_FEATURES = (
    "similar_score",
    "similar_rank",
    "popular_score",
    "popular_rank",
    "trending_score",
    "own_count",
    "own_share",
    "own_rank",
    "own_age_ms",
    "recent_place",
    "history_size",
    "blended",
    "together_score",
    "together_rank",
    "factor_score",
    "factor_rank",
    "session_score",
    "session_rank",
    "lasting_score",
    "own_visits",
    "own_due",
    "category_share",
    "price_from_habit",
    "position",
)
"""The ranker's inputs about a user and an item together; the user's and the item's own features follow them."""

COLUMN = {name: column for column, name in enumerate(PAIR_FEATURES)}

SCORED = {"similar": 100, "together": 60, "factor": 60, "session": 60}
"""Source → the number of candidates it names, which is also the rank of an item that it does not name."""

SPARSE = ("similar", "together", "session")
"""The sources that score few of the items."""
