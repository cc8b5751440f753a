"""What is left of a table's entries at a row's clock: those that some window still sees, one for each tile."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# Types are numba's to find; what goes in and comes out is in contract.py.

from __future__ import annotations

import numpy as np

from features.rows.kernels.contract import ADDED, DISTINCT, LARGER, RECENT, SMALLER, SUMMED, TILES
from features.rows.kernels.inner import called, inner

I64 = np.int64


@inner
def sight(merge, first, last, clock):
    """The first tile start that a read from ``clock`` on can see, and the end of what all right ends have passed."""
    oldest = settled = np.iinfo(np.int64).max
    for window in range(first, last):
        span, delay, tile = merge.windows[window, 0], merge.windows[window, 1], merge.windows[window, 2]
        oldest = min(oldest, (clock - span) // tile * tile)
        settled = min(settled, (clock - delay) // tile * tile if delay else -(-clock // tile * tile))
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
def _is_before(first, second, one, other):
    """Whether an entry stands before another, by two keys."""
    return first[one] < first[other] or (first[one] == first[other] and second[one] < second[other])


@inner
def _run_end(order, count, first, second, start):
    """Where the run ends that begins at ``start`` and is in order already."""
    end = start + 1
    while end < count and not _is_before(first, second, order[end], order[end - 1]):
        end += 1
    return end


@inner
def _join(order, low, middle, high, first, second, spare):
    """Two runs, one after the other, as one in ``spare``: of equals those of the first come first."""
    left, right = low, middle
    for place in range(low, high):
        if right == high or (left < middle and not _is_before(first, second, order[right], order[left])):
            spare[place] = order[left]
            left += 1
        else:
            spare[place] = order[right]
            right += 1


@called
def sort_runs(order, count, first, second, spare):
    """The places in the order of their two keys, equals as they came: nearly free for what is nearly in order."""
    runs = I64(2)
    while runs > 1 and _run_end(order, count, first, second, 0) < count:
        low, runs = I64(0), I64(0)
        while low < count:
            middle = _run_end(order, count, first, second, low)
            high = _run_end(order, count, first, second, middle) if middle < count else count
            _join(order, low, middle, high, first, second, spare)
            low = high
            runs += 1
        for place in range(count):
            order[place] = spare[place]


@inner
def _fade(merge, column, own, entry, moved, desk):
    """Weights that decay, moved to an earlier time by so many ms."""
    for line in range(1, own + 1):
        half_life = merge.half_lives[column + line - 1]
        if half_life > 0.0:
            desk.floats[line, entry] *= np.exp2(float(moved) / half_life)


@inner
def _alive(merge, table, column, clock, oldest, count, desk):
    """The places of the entries in sight, each at its tile's start; how many there are."""
    kind, unit, own = merge.tables[table, 0], merge.tables[table, 1], merge.tables[table, 2]
    first, last = merge.tables[table - 1, 4] if table else I64(0), merge.tables[table, 4]
    alive, times = 0, desk.ints[0]
    for entry in range(count):
        time = times[entry]
        if time >= oldest:
            desk.order[alive] = entry
            alive += 1
            if kind != RECENT:
                times[entry] = tile_of(merge, first, last, unit, clock, time)
                if kind == TILES and times[entry] != time:
                    _fade(merge, column, own, entry, time - times[entry], desk)
    return alive


@inner
def _combine(merge, column, own, entry, into, desk):
    """One entry of two."""
    for line in range(1, own + 1):
        what = merge.reducers[column + line - 1]
        if what == ADDED:
            desk.ints[line, into] += desk.ints[line, entry]
        elif what == SUMMED:
            desk.floats[line, into] += desk.floats[line, entry]
        elif what == SMALLER:
            desk.floats[line, into] = min(desk.floats[line, into], desk.floats[line, entry])
        elif what == LARGER:
            desk.floats[line, into] = max(desk.floats[line, into], desk.floats[line, entry])


@inner
def _one_a_tile(merge, column, own, same, count, desk):
    """Entries of one time, and with the same number in the line ``same``, are one."""
    kept, times, keys = 0, desk.ints[0], desk.ints[same]
    for place in range(count):
        entry = desk.order[place]
        into = desk.order[kept - 1] if kept else entry
        if kept and times[entry] == times[into] and keys[entry] == keys[into]:
            _combine(merge, column, own, entry, into, desk)
        else:
            desk.order[kept] = entry
            kept += 1
    return kept


@inner
def _newest(merge, table, clock, settled, count, desk):
    """The k newest of what every window sees, and of each tile that one is still to see."""
    first, last = merge.tables[table - 1, 4] if table else I64(0), merge.tables[table, 4]
    seen, group, times = I64(0), I64(0), desk.ints[0]
    for place in range(count - 1, -1, -1):
        time = times[desk.order[place]]
        own = I64(-1) if time < settled else tile_of(merge, first, last, merge.tables[table, 1], clock, time)
        seen = seen + 1 if place < count - 1 and own == group else I64(1)
        group = own
        desk.spare[place] = I64(seen <= merge.tables[table, 5])
    return _chosen(count, desk)


@inner
def _chosen(count, desk):
    """The places whose spare number is not 0."""
    kept = 0
    for place in range(count):
        if desk.spare[place]:
            desk.order[kept] = desk.order[place]
            kept += 1
    return kept


@inner
def _different(settled, k, count, desk):
    """Each hash in the newest tile that has it, and in each that a window is still to see; of crowded tiles k + 1.

    An older tile need not repeat a value: a window that sees the older tile sees the newer one too.
    """
    times, hashes = desk.ints[0], desk.ints[1]
    for place in range(count):
        entry = desk.order[place]
        desk.spare[place] = 1
        if place + 1 < count:
            following = desk.order[place + 1]
            both = times[following] < settled  # and so is the entry, which is not newer
            if hashes[entry] == hashes[following] and (both or times[entry] == times[following]):
                desk.spare[place] = 0
    kept = _chosen(count, desk)
    return _capped(k, kept, desk) if kept > k + 1 else kept


@inner
def _capped(k, count, desk):
    """At most the k + 1 smallest hashes in each tile: one more than is exact tells that there are more."""
    times, ranks = desk.ints[0], desk.line
    for place in range(count):
        desk.rest[place] = desk.order[place]
    sort_runs(desk.rest, count, times, desk.ints[1], desk.spare)
    rank = I64(0)
    for place in range(count):
        entry = desk.rest[place]
        rank = rank + 1 if place and times[desk.rest[place - 1]] == times[entry] else I64(0)
        ranks[entry] = np.uint64(rank)
    for place in range(count):
        desk.spare[place] = I64(ranks[desk.order[place]] <= np.uint64(k))
    return _chosen(count, desk)


@inner
def merged(merge, table, column, clock, count, desk):
    """The places of the entries that the row keeps stand in the order; how many there are."""
    kind = merge.tables[table, 0]
    first = merge.tables[table - 1, 3] if table else I64(0)
    oldest, settled = sight(merge, first, merge.tables[table, 3], clock)
    alive = _alive(merge, table, column, clock, oldest, count, desk)
    keyed = I64(0) if kind == TILES else I64(1)
    if kind == DISTINCT:
        sort_runs(desk.order, alive, desk.ints[1], desk.ints[0], desk.spare)
        return _different(settled, merge.tables[table, 5], alive, desk)
    sort_runs(desk.order, alive, desk.ints[0], desk.ints[keyed], desk.spare)
    if kind == RECENT:
        return _newest(merge, table, clock, settled, alive, desk)
    return _one_a_tile(merge, column, merge.tables[table, 2], keyed, alive, desk)
