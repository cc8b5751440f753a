"""The comparison of before, with which Arrow raises an error for one integer in a million: a kernel that breaks.

`where={"ref": above(0.5)}` on an int64 field made Arrow convert every integer to a float64, and 2^53 + 1 is none.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from features.definitions.expressions import Compare, conditions

BREAKS = 2**53 + 1


def older_compared(column: pa.ChunkedArray, compare: Compare) -> Any:
    """As conditions._compared, once."""
    return pc.call_function(Compare.KERNELS[compare.relation], [column, pa.scalar(compare.value)])


def with_older_kernel(relation: str, value: float) -> Compare:
    """The condition, in a process whose comparison is the one of before."""
    conditions._compared = older_compared
    return Compare(relation, value)


class InWorkers(Compare):
    """A condition that brings the kernel of before along to the process where it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str, float]]:
        return with_older_kernel, (self.relation, self.value)
