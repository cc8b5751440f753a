"""Lua scripts of the Redis server: each is a transaction on the keys of a single slot."""

WRITE = """
local found = tonumber(redis.call('HGET', KEYS[1], 'version') or '0')
if found ~= tonumber(ARGV[1]) then return found end
local puts, at = tonumber(ARGV[3]), 6 + tonumber(ARGV[5])
for shard = 6, at - 1, 2 do
  if (redis.call('HGET', KEYS[3], ARGV[shard]) or '') ~= ARGV[shard + 1] then return found end
end
redis.call('HINCRBY', KEYS[1], 'version', tonumber(ARGV[4]))
if ARGV[2] ~= '' then redis.call('HSET', KEYS[1], 'parts', ARGV[2]) end
for number = 1, puts do
  local key, stop = KEYS[3 + number], at + 2 * tonumber(ARGV[at])
  redis.call('SADD', KEYS[2], key)
  for start = at + 1, stop, 2000 do
    redis.call('HSET', key, unpack(ARGV, start, math.min(start + 1999, stop)))
  end
  at = stop + 1
end
for number = 4 + puts, #KEYS do
  redis.call('UNLINK', KEYS[number])
  redis.call('SREM', KEYS[2], KEYS[number])
end
return -1
"""
"""KEYS: the part's head, the set of its tables, its state, tables to put into, tables to drop.

ARGV: version, the versions of the parts (or nothing), count of puts, what to add to the version, count of the words
about shards and those: a cell of the state and the value that it must have; for each put the count of its cells and
key, value of each cell. The answer is -1, or the version if it is another, or a shard has another value. HSET takes
2,000 arguments at a time: Lua cannot unpack many more.
"""

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
    if redis.call('EXISTS', key) == 1 then redis.call('RENAME', key, moved) end
    redis.call('SADD', KEYS[4], moved)
    redis.call('SREM', KEYS[2], key)
  end
end
if ARGV[1] == '' and redis.call('EXISTS', KEYS[1]) == 1 then redis.call('RENAME', KEYS[1], KEYS[3]) end
"""
"""KEYS: a part's head and the set of its tables, by keys without a project, and both by those of the project.

ARGV: what the names of the tables to move begin with; '' for all, and the head with them.
"""
