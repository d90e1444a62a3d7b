-- One atomic look at everything that must hold between any two calls.
-- KEYS load tot servers lease order claims, then the row of every incarnation that ever was
local load, tot, servers, lease, order, claims = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local call = redis.call
local function at(packed, slot) return #packed >= 4 * slot + 4 and struct.unpack('>I4', packed, 4 * slot + 1) or 0 end
local totals, sum = call('GET', tot) or '', {}
for i = 7, #KEYS do
  local row, leased = call('GET', KEYS[i]), call('ZSCORE', lease, string.match(KEYS[i], 'row:(.*)$'))
  if row and not leased then return 'row without lease: ' .. KEYS[i] end
  if leased and not row then return 'lease without row: ' .. KEYS[i] end
  if row and call('TTL', KEYS[i]) < 3600 then return 'a row that stays for ever, or goes too soon: ' .. KEYS[i] end
  row = row or ''
  for slot = 2, #row / 4 - 1 do
    if at(row, slot) > 100000 then return 'row below 0: ' .. KEYS[i] end
    sum[slot] = (sum[slot] or 0) + at(row, slot)
    if #totals < 4 * slot + 4 then return 'row longer than the totals' end
  end
end
for slot = 2, #totals / 4 - 1 do
  if at(totals, slot) ~= (sum[slot] or 0) then return 'slot ' .. slot .. ': total ' .. at(totals, slot) .. ', rows ' .. (sum[slot] or 0) end
end
local owned = {}
local all, members, eligible, weighted = call('HGETALL', servers), 0, 0, call('HGET', servers, '#weighted') == '1'
for i = 1, #all, 2 do
  local slot, weight, cap = string.match(all[i + 1], '^(%d+) (%S+) (%d+)$')
  if slot then
    local n, want = at(totals, tonumber(slot)), nil
    owned[tonumber(slot)] = true
    weight = tonumber(weight); cap = tonumber(cap); members = members + 1
    if tonumber(call('ZSCORE', load, all[i]) or -1) ~= n then return 'load of ' .. all[i] end
    if weighted and weight > 0 and (cap == 0 or n < cap) then want = (n + 1) / weight; eligible = eligible + 1 end
    local score = call('ZSCORE', order, all[i])
    if (score and tonumber(score) or nil) ~= want then return 'order of ' .. all[i] end
  end
end
for slot = 2, #totals / 4 - 1 do
  if at(totals, slot) > 0 and not owned[slot] then return 'requests on a slot that is nobody\'s: ' .. slot end
end
if call('ZCARD', load) ~= members then return 'strangers in load' end
if call('ZCARD', order) ~= eligible then return 'strangers in order' end
for _, name in ipairs(call('ZRANGE', claims, 0, -1)) do
  if call('HEXISTS', servers, name) == 0 then return 'a claim of a server that is not there: ' .. name end
end
return 'ok'
