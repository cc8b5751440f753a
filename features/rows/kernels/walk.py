"""The walk over rows: each is checked, its tables are decoded one after the other, and answered from at once."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment"
# Types are numba's to find; what goes in and comes out is in contract.py.

from __future__ import annotations

import numpy as np

from features.rows.kernels.contract import (
    COUNT,
    DECAYED,
    DISTINCT,
    LAST_FLOAT,
    LISTED_NUMBERS,
    LISTED_TEXTS,
    MAX,
    MEAN,
    MIN,
    NOT_FOUND,
    OUTSIDE_MAX_AGE,
    QUANTILE,
    SINCE,
    SUM,
    UNIQUE,
    Answers,
    Program,
    Scratch,
    Stored,
)
from features.rows.kernels.inner import inner, word_at
from features.rows.kernels.runs import (
    arithmetic,
    bucket_at,
    counted,
    decayed,
    first_at,
    largest,
    smallest,
    summed,
    unique,
)
from features.rows.kernels.stored import CLOCK, NEWEST, checked, entries_of, stand_at, unpack_table

U8, I64 = np.uint8, np.int64


@inner
def _is_present(stored, program, answers, row):
    """Whether the row's entity is; its status, its newest event and its as_of are written."""
    start = I64(stored.offsets[row])
    answers.as_of[row] = stored.asked[row]
    if stored.offsets[row + 1] == start:
        answers.status[row] = NOT_FOUND
        return False
    answers.newest[row] = I64(word_at(stored.data, start + NEWEST))
    answers.as_of[row] = max(stored.asked[row], I64(word_at(stored.data, start + CLOCK)))
    age = answers.as_of[row] - answers.newest[row]
    if age > program.ttl_ms:
        answers.status[row] = NOT_FOUND if age > 2 * program.ttl_ms else OUTSIDE_MAX_AGE
    return age <= program.ttl_ms


@inner
def _find_bounds(windows, as_of, bounds):
    """Each window's [left, right) at as_of (see windows.Bounds)."""
    for window in range(len(windows)):
        span, delay, tile = windows[window, 0], windows[window, 1], windows[window, 2]
        bounds[window, 0] = (as_of - span) // tile * tile
        bounds[window, 1] = (as_of - delay) // tile * tile if delay else -(-as_of // tile * tile)


@inner
def _answer_table(program, answers, row, table, count, work):
    """Everything that is asked of the table in each of its windows."""
    for run in range(work.cursor[3], program.tables[table, 3]):
        window = program.runs[run, 0]
        lo = hi = 0
        if program.tables[table, 0] != DISTINCT:
            lo = first_at(work.ints[0], count, work.bounds[window, 0])
            hi = max(lo, first_at(work.ints[0], count, work.bounds[window, 1]))
        for ask in range(program.runs[run - 1, 1] if run else 0, program.runs[run, 1]):
            what = program.asks[ask, 0]
            if what == UNIQUE:
                _answer_distinct(program, ask, count, window, work)
            elif what in (LISTED_NUMBERS, LISTED_TEXTS):
                _answer_list(program, answers, row, ask, lo, hi, work)
            else:
                _answer_run(program, ask, lo, hi, answers.as_of[row], work)
    work.cursor[3] = program.tables[table, 3]


@inner
def _answer_distinct(program, ask, count, window, work):
    """How many different hashes stand in the window, in whatever order of time."""
    hashes, k = work.ints[program.asks[ask, 1]], program.asks[ask, 4]
    work.real[ask] = unique(work.ints[0], hashes, count, work.bounds[window, 0], work.bounds[window, 1], k)
    work.known[ask] = True


@inner
def _answer_list(program, answers, row, ask, lo, hi, work):
    """The newest k values, or where their texts begin and how long they are."""
    what, first, second = program.asks[ask, 0], program.asks[ask, 1], program.asks[ask, 2]
    base, many = program.asks[ask, 3], min(hi - lo, program.asks[ask, 4])
    answers.counts[program.asks[ask, 5], row] = many
    for place in range(many):
        entry = hi - 1 - place
        if what == LISTED_TEXTS:
            answers.listed[row, base + place] = work.ints[second, entry]
            answers.lengths[row, base + place] = work.ints[first, entry]
        else:
            answers.listed[row, base + place] = work.ints[first, entry]


