-- The common part of the buckets of one rate limit. All amounts are microseconds of rate time: a bucket fills by one in each.
-- KEYS one for each bucket, none twice: the time, in us of the Redis clock, at which it was, or will have been, empty. Gone: full.
-- ARGV 1 how much a full one holds  2 as much of it as counts now (less than 1 after an outage), then for each key:
--      need: wanted (below 0: given back), fill: wanted as far as the bucket is more than half full
-- Reply: what each key gets.
local common, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local call, floor, min, max = redis.call, math.floor, math.min, math.max
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local empty_at, given = call('MGET', unpack(KEYS)), {}
for i, key in ipairs(KEYS) do
  local need, fill = tonumber(ARGV[2 * i + 1]), tonumber(ARGV[2 * i + 2])
  -- A clock that was set back would lock a bucket: it counts as empty instead.
  local before = now - (tonumber(empty_at[i] or '0') or 0)
  local level = min(max(before, 0), most)
  local get = max(min(need, level), 0)
  level = min(level - min(need, get), common) -- less what it gets, or more by what comes back
  local extra = max(min(fill, level - floor(common / 2)), 0)
  level = level - extra
  given[i] = get + extra
  if level >= common then
    if empty_at[i] then call('DEL', key) end
  elseif level ~= before then
    call('SET', key, string.format('%.0f', now - level), 'PX', max(floor((common - level) / 1000), 0) + 1)
  end
end
return given
