"""Samples for checks: entities of a file, from the quietest to the busiest, and moments when features change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Int64s
from features.checks.oracle import EntityHistory
from features.definitions import FeatureView, used_columns
from features.events import entity_keys
from features.rows import event_columns, rows_of_events

HEAVIEST = 5
"""The number of entities with the most events that are always in a sample."""

Rows = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class EntitySample:
    """Entities of a view: their key values, and the same as key texts (see columns.entity_keys)."""

    keys: Sequence[Mapping[str, Any]]
    texts: pa.Array

    def __len__(self) -> int:
        return len(self.keys)


def sampled_entities(
    view: FeatureView, events: Mapping[str, pa.Table], count: int, rng: np.random.Generator
) -> EntitySample:
    """Up to ``count`` entities of the events: the busiest few, the rest spread over entities and over events alike."""
    columns = event_columns(view, events)
    if not columns:
        return EntitySample([], pa.array([], pa.string()))
    texts, codes = rows_of_events(view, columns)
    code = np.concatenate(codes)
    chosen = spread(np.bincount(code[code >= 0], minlength=len(texts)), count, rng)
    present, first = np.unique(code, return_index=True)
    rows = first[np.searchsorted(present, chosen)]
    key_columns = list(view.entity.keys)
    tables = [events[stream.name].select(key_columns) for stream in view.streams if stream.name in events]
    return EntitySample(pa.concat_tables(tables).take(pa.array(rows)).to_pylist(), texts.take(pa.array(chosen)))


def spread(sizes: Int64s, count: int, rng: np.random.Generator) -> Int64s:
    """``count`` different indices, or all if that is fewer: the largest few, half even by rank, half even by size."""
    if len(sizes) <= count:
        return np.arange(len(sizes))
    order = np.argsort(-sizes, kind="stable")
    steps = (np.arange(count) + rng.random(count)) / count
    by_rank = order[(steps[::2] * len(order)).astype(np.int64)]
    running = np.cumsum(sizes[order])
    by_size = order[np.searchsorted(running, steps[1::2] * running[-1], side="right")]
    chosen = dict.fromkeys([*order[:HEAVIEST].tolist(), *by_rank.tolist(), *by_size.tolist()])
    chosen |= dict.fromkeys(rng.permutation(len(sizes)).tolist())
    return np.sort(np.array(list(chosen)[:count], dtype=np.int64))


def records_of(view: FeatureView, events: Mapping[str, pa.Table], sample: EntitySample) -> Rows:
    """By stream, as dicts, every record that can affect the sample: its own, and others of the same event ids."""
    rows = {}
    for stream in view.streams:
        if stream.name in events:
            table = events[stream.name].select(used_columns(view, stream))
            keys = entity_keys({name: table[name] for name in view.entity.keys}, view.entity)
            ids = pc.unique(table["event_id"].filter(pc.is_in(keys, value_set=sample.texts)))
            rows[stream.name] = table.filter(pc.is_in(table["event_id"], value_set=ids)).to_pylist()
    return rows


def moments_around(
    view: FeatureView, history: EntityHistory, count: int, lifetime: tuple[int, int], rng: np.random.Generator
) -> list[int]:
    """``count`` times (ms) at which an entity's features change: when events arrive, and enter and leave windows.

    Exactly then, and a millisecond before and after; one in eight is a random time of ``lifetime`` (first, last).
    """
    moments = rng.integers(*lifetime, size=count, endpoint=True)
    if history.events:
        windows = view.tiling.windows
        for index in np.flatnonzero(rng.random(count) < 7 / 8):
            event = history.events[int(rng.integers(len(history.events)))]
            window = windows[int(rng.integers(len(windows)))]
            tile = view.tiling.bounds(window).tile_ms
            time = event["event_time"]
            after = time - time % tile + tile
            leaves = after + window.delay_ms + window.length_ms
            old = time + view.ttl_ms * int(rng.integers(1, 3)) + 1
            edges = (time, event["known_at"], after - tile, after, after + window.delay_ms, leaves, old)
            moments[index] = edges[int(rng.integers(len(edges)))] + rng.integers(-1, 2)
    return [int(moment) for moment in moments]


def moments_along(view: FeatureView, events: Mapping[str, pa.Table], count: int, rng: np.random.Generator) -> list[int]:
    """``count`` ascending times (ms): spread over the events' known_at, the last few after all of them."""
    known = np.sort(np.concatenate([events[s.name]["known_at"].to_numpy() for s in view.streams if s.name in events]))
    later = min(count // 5, 3)
    steps = (np.arange(count - later) + rng.random(count - later)) / max(count - later, 1)
    moments = known[(steps * len(known)).astype(np.int64)]
    tiles = np.array([view.tiling.bounds(window).tile_ms for window in view.tiling.windows])
    tile = rng.choice(tiles, len(moments))
    moments = np.choose(rng.integers(0, 3, len(moments)), [moments, moments + 1, moments + -moments % tile])
    lengths = [window.length_ms + window.delay_ms for window in view.tiling.windows]
    ages = [0, int(rng.choice(lengths)), view.ttl_ms + int(rng.integers(0, 2))][:later]
    return sorted([int(moment) for moment in moments] + [int(known[-1]) + age for age in ages])
