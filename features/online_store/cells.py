"""The port of an online store: cells of bytes in named tables of generations, written under a version.

    a generation (stream_id)   its version, its lease, and tables:
    rows/<view>                entity key → state row
    seen/<stream>/<number>     event_id → what was accepted for it
    state                      'marker' and 'memory/<stream>'

Beside the generations, each view has a current one: the one that readers read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from features.errors import LeaseError

STATE = "state"


def rows_table(view: str) -> str:
    """The table of a view's rows."""
    return f"rows/{view}"


@dataclass(frozen=True)
class Put:
    """Cells to replace in one table: a key and a value each."""

    keys: Sequence[str]
    values: Sequence[bytes]


class Cells(Protocol):
    """What a generation needs of a database; every call is one transaction, or one round trip that reads."""

    def version(self, stream_id: int) -> int:
        """The generation's version; 0 when nothing was ever written to it."""

    def get(self, stream_id: int, table: str, keys: Sequence[str]) -> list[bytes | None]:
        """The value of each key, None where there is none."""

    def write(self, stream_id: int, version: int, puts: Mapping[str, Put], drop: Sequence[str] = ()) -> None:
        """Replace cells, drop tables and move the version on, all or nothing.

        Raises:
            LeaseError: the generation's version is not ``version``.
        """


def overtaken(stream_id: int, expected: int, found: int) -> LeaseError:
    """The error of a driver whose generation has moved on without it."""
    return LeaseError(
        f"a write to generation {stream_id}",
        f"version {expected}, which this driver left",
        f"version {found}: another driver wrote, or the store lost writes",
        "Run the batch again; one driver at a time may own a generation.",
    )


def held(stream_id: int, owner: str, left_ms: int) -> LeaseError:
    """The error of a driver that wants a lease which another holds."""
    return LeaseError(
        f"the lease of generation {stream_id}",
        "nobody else to hold it",
        f"'{owner}', for {left_ms / 1000:.1f} s more",
        "Stop the other driver, or wait until its lease has ended.",
    )
