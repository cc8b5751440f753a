"""Compiled kernels: bytes of state rows in, every feature of every row out, each row's entries decoded once.

One function serves all views: what to read and what to answer comes as the arrays of a program (rows/programs.py).
Nothing here is compiled when it is imported; rows/compiled.py does that, once a machine.

    contract.py    what goes in and comes out
    unpacking.py   bytes to times and values
    runs.py        answers from a run of entries, and from other answers
    walk.py        the walk over the rows

The numbers are those of the finalizers in aggregations.py, which answer a history: counts, ids, minima, maxima,
distinct counts and quantiles to the bit, sums and what comes of them within the tolerance of their order.
"""

from features.rows.kernels.contract import Answers, Heads, Merge, NewEntries, Packed, Program, Stored

__all__ = ["Answers", "NewEntries", "Heads", "Merge", "Packed", "Program", "Stored", "contract", "fold", "walk"]
