"""From a row's entries to its bytes (the picture of a row: rows/__init__.py)."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# Types are numba's to find; what goes in and comes out is in contract.py.

from __future__ import annotations

import numpy as np

from features.rows.kernels.contract import DISTINCT, FLOAT, RECENT, SIGNED, TEXT
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
    """A signed number as an unsigned one, small magnitudes staying small."""
    return U64((value << 1) ^ (value >> 63))


@inner
def _put_line(data, code, at, count, form, desk):
    """The line's numbers stand at ``at`` in as many bytes as the largest needs, and so says the code; their end."""
    bits = U64(0)
    for place in range(count):
        bits |= desk.line[place]
    width = I64(WORD) if form == RAW else I64(0)
    while width < WORD and bits >> U64(8 * width):
        width += 1
    data[code] = U8(width | form << 4)
    for place in range(count):
        put_word(data, at + place * width, desk.line[place])
    return at + count * width


@inner
def _put_times(data, code, at, kind, unit, clock, count, desk):
    """See encoder._stored_times."""
    times, newest = desk.ints[0], clock // unit
    for place in range(count):
        time = times[desk.order[place]]
        if kind == RECENT:
            behind = clock - time
        elif kind == DISTINCT or place + 1 == count:
            behind = newest - time // unit
        else:
            behind = times[desk.order[place + 1]] // unit - time // unit
        desk.line[place] = zigzag(behind)
    return _put_line(data, code, at, count, WHOLE, desk)


@inner
def _form(floats, count, order):
    """The first form that loses nothing."""
    form = WHOLE
    for place in range(count):
        value = floats[order[place]]
        if form == WHOLE and not (np.rint(value) == value and abs(value) < EXACT):
            form = HUNDREDTHS
            # What stood before is whole, and may be too large for hundredths.
            for earlier in range(place):
                if not abs(np.rint(floats[order[earlier]] * 100.0)) < EXACT:
                    return RAW
        if form == HUNDREDTHS:
            hundredths = np.rint(value * 100.0)
            if not (hundredths / 100.0 == value and abs(hundredths) < EXACT):
                return RAW
    return form


@inner
def _put_floats(data, code, at, line, count, desk):
    floats, ints = desk.floats[line], desk.ints[line]
    form = _form(floats, count, desk.order)
    for place in range(count):
        entry = desk.order[place]
        if form == RAW:
            desk.line[place] = U64(ints[entry])
        elif form == WHOLE:
            desk.line[place] = zigzag(I64(floats[entry]))
        else:
            desk.line[place] = zigzag(I64(np.rint(floats[entry] * 100.0)))
    return _put_line(data, code, at, count, form, desk)


@inner
def _put_texts(stored, fresh, data, at, own, line, count, desk):
    """The texts stand one after the other; their end."""
    for place in range(count):
        entry = desk.order[place]
        start, length = desk.ints[own + 1, entry], desk.ints[line, entry]
        for octet in range(length):
            data[at + octet] = stored.data[start + octet] if start >= 0 else fresh.texts[octet - 1 - start]
        at += length
    return at


@inner
def put_table(sources, merge, data, table, column, clock, count, desk):
    """The table's columns and their codes stand where desk.at says, and desk.at says where they end.

    ``sources`` are the Stored and the Fresh that the texts are in.
    """
    kind, unit, own = merge.tables[table, 0], merge.tables[table, 1], merge.tables[table, 2]
    code, at = desk.at[0], desk.at[1]
    at = _put_times(data, code, at, kind, unit, clock, count, desk)
    for line in range(1, own + 1):
        codec, ints = merge.columns[column + line - 1], desk.ints[line]
        if codec == FLOAT:
            at = _put_floats(data, code + line, at, line, count, desk)
        else:
            for place in range(count):
                number = ints[desk.order[place]]
                desk.line[place] = zigzag(number) if codec == SIGNED else U64(number)
            at = _put_line(data, code + line, at, count, WHOLE, desk)
        if codec == TEXT:
            at = _put_texts(sources[0], sources[1], data, at, own, line, count, desk)
    desk.at[0], desk.at[1] = code + 1 + own, at


@inner
def put_header(data, start, directory, merge, newest, clock, batch):
    """The header stands there, but for its checksum."""
    put_word(data, start, U64(MAGIC_AND_VERSION) | U64(directory) << U64(8 * DIRECTORY))
    put_word(data, start + SCHEMA_HASH, merge.identity[0])
    put_word(data, start + STREAM_ID, merge.identity[1])
    put_word(data, start + BATCH_ID, U64(batch[0]))
    put_word(data, start + NEWEST, U64(newest))
    put_word(data, start + CLOCK, U64(clock))
    put_word(data, start + WRITTEN_AT, U64(batch[1]))


@inner
def sealed(data, start, at, weights):
    """Zeros to a whole number of words, and the checksum in its place; where the row ends."""
    end = at + -(at - start) % 8
    for octet in range(at, end):
        data[octet] = U8(0)
    checksum = mixed(weighed(data, start, end - start, weights) ^ U64((end - start) // 8)) >> U64(32)
    put_word(data, start, word_at(data, start) | checksum << U64(32))
    return end
