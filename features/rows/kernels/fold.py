"""The fold of rows: each is decoded, its new entries are merged in and it is written, a table at a time."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# Types are numba's to find; what goes in and comes out is in contract.py.

from __future__ import annotations

import numpy as np

from features.rows.kernels.contract import FoldScratch, Heads, Merge, NewEntries, Packed, Stored
from features.rows.kernels.inner import inner, word_at
from features.rows.kernels.merging import merged
from features.rows.kernels.packing import put_header, put_table, sealed
from features.rows.kernels.stored import (
    BATCH_ID,
    CLOCK,
    HEADER_BYTES,
    NEWEST,
    checked,
    entries_of,
    stand_at,
    unpack_table,
)

U8, I64 = np.uint8, np.int64

NARROW, WIDE = 2, 4
"""Bytes of a number in the directory."""

MOST_NARROW = 0xFFFF

SPARE = 16
"""Bytes behind a row: its padding, and those that a whole word may write beyond the last number."""


def read_heads(rows, plan, head):
    """Copies the rows' headers into the Heads; -1, or the first damaged or foreign row.

    Args:
        rows, plan, head: Stored, Merge and Heads as plain tuples, whose types are found faster at a call.
    """
    stored, merge, heads = Stored(*rows), Merge(*plan), Heads(*head)
    bad, _ = checked(stored, merge)
    if bad >= 0:
        return bad
    for row in range(len(stored.offsets) - 1):
        start = I64(stored.offsets[row])
        if stored.offsets[row + 1] > start:
            heads.known[row] = True
            heads.batch_id[row] = I64(word_at(stored.data, start + BATCH_ID))
            heads.newest[row] = I64(word_at(stored.data, start + NEWEST))
            heads.clock[row] = I64(word_at(stored.data, start + CLOCK))
    return -1


@inner
def _old_and_new(stored, merge, new_entries, known, table, row):
    """The number of entries that the row has in the table, and of the new ones."""
    old = entries_of(stored, I64(stored.offsets[row]), table) if known else I64(0)
    return old, new_entries.bounds[table, row + 1] - new_entries.bounds[table, row]


@inner
def _most(stored, merge, new_entries, heads):
    """The most entries that a table of a row has before they are merged."""
    most = I64(1)
    for row in range(len(heads.known)):
        for table in range(len(merge.tables)):
            old, new = _old_and_new(stored, merge, new_entries, heads.known[row], table, row)
            most = max(most, old + new)
    return most


@inner
def _room(stored, merge, new_entries, known, row):
    """The most bytes that the row can have."""
    size = I64(stored.offsets[row + 1]) - I64(stored.offsets[row]) + HEADER_BYTES + SPARE
    line = I64(0)
    for table in range(len(merge.tables)):
        old, new = _old_and_new(stored, merge, new_entries, known, table, row)
        columns, texts = merge.tables[table, 2], merge.tables[table, 6]
        size += WIDE + (1 + columns) * (1 + 8 * (old + new))
        if texts:
            base = new_entries.lines[line + columns] + new_entries.bounds[table, row]
            for entry in range(new):
                size += new_entries.numbers[base + entry]
        line += 1 + columns + texts
    return size


@inner
def _append(merge, new_entries, table, line, row, count, scratch):
    """Appends the row's new entries to the stored ones."""
    first, last = new_entries.bounds[table, row], new_entries.bounds[table, row + 1]
    for index in range(1 + merge.tables[table, 2] + merge.tables[table, 6]):
        base = new_entries.lines[line + index] + first
        for entry in range(last - first):
            scratch.ints[index, count + entry] = new_entries.numbers[base + entry]


@inner
def _fold_row(stored, merge, new_entries, heads, packed, row, directory, scratch):
    """Appends the row; False if a table has too many entries for such a directory."""
    data, start, known = packed.data, packed.offsets[row], heads.known[row]
    tables, clock, line, column = len(merge.tables), heads.new_clock[row], I64(0), I64(0)
    scratch.at[0] = start + HEADER_BYTES + directory * tables
    scratch.at[1] = scratch.at[0] + tables + len(merge.columns)
    if known:
        stand_at(stored, merge, I64(stored.offsets[row]), scratch)
    for table in range(tables):
        old, new = _old_and_new(stored, merge, new_entries, known, table, row)
        own = merge.tables[table, 2]
        if known:
            unpack_table(stored, merge, table, old, heads.clock[row], scratch)
        _append(merge, new_entries, table, line, row, old, scratch)
        count = merged(merge, table, column, clock, old + new, scratch)
        if count > MOST_NARROW and directory == NARROW:
            return False
        for byte in range(directory):
            data[start + HEADER_BYTES + table * directory + byte] = U8(count >> (8 * byte) & 0xFF)
        put_table((stored, new_entries), merge, data, table, column, clock, count, scratch)
        column, line = column + own, line + 1 + own + merge.tables[table, 6]
    put_header(data, start, directory, merge, heads.newest[row], clock, heads.batch)
    packed.offsets[row + 1] = sealed(data, start, scratch.at[1], stored.weights)
    return True


def fold_rows(rows, plan, new, head, out, first):
    """Writes the touched rows from ``first`` on into the Packed; -1, or the first that there is no room for.

    Args:
        rows, plan, new, head, out: Stored, Merge, NewEntries, Heads and Packed as plain tuples.
    """
    stored, merge, new_entries, heads, packed = (
        Stored(*rows),
        Merge(*plan),
        NewEntries(*new),
        Heads(*head),
        Packed(*out),
    )
    most = _most(stored, merge, new_entries, heads)
    ints, orders = np.empty((len(merge.columns) + 3, most), I64), np.empty((3, most), I64)
    line = np.empty(most, np.uint64)
    scratch = FoldScratch(
        np.zeros(4, I64), ints, ints.view(np.float64), orders[0], orders[1], orders[2], line, np.zeros(2, I64)
    )
    for row in range(first, len(heads.known)):
        packed.offsets[row + 1] = packed.offsets[row]
        if heads.touched[row]:
            if packed.offsets[row] + _room(stored, merge, new_entries, heads.known[row], row) > len(packed.data):
                return row
            if not _fold_row(stored, merge, new_entries, heads, packed, row, NARROW, scratch):
                _fold_row(stored, merge, new_entries, heads, packed, row, WIDE, scratch)
    return -1
