//! The tested `exchange` is the delivered text with an oracle put in, which judges every pick by the totals alone.

const BEFORE_PICKS: &str = "-- Part 3, picks";
const AFTER_PICKS: &str = "-- Part 4, lease";

const REMEMBER: &str = r"
local oracle_n, oracle_terms, oracle_excluded = {}, {}, {}
do
  local packed, all = redis.call('GET', tot) or '', redis.call('HGETALL', servers)
  for i = 1, #all, 2 do
    local slot, weight, cap = string.match(all[i + 1], '^(%d+) (%S+) (%d+)$')
    if slot then
      slot = tonumber(slot)
      oracle_n[all[i]] = #packed >= 4 * slot + 4 and struct.unpack('>I4', packed, 4 * slot + 1) or 0
      oracle_terms[all[i]] = {tonumber(weight), tonumber(cap)}
    end
  end
  for i = 9 + 2 * tonumber(ARGV[8]), #ARGV do oracle_excluded[ARGV[i]] = true end
end
";

const JUDGE: &str = r"
local function oracle_least()
  local least
  for who, n in pairs(oracle_n) do
    local weight, cap = oracle_terms[who][1], oracle_terms[who][2]
    if weight > 0 and not oracle_excluded[who] and (cap == 0 or n < cap) and (not least or (n + 1) / weight < least) then
      least = (n + 1) / weight
    end
  end
  return least
end
for _, who in ipairs(picks) do
  local least, weight, cap = oracle_least(), oracle_terms[who][1], oracle_terms[who][2]
  if oracle_excluded[who] then return redis.error_reply('ORACLE excluded') end
  if cap > 0 and oracle_n[who] >= cap then return redis.error_reply('ORACLE over its cap') end
  if not least or (oracle_n[who] + 1) / weight ~= least then return redis.error_reply('ORACLE not the least') end
  oracle_n[who] = oracle_n[who] + 1
end
if #picks < k and oracle_least() then return redis.error_reply('ORACLE too few picks') end
";

pub fn judged(exchange: &str) -> String {
    assert!(exchange.contains(BEFORE_PICKS) && exchange.contains(AFTER_PICKS));
    exchange.replacen(BEFORE_PICKS, &format!("{REMEMBER}{BEFORE_PICKS}"), 1).replacen(
        AFTER_PICKS,
        &format!("{JUDGE}{AFTER_PICKS}"),
        1,
    )
}
