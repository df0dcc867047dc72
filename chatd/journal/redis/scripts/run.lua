-- Carry out the operations, one after the other, and write what they have changed.

local outcomes, lengths = {}, {}
while cursor < #ARGV do
  local letter = take()
  if not operations[letter] then others() end
  local outcome = operations[letter]() or ''
  outcomes[#outcomes + 1], lengths[#lengths + 1] = outcome, #outcome
end

local reply = table.concat({at, first_position, unpack(lengths)}, ' ')
  .. '\n' .. table.concat(outcomes)
flush(FEED, META, number ~= '' and REPLY, first_position, position,
  {'at', at, 'pos', position, 'bytes', bytes})
if number ~= '' then call('SET', REPLY, number .. ' ' .. reply, 'EX', 86400) end
return reply
