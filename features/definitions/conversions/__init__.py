"""How messages and files write what a column holds, where that is not the plain form: as data, for every path alike.

In: parameters of Stream, Topic and Field, as users write them. Out: checked definitions (``Time``,
``NumberText``, ``Base64Decimal``).
"""

from features.definitions.conversions.casts import (
    TEXT,
    Base64Decimal,
    Cast,
    NumberText,
    Value,
    check_cast,
    check_others,
    frozen_map,
)
from features.definitions.conversions.times import EPOCH, TIME_UNITS_PER_MS, Time, is_of_digits

__all__ = [
    "EPOCH",
    "TEXT",
    "TIME_UNITS_PER_MS",
    "Base64Decimal",
    "Cast",
    "NumberText",
    "Time",
    "Value",
    "check_cast",
    "check_others",
    "frozen_map",
    "is_of_digits",
]
