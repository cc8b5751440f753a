"""The walk over rows: each row is checked, its tables are decoded, and its answers are computed."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment"
# Types are numba's to find; what goes in and comes out is in contract.py.

from __future__ import annotations

import numpy as np

from features.rows.kernels.contract import (
    CHANGE,
    CHANGE_INTEGER,
    COUNT,
    DECAYED,
    DISTINCT,
    EXPONENTIAL_MEAN,
    FIRST,
    FIRST_FLOAT,
    FIRST_TEXT,
    FREQUENCIES,
    FREQUENT,
    FREQUENT_FLOAT,
    FREQUENT_TEXT,
    LAST_FLOAT,
    LISTED_NUMBERS,
    LISTED_TEXTS,
    MAX,
    MAX_INTEGER,
    MEAN,
    MIN,
    MIN_INTEGER,
    NOT_FOUND,
    OUTSIDE_MAX_AGE,
    QUANTILE,
    SINCE,
    SLOPE,
    STDDEV,
    SUM,
    UNIQUE,
    VARIANCE,
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
    is_less_text,
    largest,
    slope,
    smallest,
    summed,
    unique,
    variance,
)
from features.rows.kernels.stored import CLOCK, NEWEST, checked, entries_of, stand_at, unpack_table

U8, I64 = np.uint8, np.int64


@inner
def _is_present(stored, program, answers, row):
    """True if the row's entity is PRESENT; writes its status, its newest event and its as_of."""
    start = I64(stored.offsets[row])
    answers.as_of[row] = stored.as_of[row]
    if stored.offsets[row + 1] == start:
        answers.status[row] = NOT_FOUND
        return False
    answers.newest[row] = I64(word_at(stored.data, start + NEWEST))
    answers.as_of[row] = max(stored.as_of[row], I64(word_at(stored.data, start + CLOCK)))
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
        bounds[window, 1] = (as_of - delay) // tile * tile if delay else as_of // tile * tile + tile


@inner
def _answer_table(stored, program, answers, row, table, count, scratch):
    """All answers from the table, in each of its windows."""
    for run in range(scratch.cursor[3], program.tables[table, 3]):
        window = program.runs[run, 0]
        lo = hi = 0
        if program.tables[table, 0] not in (DISTINCT, FREQUENCIES):
            lo = first_at(scratch.ints[0], count, scratch.bounds[window, 0])
            hi = max(lo, first_at(scratch.ints[0], count, scratch.bounds[window, 1]))
        for step in range(program.runs[run - 1, 1] if run else 0, program.runs[run, 1]):
            what = program.steps[step, 0]
            if what == UNIQUE:
                _answer_distinct(program, step, count, window, scratch)
            elif what >= FREQUENT:
                _answer_frequent(stored, program, answers, row, step, count, window, scratch)
            elif what in (LISTED_NUMBERS, LISTED_TEXTS, FIRST_TEXT):
                _answer_list(program, answers, row, step, lo, hi, scratch)
            else:
                _answer_run(program, step, lo, hi, answers.as_of[row], scratch)
    scratch.cursor[3] = program.tables[table, 3]


@inner
def _answer_distinct(program, step, count, window, scratch):
    """The number of different hashes in the window, in any order of time."""
    hashes, k = scratch.ints[program.steps[step, 1]], program.steps[step, 4]
    scratch.real[step] = unique(scratch.ints[0], hashes, count, scratch.bounds[window, 0], scratch.bounds[window, 1], k)
    scratch.known[step] = True


@inner
def _is_less(stored, what, first, second, entry, other, scratch):
    """True if the value of an entry is smaller than that of another."""
    if what == FREQUENT_FLOAT:
        return scratch.floats[first, entry] < scratch.floats[first, other]
    if what == FREQUENT:
        return scratch.ints[first, entry] < scratch.ints[first, other]
    starts, lengths = scratch.ints[second], scratch.ints[first]
    return is_less_text(stored.data, starts[entry], lengths[entry], starts[other], lengths[other])


@inner
def _most_frequent(stored, program, step, count, window, scratch):
    """The entry with the value that is counted most in the window, -1 for none or too many values; in hash order."""
    what, first, second = program.steps[step, 0], program.steps[step, 1], program.steps[step, 2]
    left, right = scratch.bounds[window, 0], scratch.bounds[window, 1]
    times, hashes, counts = scratch.ints[0], scratch.ints[1], scratch.ints[2]
    best, most, different, total = I64(-1), I64(0), I64(0), I64(0)
    for entry in range(count):
        total += counts[entry] if left <= times[entry] < right else 0
        if total and (entry + 1 == count or hashes[entry + 1] != hashes[entry]):
            if total > most or (total == most and _is_less(stored, what, first, second, entry, best, scratch)):
                best, most = I64(entry), total
            different += 1
            total = I64(0)
    return best if different <= program.steps[step, 4] else I64(-1)


