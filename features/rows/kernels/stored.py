"""Stored rows as the kernels read them: the check of each, and a table's entries."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# Types are numba's to find; what goes in and comes out is in contract.py.

from __future__ import annotations

import numpy as np

from features.rows.kernels.contract import TEXT
from features.rows.kernels.inner import inner, word_at
from features.rows.kernels.unpacking import is_whole, times, unpacked, values
from features.rows.layout import HEADER, MAGIC, VERSION

HEADER_BYTES = HEADER.itemsize

MAGIC_AND_VERSION = MAGIC | VERSION << 16

DIRECTORY, SCHEMA_HASH, STREAM_ID = 3, 8, 16

BATCH_ID, NEWEST, CLOCK, WRITTEN_AT = 24, 32, 40, 48
"""Offsets of these fields in the header (rows/layout.py; a test compares)."""

U8, U64, I64 = np.uint8, np.uint64, np.int64


@inner
def is_ours(stored, program, start, size):
    """True for a whole row of this definition and stream."""
    data = stored.data
    if size < HEADER_BYTES or size % 8 or word_at(data, start) & U64(0xFFFFFF) != U64(MAGIC_AND_VERSION):
        return False
    identity = word_at(data, start + SCHEMA_HASH), word_at(data, start + STREAM_ID)
    same = identity[0] == program.identity[0] and identity[1] == program.identity[1]
    return same and is_whole(data, start, size, stored.weights)


@inner
def entries_of(stored, start, table):
    """The number of entries that the row has in the table, by its directory."""
    width = I64(stored.data[start + DIRECTORY])
    ends = start + HEADER_BYTES + (table + 1) * width
    return I64(word_at(stored.data, ends - 8) >> U64(8 * (8 - width)))


@inner
def checked(stored, program):
    """The first damaged or foreign row (-1: none), and the most entries that a table of a row has."""
    most = I64(0)
    for row in range(len(stored.offsets) - 1):
        start = I64(stored.offsets[row])
        size = I64(stored.offsets[row + 1]) - start
        if size:
            if not is_ours(stored, program, start, size):
                return row, most
            for table in range(len(program.tables)):
                most = max(most, entries_of(stored, start, table))
    return -1, most


@inner
def stand_at(stored, program, start, scratch):
    """Moves the cursor to the row's first table."""
    codes = start + HEADER_BYTES + I64(stored.data[start + DIRECTORY]) * len(program.tables)
    scratch.cursor[:] = 0
    scratch.cursor[0], scratch.cursor[1] = codes, codes + len(program.tables) + len(program.columns)


@inner
def _unpack_column(stored, code, count, scratch, line):
    """Unpacks the next column's numbers into the line, and moves the cursor behind them; its form."""
    width, form = I64(stored.data[code] & U8(15)), I64(stored.data[code] >> U8(4))
    unpacked(stored.data, scratch.cursor[1], count, width, scratch.ints[line])
    scratch.cursor[1] += count * width
    return form


@inner
def unpack_table(stored, program, table, count, clock, scratch):
    """Unpacks the table's entries into the scratch lines; moves the cursor to the next table's codes and bytes."""
    kind, unit, own = program.tables[table, 0], program.tables[table, 1], program.tables[table, 2]
    code, column = scratch.cursor[0], scratch.cursor[2] - 1
    _unpack_column(stored, code, count, scratch, 0)
    times(kind, unit, clock, scratch.ints[0], count)
    for line in range(1, own + 1):
        form = _unpack_column(stored, code + line, count, scratch, line)
        values(program.columns[column + line], form, scratch.ints[line], scratch.floats[line], count)
        if program.columns[column + line] == TEXT:
            for entry in range(count):
                scratch.ints[own + 1, entry] = scratch.cursor[1]
                scratch.cursor[1] += scratch.ints[line, entry]
    scratch.cursor[0] += 1 + own
    scratch.cursor[2] += own
