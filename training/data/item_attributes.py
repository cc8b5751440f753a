"""The newest attributes of items before a time, from the events of the views that hold them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Int64s, plain_array
from features.definitions import RESERVED, FeatureSet, FeatureView, attributes_of
from features.events import EventColumns, entity_keys, integers
from training.data.dataset import Events
from training.data.sampling import SampledEvents


def newest_attributes(
    events: Events, views: Sequence[FeatureView], items: pa.Array, before_ms: int
) -> dict[str, pa.Array]:
    """Attribute → its last value of each of these items (key texts) that was known before ``before_ms``; null without.

    The values of the first of the views come before those of the others. Windows do not bound their age.
    """
    columns: dict[str, pa.Array] = {}
    for view in views:
        for name, feature_set in _sets_of(view).items():
            newest = _newest(events, feature_set, name, items, before_ms)
            known = columns.get(name)
            if newest is not None and (known is None or known.type == newest.type):
                columns[name] = newest if known is None else pc.coalesce(known, newest)
    return columns


def first_known(events: Events, view: FeatureView) -> tuple[pa.Array, Int64s]:
    """The items (key texts) of the view's events, each once, and when the first event of each became known, in ms."""
    keys, times = [pa.array([], pa.string())], [np.empty(0, dtype=np.int64)]
    for feature_set in {feature_set.source.name: feature_set for feature_set in view.sets}.values():
        for table in _parts(events, feature_set):
            keys.append(entity_keys({name: table[name] for name in view.entity.keys}, view.entity))
            times.append(integers(table["known_at"]))
    every, known_at = pa.concat_arrays(keys), np.concatenate(times)
    items = pc.unique(every.drop_null())
    item = pc.index_in(every, value_set=items)
    there = np.asarray(item.is_valid())
    first = np.full(len(items), np.iinfo(np.int64).max)
    np.minimum.at(first, np.asarray(item.drop_null(), dtype=np.int64), known_at[there])
    return items, first


def _sets_of(view: FeatureView) -> dict[str, FeatureSet]:
    """Attribute → the feature set of the view that has it."""
    sets = {name: feature.feature_set for name, feature in attributes_of(view).items()}
    return {name: feature_set for name, feature_set in sets.items() if feature_set is not None}


def _newest(events: Events, of: FeatureSet, name: str, items: pa.Array, before_ms: int) -> pa.Array | None:
    """The last known value of each item; None where the stream has no events."""
    newest: pa.Array | None = None
    when = np.full(len(items), np.iinfo(np.int64).min)
    for table in _parts(events, of, [*of.filter, name]):
        rows = EventColumns(table, of.source)
        item = pc.index_in(rows.entity_keys(of.entity), value_set=items)
        values = plain_array(table[name])
        there = np.asarray(pc.and_(item.is_valid(), values.is_valid())) & (rows.known_at < before_ms)
        there &= rows.matches(tuple(of.filter.items()))
        index = np.flatnonzero(there)
        index = index[np.lexsort((rows.seq[index], rows.known_at[index]))]
        at = np.asarray(pc.fill_null(item, 0), dtype=np.int64)[index]
        index, at = index[rows.known_at[index] >= when[at]], at[rows.known_at[index] >= when[at]]
        chosen = np.full(len(items), -1)
        chosen[at] = index
        when[at] = rows.known_at[index]
        taken = values.take(pa.array(chosen, mask=chosen < 0))
        newest = taken if newest is None else pc.coalesce(taken, newest)
    return newest


def _parts(events: Events, of: FeatureSet, more: Sequence[str] = ()) -> Iterator[pa.Table]:
    """The events of the set's stream; where the users are a sample, a stream of items alone is still read whole."""
    if of.source.name in events:
        yield events[of.source.name]
    elif isinstance(events, SampledEvents) and of.source.name in events.whole.tables:
        columns = list(dict.fromkeys([*RESERVED, *of.entity.keys, *more]))
        yield from events.whole.batches(of.source.name, columns)
