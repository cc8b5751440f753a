"""State rows on a Redis server: one script a write, one round trip a read.

A generation's version is checked by the script that writes, so that check and write are one transaction. All keys of
a generation share a hash tag, as the script may only touch keys of one slot. Redis answers before the disk has a write:
a server that dies may lose the last second (appendfsync everysec), which is what the fence of batch.py is for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from features.errors import StoreError
from features.online_store.cells import Put, held, overtaken, rows_table
from features.online_store.generation import Generation

CURRENT, GENERATIONS = "headrace:current", "headrace:generations"
KEYS_A_COMMAND = 4_096
SAMPLED_ROWS = 200

WRITE = """
local found = tonumber(redis.call('HGET', KEYS[1], 'version') or '0')
if found ~= tonumber(ARGV[1]) then return found end
redis.call('HINCRBY', KEYS[1], 'version', 1)
redis.call('SADD', KEYS[3], ARGV[2])
local place, puts = 4, tonumber(ARGV[3])
for number = 1, puts do
  local key, stop = KEYS[3 + number], place + 2 * tonumber(ARGV[place])
  redis.call('SADD', KEYS[2], key)
  for start = place + 1, stop, 2000 do
    redis.call('HSET', key, unpack(ARGV, start, math.min(start + 1999, stop)))
  end
  place = stop + 1
end
for number = 4 + puts, #KEYS do
  redis.call('UNLINK', KEYS[number])
  redis.call('SREM', KEYS[2], KEYS[number])
end
return -1
"""
"""KEYS: generation, its tables, all generations, tables to put into, tables to drop.

