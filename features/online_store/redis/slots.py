"""The Redis key of each cell. On a server, a generation is a single slot; in a cluster, its rows are spread over parts.

    headrace:shop:{shop}:current      of project shop: view → the generation that readers read
    headrace:shop:{shop}:generations  its generations
    headrace:shop:{shop}:claim        the home that drives it
    headrace:shop:{7}                 a generation's version, lease, and the versions of its parts
    headrace:shop:{7}:tables          the keys of its tables
    headrace:shop:{7}:state           markers and memories
    headrace:shop:{7}:rows/v          a view's rows, on a server
    headrace:shop:{7.12}              in a cluster: the version of a part
    headrace:shop:{7.12}:rows/v       in a cluster: the part's rows of a view
    headrace:shop:{shop:pending}:…    pending events
    headrace:shop:session:…           the newest items of a session

Version 0.1 wrote the same keys without a project. A part is one slot, so that a script can write to it under its
version. There are as many as let 16 nodes share the rows evenly, and as few as let a read of hundreds of rows be few
commands.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property, lru_cache
from urllib.parse import quote

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.hashing import hash_texts
from features.online_store.port import STATE

PARTS = 16

HEAD = -1
"""The number for what is not in a part."""


@dataclass(frozen=True)
class SlotMap:
    """Maps the keys of a store to parts; ``spread`` in a cluster."""

    spread: bool

    def of_table(self, table: str) -> list[int]:
        """The parts that a table is in."""
        return list(range(PARTS)) if self.spread and table != STATE else [HEAD]

    def numbers(self) -> list[int]:
        """Every part."""
        return list(range(PARTS)) if self.spread else []

    def split(self, table: str, keys: pa.Array) -> list[tuple[int, NDArray[np.int64]]]:
        """The index of the keys in each part; parts without any are left out."""
        if not self.spread or table == STATE:
            return [(HEAD, np.arange(len(keys)))]
        part = (hash_texts(keys) % np.uint64(PARTS)).astype(np.int64)
        order = np.argsort(part, kind="stable")
        bounds = np.searchsorted(part[order], np.arange(PARTS + 1))
        return [
            (number, order[bounds[number] : bounds[number + 1]])
            for number in range(PARTS)
            if bounds[number] < bounds[number + 1]
        ]


@dataclass(frozen=True)
class Keys:
    """The keys of a project; of no project (''), the keys of version 0.1."""

    project: str

    @property
    def current(self) -> str:
        """The key with the current generation of each view."""
        return self._shared("current")

    @property
    def generations(self) -> str:
        """The key with the number of each generation."""
        return self._shared("generations")

    @property
    def claim(self) -> str:
        """The key with the home that drives the project, and its driver."""
        return self._shared("claim")

    def _shared(self, name: str) -> str:
        """A key beside the generations; all of a project are in one slot."""
        return f"{self._prefix}{{{self._tag}}}:{name}" if self.project else f"{self._prefix}{name}"

    @property
    def _prefix(self) -> str:
        return f"headrace:{self._tag}:" if self.project else "headrace:"

    @cached_property
    def _tag(self) -> str:
        """The project without braces and colons, which would end a hash tag or look like another project's keys."""
        return quote(self.project, safe="")

    @property
    def pending(self) -> str:
        """The start of the keys of pending events, all in one slot."""
        return f"{self._prefix}{{{self._tag}:pending}}"

    def session(self, session: str) -> str:
        """The key of a session's items."""
        return f"{self._prefix}session:{session}"

    def head(self, stream_id: int, part: int = HEAD) -> str:
        """The key with the version of a generation, or of a part of it."""
        return f"{self._prefix}{{{stream_id if part == HEAD else tags(stream_id)[part]}}}"

    def table(self, stream_id: int, table: str, part: int = HEAD) -> str:
        """The key of a part of a table."""
        return f"{self.head(stream_id, part)}:{table}"

    def tables(self, stream_id: int, part: int = HEAD) -> str:
        """The key of the set of a part's tables."""
        return f"{self.head(stream_id, part)}:tables"


@lru_cache(maxsize=256)
def tags(stream_id: int) -> tuple[str, ...]:
    """The hash tag of each part, chosen so that the parts lie evenly in the slots of a cluster."""
    from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

    tag_of: dict[int, str] = {}
    for number in itertools.count():
        tag = f"{stream_id}.{number}"
        tag_of.setdefault(key_slot(tag.encode()) * PARTS // REDIS_CLUSTER_HASH_SLOTS, tag)
        if len(tag_of) == PARTS:
            break
    return tuple(tag_of[part] for part in range(PARTS))
