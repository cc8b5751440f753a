"""Inputs and outputs of the kernels over rows: arrays in named tuples, and the codes of tables, codecs and answers."""

from __future__ import annotations

from typing import Any, NamedTuple

TILES, RECENT, DISTINCT, HISTOGRAM, OLDEST, FREQUENCIES = range(6)
"""Kinds of tables."""

UNSIGNED, SIGNED, FLOAT, TEXT = range(4)
"""Codecs of columns."""

COUNT, SUM, MEAN, MIN, MAX, DECAYED, SINCE, LAST, LAST_FLOAT, LISTED_NUMBERS, LISTED_TEXTS, UNIQUE, QUANTILE = range(13)

MIN_INTEGER, MAX_INTEGER = range(13, 15)

FIRST, FIRST_FLOAT, FIRST_TEXT, FREQUENT, FREQUENT_FLOAT, FREQUENT_TEXT = range(21, 27)
"""Answers computed from a run of entries."""

VARIANCE, STDDEV, SLOPE, EXPONENTIAL_MEAN, CHANGE, CHANGE_INTEGER = range(15, 21)
"""Answers of how the values of a run differ and move."""

PRODUCT, RATIO, DIFFERENCE, TOTAL = range(4)
"""Answers computed from other answers."""

PRESENT, OUTSIDE_MAX_AGE, NOT_FOUND = range(3)

SAME, ADDED, SUMMED, SMALLER, LARGER, SMALLER_INTEGER, LARGER_INTEGER, PAIRED = range(8)
"""Reducers of a column when entries are merged: equal in both, added as integers or as floats, min, max of either.

PAIRED adds this column and the next as pairs (features/double_double.py); the next is SAME.
"""


class Stored(NamedTuple):
    """The rows: row i is the bytes [offsets[i], offsets[i + 1]), none where there is no row."""

    data: Any
    """uint8."""
    offsets: Any
    """int32."""
    weights: Any
    """The multipliers of the checksum (hashing.weights)."""
    as_of: Any
    """The instant that each row is read for, in ms."""


class Program(NamedTuple):
    """The tables of a view's rows and the answers computed from them; int64 unless stated otherwise."""

    identity: Any
    """uint64: the schema hash and the stream that a row must be of."""
    ttl_ms: Any
    """A single number."""
    tables: Any
    """A line for each table: kind, unit of its times in ms, number of columns, end of its runs."""
    columns: Any
    """The codec of each column, table after table, without those of times."""
    windows: Any
    """A line for each window: length + delay, delay and tile in ms."""
    runs: Any
    """A line for each window of each table: the window, and the end of its steps."""
    steps: Any
    """A line an answer: its computation, its column, a second column, the start of its list, its k, and its base.

    An answer of more columns has them in place of the last three.
    """
    parameters: Any
    """float64: each answer's half life, q, or unit of time in ms."""
    representatives: Any
    """float64: the values that buckets stand for, from an answer's base on."""
    derived: Any
    """A line for each answer from answers: its computation, and its range [first, last) of ``operands``."""
    operands: Any
    """The answers that ``derived`` are computed from."""
    outs: Any
    """A line for each number of the output: its answer, and 1 if it is an integer."""


class Answers(NamedTuple):
    """The output, made with zeros: a column for each row in the two-dimensional ones but the lists."""

    numbers: Any
    """int64, or the bits of a float64."""
    valid: Any
    """uint8: Arrow's validity bits of ``numbers``, column after column."""
    counts: Any
    """The length of each list."""
    listed: Any
    """A line for each row: the lists' values, or the starts of their texts in the bytes."""
    lengths: Any
    """The texts' lengths."""
    status: Any
    """int8."""
    as_of: Any
    newest: Any


class Scratch(NamedTuple):
    """Working memory for a single row and table at a time."""

    cursor: Any
    """Start of the table's codes, start of its bytes, number of its first column, of its first run."""
    bounds: Any
    """Left and right end of each window, in ms."""
    ints: Any
    """The table's times, its columns, and the starts of its texts: a line each."""
    floats: Any
    """The same memory as ``ints``."""
    whole: Any
    """The row's answers that are integers."""
    real: Any
    """The row's answers as float64, NaN for null."""
    known: Any
    """True for answers that are not null."""


class Merge(NamedTuple):
    """The tables of a view's rows and the merging of their entries; int64 unless stated otherwise."""

    identity: Any
    """As in Program, like ``columns`` and the first three of ``tables``."""
    tables: Any
    """A line a table: kind, unit, number of columns, ends of its windows and of its levels, k, 1 if it has texts."""
    columns: Any
    reducers: Any
    """The reducer of each column."""
    half_lives: Any
    """float64: the half life of each column in ms, 0 if it does not decay."""
    windows: Any
    """A line for each window of each table: length + delay, delay and tile in ms."""
    levels: Any
    """A line for each step of a table's tiles: the age from which on it applies, and their length, in ms."""


class NewEntries(NamedTuple):
    """New entries, sorted by row: for each table a line of times, a line a column, and the starts of its texts."""

    bounds: Any
    """A line for each table: the start of each row's entries in its lines, and the end of the last."""
    lines: Any
    """The start of each line in the numbers."""
    numbers: Any
    """int64, or the bits of a float64; a text is its length, and -1 minus its position in ``texts``."""
    texts: Any
    """uint8."""


class Heads(NamedTuple):
    """Fields of each row's header, as stored and to be written; int64 unless stated otherwise."""

    known: Any
    """bool: there is a row."""
    touched: Any
    """bool: it is folded."""
    batch_id: Any
    newest: Any
    clock: Any
    """The clock as stored."""
    new_clock: Any
    """The clock as it will be written."""
    batch: Any
    """Two numbers: the batch that writes, and the time of writing (ms)."""


class Packed(NamedTuple):
    """The rows of the output: row i is the bytes [offsets[i], offsets[i + 1]), none where it is not touched."""

    data: Any
    """uint8, at least as long as the rows."""
    offsets: Any
    """int64."""


class FoldScratch(NamedTuple):
    """Working memory of the fold for a single row and table at a time."""

    cursor: Any
    ints: Any
    floats: Any
    """As in Scratch."""
    order: Any
    """The indices of the entries, in the order in which they are stored."""
    spare: Any
    rest: Any
    line: Any
    """uint64: the numbers of a column as they are stored."""
    at: Any
    """Positions of the row's next code and of its next column."""
