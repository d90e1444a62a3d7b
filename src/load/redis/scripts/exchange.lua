-- The one hot script, for both modes: publish what this node holds, pick k servers, renew the lease, take a snapshot.
-- A call that is not the next of its row's numbered stream is void as a whole: it has no effect at all.
--
-- KEYS  1 load     ZSET   server -> requests in flight in the fleet (always the plain count)
--       2 tot      STRING i64 picks ever made by the fleet, then u32 in flight per slot (slots start at 2)
--       3 servers  HASH   server -> 'slot weight cap' (weight 0: counted, never picked; -1: retired; cap 0: none), #gen, #weighted
--       4 lease    ZSET   incarnation -> expiry, ms of the Redis clock
--       5 row:<me> STRING i64 number of the last call that ran, then u32 per slot: this node's share of tot. It goes by itself half
--                  a day after the last renewal: a dead node's row that nobody knows of any more must not stay for ever
--       6 order    ZSET   server -> (n+1)/weight of those that may be picked; exists only where weights differ or caps are set
-- ARGV  1 me  2 seq  3 ttl_ms (0: leave the lease alone)  4 flags: 1 RESET, 2 SNAPSHOT, 4 OWN ROW
--       5 picks made locally since the last call  6 k  7 random seed  8 n, then n pairs server,change, then the excluded servers
-- RESET: the pairs are absolute counts, servers not listed hold 0, any greater seq will do, row and lease are made where missing.
-- Reply {gen, {picks}, off, [tot, live nodes, a dead incarnation or '', now_ms], [row]}
--       off = requests put right by a RESET, or changes refused (only a bug does that);
--       -1 = a RESET found the lease without its row: somebody deleted the row, its share is still in tot, so audit
-- Errors, all without effect: NOLEASE no row; STALE seq seen before; GAP an earlier call is missing; UNKNOWN server or table
local load, tot, servers, lease, row, order = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local me, seq, ttl, flags = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local made, k, seed, n = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local _ = seq + ttl + flags + made + k + seed + n -- a malformed call fails here, before anything is written
local excluded_from = 9 + 2 * n
local call, floor, match = redis.call, math.floor, string.match
local reset = flags % 2 == 1

