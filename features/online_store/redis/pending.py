"""Pending events on a Redis server or cluster: a hash for each view, its fields entity keys, its values packed entries.

All keys share a hash tag, and so a slot of a cluster: they hold only the last moments of the stream.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from features.online_store.pending import MOST_BYTES as MOST_TOTAL
from features.online_store.pending import MOST_ENTRIES, SESSION_ITEMS
from features.online_store.port import Offsets, Pending, PendingEvent
from features.online_store.redis.client import Command, RedisClient
from features.online_store.redis.slots import Keys
from features.times import now_ms

HEAD = struct.Struct("<HIqqq")
"""Before the topic/partition and the value of each entry: their lengths, then offset, known_at and expires_ms."""

MOST_BYTES = 1 << 16
"""Most bytes of a key's entries: an entry beyond them counts once the stream has folded it."""

AT_ONCE = 2_000
"""Entries that a script removes: a Redis answers nobody meanwhile."""

KEYS_A_COMMAND = 4_096

_REMOVE = """
local ends_at, size, places = KEYS[1], KEYS[2], ARGV[1]
local function forget(hash, field, place, offset, length)
  local id = string.format('%.0f', offset) .. '\\0' .. hash .. '\\0' .. field
  redis.call('ZREM', places .. place, id)
  local removed = redis.call('ZREM', ends_at, length .. '\\0' .. place .. '\\0' .. id)
  if removed == 1 then redis.call('DECRBY', size, length) end
end
local function remove(hash, field, is_gone)
  local value, kept, at = redis.call('HGET', hash, field) or '', {}, 1
  while at <= #value do
    local place_length, value_length, offset, known_at, expires = struct.unpack('<I2I4i8i8i8', value, at)
    local stop = at + 30 + place_length + value_length
    local place = string.sub(value, at + 30, at + 29 + place_length)
    if is_gone(place, offset, expires) then
      forget(hash, field, place, offset, stop - at)
    else
      kept[#kept + 1] = string.sub(value, at, stop - 1)
    end
    at = stop
  end
  if #kept > 0 then redis.call('HSET', hash, field, table.concat(kept)) else redis.call('HDEL', hash, field) end
end
local function split(text)
  local cut = string.find(text, '\\0', 1, true)
  return string.sub(text, 1, cut - 1), string.sub(text, cut + 1)
end
local now, most = tonumber(ARGV[2]), tonumber(ARGV[3])
local function is_over(place, offset, expires) return expires <= now end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', ends_at, '-inf', now, 'LIMIT', 0, most)) do
  local length, place, offset, hash, field, rest
  length, rest = split(member)
  place, rest = split(rest)
  offset, rest = split(rest)
  hash, field = split(rest)
  remove(hash, field, is_over)
  forget(hash, field, place, tonumber(offset), tonumber(length))  -- also where the hash is gone
end
"""
"""Takes away what is over. KEYS: the entries by when they end, their bytes. ARGV: start of the places' keys, now, the
most to remove. A hash's key is in the members of both indexes: 'offset, hash, field' of a place, and before these the
length and the place of those by their end."""

PUT = (
    _REMOVE
    + """
local room, most_bytes, most_of_key, refused = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), 0
local count = redis.call('ZCARD', ends_at)
if count == 0 then redis.call('SET', size, 0) end
local bytes = tonumber(redis.call('GET', size) or '0')
for number = 3, #KEYS, 2 do
  local at, hash, place_key = 7 + (number - 3) / 2 * 5, KEYS[number], KEYS[number + 1]
  local field, entry, place, offset, ends = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local id = offset .. '\\0' .. hash .. '\\0' .. field
  if not redis.call('ZSCORE', place_key, id) then
    local known = redis.call('HGET', hash, field) or ''
    if count >= room or bytes + #entry > most_bytes or #known + #entry > most_of_key then
      refused = refused + 1
    else
      count, bytes = count + 1, bytes + #entry
      redis.call('HSET', hash, field, known .. entry)
      redis.call('ZADD', place_key, offset, id)
      redis.call('ZADD', ends_at, ends, #entry .. '\\0' .. place .. '\\0' .. id)
    end
  end
end
redis.call('SET', size, bytes)
return refused
"""
)
"""KEYS: then of each entry its view's hash and its place's index. ARGV: then the most entries, their most bytes, the
most bytes of a key; of each entry field, packed entry, place, offset, when it ends. The answer: how many found no room.
"""

