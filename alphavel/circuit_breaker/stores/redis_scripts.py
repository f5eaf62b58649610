"""
The steps in Redis that nobody can come between: Lua, run by Redis as one command.

Redis' answer to a step may be lost on its way although the step was made. Each of them can therefore be made again: to
replace a record that is no longer the expected one changes nothing, and totals are told as what they are, not as what came
to them.
"""

from __future__ import annotations

SWAP = """
local now = redis.call('GET', KEYS[1]) or ''
if now ~= ARGV[1] then return {0, now} end
if ARGV[3] == '0' then redis.call('SET', KEYS[1], ARGV[2]) else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
if ARGV[4] == '1' then
  redis.call('DEL', KEYS[2])
  redis.call('PUBLISH', KEYS[4], ARGV[5])
end
redis.call('SADD', KEYS[3], ARGV[5])
return {1, ARGV[2]}
"""
"""
Replace a record if it is still the expected one. KEYS: record, failures, services, channel. ARGV: the expected record (empty:
none), the new one, milliseconds it is kept (0: for ever), whether its generation is new, the service.
"""

FAIL = """
local now = redis.call('GET', KEYS[1]) or ''
if now ~= ARGV[1] then return {0, now} end
redis.call('RPUSH', KEYS[2], ARGV[2])
redis.call('LTRIM', KEYS[2], -tonumber(ARGV[4]), -1)
redis.call('PEXPIRE', KEYS[2], math.ceil(ARGV[5] * 1000))
redis.call('SADD', KEYS[3], ARGV[6])
local failures = 0
for _, moment in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do
  if tonumber(moment) > tonumber(ARGV[3]) then failures = failures + 1 end
end
return {1, failures}
"""
"""
Note a failure if the record is still the expected one; return how many lie in the window. KEYS: record, failures, services.
ARGV: the expected record, the time, the time when the window began, how many to keep, the window, the service.
"""

REPORT = """
local fields = {'successes', 'failures', 'ignored', 'rejected', 'slow'}
local told = redis.call('HMGET', KEYS[2], unpack(fields))
local totals = redis.call('HMGET', KEYS[1], unpack(fields))
local news = false
for place, field in ipairs(fields) do
  local more = tonumber(ARGV[place]) - tonumber(told[place] or ARGV[5 + place])
  totals[place] = tonumber(totals[place] or 0)
  if more > 0 then
    news = true
    totals[place] = redis.call('HINCRBY', KEYS[1], field, more)
    redis.call('HSET', KEYS[2], field, ARGV[place])
  end
end
if news then
  redis.call('EXPIRE', KEYS[1], ARGV[11])
  redis.call('EXPIRE', KEYS[2], ARGV[11])
  redis.call('SADD', KEYS[3], ARGV[12])
end
if ARGV[13] == '1' then redis.call('DEL', KEYS[1]) end
return totals
"""
"""
Tell what a process has counted; return the totals of all, its own among them. What it told last stands in Redis, so that
only what is new is added, however often this is repeated. KEYS: totals, what this process has told, services. ARGV: five
totals of this process, those it believes to have told (for when Redis has lost them), seconds to keep them, the service,
whether all totals are to be forgotten then.
"""
