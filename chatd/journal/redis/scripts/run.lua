-- Carry out the operations, one after the other, and write what they have changed.

local outcomes, lengths = {}, {}
while cursor < #ARGV do
  local letter = take()
  if not operations[letter] then others() end
  local outcome = operations[letter]() or ''
  outcomes[#outcomes + 1], lengths[#lengths + 1] = outcome, #outcome
end

set(META, 'at', at)
set(META, 'pos', position)
set(META, 'bytes', bytes)
local reply = table.concat({at, first_position, unpack(lengths)}, ' ')
  .. '\n' .. table.concat(outcomes)
flush(FEED, first_position, position)
if number ~= '' then call('SET', REPLY, number .. ' ' .. reply, 'EX', 86400) end
return reply
