"""Compiled kernels: bytes of state rows in, every feature of every row out, each row's entries decoded once.

One function serves all views: the columns to read and the answers to compute come as the arrays of a program
(rows/programs.py).
Nothing here is compiled when it is imported; rows/compiled.py does that, once a machine.

    contract.py    inputs and outputs
    stored.py      rows checked, and a table's entries
    unpacking.py   bytes to times and values
    runs.py        answers from a run of entries, and from other answers
    walk.py        the walk over the rows that are read
    merging.py     a table's entries merged at a row's clock
    packing.py     entries to bytes
    fold.py        the walk over the rows that are written

The numbers are those of history/finalizers.py, which compute from a history: counts, ids, minima, maxima,
distinct counts and quantiles to the bit, sums and what comes of them within the tolerance of their order.
"""

from features.rows.kernels.contract import Answers, Heads, Merge, NewEntries, Packed, Program, Stored

__all__ = ["Answers", "NewEntries", "Heads", "Merge", "Packed", "Program", "Stored", "contract", "fold", "walk"]
