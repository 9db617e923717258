-- The event log of one channel.
--
-- KEYS: its events (a stream, `<seq>-0`), eids (a sorted set: eid -> seq), meta (a hash).
-- ARGV[1]: append, read or expire. ARGV[2]: the name of a new epoch, in case that one begins.
--
-- An epoch belongs to one life of one server: a restart or a promotion makes another `master_replid`, and what was told
-- last may be lost. meta.bounds keeps the last number of each older epoch that is in the present one, too.

local FORGOTTEN = '4611686018427387904'
local EPOCHS = 16
local METADATA_FACTOR = 10
-- Between two texts in JSON, in which it never is. Source: RFC 7464.
local SEPARATOR = '\30'

local events, eids, meta = KEYS[1], KEYS[2], KEYS[3]

local function begin_epoch(it, server)
  local bounds = {}
  if it.epoch then
    bounds[1] = it.epoch .. ':' .. it.top
    for epoch, last in string.gmatch(it.bounds, '(%w+):(%d+)') do
      if #bounds < EPOCHS then bounds[#bounds + 1] = epoch .. ':' .. math.min(tonumber(last), it.top) end
    end
  end
  it.epoch, it.bounds = ARGV[2], table.concat(bounds, ' ')
  redis.call('HSET', meta, 'epoch', it.epoch, 'server', server, 'top', it.top, 'bounds', it.bounds)
end

-- What is known of the channel, in the epoch of this server; nil when nothing is.
local function known(or_new)
  local server = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
  local found = redis.call('HMGET', meta, 'epoch', 'server', 'top', 'fence', 'bounds', 'ms')
  if not found[1] and not or_new then return nil end
  local it = {
    epoch = found[1], top = tonumber(found[3] or 0), fence = found[4] or '0', bounds = found[5] or '', ms = found[6]
  }
  if not it.epoch then redis.call('DEL', events, eids) end
  if found[2] ~= server then begin_epoch(it, server) end
  return it
end

local function are_there(first, last)
  for i = first, last, 2 do
    if not redis.call('ZSCORE', eids, ARGV[i]) then return false end
  end
  return last > first
end

local function keep_for(ms)
  redis.call('PEXPIRE', events, ms)
  redis.call('PEXPIRE', eids, ms)
  redis.call('PEXPIRE', meta, ms * METADATA_FACTOR)
end

-- ARGV: the epoch that the caller expects, or nothing; events to keep; milliseconds to keep them; the head of an event;
-- then groups: fence, number of events, and for each eid and the rest of the event behind its number.
-- Answers the epoch alone when it is another, and has appended nothing then; else the epoch, and for each group the
-- number of its last event, or -1: it was refused, for its fence.
local function append()
  local it = known(true)
  if ARGV[3] ~= '' and ARGV[3] ~= it.epoch then return it.epoch end
  local kept, head, told, answer = tonumber(ARGV[4]), ARGV[6], {}, {it.epoch}

  local function add(eid, rest)
    if redis.call('ZADD', eids, 'NX', it.top + 1, eid) == 0 then return tonumber(redis.call('ZSCORE', eids, eid)) end
    it.top = it.top + 1
    redis.call('XADD', events, 'MAXLEN', '~', kept, it.top .. '-0', 'e', rest)
    told[#told + 1] = head .. it.top .. rest
    return it.top
  end

  local i = 7
  while ARGV[i] do
    local fence, first = ARGV[i], i + 2
    local last = first + ARGV[i + 1] * 2 - 1
    local old = fence ~= '0' and tonumber(fence) < tonumber(it.fence)
    if (old or it.fence == FORGOTTEN) and not are_there(first, last) then
      answer[#answer + 1] = -1
    else
      if fence == FORGOTTEN then redis.call('DEL', events, eids) end
      if tonumber(fence) > tonumber(it.fence) then it.fence = fence end
      local seq = it.top
      for n = first, last, 2 do seq = add(ARGV[n], ARGV[n + 1]) end
      answer[#answer + 1] = seq
    end
    i = last + 1
  end

  redis.call('HSET', meta, 'top', it.top, 'fence', it.fence)
  if redis.call('XLEN', events) > kept then
    local oldest = string.match(redis.call('XRANGE', events, '-', '+', 'COUNT', 1)[1][1], '%d+')
    redis.call('ZREMRANGEBYSCORE', eids, '-inf', '(' .. oldest)
  end
  keep_for(it.ms or ARGV[5])
  if #told > 0 then redis.call('PUBLISH', events, it.epoch .. SEPARATOR .. table.concat(told, SEPARATOR)) end
  return answer
end

-- The number up to which a position still holds; -1 when nobody knows its epoch.
local function holds(it, epoch, seq)
  local bound = it.top
  if epoch ~= '' and epoch ~= it.epoch then
    bound = -1
    for older, last in string.gmatch(it.bounds, '(%w+):(%d+)') do
      if older == epoch then bound = tonumber(last) end
    end
  end
  return math.min(seq, bound)
end

-- ARGV: the position's epoch and number, and how many events. Answers epoch, top, floor, the number that the events are
-- behind (or -1), and the events.
local function read()
  local it = known(false) or {epoch = '', top = 0, bounds = ''}
  local after, limit, rows = holds(it, ARGV[3], tonumber(ARGV[4])), tonumber(ARGV[5]), {}
  local oldest = redis.call('XRANGE', events, '-', '+', 'COUNT', 1)[1]
  local floor = oldest and tonumber(string.match(oldest[1], '%d+')) or it.top + 1
  if after >= 0 and limit > 0 then rows = redis.call('XRANGE', events, after + 1, '+', 'COUNT', limit) end
  return {it.epoch, it.top, floor, after, rows}
end

-- ARGV: milliseconds, from now, and from each event that comes.
local function expire()
  if known(false) then
    redis.call('HSET', meta, 'ms', ARGV[3])
    keep_for(ARGV[3])
  end
end

local commands = {append = append, read = read, expire = expire}
return commands[ARGV[1]]()
