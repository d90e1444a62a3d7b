-- Take back what a node holds and forget the node: to reap it (only when its lease has run out) or to leave (one's own clean end).
-- KEYS 1 load 2 tot 3 servers 4 lease 5 row:<who> 6 order.  ARGV 1 who 2 leave (0 or 1).
-- Reply 1 done, 0 nothing to do, 2 done, but the row was gone: what it held may still be in tot, so audit
local load, tot, servers, lease, row, order = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local who, leave = ARGV[1], ARGV[2] == '1'
local call = redis.call
if not leave then -- by the clock of Redis, here and now: the caller's view of it may be old
  local expiry, time = call('ZSCORE', lease, who), call('TIME')
  if not expiry or tonumber(expiry) >= time[1] * 1000 + math.floor(time[2] / 1000) then return 0 end
end
local had, all = call('GET', row), call('HGETALL', servers)
local held = had or ''
local owner, weighted = {}, false
for i = 1, #all, 2 do
  local slot, weight, cap = string.match(all[i + 1], '^(%d+) (%S+) (%d+)$')
  if slot then owner[tonumber(slot)] = {name = all[i], weight = tonumber(weight), cap = tonumber(cap)}
  elseif all[i] == '#weighted' then weighted = all[i + 1] == '1' end
end
for slot = 2, #held / 4 - 1 do
  local count = struct.unpack('>I4', held, 4 * slot + 1)
  if count > 0 then
    local left, server = call('BITFIELD', tot, 'OVERFLOW', 'SAT', 'INCRBY', 'u32', '#' .. slot, -count)[1], owner[slot]
    if server then
      call('ZADD', load, left, server.name)
      if weighted then
        if server.weight > 0 and (server.cap == 0 or left < server.cap) then call('ZADD', order, (left + 1) / server.weight, server.name)
        else call('ZREM', order, server.name) end
      end
    end
  end
end
call('DEL', row)
local leased = call('ZREM', lease, who) == 1
return leased and not had and 2 or 1
