"""What the kernels over rows take and give: arrays in named tuples, and the numbers that stand for words."""

from __future__ import annotations

from typing import Any, NamedTuple

TILES, RECENT, DISTINCT, HISTOGRAM = range(4)
"""Kinds of tables."""

UNSIGNED, SIGNED, FLOAT, TEXT = range(4)
"""Codecs of columns."""

COUNT, SUM, MEAN, MIN, MAX, DECAYED, SINCE, LAST, LAST_FLOAT, LISTED_NUMBERS, LISTED_TEXTS, UNIQUE, QUANTILE = range(13)
"""What is answered from a run of entries."""

PRODUCT, RATIO, DIFFERENCE, TOTAL = range(4)
"""What is answered from other answers."""

PRESENT, OUTSIDE_MAX_AGE, NOT_FOUND = range(3)

SAME, ADDED, SUMMED, SMALLER, LARGER = range(5)
"""What becomes of a column where entries become one: it is alike in both, or by integers, floats, min, max."""


class Stored(NamedTuple):
    """The rows: row i is the bytes [offsets[i], offsets[i + 1]), none where there is no row."""

    data: Any
    """uint8."""
    offsets: Any
    """int32."""
    weights: Any
    """Of the checksum (hashing.weights)."""
    asked: Any
    """as_of of each row in ms."""


class Program(NamedTuple):
    """What a view's rows hold and what is asked of them; int64 but where it says another."""

    identity: Any
    """uint64: the schema hash and the stream that a row must be of."""
    ttl_ms: Any
    """One number."""
    tables: Any
    """Of each table: kind, unit of its times in ms, how many columns, end of its runs."""
    columns: Any
    """The codec of each column, one table after the other, their times left out."""
    windows: Any
    """Of each window: length + delay, delay and tile in ms."""
    runs: Any
    """Of each table and window: the window, and the end of what is asked of it."""
    asks: Any
    """Of each answer: what, its column, a second column, where its list begins, its k, and its base."""
    parameters: Any
    """float64: each answer's half life or q."""
    representatives: Any
    """float64: the values that buckets stand for, from an answer's base on."""
    derived: Any
    """Of each answer from answers: what, and its operands' places [first, last)."""
    operands: Any
    """The answers that they are made of."""
    outs: Any
    """Of each number that goes out: its answer, and whether it is an integer."""


class Answers(NamedTuple):
    """What comes out, made with zeros: a column for each row in the two-dimensional ones but the lists."""

    numbers: Any
    """int64, or the bits of a float64."""
    valid: Any
    """uint8: Arrow's validity bits of ``numbers``, one column after the other."""
    counts: Any
    """How long each list is."""
    listed: Any
    """A line for each row: the lists' values, or where their texts begin in the bytes."""
    lengths: Any
    """The texts' lengths."""
    status: Any
    """int8."""
    as_of: Any
    newest: Any


class Scratch(NamedTuple):
    """Room for one row and one table at a time."""

    cursor: Any
    """Where the table's codes stand, where its bytes stand, the number of its first column, of its first run."""
    bounds: Any
    """Of each window: left and right in ms."""
    ints: Any
    """The table's times, its columns, and where its texts begin: a line each."""
    floats: Any
    """The same memory."""
    whole: Any
    """The row's answers: where they are integers,"""
    real: Any
    """as float64, NaN for null,"""
    known: Any
    """and which are not null."""


class Merge(NamedTuple):
    """What a view's rows hold and how entries become fewer; int64 but where it says another."""

    identity: Any
    """As in Program, like ``columns`` and the first three of ``tables``."""
    tables: Any
    """Of each table: kind, unit, how many columns, ends of its windows and of its levels, k, whether it has texts."""
    columns: Any
    reducers: Any
    """What becomes of each column."""
    half_lives: Any
    """float64, in ms: of each column that decays, else 0."""
    windows: Any
    """Of each window of a table: length + delay, delay and tile in ms."""
    levels: Any
    """Of each step of a table's tiles: from which age on, and how long they are, in ms."""


class NewEntries(NamedTuple):
    """New entries, sorted by row: of each table a line of times, one for each column, and where its texts begin."""

    bounds: Any
    """Of each table: where each row's entries begin in its lines, and after the last."""
    lines: Any
    """Where each line begins in the numbers."""
    numbers: Any
    """int64, or the bits of a float64; a text is its length, and -1 minus its place in ``texts``."""
    texts: Any
    """uint8."""


class Heads(NamedTuple):
    """Of each row: what its header says, or is to say; int64 but where it says another."""

    known: Any
    """bool: there is a row."""
    touched: Any
    """bool: it is folded."""
    batch_id: Any
    newest: Any
    clock: Any
    """As stored,"""
    fresh_clock: Any
    """and as it will be."""
    batch: Any
    """Two numbers: the batch that writes, and when."""


class Packed(NamedTuple):
    """Rows as they come out: row i is the bytes [offsets[i], offsets[i + 1]), none where it is not touched."""

    data: Any
    """uint8, as much as there was room for."""
    offsets: Any
    """int64."""


class Desk(NamedTuple):
    """Room for one row and one table at a time, as the fold needs it."""

    cursor: Any
    ints: Any
    floats: Any
    """As in Scratch."""
    order: Any
    """The places of the entries, in the order in which they are stored."""
    spare: Any
    rest: Any
    line: Any
    """uint64: the numbers of a column as they are stored."""
    at: Any
    """Where the row's next code goes, and where its next column does."""