@inner
def _answer_frequent(stored, program, answers, row, step, count, window, scratch):
    """The value that is counted most in the window."""
    what, first, second = program.steps[step, 0], program.steps[step, 1], program.steps[step, 2]
    entry = _most_frequent(stored, program, step, count, window, scratch)
    scratch.known[step], scratch.real[step] = entry >= 0, np.nan
    if entry < 0:
        return
    if what == FREQUENT_TEXT:
        answers.counts[program.steps[step, 5], row] = 1
        answers.listed[row, program.steps[step, 3]] = scratch.ints[second, entry]
        answers.lengths[row, program.steps[step, 3]] = scratch.ints[first, entry]
    elif what == FREQUENT_FLOAT:
        scratch.real[step] = scratch.floats[first, entry]
    else:
        scratch.whole[step] = scratch.ints[first, entry]
        scratch.real[step] = float(scratch.whole[step])


@inner
def _answer_list(program, answers, row, step, lo, hi, scratch):
    """The newest k values, or the starts and lengths of their texts; or those of the oldest."""
    what, first, second = program.steps[step, 0], program.steps[step, 1], program.steps[step, 2]
    base, total = program.steps[step, 3], min(hi - lo, program.steps[step, 4])
    answers.counts[program.steps[step, 5], row] = total
    for index in range(total):
        entry = lo if what == FIRST_TEXT else hi - 1 - index
        if what in (LISTED_TEXTS, FIRST_TEXT):
            answers.listed[row, base + index] = scratch.ints[second, entry]
            answers.lengths[row, base + index] = scratch.ints[first, entry]
        else:
            answers.listed[row, base + index] = scratch.ints[first, entry]


@inner
def _answer_run(program, step, lo, hi, as_of, scratch):
    """The answer from a run; those that have a value without entries are computed here."""
    what, first = program.steps[step, 0], program.steps[step, 1]
    scratch.known[step] = True
    if what == COUNT:
        scratch.whole[step] = counted(scratch.ints[first], lo, hi)
        scratch.real[step] = float(scratch.whole[step])
    elif what == SUM:
        _set_finite(scratch, step, summed(scratch.floats[first], lo, hi))
    elif what == DECAYED:
        scratch.real[step] = decayed(scratch.floats[first], scratch.ints[0], lo, hi, as_of, program.parameters[step])
    elif hi > lo:
        _answer_filled(program, step, lo, hi, as_of, scratch)
    else:
        scratch.known[step], scratch.real[step] = False, np.nan


@inner
def _set_finite(scratch, step, value):
    """The answer; none for a sum that left float64, which depends on the order of its summands."""
    finite = np.isfinite(value)
    scratch.known[step], scratch.real[step] = finite, value if finite else np.nan


@inner
def _answer_filled(program, step, lo, hi, as_of, scratch):
    """The answer from a run that has entries."""
    what, first, second = program.steps[step, 0], program.steps[step, 1], program.steps[step, 2]
    if what == MEAN:
        total = counted(scratch.ints[second], lo, hi)
        _set_finite(scratch, step, summed(scratch.floats[first], lo, hi) / float(max(total, 1)))
    elif what == MIN:
        scratch.real[step] = smallest(scratch.floats[first], lo, hi)
    elif what == MAX:
        scratch.real[step] = largest(scratch.floats[first], lo, hi)
    elif what == QUANTILE:
        bucket = bucket_at(scratch.ints[first], scratch.ints[second], lo, hi, program.parameters[step])
        scratch.real[step] = program.representatives[program.steps[step, 5] + bucket]
    elif what in (LAST_FLOAT, FIRST_FLOAT):
        scratch.real[step] = scratch.floats[first, lo if what == FIRST_FLOAT else hi - 1]
    elif VARIANCE <= what <= CHANGE_INTEGER:
        _answer_spread(program, step, lo, hi, scratch)
    else:
        if what == SINCE:
            scratch.whole[step] = max(as_of - scratch.ints[0, hi - 1], 0)
        elif what == MIN_INTEGER:
            scratch.whole[step] = smallest(scratch.ints[first], lo, hi)
        elif what == MAX_INTEGER:
            scratch.whole[step] = largest(scratch.ints[first], lo, hi)
        else:
            scratch.whole[step] = scratch.ints[first, lo if what == FIRST else hi - 1]
        scratch.real[step] = float(scratch.whole[step])