@inner
def _answer_run(program, ask, lo, hi, as_of, work):
    """What is asked of a run: what has a value without entries here."""
    what, first = program.asks[ask, 0], program.asks[ask, 1]
    work.known[ask] = True
    if what == COUNT:
        work.whole[ask] = counted(work.ints[first], lo, hi)
        work.real[ask] = float(work.whole[ask])
    elif what == SUM:
        work.real[ask] = summed(work.floats[first], lo, hi)
    elif what == DECAYED:
        work.real[ask] = decayed(work.floats[first], work.ints[0], lo, hi, as_of, program.parameters[ask])
    elif hi > lo:
        _answer_filled(program, ask, lo, hi, as_of, work)
    else:
        work.known[ask], work.real[ask] = False, np.nan


@inner
def _answer_filled(program, ask, lo, hi, as_of, work):
    """What is asked of a run that has entries."""
    what, first, second = program.asks[ask, 0], program.asks[ask, 1], program.asks[ask, 2]
    if what == MEAN:
        total = counted(work.ints[second], lo, hi)
        work.real[ask] = summed(work.floats[first], lo, hi) / float(max(total, 1))
    elif what == MIN:
        work.real[ask] = smallest(work.floats[first], lo, hi)
    elif what == MAX:
        work.real[ask] = largest(work.floats[first], lo, hi)
    elif what == QUANTILE:
        bucket = bucket_at(work.ints[first], work.ints[second], lo, hi, program.parameters[ask])
        work.real[ask] = program.representatives[program.asks[ask, 5] + bucket]
    elif what == LAST_FLOAT:
        work.real[ask] = work.floats[first, hi - 1]
    else:
        work.whole[ask] = max(as_of - work.ints[0, hi - 1], 0) if what == SINCE else work.ints[first, hi - 1]
        work.real[ask] = float(work.whole[ask])


@inner
def _derive(program, work):
    """Answers from answers, after all others."""
    many = len(program.asks)
    for one in range(len(program.derived)):
        what, first, last = program.derived[one, 0], program.derived[one, 1], program.derived[one, 2]
        value = arithmetic(what, work.real, program.operands[first:last])
        work.real[many + one], work.known[many + one] = value, not np.isnan(value)


@inner
def _write(program, answers, reals, row, work):
    """The row's numbers go out; ``reals`` is the memory of answers.numbers."""
    rows = len(answers.status)
    for out in range(len(program.outs)):
        place = program.outs[out, 0]
        if work.known[place]:
            if program.outs[out, 1]:
                answers.numbers[out, row] = work.whole[place]
            else:
                reals[out, row] = work.real[place]
            bit = out * rows + row
            answers.valid[bit // 8] |= U8(1 << (bit % 8))


def answer_rows(rows, reading, out):
    """Every row's answers; -1, or the first row that is not to be trusted, and then the answers are of no use.

    Args:
        rows, reading, out: Stored, Program and Answers as plain tuples, whose types are found faster at a call.
    """
    stored, program, answers = Stored(*rows), Program(*reading), Answers(*out)
    bad, most = checked(stored, program)
    if bad >= 0:
        return bad
    ints = np.empty((len(program.columns) + 2, most), I64)
    many = len(program.asks) + len(program.derived)
    whole, real, known = np.zeros(many, I64), np.zeros(many), np.zeros(many, np.bool_)
    bounds, bounds_of = np.zeros((len(program.windows), 2), I64), I64(-1)
    work = Scratch(np.zeros(4, I64), bounds, ints, ints.view(np.float64), whole, real, known)
    reals = answers.numbers.view(np.float64)
    for row in range(len(stored.offsets) - 1):
        if _is_present(stored, program, answers, row):
            if answers.as_of[row] != bounds_of:
                bounds_of = answers.as_of[row]
                _find_bounds(program.windows, bounds_of, bounds)
            start = I64(stored.offsets[row])
            clock = I64(word_at(stored.data, start + CLOCK))
            stand_at(stored, program, start, work)
            for table in range(len(program.tables)):
                count = entries_of(stored, start, table)
                unpack_table(stored, program, table, count, clock, work)
                _answer_table(program, answers, row, table, count, work)
            _derive(program, work)
            _write(program, answers, reals, row, work)
    return -1


def gather_texts(data, starts, lengths, counts, base, out, ends):
    """The texts of the rows' lists stand one after the other in ``out``, and in ``ends`` (from 0) where each ends.

    A row's list begins at column ``base`` of ``starts`` and ``lengths``, and has ``counts`` texts.
    """
    text = used = 0
    for row in range(len(counts)):
        for place in range(base, base + counts[row]):
            start, length = starts[row, place], lengths[row, place]
            for octet in range(length):
                out[used + octet] = data[start + octet]
            used += length
            text += 1
            ends[text] = used
