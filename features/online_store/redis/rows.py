"""State rows on a Redis server or cluster: a script for each write, a round trip for each read.

A generation's version is checked by the script that writes, so that check and write are one transaction. In a cluster
rows are spread over parts, each with a version of its own that its driver knows, and whose writes the generation knows
of from the driver's next write on: what one node loses is found at the next write to it, or when the next batch begins.
Redis answers before the disk has a write: a server that dies may lose the last second (appendfsync everysec), which is
what the fence of batch_step.py is for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.online_store.conflicts import claimed, evicted, for_reader, held, lost, overtaken
from features.online_store.port import (
    NO_CONDITIONS,
    PROJECT,
    Cursor,
    Put,
    Sweep,
    Version,
    WriteConditions,
    binaries,
    of_schema,
    rows_table,
)
from features.online_store.redis.client import Command, Mode, RedisClient
from features.online_store.redis.pending import RedisPending
from features.online_store.redis.scripts import CLAIM, DROP, HELD, RELEASE, STANDS, SWEEP, TAKE_LEASE
from features.online_store.redis.slots import HEAD, Keys, SlotMap
from features.online_store.redis.version_0_1 import OLD, carry_over, carry_over_feast, check, not_carried
from features.online_store.redis.writing import LOST, WRITTEN, standing_of, write_to
from features.online_store.store import OnlineStore

KEYS_A_COMMAND = 4_096

SAMPLED_ROWS = 200

NO_EVICTION = "noeviction"


class RedisRows(OnlineStore):
    """The rows of any number of generations and views on the server at ``url`` (redis://host:port/db).

    Args:
        timeout_s: the longest that a connection or an answer may take before StoreError.
        mode: 'cluster' if the server is one of a cluster.
        project: whose rows; those of other projects on the server are other rows.
        password: see RedisClient.
    """

    def __init__(
        self, url: str, timeout_s: float = 2.0, mode: Mode = "server", project: str = PROJECT, password: str = ""
    ) -> None:
        self._opened = url, timeout_s, mode, project, password
        self._keys, self._is_of_project = Keys(project), False
        self._client = RedisClient(url, mode, timeout_s, password)
        self._slots = SlotMap(spread=mode == "cluster")
        self._known_current: dict[str, int] = {}

    def __reduce__(self) -> tuple[type[RedisRows], tuple[str, float, Mode, str, str]]:
        """Another process opens its own connections."""
        return RedisRows, self._opened

    @property
    def takes_shards(self) -> bool:
        """Not in a cluster: a shard's rows are in a part, and the version that its fence checks is not."""
        return not self._slots.spread

    def pending(self) -> RedisPending:
        """The pending events, on the same server."""
        return RedisPending(self._client, self._keys)

    def close(self) -> None:
        self._client.close()

    def _check_project(self) -> None:
        """Raise StoreError, in the place of an answer about nothing, where only version 0.1 has written."""
        if not self._is_of_project:
            check(self._client, self._keys)
            self._is_of_project = True

    # --- cells ---

    def version(self, stream_id: int, *, whole: bool = True) -> Version:
        self._check_project()
        ((number, parts, *gone),) = self._client.ask(standing_of(self._keys, stream_id, HEAD))
        # After the head, as the head never knows of more than a part had.
        standing = self._client.ask(*(standing_of(self._keys, stream_id, part) for part in self._slots.numbers()))
        versions = [int(version) for version, *_ in standing]
        known = [int(version) for version in parts.split()] if parts else [0] * len(versions)
        if whole:
            for key in [key for key in (*gone, *(one[-1] for one in standing)) if key]:
                raise evicted(stream_id, key.decode())
            for has, had in zip(versions, known, strict=True):
                if has < had:
                    raise lost(stream_id, had, has)
        return int(number), *versions

    def get(self, stream_id: int, table: str, keys: Sequence[str]) -> list[bytes | None]:
        self._check_project()
        commands, order = self._reading(stream_id, table, pa.array(keys, pa.string()))
        return _in_order(self._client.ask(*commands), order)

    def _reading(
        self, stream_id: int, table: str, keys: pa.Array, *first: bytes
    ) -> tuple[list[Command], NDArray[np.int64]]:
        """The commands that read the keys' cells, and the index of the keys in the order of the answers.

        Args:
            first: cells that each command reads before.
        """
        split = self._slots.split(table, keys)
        order = (
            split[0][1] if len(split) == 1 else np.concatenate([np.empty(0, np.int64), *(index for _, index in split)])
        )
        texts = keys.to_pylist() if len(split) == 1 else keys.take(pa.array(order)).to_pylist()
        commands, start = [], 0
        for part, index in split:
            stop = start + len(index)
            for at in range(start, stop, KEYS_A_COMMAND):
                page = texts[at : min(at + KEYS_A_COMMAND, stop)]
                commands.append(("HMGET", self._keys.table(stream_id, table, part), *first, *page))
            start = stop
        return commands, order

    def write(
        self,
        stream_id: int,
        version: Version,
        puts: Mapping[str, Put],
        drop: Sequence[str] = (),
        conditions: WriteConditions = NO_CONDITIONS,
    ) -> Version:
        head, parts = version[0], list(version[1:])
        shared = self._shared(puts)
        dropped = {HEAD: [table for table in drop if HEAD in self._slots.of_table(table)]}
        dropped |= {part: [name for name in drop if name not in dropped[HEAD]] for part in self._slots.numbers()}
        known = " ".join(map(str, parts))
        ask = self._client.ask
        if head == 0:
            ask(("SADD", self._keys.generations, stream_id))
        (actual,) = ask(
            write_to(self._keys, stream_id, HEAD, head, known, shared.pop(HEAD, {}), dropped[HEAD], conditions)
        )
        self._check_written(stream_id, head, actual)
        written = sorted(shared.keys() | {part for part, tables in dropped.items() if tables and part != HEAD})
        if written:
            commands = [
                write_to(self._keys, stream_id, part, parts[part], "", shared.get(part, {}), dropped[part])
                for part in written
            ]
            for part, actual in zip(written, ask(*commands), strict=True):
                self._check_written(stream_id, parts[part], actual)
                parts[part] += 1
        return head + int(conditions.moves_version), *parts

    def _check_written(self, stream_id: int, expected: int, answer: int) -> None:
        if answer == LOST:
            self.version(stream_id)  # says which key
        if answer != WRITTEN:
            raise overtaken(stream_id, expected, answer)

    def _shared(self, puts: Mapping[str, Put]) -> dict[int, dict[str, Put]]:
        """The cells of each part, by table."""
        shared: dict[int, dict[str, Put]] = {}
        for table, put in puts.items():
            for part, index in self._slots.split(table, pa.array(put.keys, pa.string())):
                whole = len(index) == len(put.keys)
                shared.setdefault(part, {})[table] = put if whole else Put(_at(put.keys, index), _at(put.values, index))
        return shared

    def sweep(
        self, stream_id: int, version: Version, table: str, sweep: Sweep, cursor: Cursor
    ) -> tuple[Version, Cursor, int]:
        parts = self._slots.of_table(table)
        number, at = cursor
        part = parts[number]
        expected = version[part + 1]  # the head's is the first
        keys = (self._keys.head(stream_id, part), self._keys.table(stream_id, table, part))
        limits = (at, sweep.cells, sweep.offset, sweep.below)
        ((actual, following, gone),) = self._client.ask(("EVAL", SWEEP, len(keys), *keys, expected, *limits))
        if actual != -1:
            raise overtaken(stream_id, expected, actual)
        moved = (*version[: part + 1], expected + (gone > 0), *version[part + 2 :])
        after = (number, int(following)) if int(following) else ((number + 1) % len(parts), 0)
        return moved, after, gone

    # --- leases and generations ---

    def take_lease(self, stream_id: int, owner: str, ttl_s: float) -> None:
        self._client.ask(("SADD", self._keys.generations, stream_id))
        self._take_lease(self._keys, stream_id, owner, ttl_s)

    def _take_lease(self, keys: Keys, stream_id: int, owner: str, ttl_s: float) -> None:
        _unless_held(stream_id, self._client.ask(("EVAL", TAKE_LEASE, 1, keys.head(stream_id), owner, _ms(ttl_s))))

    def release_lease(self, stream_id: int, owner: str) -> None:
        self._client.ask(("EVAL", RELEASE, 1, self._keys.head(stream_id), owner))

    def eviction(self) -> str | None:
        answers = self._client.configured("maxmemory*")
        if answers is None:
            return ""
        policies = [one["maxmemory-policy"] for one in answers if one["maxmemory"] != "0"]
        return next((policy for policy in sorted(policies) if policy != NO_EVICTION), None)

    def claim(self, home: str, owner: str, ttl_s: float, *, take_over: bool = False) -> None:
        leases = [("EVAL", HELD, 1, self._keys.head(number), owner) for number in self.generations()]
        claim = ("EVAL", CLAIM, 1, self._keys.claim, owner, _ms(ttl_s), home, int(take_over))
        for asked in (leases, [claim]):
            for holder, left_ms in self._client.ask(*asked):
                if holder:
                    raise claimed(f"the online store of project '{self._keys.project}'", holder.decode(), int(left_ms))

    def release_claim(self, owner: str) -> None:
        self._client.ask(("EVAL", RELEASE, 1, self._keys.claim, owner))

    def carry_over(self, stream_ids: Collection[int], owner: str, ttl_s: float) -> list[int]:
        moved = not_carried(self._client, stream_ids)
        for stream_id in moved:
            (is_whole,) = self._client.ask(("EXISTS", OLD.head(stream_id)))
            if is_whole:  # a driver of version 0.1 stops at its next write
                self._take_lease(OLD, stream_id, owner, ttl_s)
            carry_over(self._client, self._keys, self._slots, stream_id)
        carry_over_feast(self._client, self._keys, self._slots)
        self._is_of_project = True
        return moved

    def current(self, view: str) -> int | None:
        self._check_project()
        (stream_id,) = self._client.ask(("HGET", self._keys.current, view))
        return _number(stream_id)

    def views(self) -> list[str]:
        return [view for view, _ in self._currents() if "@" not in view]

    def set_current(self, view: str, stream_id: int, owner: str = "") -> None:
        (before,) = self._client.ask(("HGET", self._keys.current, view))
        if before is not None and int(before) != stream_id:
            _unless_held(int(before), self._client.ask(("EVAL", HELD, 1, self._keys.head(int(before)), owner)))
        self._client.ask(("HSET", self._keys.current, view, stream_id))

    def generations(self) -> list[int]:
        (stream_ids,) = self._client.ask(("SMEMBERS", self._keys.generations))
        return sorted(map(int, stream_ids))

    def drop_generation(self, stream_id: int, owner: str = "") -> None:
        ask = self._client.ask
        # The head goes first: no write can come after it.
        _unless_held(stream_id, ask(("EVAL", DROP, 1, self._keys.head(stream_id), owner)))
        for part in (HEAD, *self._slots.numbers()):
            (tables,) = ask(("SMEMBERS", self._keys.tables(stream_id, part)))
            ask(("UNLINK", self._keys.head(stream_id, part), self._keys.tables(stream_id, part), *tables))
        ask(("SREM", self._keys.generations, stream_id))
        views = [view for view, current in self._currents() if current == stream_id]
        if views:
            ask(("HDEL", self._keys.current, *views))

    def _currents(self) -> list[tuple[str, int]]:
        """Every view and the generation that its readers read."""
        (views,) = self._client.ask(("HKEYS", self._keys.current))
        if not views:
            return []
        (numbers,) = self._client.ask(("HMGET", self._keys.current, *views))
        return sorted((view.decode(), int(number)) for view, number in zip(views, numbers, strict=True) if number)

    # --- readers ---

    def read(self, view: str, keys: pa.Array, schema_hash: int | None = None) -> tuple[pa.Array, int | None]:
        """One round trip: the rows of the generation that was current before, and the current generation."""
        self._check_project()
        names = [view] if schema_hash is None else [of_schema(view, schema_hash), view]
        stream_id = self._known_current.get(names[0]) or self._current_of(names)
        if stream_id is None:
            return pa.nulls(len(keys), pa.binary()), None
        commands, order = self._reading(stream_id, rows_table(view), keys, STANDS)
        current_now, *values = self._client.ask(("HMGET", self._keys.current, *names), *commands)
        lost_key = self._lost_key(stream_id, view) if any(value[0] is None for value in values) else b""
        if _first_number(current_now) != stream_id or (lost_key and self._current_of(names) != stream_id):
            self._known_current.pop(names[0], None)
            return self.read(view, keys, schema_hash)
        if lost_key:
            raise for_reader(evicted(stream_id, lost_key.decode()))
        self._known_current[names[0]] = stream_id
        for value in values:
            del value[0]
        return binaries(_in_order(values, order)), stream_id

    def _lost_key(self, stream_id: int, view: str) -> bytes:
        """A key that the parts with a view's rows have lost; b'' for none, as where nothing was ever written."""
        parts = self._client.ask(
            *(standing_of(self._keys, stream_id, part) for part in self._slots.of_table(rows_table(view)))
        )
        return next((bytes(key) for *_, key in parts if key), b"")

    def _current_of(self, names: Sequence[str]) -> int | None:
        (stream_ids,) = self._client.ask(("HMGET", self._keys.current, *names))
        return _first_number(stream_ids)

    def keys(self, view: str) -> pa.Array:
        stream_id = self.current(view)
        parts = [] if stream_id is None else self._client.ask(*(("HKEYS", key) for key in self._rows(stream_id, view)))
        return pa.array([key for part in parts for key in part if key != STANDS], type=pa.binary()).cast(pa.string())

    def bytes_per_row(self) -> dict[str, float]:
        views = [(view, stream_id) for view, stream_id in self._currents() if "@" not in view]
        means = {view: self._mean_length(stream_id, view) for view, stream_id in views}
        return {view: mean for view, mean in means.items() if mean is not None}

    def _mean_length(self, stream_id: int, view: str) -> float | None:
        table_keys = self._rows(stream_id, view)
        share = SAMPLED_ROWS // len(table_keys)
        parts = self._client.ask(*(("HRANDFIELD", key, share, "WITHVALUES") for key in table_keys))
        pairs = [pair for part in parts for pair in zip(part[::2], part[1::2], strict=True)]
        sample = [len(value) for key, value in pairs if key != STANDS]
        return sum(sample) / len(sample) if sample else None

    def _rows(self, stream_id: int, view: str) -> list[str]:
        """The keys that hold a view's rows."""
        table = rows_table(view)
        return [self._keys.table(stream_id, table, part) for part in self._slots.of_table(table)]


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _unless_held(stream_id: int, answers: Sequence[Any]) -> None:
    """Raise LeaseError if the answer of a script about the generation's lease names a holder."""
    for holder, left_ms in answers:
        if holder:
            raise held(stream_id, holder.decode(), int(left_ms))


def _at(values: Sequence[Any], index: NDArray[np.int64]) -> list[Any]:
    """The values at this index."""
    if len(index) == 1:
        return [values[int(index[0])]]
    return list(itemgetter(*index.tolist())(values))


def _in_order(answers: Sequence[list[bytes | None]], order: NDArray[np.int64]) -> list[bytes | None]:
    """The values of the parts' answers, in the order of the keys."""
    if len(answers) == 1:
        return answers[0]
    values = np.empty(len(order), dtype=object)
    values[order] = [value for part in answers for value in part]
    in_order: list[bytes | None] = values.tolist()
    return in_order


def _number(value: bytes | None) -> int | None:
    return None if value is None else int(value)


def _first_number(values: Sequence[bytes | None]) -> int | None:
    return next((int(value) for value in values if value is not None), None)
