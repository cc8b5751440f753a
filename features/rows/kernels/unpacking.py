"""From a row's bytes to its times and values (layout of a row: rows/layout.py)."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, var-annotated"
# Types are numba's to find; what goes in and comes out is in contract.py.

from __future__ import annotations

import numpy as np

from features.hashing import GOLDEN
from features.rows.kernels.contract import DISTINCT, FLOAT, FREQUENCIES, OLDEST, RECENT, SIGNED, TEXT, UNSIGNED
from features.rows.kernels.inner import inner, word_at
from features.rows.layout import HUNDREDTHS, LARGEST_INTEGER, RAW, SMALLEST_INTEGER, WHOLE, WIDTH_MASKS

FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)

U64, I64 = np.uint64, np.int64


@inner
def mixed(value):
    """hashing.mix of a number."""
    z = value + GOLDEN
    z = (z ^ (z >> U64(30))) * FIRST
    z = (z ^ (z >> U64(27))) * SECOND
    return z ^ (z >> U64(31))


@inner
def weighed(data, start, size, weights):
    """The sum of the row's words, each times the weight of its position, the checksum field taken as zero."""
    total = (word_at(data, start) & U64(0xFFFFFFFF)) * weights[0]
    for index in range(1, size // 8):
        weight = weights[index] if index < len(weights) else mixed(U64(index)) | U64(1)
        total += word_at(data, start + 8 * index) * weight
    return total


@inner
def is_whole(data, start, size, weights):
    """True if the row's words give its checksum (see layout.checksums)."""
    total = weighed(data, start, size, weights)
    return mixed(total ^ U64(size // 8)) >> U64(32) == word_at(data, start) >> U64(32)


@inner
def unpacked(data, at, count, width, out):
    """Numbers of ``width`` bytes, as they are."""
    if width == 0 or count == 0:
        out[:count] = 0
    elif at + (count - 1) * width + 8 <= len(data):
        mask = WIDTH_MASKS[width]
        for index in range(count):
            out[index] = I64(word_at(data, at + index * width) & mask)
    else:
        for index in range(count):
            value = U64(0)
            for byte in range(width):
                value |= U64(data[at + index * width + byte]) << U64(8 * byte)
            out[index] = I64(value)


@inner
def signed(numbers, count):
    """Zigzag undone in place."""
    for index in range(count):
        value = U64(numbers[index])
        numbers[index] = I64(value >> U64(1)) ^ -I64(value & U64(1))


@inner
def times(kind, unit, clock, numbers, count):
    """Stored differences to times in ms, in place (see checks/reference_encoder.py)."""
    signed(numbers, count)
    if kind in (RECENT, OLDEST):
        for index in range(count):
            numbers[index] = clock - numbers[index]
        return
    newest = clock // unit
    tile = newest
    for index in range(count - 1, -1, -1):
        tile = (newest if kind in (DISTINCT, FREQUENCIES) else tile) - numbers[index]
        numbers[index] = tile * unit


@inner
def values(codec, form, numbers, floats, count):
    """Stored numbers to values, in place."""
    if codec in (UNSIGNED, TEXT) or (codec == FLOAT and form > HUNDREDTHS):
        return
    if codec == SIGNED and form == RAW:
        for index in range(count):
            numbers[index] = I64(min(max(floats[index], SMALLEST_INTEGER), LARGEST_INTEGER))
        return
    signed(numbers, count)
    if codec == FLOAT:
        if form == WHOLE:
            for index in range(count):
                floats[index] = float(numbers[index])
        else:
            for index in range(count):
                floats[index] = float(numbers[index]) / 100.0
