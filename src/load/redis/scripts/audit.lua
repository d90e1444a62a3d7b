-- Set right what the other scripts keep right by themselves, unless somebody deletes or edits a key, or Redis evicts one.
-- full:  tot = sum of all rows, then as quick.  quick: `load` and `order` as tot and the table say; reads no rows.
-- A row whose lease ran out still counts until it is reaped: it is in tot, and reaping will take out exactly that.
-- KEYS 1 load 2 tot 3 servers 4 lease 5 order, then (full) one row:<incarnation> for each incarnation in ARGV, in the same order
-- ARGV 1 full or quick  2 ttl_ms of a lease made anew, then (full) incarnations: all that `lease` has, and any others the caller
--      has ever seen. A row of one that has no lease (the key was deleted) gets one: its node renews it, or it is reaped.
-- Reply {number of differences put right, {what, name, wanted, found, ... for the first 16}}; what is tot, load or order
-- Errors, all without effect: RETRY `lease` has somebody not passed, or quick will not do; UNKNOWN there is no table, register first
local load, tot, servers, lease, order = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local full, ttl = ARGV[1] == 'full', tonumber(ARGV[2])
local call = redis.call

local entries, owner, top, weighted, gen = {}, {}, 1, false, false
local all = call('HGETALL', servers)
for i = 1, #all, 2 do
  local slot, weight, cap = string.match(all[i + 1], '^(%d+) (%S+) (%d+)$')
  if slot then
    slot = tonumber(slot); owner[slot] = all[i]; top = math.max(top, slot)
    entries[all[i]] = {slot = slot, weight = tonumber(weight), cap = tonumber(cap)}
  elseif all[i] == '#weighted' then weighted = all[i + 1] == '1'
  elseif all[i] == '#gen' then gen = true end
end
if not gen then return redis.error_reply('UNKNOWN table') end

-- Numbers of a row or of tot, many at a time: one by one would be most of the time of this script.
local many = '>' .. string.rep('I4', 100)
local function each_slot(packed, visit)
  local slot, last = 2, math.floor(#packed / 4) - 1
  while slot + 99 <= last do
    local values = {struct.unpack(many, packed, 4 * slot + 1)}
    for j = 1, 100 do visit(slot + j - 1, values[j]) end
    slot = slot + 100
  end
  while slot <= last do visit(slot, struct.unpack('>I4', packed, 4 * slot + 1)); slot = slot + 1 end
end

local totals, found = call('GET', tot) or '', {}
each_slot(totals, function(slot, count) found[slot] = count end)
local wanted = found
if full then
  local passed = {}
  for i = 3, #ARGV do passed[ARGV[i]] = true end
  for _, who in ipairs(call('ZRANGE', lease, 0, -1)) do
    if not passed[who] then return redis.error_reply('RETRY the lease set changed') end
  end
  wanted = {}
  local time = call('TIME')
  for i = 3, #ARGV do
    local row = call('GET', KEYS[3 + i])
    if row then
      each_slot(row, function(slot, count) if count > 0 then wanted[slot] = (wanted[slot] or 0) + count; top = math.max(top, slot) end end)
      call('ZADD', lease, 'NX', time[1] * 1000 + math.floor(time[2] / 1000) + ttl, ARGV[i])
    end
  end
elseif #totals < 4 * top + 4 then return redis.error_reply('RETRY the totals are gone') end

local differences, report = 0, {}
local function differs(what, name, want, have)
  differences = differences + 1
  if differences > 16 then return end
  local j = #report
  report[j + 1] = what; report[j + 2] = name
  report[j + 3] = want and string.format('%.17g', want) or ''; report[j + 4] = have and string.format('%.17g', have) or ''
end

if full then
  if #totals < 4 * top + 4 then
    differs('tot', '#length', 4 * top + 4, #totals)
    call('BITFIELD', tot, 'INCRBY', 'u32', '#' .. top, 0)
  end
  for slot = 2, math.max(top, math.floor(#totals / 4) - 1) do
    local want, have = wanted[slot] or 0, found[slot] or 0
    if want ~= have then
      differs('tot', owner[slot] or '#' .. slot, want, have)
      call('BITFIELD', tot, 'SET', 'u32', '#' .. slot, want)
    end
  end
end

local function settle(what, key, score) -- make a sorted set hold exactly the servers that have a score
  local have, members, fixed = {}, call('ZRANGE', key, 0, -1, 'WITHSCORES'), false
  for i = 1, #members, 2 do have[members[i]] = tonumber(members[i + 1]) end
  for name, entry in pairs(entries) do
    local want = score(entry)
    if want and want ~= have[name] then differs(what, name, want, have[name]); call('ZADD', key, want, name); fixed = true
    elseif not want and have[name] then differs(what, name, nil, have[name]); call('ZREM', key, name); fixed = true end
    have[name] = nil
  end
  for name, was in pairs(have) do differs(what, name, nil, was); call('ZREM', key, name) end
  if fixed and call('EXISTS', key) == 1 then -- a skip list, as register makes it
    local long = string.rep('#', 70)
    call('ZADD', key, 0, long); call('ZREM', key, long)
  end
end
settle('load', load, function(entry) return wanted[entry.slot] or 0 end)
settle('order', order, function(entry)
  local count = wanted[entry.slot] or 0
  return weighted and entry.weight > 0 and (entry.cap == 0 or count < entry.cap) and (count + 1) / entry.weight or nil
end)
return {differences, report}
