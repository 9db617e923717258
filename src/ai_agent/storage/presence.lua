-- Who is in a session. A node says which users it has there, all of them, so saying it twice does no harm.
-- KEYS: the session's users, a hash: user -> {since, typing, nodes: {node -> {here until, typing until}}}.
-- ARGV: node, milliseconds that its word holds, then its users: each, and for how many milliseconds more it types.
-- Answers a fence, which is higher for who asks later; what has changed since somebody asked: what (presence or typing)
-- and user; and all who are there: user, since when, whether it types.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local node, life = ARGV[1], tonumber(ARGV[2])
local users, own, changed, here = {}, {}, {}, {}

local function change(what, user)
  changed[#changed + 1] = what
  changed[#changed + 1] = user
end

local rows = redis.call('HGETALL', KEYS[1])
for i = 1, #rows, 2 do users[rows[i]] = cjson.decode(rows[i + 1]) end
for i = 3, #ARGV, 2 do
  local user = ARGV[i]
  own[user] = {now + life, now + ARGV[i + 1]}
  if not users[user] then
    users[user] = {since = now, typing = false, nodes = {}}
    change('presence', user)
  end
end

for user, it in pairs(users) do
  it.nodes[node] = own[user]
  local is_here, types = false, false
  for name, till in pairs(it.nodes) do
    if till[1] <= now then
      it.nodes[name] = nil
    else
      is_here, types = true, types or till[2] > now
    end
  end
  if not is_here then
    redis.call('HDEL', KEYS[1], user)
    change('presence', user)
  else
    if types ~= it.typing then change('typing', user) end
    it.typing = types
    redis.call('HSET', KEYS[1], user, cjson.encode(it))
    here[#here + 1] = user
    here[#here + 1] = it.since
    here[#here + 1] = types and 1 or 0
  end
end

if #ARGV > 2 then redis.call('PEXPIRE', KEYS[1], life) end
return {string.format('%.0f', time[1] * 1000000 + time[2]), changed, here}
