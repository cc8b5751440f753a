"""Published protocols, one module each: a split, models and metrics that others have numbers for.

In: a file. Out: a report of metrics by model, with intervals.
"""

__all__ = [
    "events",
    "fraud_handbook",
    "leave_one_out",
    "lists",
    "new_items",
    "random_split",
    "ranklens",
    "session",
    "time_split",
]
