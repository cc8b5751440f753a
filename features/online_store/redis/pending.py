"""Pending events on a Redis server or cluster: a hash for each view, its fields entity keys, its values packed entries.

All keys share a hash tag, and so a slot of a cluster: they hold only the last moments of the stream.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

from features.online_store.pending import SESSION_ITEMS
from features.online_store.port import Offsets, Pending, PendingEvent
from features.online_store.redis.client import RedisClient
from features.online_store.redis.slots import Keys
from features.times import now_ms

HEAD = struct.Struct("<HIqqq")
"""Before the topic/partition and the value of each entry: their lengths, then offset, known_at and expires_ms."""

MOST_BYTES = 1 << 16
"""Most bytes of a key's entries: an entry beyond them counts once the stream has folded it."""

PRUNED_AT_ONCE = 2_000

KEYS_A_COMMAND = 4_096

PUT = """
for number = 1, #KEYS, 2 do
  local at = (number - 1) / 2 * 5
  local field, entry, partition, offset, most = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5]
  local member = KEYS[number] .. '\\0' .. field
  if not redis.call('ZSCORE', KEYS[number + 1], offset .. '\\0' .. member) then
    local known = redis.call('HGET', KEYS[number], field) or ''
    if #known + #entry <= tonumber(most) then
      redis.call('HSET', KEYS[number], field, known .. entry)
      redis.call('ZADD', KEYS[number + 1], offset, offset .. '\\0' .. member)
    end
  end
end
"""
"""KEYS: of each entry its view's hash and its partition's index. ARGV: field, entry, partition, offset, MOST_BYTES."""

PRUNE = """
local ends = tonumber(ARGV[2])
local gone = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[2], 'LIMIT', 0, ARGV[4])
local touched = {}
for _, member in ipairs(gone) do touched[string.sub(member, string.find(member, '\\0', 1, true) + 1)] = true end
for member, _ in pairs(touched) do
  local cut = string.find(member, '\\0', 1, true)
  local hash, field = string.sub(member, 1, cut - 1), string.sub(member, cut + 1)
  local value, kept, at = redis.call('HGET', hash, field) or '', {}, 1
  while at <= #value do
    local partition_length, value_length, offset, known_at, expires = struct.unpack('<I2I4i8i8i8', value, at)
    local stop = at + 30 + partition_length + value_length
    local partition = string.sub(value, at + 30, at + 29 + partition_length)
    local folded = partition == ARGV[1] and offset < ends
    if not folded and expires > tonumber(ARGV[3]) then kept[#kept + 1] = string.sub(value, at, stop - 1) end
    at = stop
  end
  if #kept > 0 then redis.call('HSET', hash, field, table.concat(kept)) else redis.call('HDEL', hash, field) end
end
if #gone > 0 then redis.call('ZREM', KEYS[1], unpack(gone)) end
return #gone
"""
"""KEYS: the partition's index. ARGV: partition, its end, now, the most to prune. A hash's key is in the index."""


class RedisPending(Pending):
    """Pending events behind a client; may be shared by threads."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client, self._keys = client, keys

    def put(self, entries: Sequence[PendingEvent], ttl_ms: int) -> None:
        expires = now_ms() + ttl_ms
        keys: list[str] = []
        arguments: list[Any] = []
        for entry in entries:
            keys += [self._hash(entry.view), self._index(entry.topic_partition)]
            arguments += [entry.key, _packed(entry, expires), entry.topic_partition, entry.offset, MOST_BYTES]
        if keys:
            ends = [("PEXPIRE", key, max(2 * ttl_ms, 1)) for key in dict.fromkeys(keys)]
            self._client.ask(("EVAL", PUT, len(keys), *keys, *arguments), *ends)

    def _hash(self, view: str) -> str:
        return f"{self._keys.pending}:view:{view}"

    def _index(self, topic_partition: str) -> str:
        return f"{self._keys.pending}:place:{topic_partition}"

    def of(self, view: str, keys: Sequence[str]) -> list[PendingEvent]:
        starts = range(0, len(keys), KEYS_A_COMMAND)
        parts = self._client.ask(
            *(("HMGET", self._hash(view), *keys[start : start + KEYS_A_COMMAND]) for start in starts)
        )
        values = [value for part in parts for value in part]
        now = now_ms()
        known = [(key, value) for key, value in zip(keys, values, strict=True) if value]
        return [entry for key, value in known for entry in _unpacked(view, key, value, now)]

    def prune(self, ends: Offsets) -> None:
        now = now_ms()
        self._client.ask(
            *(
                ("EVAL", PRUNE, 1, self._index(partition), partition, end, now, PRUNED_AT_ONCE)
                for partition, end in ends.items()
            )
        )

    def add_to_session(self, session: str, items: Sequence[str], ttl_ms: int) -> None:
        key = self._keys.session(session)
        trim = ("LTRIM", key, 0, SESSION_ITEMS - 1)
        self._client.ask(("LPUSH", key, *reversed(items)), trim, ("PEXPIRE", key, ttl_ms))

    def session(self, session: str) -> tuple[str, ...]:
        (items,) = self._client.ask(("LRANGE", self._keys.session(session), 0, SESSION_ITEMS - 1))
        return tuple(item.decode() for item in items)


def _packed(entry: PendingEvent, expires: int) -> bytes:
    partition = entry.topic_partition.encode()
    lengths = len(partition), len(entry.value)
    return HEAD.pack(*lengths, entry.offset, entry.known_at, expires) + partition + entry.value


def _unpacked(view: str, key: str, value: bytes, now: int) -> Iterator[PendingEvent]:
    at = 0
    while at < len(value):
        partition_length, length, offset, known_at, expires = HEAD.unpack_from(value, at)
        start = at + HEAD.size
        middle, at = start + partition_length, start + partition_length + length
        if expires > now:
            yield PendingEvent(view, key, value[start:middle].decode(), offset, known_at, value[middle:at])