@inner
def _answer_spread(program, step, lo, hi, scratch):
    """The answer from a run that has entries, of how its values differ and move."""
    what, first, second, value = program.steps[step, 0], program.steps[step, 1], program.steps[step, 2], np.nan
    third, fourth, fifth = program.steps[step, 3], program.steps[step, 4], program.steps[step, 5]
    if what == EXPONENTIAL_MEAN:
        times, newest, half_life = scratch.ints[0], scratch.ints[0, hi - 1], program.parameters[step]
        value = decayed(scratch.floats[first], times, lo, hi, newest, half_life)
        value = value / decayed(scratch.floats[second], times, lo, hi, newest, half_life)
    elif what == SLOPE:
        total = counted(scratch.ints[first], lo, hi)
        value = slope(total, scratch.floats, second, third, fourth, fifth, lo, hi) * program.parameters[step]
    elif what in (VARIANCE, STDDEV):
        total = counted(scratch.ints[first], lo, hi)
        value = variance(total, scratch.floats, second, third, lo, hi)
        if what == STDDEV:
            value = np.sqrt(value)
    elif hi > lo + 1:
        if what == CHANGE:
            value = scratch.floats[first, hi - 1] - scratch.floats[first, hi - 2]
        else:
            value = float(scratch.ints[first, hi - 1]) - float(scratch.ints[first, hi - 2])
    _set_finite(scratch, step, value)


@inner
def _derive(program, scratch):
    """Answers from answers, after all others."""
    total = len(program.steps)
    for number in range(len(program.derived)):
        what, first, last = program.derived[number, 0], program.derived[number, 1], program.derived[number, 2]
        value = arithmetic(what, scratch.real, program.operands[first:last])
        scratch.real[total + number], scratch.known[total + number] = value, not np.isnan(value)


@inner
def _write(program, answers, reals, row, scratch):
    """Writes the row's numbers; ``reals`` is the memory of answers.numbers."""
    rows = len(answers.status)
    for out in range(len(program.outs)):
        index = program.outs[out, 0]
        if scratch.known[index]:
            if program.outs[out, 1]:
                answers.numbers[out, row] = scratch.whole[index]
            else:
                reals[out, row] = scratch.real[index]
            bit = out * rows + row
            answers.valid[bit // 8] |= U8(1 << (bit % 8))


def answer_rows(rows, arrays, out):
    """Computes every row's answers; -1, or the first damaged or foreign row, and then the answers are of no use.

    Args:
        rows, arrays, out: Stored, Program and Answers as plain tuples, whose types are found faster at a call.
    """
    stored, program, answers = Stored(*rows), Program(*arrays), Answers(*out)
    bad, most = checked(stored, program)
    if bad >= 0:
        return bad
    ints = np.empty((len(program.columns) + 2, most), I64)
    total = len(program.steps) + len(program.derived)
    whole, real, known = np.zeros(total, I64), np.zeros(total), np.zeros(total, np.bool_)
    bounds, bounds_of = np.zeros((len(program.windows), 2), I64), I64(-1)
    scratch = Scratch(np.zeros(4, I64), bounds, ints, ints.view(np.float64), whole, real, known)
    reals = answers.numbers.view(np.float64)
    for row in range(len(stored.offsets) - 1):
        if _is_present(stored, program, answers, row):
            if answers.as_of[row] != bounds_of:
                bounds_of = answers.as_of[row]
                _find_bounds(program.windows, bounds_of, bounds)
            start = I64(stored.offsets[row])
            clock = I64(word_at(stored.data, start + CLOCK))
            stand_at(stored, program, start, scratch)
            for table in range(len(program.tables)):
                count = entries_of(stored, start, table)
                unpack_table(stored, program, table, count, clock, scratch)
                _answer_table(stored, program, answers, row, table, count, scratch)
            _derive(program, scratch)
            _write(program, answers, reals, row, scratch)
    return -1


def gather_texts(data, starts, lengths, counts, base, out, ends):
    """Copies the concatenated texts of the rows' lists into ``out``, and their ends into ``ends`` (from 0).

    A row's list begins at column ``base`` of ``starts`` and ``lengths``, and has ``counts`` texts.
    """
    text = used = 0
    for row in range(len(counts)):
        for index in range(base, base + counts[row]):
            start, length = starts[row, index], lengths[row, index]
            for byte in range(length):
                out[used + byte] = data[start + byte]
            used += length
            text += 1
            ends[text] = used
