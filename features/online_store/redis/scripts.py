"""Lua scripts of the Redis server: each is a transaction on the keys of a single slot.

A Redis that evicts drops whole keys. So each table has a cell that stands for it, whose key no text has (byte 255), and
each head the number of its tables: a table without that cell, or a number that is another, is a loss.
"""

STANDS = b"\xff"

WRITE = """
local found = tonumber(redis.call('HGET', KEYS[1], 'version') or '0')
if found ~= tonumber(ARGV[1]) then return found end
local puts, at = tonumber(ARGV[3]), 7 + tonumber(ARGV[6])
for shard = 7, at - 1, 2 do
  if (redis.call('HGET', KEYS[3], ARGV[shard]) or '') ~= ARGV[shard + 1] then return found end
end
if ARGV[5] == '1' then
  if redis.call('SCARD', KEYS[2]) ~= tonumber(redis.call('HGET', KEYS[1], 'tables') or '0') then return -2 end
  for number = 4, 3 + puts do
    local key = KEYS[number]
    if redis.call('SISMEMBER', KEYS[2], key) ~= redis.call('HEXISTS', key, '\\255') then return -2 end
  end
end
redis.call('HINCRBY', KEYS[1], 'version', tonumber(ARGV[4]))
if ARGV[2] ~= '' then redis.call('HSET', KEYS[1], 'parts', ARGV[2]) end
for number = 1, puts do
  local key, stop = KEYS[3 + number], at + 2 * tonumber(ARGV[at])
  if redis.call('SADD', KEYS[2], key) == 1 then redis.call('HSET', key, '\\255', '') end
  for start = at + 1, stop, 2000 do
    redis.call('HSET', key, unpack(ARGV, start, math.min(start + 1999, stop)))
  end
  at = stop + 1
end
for number = 4 + puts, #KEYS do
  redis.call('UNLINK', KEYS[number])
  redis.call('SREM', KEYS[2], KEYS[number])
end
redis.call('HSET', KEYS[1], 'tables', redis.call('SCARD', KEYS[2]))
return -1
"""
"""KEYS: the part's head, the set of its tables, its state, tables to put into, tables to drop.

ARGV: version, the versions of the parts (or nothing), count of puts, what to add to the version, 1 if a lost table is
an error, count of the words about shards and those: a cell of the state and the value that it must have; for each put
the count of its cells and key, value of each cell. The answer is -1; the version if it is another, or a shard has
another value; -2 if a table is lost. HSET takes 2,000 arguments at a time: Lua cannot unpack many more.
"""

STANDING = """
local head = redis.call('HMGET', KEYS[1], 'version', 'parts', 'tables')
local known, lost = redis.call('SMEMBERS', KEYS[2]), ''
if tonumber(head[3] or '0') ~= #known or (#known == 0 and redis.call('EXISTS', KEYS[3]) == 1) then lost = KEYS[2] end
for _, key in ipairs(known) do
  if redis.call('HEXISTS', key, '\\255') == 0 then lost = key end
end
return {head[1] or '0', head[2] or '', lost}
"""
"""KEYS: as WRITE's first three. The answer: the part's version, the versions of the parts, a key that it lost or ''."""

SWEEP = """
local found = tonumber(redis.call('HGET', KEYS[1], 'version') or '0')
if found ~= tonumber(ARGV[1]) then return {found, '0', 0} end
local offset, below = tonumber(ARGV[4]), tonumber(ARGV[5])
local page = redis.call('HSCAN', KEYS[2], ARGV[2], 'COUNT', ARGV[3])
local old = {}
for number = 1, #page[2], 2 do
  local value = page[2][number + 1]
  if #value >= offset + 8 and struct.unpack('<i8', value, offset + 1) < below then old[#old + 1] = page[2][number] end
end
for start = 1, #old, 2000 do
  redis.call('HDEL', KEYS[2], unpack(old, start, math.min(start + 1999, #old)))
end
if #old > 0 then redis.call('HINCRBY', KEYS[1], 'version', 1) end
return {-1, page[1], #old}
"""
"""KEYS: the part's head, the table. ARGV: version, cursor, cells to look at, offset and bound of the Sweep.

The answer: -1, or the version if it is another; the cursor for the next page; the number of cells deleted.
"""

_HELD = """
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local owner = redis.call('HGET', KEYS[1], 'owner') or ''
local expires = tonumber(redis.call('HGET', KEYS[1], 'expires_ms') or '0')
"""

_UNLESS_HELD = f"{_HELD}if owner ~= ARGV[1] and expires > now then return {{owner, expires - now}} end\n"

HELD = f"{_UNLESS_HELD}return {{'', 0}}"
"""KEYS: a generation's head. ARGV: an owner. The answer: another that holds its lease, or '', and for how many ms."""

DROP = f"{_UNLESS_HELD}redis.call('UNLINK', KEYS[1])\nreturn {{'', 0}}"
"""As HELD; unless another owner holds the lease, the head is gone then."""

TAKE_LEASE = (
    _UNLESS_HELD
    + """
if owner ~= ARGV[1] or expires <= now then redis.call('HINCRBY', KEYS[1], 'version', 1) end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'expires_ms', now + tonumber(ARGV[2]))
return {'', 0}
"""
)

CLAIM = (
    _HELD
    + """
local home = redis.call('HGET', KEYS[1], 'home') or ARGV[3]
if (home ~= ARGV[3] and (expires > now or ARGV[4] == '0')) or (owner ~= ARGV[1] and expires > now) then
  return {owner, expires - now}
end
redis.call('HSET', KEYS[1], 'home', ARGV[3], 'owner', ARGV[1], 'expires_ms', now + tonumber(ARGV[2]))
return {'', 0}
"""
)
"""KEYS: the project's claim. ARGV: owner, for how many ms, its home, whether it takes over. The answer: as HELD's."""

RELEASE = """
if redis.call('HGET', KEYS[1], 'owner') == ARGV[1] then redis.call('HSET', KEYS[1], 'expires_ms', 0) end
"""

MOVE = """
for _, key in ipairs(redis.call('SMEMBERS', KEYS[2])) do
  local name = string.sub(key, #KEYS[1] + 2)
  if string.sub(name, 1, #ARGV[1]) == ARGV[1] then
    local moved = KEYS[3] .. ':' .. name
    if redis.call('EXISTS', key) == 1 then
      redis.call('RENAME', key, moved)
      redis.call('HSET', moved, '\\255', '')
      redis.call('SADD', KEYS[4], moved)
    end
    redis.call('SREM', KEYS[2], key)
  end
end
if ARGV[1] == '' and redis.call('EXISTS', KEYS[1]) == 1 then redis.call('RENAME', KEYS[1], KEYS[3]) end
if redis.call('EXISTS', KEYS[4]) == 1 then redis.call('HSET', KEYS[3], 'tables', redis.call('SCARD', KEYS[4])) end
"""
"""KEYS: a part's head and the set of its tables, by keys without a project, and both by those of the project.

ARGV: what the names of the tables to move begin with; '' for all, and the head with them.
"""