-- One variadic command. `unpack` carries some thousands of words, so a longer one goes in pieces (each with the first `head`
-- words) and the replies are joined. 4000 is a multiple of every group of words used below.
local function variadic(words, head)
  if #words <= 4000 then return call(unpack(words)) end
  local replies = {}
  for from = head + 1, #words, 4000 do
    local piece = {unpack(words, 1, head)}
    for j = from, math.min(from + 3999, #words) do piece[#piece + 1] = words[j] end
    local reply = call(unpack(piece))
    if type(reply) == 'table' then for j = 1, #reply do replies[#replies + 1] = reply[j] end end
  end
  return replies
end

-- Part 1, the gate: every call runs at most once, and in order.
local last = call('BITFIELD', row, 'GET', 'i64', '#0')[1]
local row_lost = false
if reset then
  if seq <= last then return redis.error_reply('STALE seen') end
  if ttl <= 0 then return redis.error_reply('ERR reset needs a ttl') end
  -- Row and lease come and go together in every script, so one without the other is somebody else's doing.
  row_lost = last == 0 and call('ZSCORE', lease, me)
elseif last == 0 then return redis.error_reply('NOLEASE reset first')
elseif seq ~= last + 1 then return redis.error_reply(seq <= last and 'STALE seen' or 'GAP reset first') end

local name, change, query = {}, {}, {'HMGET', servers, '#gen', '#weighted'}
for i = 1, n do name[i] = ARGV[7 + 2 * i]; change[i] = ARGV[8 + 2 * i]; query[4 + i] = name[i] end
local entry = variadic(query, 2) -- [1] and [2] are the table's own fields; the entry of name[i] stands at i + 2
local gen, weighted, off = entry[1], entry[2] == '1', 0
if not gen then return redis.error_reply('UNKNOWN table') end
for i = 1, n do if not entry[i + 2] then return redis.error_reply('UNKNOWN ' .. name[i]) end end

if reset then -- turn absolute counts into changes against what the row holds
  local old, listed, stray, strays = call('GET', row) or '', {}, {}, false
  for i = 1, n do
    local slot = tonumber(match(entry[i + 2], '^%d+'))
    local was = #old >= 4 * slot + 4 and struct.unpack('>I4', old, 4 * slot + 1) or 0
    listed[slot] = true
    change[i] = change[i] - was; off = off + math.abs(change[i])
  end
  for slot = 2, #old / 4 - 1 do
    local held = struct.unpack('>I4', old, 4 * slot + 1)
    if held > 0 and not listed[slot] then stray[slot] = held; strays = true end
  end
  if strays then
    local all = call('HGETALL', servers)
    local function clear(slot, who, its_entry)
      n = n + 1; name[n] = who; entry[n + 2] = its_entry; change[n] = -stray[slot]
      off = off + stray[slot]; stray[slot] = nil
    end
    for i = 1, #all, 2 do
      local slot = tonumber(match(all[i + 1], '^(%d+) '))
      if slot and stray[slot] then clear(slot, all[i], all[i + 1]) end
    end
    -- Slots that belong to nobody: the table was deleted and made anew. They must not wait for their next owner.
    for slot = 2, #old / 4 - 1 do if stray[slot] then clear(slot, false, slot .. ' 0 0') end end
  end
  if row_lost then off = -1 end
end

-- Part 2, publish: row, totals and sorted sets move together.
-- A row never goes below 0: FAIL refuses the change, and then the total is left alone too. Totals cannot, unless somebody deleted
-- the key; SAT then keeps them near 0 instead of 4 billion until the audit.
local row_ops = {'BITFIELD', row, 'OVERFLOW', 'FAIL', 'SET', 'i64', '#0', seq}
local tot_ops = {'BITFIELD', tot, 'OVERFLOW', 'SAT', 'INCRBY', 'i64', '#0', made}
local function add(ops, slot, by)
  local j = #ops
  ops[j + 1] = 'INCRBY'; ops[j + 2] = 'u32'; ops[j + 3] = '#' .. slot; ops[j + 4] = by
end
local function place(put, drop, who, its_entry, count) -- where `order` should have a server that now has `count`
  local weight, cap = match(its_entry, ' (%S+) (%d+)$')
  weight = tonumber(weight); cap = tonumber(cap)
  if weight > 0 and (cap == 0 or count < cap) then put[#put + 1] = (count + 1) / weight; put[#put + 1] = who
  else drop[#drop + 1] = who end
end
if n > 0 then
  local slot, taken = {}, {}
  for i = 1, n do slot[i] = match(entry[i + 2], '^%d+'); add(row_ops, slot[i], change[i]) end
  local accepted = variadic(row_ops, 4)
  for i = 1, n do
    if accepted[i + 1] then taken[#taken + 1] = i; add(tot_ops, slot[i], change[i])
    elseif not reset then off = off + 1 end
  end
  local counts = variadic(tot_ops, 4)
  local scores, put, drop, words = {'ZADD', load}, {'ZADD', order}, {'ZREM', order}, 2
  for j, i in ipairs(taken) do
    if name[i] then
      scores[words + 1] = counts[j + 1]; scores[words + 2] = name[i]; words = words + 2
      if weighted then place(put, drop, name[i], entry[i + 2], counts[j + 1]) end
    end
  end
  if scores[3] then variadic(scores, 2) end
  if put[3] then variadic(put, 2) end
  if drop[3] then variadic(drop, 2) end
  row_ops, tot_ops = {'BITFIELD', row, 'OVERFLOW', 'FAIL'}, {'BITFIELD', tot, 'OVERFLOW', 'SAT'}
end

-- Part 3, picks: the least (n+1)/weight, at random among all that tie. A pick moves its server up and out of its tie group, never
-- down, so one walk upwards serves all k.
local picks, times, distinct = {}, {}, {'HMGET', servers}
if k > 0 then
  local sorted, excluded, picked_entry = weighted and order or load, false, {}
  for i = excluded_from, #ARGV do excluded = excluded or {}; excluded[ARGV[i]] = true end
  math.randomseed(seed)
  -- Ranks below `base` are excluded servers; then `tied` servers share `score`; `eligible` lists those of them that may be
  -- picked, once the group had to be read whole.
  local base, tied, score, eligible = 0, 0, nil, nil
  while #picks < k do
    local pick
    if tied == 0 then
      local head = call('ZRANGE', sorted, base, base, 'WITHSCORES')
      if not head[1] then break end
      score, eligible, tied = head[2], nil, call('ZCOUNT', sorted, head[2], head[2])
      if tied == 1 then if excluded and excluded[head[1]] then eligible = {} else pick = head[1] end end
    end
    if not pick and not eligible then
      for _ = 1, excluded and 3 or 1 do -- few are excluded as a rule: some blind draws are cheaper than reading the group
        local rank = base + math.random(0, tied - 1)
        pick = call('ZRANGE', sorted, rank, rank)[1]
        if excluded and excluded[pick] then pick = nil else break end
      end
      if not pick then
        eligible = {}
        for _, who in ipairs(call('ZRANGE', sorted, base, base + tied - 1)) do
          if not excluded[who] then eligible[#eligible + 1] = who end
        end
      end
    end
    if not pick then
      if #eligible == 0 then base = base + tied; tied = 0
      else local j = math.random(#eligible); pick = eligible[j]; eligible[j] = eligible[#eligible]; eligible[#eligible] = nil end
    end
    local its_entry
    if pick then
      tied = tied - 1
      if weighted then
        its_entry = picked_entry[pick] or call('HGET', servers, pick); picked_entry[pick] = its_entry
        if not its_entry then call('ZREM', order, pick); pick = nil end -- somebody put it there by hand
      end
    end
    if pick then
      picks[#picks + 1] = pick
      if not times[pick] then distinct[#distinct + 1] = pick; times[pick] = 0 end
      times[pick] = times[pick] + 1
      if weighted then
        local weight, cap = match(its_entry, ' (%S+) (%d+)$')
        weight = tonumber(weight); cap = tonumber(cap)
        -- score = (n+1)/weight, so this is the count after the pick. New scores come from whole counts, never by adding
        -- fractions: no drift, and ties stay exact.
        local count = floor(score * weight + 0.5)
        if cap > 0 and count >= cap then call('ZREM', order, pick) else call('ZADD', order, (count + 1) / weight, pick) end
      else call('ZADD', load, score + 1, pick) end
    end
  end
  if picks[1] then
    local entries, stranger = weighted and picked_entry or variadic(distinct, 2), false
    for i = 3, #distinct do
      local pick = distinct[i]
      local its_entry = entries[weighted and pick or i - 2]
      if its_entry then
        local slot = match(its_entry, '^%d+')
        add(row_ops, slot, times[pick]); add(tot_ops, slot, times[pick])
      else call('ZREM', load, pick); times[pick] = nil; stranger = true end -- put there by hand
    end
    if stranger then
      local known = {}
      for _, pick in ipairs(picks) do if times[pick] then known[#known + 1] = pick end end
      picks = known
    end
    local j = #tot_ops
    tot_ops[j + 1] = 'INCRBY'; tot_ops[j + 2] = 'i64'; tot_ops[j + 3] = '#0'; tot_ops[j + 4] = #picks
  end
end
if row_ops[5] then variadic(row_ops, 4) end
if tot_ops[9] or tot_ops[8] and tot_ops[8] ~= 0 then
  local first = tot_ops[7] == '#0' and 2 or 1 -- where the replies for the picks begin
  local counts = variadic(tot_ops, 4)
  if weighted and picks[1] then
    local scores = {'ZADD', load}
    for i = 3, #distinct do scores[2 * i - 3] = counts[first + i - 3]; scores[2 * i - 2] = distinct[i] end
    variadic(scores, 2)
  end
end

-- Part 4, lease and answer.
local reply = {tonumber(gen), picks, off}
if ttl > 0 or flags >= 2 then
  local time = call('TIME')
  local now = time[1] * 1000 + floor(time[2] / 1000)
  if ttl > 0 then call('ZADD', lease, now + ttl, me); call('EXPIRE', row, 43200) end
  if floor(flags / 2) % 2 == 1 then
    reply[4] = call('GET', tot) or ''
    reply[5] = call('ZCOUNT', lease, now, '+inf')
    reply[6] = call('ZRANGE', lease, '-inf', '(' .. now, 'BYSCORE', 'LIMIT', 0, 1)[1] or ''
    reply[7] = now
  end
  if flags >= 4 then reply[#reply + 1] = call('GET', row) end
end
return reply
