"""What batches changed: the keys of the rows of their last ones, kept with the marker, for readers that hold all rows.

In: the keys of a batch. Out: the keys that have changed since a reader looked last, where that can be told.
"""

from features.online_store.changed.keys import ChangedKeys
from features.online_store.changed.log import ChangeLog, decoded, log_cell

__all__ = ["ChangeLog", "ChangedKeys", "decoded", "log_cell"]