ARGV: version, stream_id, count of puts, and for each the count of its cells and key, value of each cell.
The answer is -1, or the version where it is another. HSET takes 2,000 arguments at a time: Lua cannot unpack many more.
"""

TAKE_LEASE = """
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local owner = redis.call('HGET', KEYS[1], 'owner') or ''
local expires = tonumber(redis.call('HGET', KEYS[1], 'expires_ms') or '0')
if owner ~= ARGV[1] and expires > now then return {owner, expires - now} end
if owner ~= ARGV[1] or expires <= now then redis.call('HINCRBY', KEYS[1], 'version', 1) end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'expires_ms', now + tonumber(ARGV[2]))
redis.call('SADD', KEYS[2], ARGV[3])
return {'', 0}
"""

RELEASE_LEASE = """
if redis.call('HGET', KEYS[1], 'owner') == ARGV[1] then redis.call('HSET', KEYS[1], 'expires_ms', 0) end
"""


class RedisRows:
    """The rows of any number of generations and views on the server at ``url`` (redis://host:port/db).

    Args:
        timeout_s: how long a connection or an answer may take before StoreError.
    """

    def __init__(self, url: str, timeout_s: float = 2.0) -> None:
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        # One retry, for connections that the server has closed; more would make a dead server a slow one.
        self._client: Any = Redis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 1)
        )
        self._url = url
        self._write = self._client.register_script(WRITE)
        self._take_lease = self._client.register_script(TAKE_LEASE)
        self._release_lease = self._client.register_script(RELEASE_LEASE)
        self._known_current: dict[str, int] = {}

    def generation(self, stream_id: int, horizons_ms: Mapping[str, int] | None = None) -> Generation:
        """A driver's way into the generation; see Generation for ``horizons_ms``."""
        return Generation(self, stream_id, horizons_ms)

    def close(self) -> None:
        """Close the connections; the next call opens another."""
        self._client.close()

    @contextmanager
    def _answering(self) -> Iterator[Any]:
        from redis import RedisError

        try:
            yield self._client
        except RedisError as error:
            got = f"{type(error).__name__}: {error}"
            raise StoreError("the online store", "a Redis server that answers", got) from error

    # --- cells ---

    def version(self, stream_id: int) -> int:
        with self._answering() as client:
            return int(client.hget(_head(stream_id), "version") or 0)

    def get(self, stream_id: int, table: str, keys: Sequence[str]) -> list[bytes | None]:
        with self._answering() as client:
            pipeline = client.pipeline(transaction=False)
            _ask(pipeline, stream_id, table, keys)
            return _joined(pipeline.execute())

    def write(self, stream_id: int, version: int, puts: Mapping[str, Put], drop: Sequence[str] = ()) -> None:
        tables = [_table(stream_id, table) for table in (*puts, *drop)]
        arguments: list[Any] = [version, stream_id, len(puts)]
        for put in puts.values():
            cells: list[Any] = [None] * (2 * len(put.keys))
            cells[::2], cells[1::2] = put.keys, put.values
            arguments += [len(put.keys), *cells]
        with self._answering():
            found = self._write([_head(stream_id), _tables(stream_id), GENERATIONS, *tables], arguments)
        if found != -1:
            raise overtaken(stream_id, version, int(found))

    # --- leases and generations ---

    def take_lease(self, stream_id: int, owner: str, ttl_s: float) -> None:
        """Make ``owner`` (one process's own name) the only driver for ``ttl_s`` seconds; taken again, it lasts longer.

        Raises:
            LeaseError: another owner holds it.
        """
        with self._answering():
            arguments: list[Any] = [owner, int(ttl_s * 1000), stream_id]
            holder, left_ms = self._take_lease([_head(stream_id), GENERATIONS], arguments)
        if holder:
            raise held(stream_id, holder.decode(), int(left_ms))

    def release_lease(self, stream_id: int, owner: str) -> None:
        """End the owner's lease; nothing happens when another holds it."""
        with self._answering():
            self._release_lease([_head(stream_id)], [owner])

    def current(self, view: str) -> int | None:
        """The generation that readers of the view read; None before the first."""
        with self._answering() as client:
            return _number(client.hget(CURRENT, view))

    def set_current(self, view: str, stream_id: int) -> None:
        """Let readers of the view read this generation from now on."""
        with self._answering() as client:
            client.hset(CURRENT, view, stream_id)

    def generations(self) -> list[int]:
        """The stream_id of every generation that the store knows."""
        with self._answering() as client:
            return sorted(int(stream_id) for stream_id in client.smembers(GENERATIONS))

    def drop_generation(self, stream_id: int) -> None:
        """Forget the generation, whoever drives it: its driver stops at the next write."""
        with self._answering() as client:
            views = [view for view, current in client.hgetall(CURRENT).items() if int(current) == stream_id]
            # The head goes first: no write can come after it.
            client.unlink(_head(stream_id))
            client.unlink(_tables(stream_id), *client.smembers(_tables(stream_id)))
            client.srem(GENERATIONS, stream_id)
            if views:
                client.hdel(CURRENT, *views)

    # --- readers ---

    def read(self, view: str, keys: pa.Array) -> tuple[pa.Array, int | None]:
        """The row of each key (null where there is none), and the generation they are of (None: there is none).

        One round trip: the generation that was current before is asked, together with which is current now.
        """
        asked = self._known_current.get(view) or self.current(view)
        if asked is None:
            return pa.nulls(len(keys), pa.binary()), None
        with self._answering() as client:
            pipeline = client.pipeline(transaction=False)
            pipeline.hget(CURRENT, view)
            _ask(pipeline, asked, rows_table(view), keys.to_pylist())
            current_now, *values = pipeline.execute()
        if _number(current_now) != asked:
            self._known_current.pop(view, None)
            return self.read(view, keys)
        self._known_current[view] = asked
        return pa.array(_joined(values), type=pa.binary()), asked

    def keys(self, view: str) -> pa.Array:
        """The key of every row of the view that readers can read, as text, in no stated order."""
        stream_id = self.current(view)
        with self._answering() as client:
            found = [] if stream_id is None else client.hkeys(_table(stream_id, rows_table(view)))
        return pa.array(found, type=pa.binary()).cast(pa.string())

    def bytes_per_row(self) -> dict[str, float]:
        """How long a row of each view is on average, by a sample of those that readers read."""
        means: dict[str, float] = {}
        with self._answering() as client:
            for view, stream_id in sorted(client.hgetall(CURRENT).items()):
                table = _table(int(stream_id), rows_table(view.decode()))
                sample = client.hrandfield(table, SAMPLED_ROWS, withvalues=True)[1::2]
                if sample:
                    means[view.decode()] = sum(map(len, sample)) / len(sample)
        return means


def _head(stream_id: int) -> str:
    return f"headrace:{{{stream_id}}}"


def _tables(stream_id: int) -> str:
    """The key of the set of the generation's tables."""
    return f"headrace:{{{stream_id}}}:tables"


def _table(stream_id: int, table: str) -> str:
    return f"headrace:{{{stream_id}}}:{table}"


def _number(value: bytes | None) -> int | None:
    return None if value is None else int(value)


def _ask(pipeline: Any, stream_id: int, table: str, keys: Sequence[str]) -> None:
    for start in range(0, len(keys), KEYS_A_COMMAND):
        pipeline.hmget(_table(stream_id, table), keys[start : start + KEYS_A_COMMAND])


def _joined(parts: Sequence[list[bytes | None]]) -> list[bytes | None]:
    return [value for part in parts for value in part] if len(parts) != 1 else parts[0]