PRUNE = (
    _REMOVE
    + """
local at, stop = ARGV[4], tonumber(ARGV[5])
local gone = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', '(' .. ARGV[5], 'LIMIT', 0, most)
local touched = {}
for _, member in ipairs(gone) do
  local _, rest = split(member)
  touched[rest] = true
end
local function is_folded(place, offset, expires) return expires <= now or (place == at and offset < stop) end
for rest, _ in pairs(touched) do
  local hash, field = split(rest)
  remove(hash, field, is_folded)
end
if #gone > 0 then redis.call('ZREM', KEYS[3], unpack(gone)) end
return #gone
"""
)
"""KEYS: then the place's index. ARGV: then the place, its end. The answer: how many entries before it were removed."""


DELETE = (
    _REMOVE
    + """
local gone = {}
for number = 4, #ARGV do gone[ARGV[number]] = true end
local function is_gone(place, offset, expires) return gone[place .. '\\0' .. string.format('%.0f', offset)] end
for number = 3, #KEYS do
  for _, field in ipairs(redis.call('HKEYS', KEYS[number])) do remove(KEYS[number], field, is_gone) end
end
"""
)
"""KEYS: then the views' hashes. ARGV: then 'place, offset' of each event whose entries go."""


class RedisPending(Pending):
    """Pending events behind a client; may be shared by threads."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client, self._keys = client, keys

    def put(self, entries: Sequence[PendingEvent], ttl_ms: int) -> int:
        now = now_ms()
        keys: list[str] = []
        arguments: list[Any] = []
        for entry in entries:
            keys += [self._hash(entry.view), self._index(entry.topic_partition)]
            packed = _packed(entry, now + ttl_ms)
            arguments += [entry.key, packed, entry.topic_partition, entry.offset, now + ttl_ms]
        if not keys:
            return 0
        # What nobody adds to any more goes as a whole, long after its last entry has ended.
        of_all = self._of_all()
        ends = [("PEXPIRE", key, max(2 * ttl_ms, 1)) for key in dict.fromkeys([*of_all, *keys])]
        most = (AT_ONCE, MOST_ENTRIES, MOST_TOTAL, MOST_BYTES)
        shared = (len(of_all) + len(keys), *of_all, *keys, self._index(""), now, *most)
        refused, *_ = self._client.ask(("EVAL", PUT, *shared, *arguments), *ends)
        return int(refused)

    def size(self) -> tuple[int, int]:
        by_end, size = self._of_all()
        entries, total = self._client.ask(("ZCARD", by_end), ("GET", size))
        return int(entries), int(total or 0)

    def _of_all(self) -> tuple[str, str]:
        """The keys of the entries by when they end, and of their bytes."""
        return f"{self._keys.pending}:ends", f"{self._keys.pending}:bytes"

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
        left, now = dict(ends), now_ms()
        while left:
            gone = self._client.ask(*(self._pruning(place, end, now) for place, end in left.items()))
            left = {place: end for (place, end), count in zip(left.items(), gone, strict=True) if count == AT_ONCE}

    def _pruning(self, place: str, end: int, now: int) -> Command:
        """The command that removes some of the entries of a place before its end."""
        return ("EVAL", PRUNE, 3, *self._of_all(), self._index(place), self._index(""), now, AT_ONCE, place, end)

    def every(self) -> Iterator[PendingEvent]:
        """All entries, with those that are over. Raises StoreError."""
        for key in self._client.names(self._hash("*")):
            (found,) = self._client.ask(("HGETALL", key))
            view = key.removeprefix(self._hash(""))
            for field, value in zip(found[::2], found[1::2], strict=True):
                yield from _unpacked(view, field.decode(), value, -1)

    def delete(self, places: Collection[tuple[str, int]]) -> None:
        """Delete the entries of these events ('topic/partition', offset) under every key. Raises StoreError."""
        keys = (*self._of_all(), *self._client.names(self._hash("*")))
        events = [f"{place}\0{offset}" for place, offset in places]
        for start in range(0, len(events), AT_ONCE):
            some = events[start : start + AT_ONCE]
            self._client.ask(("EVAL", DELETE, len(keys), *keys, self._index(""), 0, 0, *some))

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
