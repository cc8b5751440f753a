"""All cells of a project on a Redis server or cluster, to find and to delete."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import pyarrow as pa

from features.online_store.port import PROJECT, PendingEvent
from features.online_store.redis.client import Mode, RedisClient
from features.online_store.redis.pending import RedisPending
from features.online_store.redis.scripts import STANDS
from features.online_store.redis.slots import HEAD, Keys, SlotMap
from features.online_store.store import Cell, Erasure

TIMEOUT_S = 60.0

CELLS_A_COMMAND = 1_000
"""Cells of a page, and sessions of a round trip."""


class RedisErasure(Erasure):
    """The keys of a project; its parameters are those of RedisRows."""

    def __init__(self, url: str, mode: Mode = "server", project: str = PROJECT, password: str = "") -> None:
        self._client = RedisClient(url, mode, TIMEOUT_S, password)
        self._keys = Keys(project)
        self._slots = SlotMap(spread=mode == "cluster")
        self._of_pending = RedisPending(self._client, self._keys)

    def cells(self) -> Iterator[tuple[Cell, bytes]]:
        (numbers,) = self._client.ask(("SMEMBERS", self._keys.generations))
        for stream_id in sorted(map(int, numbers)):
            for part in (HEAD, *self._slots.numbers()):
                head = self._keys.head(stream_id, part)
                (tables,) = self._client.ask(("SMEMBERS", self._keys.tables(stream_id, part)))
                for name in sorted(each.decode() for each in tables):
                    table = name.removeprefix(f"{head}:")
                    for key, value in self._fields(name):
                        if key != STANDS:
                            yield (stream_id, table, key.decode()), value

    def _fields(self, key: str) -> Iterator[tuple[bytes, bytes]]:
        """The fields of a hash with their values, a page a command."""
        cursor = "0"
        while True:
            ((following, found),) = self._client.ask(("HSCAN", key, cursor, "COUNT", CELLS_A_COMMAND))
            yield from zip(found[::2], found[1::2], strict=True)
            cursor = following.decode()
            if cursor == "0":
                return

    def delete(self, cells: Sequence[Cell]) -> None:
        by_table: dict[tuple[int, str], list[str]] = {}
        for stream_id, table, key in cells:
            by_table.setdefault((stream_id, table), []).append(key)
        for (stream_id, table), keys in by_table.items():
            for part, index in self._slots.split(table, pa.array(keys, pa.string())):
                name = self._keys.table(stream_id, table, part)
                self._client.ask(("HDEL", name, *(keys[at] for at in index.tolist())))

    def pending(self) -> list[PendingEvent]:
        return list(self._of_pending.every())

    def delete_pending(self, places: Collection[tuple[str, int]]) -> None:
        self._of_pending.delete(places)

    def sessions(self) -> Iterator[tuple[str, bytes]]:
        prefix = self._keys.session("")
        names = list(self._client.names(f"{prefix}*"))
        for start in range(0, len(names), CELLS_A_COMMAND):
            page = names[start : start + CELLS_A_COMMAND]
            lists = self._client.ask(*(("LRANGE", name, 0, -1) for name in page))
            for name, items in zip(page, lists, strict=True):
                yield name.removeprefix(prefix), b"\0".join(items)

    def delete_sessions(self, sessions: Sequence[str]) -> None:
        if sessions:
            self._client.ask(*(("DEL", self._keys.session(session)) for session in sessions))

    def purge(self) -> str:
        return "Redis' own files (append-only file, snapshots) and its replicas' until they are next written anew"
