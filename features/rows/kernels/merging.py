"""Merges a table's entries at a row's clock: those that are still in some window, one for each tile."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# Types are numba's to find; what goes in and comes out is in contract.py.

from __future__ import annotations

import numpy as np

from features import double_double
from features.rows.kernels.contract import (
    ADDED,
    DISTINCT,
    FREQUENCIES,
    LARGER,
    LARGER_INTEGER,
    OLDEST,
    PAIRED,
    RECENT,
    SMALLER,
    SMALLER_INTEGER,
    SUMMED,
    TILES,
)
from features.rows.kernels.inner import called, inner

I64 = np.int64

added = inner(double_double.added)


@inner
def sight(merge, first, last, clock):
    """The first tile start that a read from ``clock`` on can see, and the least of the windows' right ends."""
    oldest = settled = np.iinfo(np.int64).max
    for window in range(first, last):
        span, delay, tile = merge.windows[window, 0], merge.windows[window, 1], merge.windows[window, 2]
        oldest = min(oldest, (clock - span) // tile * tile)
        settled = min(settled, (clock - delay) // tile * tile if delay else clock // tile * tile + tile)
    return oldest, settled


@inner
def tile_of(merge, first, last, unit, clock, time):
    """The start of the tile that holds the time of a row at its clock (newest known_at).

    A tile behind every end of the windows with finer tiles is as coarse as the ends still ahead of it allow. Ends only
    move forward with the clock, so a row may be coarsened at any later clock without changing an answer; starts stay in
    order, so sorted tiles stay sorted.
    """
    start, previous = time // unit * unit, unit
    for level in range(first, last):
        age, tile = merge.levels[level, 0], merge.levels[level, 1]
        if time >= (clock - age) // previous * previous:
            break
        start, previous = time // tile * tile, tile
    return start


@inner
def _is_before(first, second, entry, other):
    """True if an entry comes before another, by two keys."""
    return first[entry] < first[other] or (first[entry] == first[other] and second[entry] < second[other])


@inner
def _run_end(order, count, first, second, start):
    """The end of the run that begins at ``start`` and is in order already."""
    end = start + 1
    while end < count and not _is_before(first, second, order[end], order[end - 1]):
        end += 1
    return end


@inner
def _join(order, low, middle, high, first, second, spare):
    """Merges two adjoining runs into ``spare``; of equal entries, those of the first run come first."""
    left, right = low, middle
    for index in range(low, high):
        if right == high or (left < middle and not _is_before(first, second, order[right], order[left])):
            spare[index] = order[left]
            left += 1
        else:
            spare[index] = order[right]
            right += 1


@called
def sort_runs(order, count, first, second, spare):
    """Sorts the order by two keys, stably: nearly free for what is nearly in order."""
    runs = I64(2)
    while runs > 1 and _run_end(order, count, first, second, 0) < count:
        low, runs = I64(0), I64(0)
        while low < count:
            middle = _run_end(order, count, first, second, low)
            high = _run_end(order, count, first, second, middle) if middle < count else count
            _join(order, low, middle, high, first, second, spare)
            low = high
            runs += 1
        for index in range(count):
            order[index] = spare[index]


@inner
def _fade(merge, column, own, entry, moved, scratch):
    """Weights that decay, moved to an earlier time by so many ms."""
    for line in range(1, own + 1):
        half_life = merge.half_lives[column + line - 1]
        if half_life > 0.0:
            scratch.floats[line, entry] *= np.exp2(float(moved) / half_life)


@inner
def _alive(merge, table, column, clock, oldest, count, scratch):
    """Sets the order to the entries in sight, each at its tile's start; their number."""
    kind, unit, own = merge.tables[table, 0], merge.tables[table, 1], merge.tables[table, 2]
    first, last = merge.tables[table - 1, 4] if table else I64(0), merge.tables[table, 4]
    alive, times = 0, scratch.ints[0]
    for entry in range(count):
        time = times[entry]
        if time >= oldest:
            scratch.order[alive] = entry
            alive += 1
            if kind not in (RECENT, OLDEST):
                times[entry] = tile_of(merge, first, last, unit, clock, time)
                if kind == TILES and times[entry] != time:
                    _fade(merge, column, own, entry, time - times[entry], scratch)
    return alive


@inner
def _combine(merge, column, own, entry, into, scratch):
    """Merges an entry into another."""
    for line in range(1, own + 1):
        what = merge.reducers[column + line - 1]
        if what == ADDED:
            scratch.ints[line, into] += scratch.ints[line, entry]
        elif what == SUMMED:
            scratch.floats[line, into] += scratch.floats[line, entry]
        elif what == SMALLER:
            scratch.floats[line, into] = min(scratch.floats[line, into], scratch.floats[line, entry])
        elif what == LARGER:
            scratch.floats[line, into] = max(scratch.floats[line, into], scratch.floats[line, entry])
        elif what == SMALLER_INTEGER:
            scratch.ints[line, into] = min(scratch.ints[line, into], scratch.ints[line, entry])
        elif what == LARGER_INTEGER:
            scratch.ints[line, into] = max(scratch.ints[line, into], scratch.ints[line, entry])
        elif what == PAIRED:
            scratch.floats[line, into], scratch.floats[line + 1, into] = added(
                scratch.floats[line, into],
                scratch.floats[line + 1, into],
                scratch.floats[line, entry],
                scratch.floats[line + 1, entry],
            )


@inner
def _one_a_tile(merge, column, own, same, count, scratch):
    """Merges entries of equal time and equal number in the line ``same``; returns the number left."""
    kept, times, keys = 0, scratch.ints[0], scratch.ints[same]
    for index in range(count):
        entry = scratch.order[index]
        into = scratch.order[kept - 1] if kept else entry
        if kept and times[entry] == times[into] and keys[entry] == keys[into]:
            _combine(merge, column, own, entry, into, scratch)
        else:
            scratch.order[kept] = entry
            kept += 1
    return kept


@inner
def _newest(merge, table, clock, settled, count, scratch):
    """Keeps the k newest entries in all windows, and of each tile yet to enter a window; returns their number."""
    first, last = merge.tables[table - 1, 4] if table else I64(0), merge.tables[table, 4]
    seen, group, times = I64(0), I64(0), scratch.ints[0]
    for index in range(count - 1, -1, -1):
        time = times[scratch.order[index]]
        own = I64(-1) if time < settled else tile_of(merge, first, last, merge.tables[table, 1], clock, time)
        seen = seen + 1 if index < count - 1 and own == group else I64(1)
        group = own
        scratch.spare[index] = I64(seen <= merge.tables[table, 5])
    return _chosen(count, scratch)


@inner
def _first_of_tiles(merge, table, clock, count, scratch):
    """Keeps the first entry of each tile; returns their number."""
    first, last = merge.tables[table - 1, 4] if table else I64(0), merge.tables[table, 4]
    group = I64(0)
    for index in range(count):
        own = tile_of(merge, first, last, merge.tables[table, 1], clock, scratch.ints[0, scratch.order[index]])
        scratch.spare[index] = I64(index == 0 or own != group)
        group = own
    return _chosen(count, scratch)


@inner
def _chosen(count, scratch):
    """Keeps the entries of the order whose spare number is not 0; their number."""
    kept = 0
    for index in range(count):
        if scratch.spare[index]:
            scratch.order[kept] = scratch.order[index]
            kept += 1
    return kept


@inner
def _different(settled, k, count, scratch):
    """Keeps each hash in the newest tile that has it, and in each that a window is still to see; k + 1 of crowded ones.

    An older tile need not repeat a value: a window that sees the older tile sees the newer one too.
    """
    times, hashes = scratch.ints[0], scratch.ints[1]
    for index in range(count):
        entry = scratch.order[index]
        scratch.spare[index] = 1
        if index + 1 < count:
            following = scratch.order[index + 1]
            both = times[following] < settled  # and so is the entry, which is not newer
            if hashes[entry] == hashes[following] and (both or times[entry] == times[following]):
                scratch.spare[index] = 0
    kept = _chosen(count, scratch)
    return _capped(k, kept, scratch) if kept > k + 1 else kept


@inner
def _capped(k, count, scratch):
    """Keeps at most the k + 1 smallest hashes of each tile: one more than is exact shows that there are more."""
    times, ranks = scratch.ints[0], scratch.line
    for index in range(count):
        scratch.rest[index] = scratch.order[index]
    sort_runs(scratch.rest, count, times, scratch.ints[1], scratch.spare)
    rank = I64(0)
    for index in range(count):
        entry = scratch.rest[index]
        rank = rank + 1 if index and times[scratch.rest[index - 1]] == times[entry] else I64(0)
        ranks[entry] = np.uint64(rank)
    for index in range(count):
        scratch.spare[index] = I64(ranks[scratch.order[index]] <= np.uint64(k))
    return _chosen(count, scratch)


@inner
def merged(merge, table, column, clock, count, scratch):
    """Sets the order to the entries that the row keeps; their number."""
    kind = merge.tables[table, 0]
    first = merge.tables[table - 1, 3] if table else I64(0)
    oldest, settled = sight(merge, first, merge.tables[table, 3], clock)
    alive = _alive(merge, table, column, clock, oldest, count, scratch)
    keyed = I64(0) if kind == TILES else I64(1)
    if kind in (DISTINCT, FREQUENCIES):
        k = merge.tables[table, 5]
        sort_runs(scratch.order, alive, scratch.ints[1], scratch.ints[0], scratch.spare)
        if kind == DISTINCT:
            return _different(settled, k, alive, scratch)
        kept = _one_a_tile(merge, column, merge.tables[table, 2], keyed, alive, scratch)
        return _capped(k, kept, scratch) if kept > k + 1 else kept
    sort_runs(scratch.order, alive, scratch.ints[0], scratch.ints[keyed], scratch.spare)
    if kind == RECENT:
        return _newest(merge, table, clock, settled, alive, scratch)
    if kind == OLDEST:
        return _first_of_tiles(merge, table, clock, alive, scratch)
    return _one_a_tile(merge, column, merge.tables[table, 2], keyed, alive, scratch)
