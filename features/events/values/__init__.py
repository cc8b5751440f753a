"""Values as messages and files have them → typed columns: the same rule wherever a value was taken from.

In: Arrow arrays of values that were taken, and how the definitions say to read them. Out: our dtypes, epoch ms, and a
reason for each value that is refused. Before that, values are found in messages (``lookup``), and arrays of events are
made rows (``elements``); after it, columns are held to the stream's rules (``rules``).
"""

__all__ = [
    "conversion",
    "elements",
    "exact_json",
    "lookup",
    "reasons",
    "rules",
    "texts",
    "times",
    "written",
]
