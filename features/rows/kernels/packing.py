"""From a row's entries to its bytes (layout of a row: rows/layout.py)."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# Types are numba's to find; what goes in and comes out is in contract.py.

from __future__ import annotations

import numpy as np

from features.rows.kernels.contract import DISTINCT, FLOAT, FREQUENCIES, OLDEST, RECENT, SIGNED, TEXT
from features.rows.kernels.inner import inner, put_word, word_at
from features.rows.kernels.stored import (
    BATCH_ID,
    CLOCK,
    DIRECTORY,
    MAGIC_AND_VERSION,
    NEWEST,
    SCHEMA_HASH,
    STREAM_ID,
    WRITTEN_AT,
)
from features.rows.kernels.unpacking import mixed, weighed
from features.rows.layout import EXACT, HUNDREDTHS, RAW, WHOLE

U8, U64, I64 = np.uint8, np.uint64, np.int64

WORD = 8


@inner
def zigzag(value):
    """Zigzag encoding: a signed number as an unsigned number; small magnitudes stay small."""
    return U64((value << 1) ^ (value >> 63))


@inner
def _put_line(data, code, at, count, form, scratch):
    """Writes the line's numbers from ``at`` on, in as many bytes as the largest needs, and their code; their end."""
    bits = U64(0)
    for index in range(count):
        bits |= scratch.line[index]
    width = I64(WORD) if form == RAW else I64(0)
    while width < WORD and bits >> U64(8 * width):
        width += 1
    data[code] = U8(width | form << 4)
    for index in range(count):
        put_word(data, at + index * width, scratch.line[index])
    return at + count * width


@inner
def _put_times(data, code, at, kind, unit, clock, count, scratch):
    """Writes the times (see checks/reference_encoder.py)."""
    times, newest = scratch.ints[0], clock // unit
    for index in range(count):
        time = times[scratch.order[index]]
        if kind in (RECENT, OLDEST):
            behind = clock - time
        elif kind in (DISTINCT, FREQUENCIES) or index + 1 == count:
            behind = newest - time // unit
        else:
            behind = times[scratch.order[index + 1]] // unit - time // unit
        scratch.line[index] = zigzag(behind)
    return _put_line(data, code, at, count, WHOLE, scratch)


@inner
def _form(floats, count, order):
    """The first form that loses nothing."""
    form = WHOLE
    for index in range(count):
        value = floats[order[index]]
        if form == WHOLE and not (np.rint(value) == value and abs(value) < EXACT):
            form = HUNDREDTHS
            # The values before are whole, and may be too large for hundredths.
            for earlier in range(index):
                if not abs(np.rint(floats[order[earlier]] * 100.0)) < EXACT:
                    return RAW
        if form == HUNDREDTHS:
            hundredths = np.rint(value * 100.0)
            if not (hundredths / 100.0 == value and abs(hundredths) < EXACT):
                return RAW
    return form


@inner
def _put_floats(data, code, at, line, count, scratch):
    floats, ints = scratch.floats[line], scratch.ints[line]
    form = _form(floats, count, scratch.order)
    for index in range(count):
        entry = scratch.order[index]
        if form == RAW:
            scratch.line[index] = U64(ints[entry])
        elif form == WHOLE:
            scratch.line[index] = zigzag(I64(floats[entry]))
        else:
            scratch.line[index] = zigzag(I64(np.rint(floats[entry] * 100.0)))
    return _put_line(data, code, at, count, form, scratch)


@inner
def _put_texts(stored, new_entries, data, at, own, line, count, scratch):
    """Writes the concatenated texts; returns their end."""
    for index in range(count):
        entry = scratch.order[index]
        start, length = scratch.ints[own + 1, entry], scratch.ints[line, entry]
        for byte in range(length):
            data[at + byte] = stored.data[start + byte] if start >= 0 else new_entries.texts[byte - 1 - start]
        at += length
    return at


@inner
def put_table(sources, merge, data, table, column, clock, count, scratch):
    """Writes the table's columns and their codes from scratch.at on, and moves scratch.at to their ends.

    ``sources`` are the Stored and the NewEntries that the texts are in.
    """
    kind, unit, own = merge.tables[table, 0], merge.tables[table, 1], merge.tables[table, 2]
    code, at = scratch.at[0], scratch.at[1]
    at = _put_times(data, code, at, kind, unit, clock, count, scratch)
    for line in range(1, own + 1):
        codec, ints = merge.columns[column + line - 1], scratch.ints[line]
        if codec == FLOAT:
            at = _put_floats(data, code + line, at, line, count, scratch)
        else:
            for index in range(count):
                number = ints[scratch.order[index]]
                scratch.line[index] = zigzag(number) if codec == SIGNED else U64(number)
            at = _put_line(data, code + line, at, count, WHOLE, scratch)
        if codec == TEXT:
            at = _put_texts(sources[0], sources[1], data, at, own, line, count, scratch)
    scratch.at[0], scratch.at[1] = code + 1 + own, at


@inner
def put_header(data, start, directory, merge, newest, clock, batch):
    """Writes the header, but for its checksum."""
    put_word(data, start, U64(MAGIC_AND_VERSION) | U64(directory) << U64(8 * DIRECTORY))
    put_word(data, start + SCHEMA_HASH, merge.identity[0])
    put_word(data, start + STREAM_ID, merge.identity[1])
    put_word(data, start + BATCH_ID, U64(batch[0]))
    put_word(data, start + NEWEST, U64(newest))
    put_word(data, start + CLOCK, U64(clock))
    put_word(data, start + WRITTEN_AT, U64(batch[1]))


@inner
def sealed(data, start, at, weights):
    """Writes zeros up to a whole number of words, and the checksum; the end of the row."""
    end = at + -(at - start) % 8
    for byte in range(at, end):
        data[byte] = U8(0)
    checksum = mixed(weighed(data, start, end - start, weights) ^ U64((end - start) // 8)) >> U64(32)
    put_word(data, start, word_at(data, start) | checksum << U64(32))
    return end
