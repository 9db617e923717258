-- Gives a connection a place, or keeps it for some time more.
-- KEYS: of all connections, of the user's, of the client's instance, of this connection.
-- ARGV: id, instance, milliseconds, places of the user (-1: it has one), how keys of connections begin, JSON.
-- Answers whether it has a place now, and which connection of the same instance has lost its own.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local all, of_user, of_instance, own = unpack(KEYS)
local id, instance, life, places = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

redis.call('ZREMRANGEBYSCORE', all, '-inf', now)
redis.call('ZREMRANGEBYSCORE', of_user, '-inf', now)

local replaced = ''
if places >= 0 then
  local taken = redis.call('ZCARD', of_user)
  local before = instance ~= '' and redis.call('GET', of_instance)
  if before and before ~= id and redis.call('ZSCORE', of_user, before) then
    replaced, taken = before, taken - 1
  end
  if taken >= places then
    return {0, ''}
  end
  if replaced ~= '' then
    redis.call('ZREM', all, replaced)
    redis.call('ZREM', of_user, replaced)
    redis.call('DEL', ARGV[5] .. replaced)
  end
end

redis.call('ZADD', all, now + life, id)
redis.call('ZADD', of_user, now + life, id)
redis.call('PEXPIRE', all, life)
redis.call('PEXPIRE', of_user, life)
redis.call('SET', own, ARGV[6], 'PX', life)
if instance ~= '' then
  redis.call('SET', of_instance, id, 'PX', life)
end
return {1, replaced}
