"""The port of an online store with what every database shares: cells, leases, generations and the readers' pointers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence

from features.online_store.generation import GenerationStore
from features.online_store.port import Cells, PendingEvent, ReadableStore, of_schema

FEAST = 0
"""The generation of ordinary Feast views (feast/ordinary_views.py), which no stream has: Feast can write it again."""


class OnlineStore(ReadableStore, Cells):
    """The rows of any number of generations and views in a database; each database has a subclass."""

    def eviction(self) -> str | None:
        """The policy by which the store drops what was written to it; None where it does not, '' where nobody can tell.

        Raises:
            StoreError: the store does not answer.
        """
        return None

    @abstractmethod
    def take_lease(self, stream_id: int, owner: str, ttl_s: float) -> None:
        """Make ``owner`` (one process's own name) the only driver for ``ttl_s`` seconds; taken again, it lasts longer.

        Raises:
            LeaseError: another owner holds it.
        """

    @abstractmethod
    def release_lease(self, stream_id: int, owner: str) -> None:
        """End the owner's lease; nothing happens when another holds it."""

    def carry_over(self, stream_ids: Collection[int], owner: str, ttl_s: float) -> list[int]:
        """Give the generations that version 0.1 wrote the keys of today; returns those that it did so for.

        Raises:
            LeaseError: another owner holds one of them.
        """
        return []

    @abstractmethod
    def claim(self, home: str, owner: str, ttl_s: float, *, take_over: bool = False) -> None:
        """Make ``home`` the only one whose drivers may write here, and ``owner`` its driver for ``ttl_s`` seconds.

        The home stays the only one when that time is over, until another takes over.

        Args:
            home: a name that no other home has.
            take_over: also if another home drove the store before.

        Raises:
            LeaseError: another home drives the store, or drove it before, or another owner drives it for this home or
                holds a generation's lease.
        """

    @abstractmethod
    def release_claim(self, owner: str) -> None:
        """End the owner's time; the home stays the only one."""

    @abstractmethod
    def set_current(self, view: str, stream_id: int, owner: str = "") -> None:
        """Let readers of the view, or of a definition of it (of_schema), read this generation from now on.

        Raises:
            LeaseError: they read one whose lease another than ``owner`` holds.
        """

    @abstractmethod
    def views(self) -> list[str]:
        """The views that readers read, by name: those of before a change, too, as long as their rows are kept."""

    @abstractmethod
    def generations(self) -> list[int]:
        """The stream_id of every generation that the store knows, sorted."""

    @abstractmethod
    def drop_generation(self, stream_id: int, owner: str = "") -> None:
        """Forget the generation; a driver whose lease is over stops at its next write.

        Raises:
            LeaseError: another than ``owner`` holds its lease.
        """

    @abstractmethod
    def bytes_per_row(self) -> dict[str, float]:
        """The mean length of a row of each view, by a sample of those that readers read."""

    def generation(self, stream_id: int, horizons_ms: Mapping[str, int] | None = None) -> GenerationStore:
        """A driver's handle of the generation; see GenerationStore for ``horizons_ms``."""
        return GenerationStore(self, stream_id, horizons_ms)

    def definitions(self, view: str, schema_hash: int) -> str | None:
        stream_id = self.current(of_schema(view, schema_hash))
        return None if stream_id is None else self.generation(stream_id).described()


Cell = tuple[int, str, str]
"""Generation, table and key."""


class Erasure(ABC):
    """All that a database has of its entities, to find and to delete; drivers and readers may run meanwhile.

    What a driver has read before may be written again: whoever deletes looks once more afterwards.
    """

    @abstractmethod
    def cells(self) -> Iterator[tuple[Cell, bytes]]:
        """Every cell of every generation with its value. Raises StoreError."""

    @abstractmethod
    def delete(self, cells: Sequence[Cell]) -> None:
        """Delete these cells. Raises StoreError."""

    @abstractmethod
    def pending(self) -> list[PendingEvent]:
        """The pending entries of all views. Raises StoreError."""

    @abstractmethod
    def delete_pending(self, places: Collection[tuple[str, int]]) -> None:
        """Delete the entries of these events ('topic/partition', offset), under every key. Raises StoreError."""

    @abstractmethod
    def sessions(self) -> Iterator[tuple[str, bytes]]:
        """Every session and its items. Raises StoreError."""

    @abstractmethod
    def delete_sessions(self, sessions: Sequence[str]) -> None:
        """Delete these sessions. Raises StoreError."""

    @abstractmethod
    def purge(self) -> str:
        """What was deleted is in no file of the database; else which files may still have it. Raises StoreError."""
