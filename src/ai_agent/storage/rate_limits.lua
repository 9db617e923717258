-- Charges the windows of several hits, one hit after the other: of each hit all windows, or none.
--
-- KEYS: the windows of all hits in a row. ARGV[1]: the strategy. ARGV[2..]: for each hit its windows as
-- "limit,milliseconds,cost;limit,milliseconds,cost". A cost of 0 only looks.
-- Answers one text: for each window "used reset wait", the last two in milliseconds from now.
--
-- A moving window is a list of pairs: when, and how many units were taken ever since the list began. Its first pair is the
-- last one that counts no more, so what is used is the last sum less the first, and no request looks at all entries.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local PAGE = 8

local moving = {}

-- Drops pairs that are too old, and answers those at the list's head.
function moving.head(key, span)
  local size, page = PAGE, redis.call('LRANGE', key, 0, PAGE - 1)
  while true do
    local old = 0
    while page[old + 3] and tonumber(page[old + 3]) <= now - span do old = old + 2 end
    if old == 0 then return page end
    redis.call('LTRIM', key, old, -1)
    size = size * 2
    page = redis.call('LRANGE', key, 0, size - 1)
  end
end

-- How long until so many units are free again.
function moving.wait(key, span, base, missing)
  local from = 2
  while true do
    local page = redis.call('LRANGE', key, from, from + 63)
    if #page == 0 then return span end
    for i = 1, #page, 2 do
      if page[i + 1] - base >= missing then return page[i] + span - now end
    end
    from = from + 64
  end
end

function moving.look(key, limit, span, cost)
  local head = moving.head(key, span)
  if not head[3] then return {used = 0, reset = 0, wait = 0} end
  local last = redis.call('LRANGE', key, -2, -1)
  if tonumber(last[1]) > now + 1000 then
    -- The clock went back: what it wrote ahead would count for as long as it went.
    redis.call('DEL', key)
    return {used = 0, reset = 0, wait = 0}
  end
  local used = last[2] - head[2]
  local missing, wait = used + cost - limit, 0
  if cost > 0 and missing > 0 then wait = moving.wait(key, span, tonumber(head[2]), missing) end
  return {used = used, reset = head[3] + span - now, wait = wait}
end

function moving.take(key, span, cost, state)
  local last = redis.call('LRANGE', key, -2, -1)
  local at, sum = tonumber(last[1] or 0), tonumber(last[2] or 0)
  if at >= now and state.used > 0 then
    -- Within the millisecond, or the clock went back.
    redis.call('LSET', key, -1, sum + cost)
  elseif last[1] then
    redis.call('RPUSH', key, now, sum + cost)
  else
    redis.call('RPUSH', key, 0, 0, now, cost)
  end
  redis.call('PEXPIRE', key, span + 1000)
  state.used = state.used + cost
  if state.reset == 0 then state.reset = span end
end

local fixed = {}

function fixed.look(key, limit, span, cost)
  local used, reset, wait = tonumber(redis.call('GET', key) or 0), 0, 0
  if used > 0 then reset = math.max(redis.call('PTTL', key), 1) end
  if cost > 0 and used + cost > limit then wait = reset end
  return {used = used, reset = reset, wait = wait}
end

function fixed.take(key, span, cost, state)
  state.used = redis.call('INCRBY', key, cost)
  if state.reset == 0 then
    redis.call('PEXPIRE', key, span)
    state.reset = span
  end
end

local strategy, out, k = (ARGV[1] == 'moving-window') and moving or fixed, {}, 0
for hit = 2, #ARGV do
  local windows, allowed = {}, true
  for limit, span, cost in string.gmatch(ARGV[hit], '(%d+),(%d+),(%d+)') do
    k = k + 1
    local window = {key = KEYS[k], span = tonumber(span), cost = tonumber(cost)}
    window.state = strategy.look(window.key, tonumber(limit), window.span, window.cost)
    if window.state.wait > 0 then allowed = false end
    windows[#windows + 1] = window
  end
  for _, window in ipairs(windows) do
    local state = window.state
    if allowed and window.cost > 0 then strategy.take(window.key, window.span, window.cost, state) end
    out[#out + 1] = string.format('%d %d %d', state.used, state.reset, state.wait)
  end
end
return table.concat(out, ' ')
