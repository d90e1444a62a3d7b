-- The table of servers; rare. A change raises #gen (Redis time in us, so it never repeats, not even after FLUSHALL); rows and counts live on.
-- KEYS 1 load 2 tot 3 servers 4 order
--      5 claims ZSET server -> when a node last said that it has it, ms of the Redis clock
-- ARGV 1 op, then triples server,weight,cap
-- op add: put in what is missing or retired, leave the rest alone (nodes with different files must not fight)
-- op set: put in or change.  op del: retire (counted until idle, not picked, then forgotten)
-- add and set claim each server that has a weight over 0; nodes repeat that as long as they have it.
-- op tidy, then ms: forget what is idle and has been claimed by nobody for so long
-- No triples: only read (and forget what is retired and idle).  Reply {gen, the table as HGETALL}; gen 0: there is none, add yours.
-- A slot belongs to its server until that is forgotten, and it is forgotten only at total 0: then every row holds 0 there, and
-- the next owner of the slot inherits nothing.
local load, tot, servers, order, claims, op = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], ARGV[1]
local call = redis.call
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local entries, used, top, changed = {}, {}, 1, false
local all = call('HGETALL', servers)
for i = 1, #all, 2 do
  local slot, weight, cap = string.match(all[i + 1], '^(%d+) (%S+) (%d+)$')
  if slot then
    slot = tonumber(slot)
    entries[all[i]] = {slot = slot, weight = weight, cap = cap}; used[slot] = true; top = math.max(top, slot)
  end
end
local totals = call('GET', tot) or ''
local function count(slot) return #totals >= 4 * slot + 4 and struct.unpack('>I4', totals, 4 * slot + 1) or 0 end

local claimed = {}
local function claim(name) claimed[#claimed + 1] = now; claimed[#claimed + 1] = name end
for i = 2, op == 'tidy' and 0 or #ARGV, 3 do
  local name, weight, cap = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local entry = entries[name]
  if op == 'del' then
    if entry and entry.weight ~= '-1' then entry.weight = '-1'; changed = true end
  elseif not entry then
    local slot = 2
    while used[slot] do slot = slot + 1 end
    used[slot] = true; top = math.max(top, slot)
    entries[name] = {slot = slot, weight = weight, cap = cap}; changed = true
  elseif (op == 'set' or entry.weight == '-1') and (entry.weight ~= weight or entry.cap ~= cap) then
    entry.weight, entry.cap = weight, cap; changed = true
  end
  if op ~= 'del' and tonumber(weight) > 0 then claim(name) end
end
if op == 'tidy' then
  local last, all_claims = {}, call('ZRANGE', claims, 0, -1, 'WITHSCORES')
  for i = 1, #all_claims, 2 do last[all_claims[i]] = tonumber(all_claims[i + 1]) end
  for name, entry in pairs(entries) do
    if not last[name] then claim(name) -- whoever has it has as long as any other to say so
    elseif last[name] < now - tonumber(ARGV[2]) and count(entry.slot) == 0 then entry.weight = '-1' end
  end
end
for name, entry in pairs(entries) do
  if entry.weight == '-1' and count(entry.slot) == 0 then
    entries[name] = nil; call('HDEL', servers, name); changed = true
  end
end

for from = 1, #claimed, 4000 do call('ZADD', claims, unpack(claimed, from, math.min(from + 3999, #claimed))) end

if changed then
  for _, name in ipairs(call('ZRANGE', claims, 0, -1)) do
    if not entries[name] then call('ZREM', claims, name) end
  end
  local first_weight, weighted = nil, '0'
  local gen = math.max(time[1] * 1000000 + time[2], 1 + (call('HGET', servers, '#gen') or 0))
  for _, entry in pairs(entries) do
    first_weight = first_weight or entry.weight
    if entry.weight ~= first_weight or tonumber(entry.weight) <= 0 or entry.cap ~= '0' then weighted = '1' end
  end
  call('DEL', load, order) -- made anew, so that nobody stays who is not in the table
  for name, entry in pairs(entries) do
    local n, weight, cap = count(entry.slot), tonumber(entry.weight), tonumber(entry.cap)
    call('HSET', servers, name, entry.slot .. ' ' .. entry.weight .. ' ' .. entry.cap); call('ZADD', load, n, name)
    if weighted == '1' and weight > 0 and (cap == 0 or n < cap) then call('ZADD', order, (n + 1) / weight, name) end
  end
  -- One long member turns a small set into a skip list and a small hash into a table: then ranks cost O(log M) and fields O(1)
  -- with few servers too.
  local long = string.rep('#', 70)
  if next(entries) then call('ZADD', load, 0, long); call('ZREM', load, long) end
  if call('EXISTS', order) == 1 then call('ZADD', order, 0, long); call('ZREM', order, long) end
  call('HSET', servers, '#gen', string.format('%.0f', gen), '#weighted', weighted, '#', long)
  call('BITFIELD', tot, 'INCRBY', 'u32', '#' .. top, 0) -- full length from the start: a shorter one has been tampered with
end
return {tonumber(call('HGET', servers, '#gen') or 0), call('HGETALL', servers)}
