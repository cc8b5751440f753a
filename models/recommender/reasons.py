"""Reasons for recommended items, read from the tables that named them: what a user can be told, and true or absent.

bought_before       the user took it as the target, before the model's as_of
viewed              otherwise among the user's recent items or history
similar_to: ITEM    the recent or own item that gave the largest part of its score
taste               among the best by the item vectors of all that the user took
trending, popular   among the items with the steepest trend; among the most popular ones, now or of all time
new                 the model learnt without it: its attributes alone are known
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from features.arrays import Floats, Int64s
from models.recommender.pairs import KnownUser, Query
from models.recommender.retrieval import TOP_LASTING, TOP_POPULAR, TOP_TRENDING, Ranked
from models.recommender.scoring import SESSIONS_AN_ITEM, Sums, best_by_vectors, nearest_sessions, recency_weights
from models.recommender.tables import CandidateTables, Sessions, SparseRows, places_among

LIKE = ("similar", "together", "session")
"""The sources whose scores are sums over a user's items."""

NEUTRAL = ("asked", "repeat")
"""Sources that say nothing of others: any of LIKE may be a reason beside them."""

BY_VECTORS = ("factor", "content")

UNKNOWN = "unknown"
"""The source of an item of which nothing is known."""


def reasons_of(tables: CandidateTables, query: Query, items: Sequence[Ranked]) -> list[list[str]]:
    """The reasons for each item of an answer to the query, in the order above."""
    index = np.array([tables.index.get(item.item_id, -1) for item in items], dtype=np.int64)
    known = KnownUser.of(tables, query)
    taken, viewed = set(known.taken.tolist()), set(known.own_items.tolist())
    recent = set(query.recent)
    alike = _alike(known, np.unique(index[index >= 0]))
    taste = set() if tables.factors is None else set(best_by_vectors(tables.factors, known.every).tolist())
    trending = set(tables.most_trending[:TOP_TRENDING].tolist())
    popular = {*tables.most_popular[:TOP_POPULAR].tolist(), *tables.most_lasting[:TOP_LASTING].tolist()}

    def of(item: Ranked, at: int) -> list[str]:
        is_taken, sources = at in taken, LIKE if item.source in NEUTRAL else (item.source,)
        like = next((alike[source][at] for source in sources if at in alike.get(source, {})), None)
        said = {
            "bought_before": is_taken,
            "viewed": not is_taken and (item.item_id in recent or at in viewed),
            f"similar_to: {like}": like is not None,
            "taste": at in taste or item.source in BY_VECTORS,
            "trending": at in trending or item.source == "trending",
            "popular": at in popular or item.source in ("popular", "lasting"),
            "new": (at < 0 or at >= tables.fitted) and item.source != UNKNOWN,
        }
        return [reason for reason, holds in said.items() if holds]

    return [of(item, at) for item, at in zip(items, index.tolist(), strict=True)]


def _alike(known: KnownUser, wanted: Int64s) -> dict[str, dict[int, str]]:
    """Source of LIKE → item index → the user's item, another one, that gave the largest part of its score."""
    tables = known.tables
    trail, weights = known.trail, recency_weights(len(known.trail))
    parts = {"similar": (known.every, known.shares[:, None] * between(tables.neighbours, known.every, wanted))}
    if tables.together is not None:
        parts["together"] = (trail, weights[:, None] * between(tables.together, trail, wanted))
    if tables.sessions is not None:
        parts["session"] = (trail, session_parts(tables.sessions, trail, wanted))
    return {source: _largest(tables, of, part, wanted) for source, (of, part) in parts.items()}


def _largest(tables: CandidateTables, of: Int64s, parts: Floats, wanted: Int64s) -> dict[int, str]:
    """Wanted index → the item of the largest part above 0, but for the wanted one itself.

    Args:
        parts: (len(of), len(wanted)).
    """
    if not len(of) or not len(wanted):
        return {}
    others = np.where(of[:, None] == wanted[None, :], 0.0, parts)
    rows = np.argmax(others, axis=0)
    highest = others[rows, np.arange(len(wanted))]
    return {int(at): tables.items[of[row]] for at, row, part in zip(wanted, rows, highest, strict=True) if part > 0}


def between(rows: SparseRows, of: Int64s, columns: Int64s) -> Floats:
    """(len(of), len(columns)) the weights of these rows in these columns, which rise; 0 where there is none."""
    found = np.zeros((len(of), len(columns)))
    entries, lengths = rows.at(of)
    at, inside = places_among(columns, rows.column[entries])
    owner = np.repeat(np.arange(len(of)), lengths)
    found[owner[inside], at] = rows.weight[entries[inside]]
    return found


def session_parts(sessions: Sessions, trail: Int64s, wanted: Int64s) -> Floats:
    """(len(trail), len(wanted)) each item's part of the wanted ones' scores (see scoring.Scoring.sessions).

    It is up to the wanted item's own factor, which is the same for all of its parts.
    """
    count = len(sessions.items.starts) - 1
    if not len(trail) or count < 1:
        return np.zeros((len(trail), len(wanted)))
    entries, lengths = sessions.of_item.at(trail, SESSIONS_AN_ITEM)
    shares = np.repeat(recency_weights(len(trail)), lengths)
    named, owner = sessions.of_item.column[entries], np.repeat(np.arange(len(trail)), lengths)
    nearest = np.sort(nearest_sessions(sessions, trail, Sums(1, count))[0])
    at, inside = places_among(nearest, named)
    part = np.zeros((len(trail), len(nearest)))
    part[owner[inside], at] = shares[inside]
    lengths_of_nearest = np.diff(sessions.items.starts)[nearest]
    parts: Floats = (part / np.sqrt(lengths_of_nearest)) @ between(sessions.items, nearest, wanted)
    return parts
