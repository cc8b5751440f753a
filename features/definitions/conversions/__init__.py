"""How messages and files write what a column holds, where that is not the plain form: as data, for every path alike.

In: parameters of Stream, Topic and Field, as users write them. Out: checked definitions (``Time``).
"""

from features.definitions.conversions.times import EPOCH, TIME_UNITS_PER_MS, Time, is_of_digits

__all__ = ["EPOCH", "TIME_UNITS_PER_MS", "Time", "is_of_digits"]
