-- Passes numbered messages on to the next in a ring, and insists that none is missing and none comes
-- twice.
local net = require "bioxen.net"
local next_one = ...
local last = 0
while true do
  local message = assert(net.receive(120))
  local number = tonumber(message.bytes:match("^%d+"))
  if number then
    if number ~= last + 1 then error(net.name .. " got " .. number .. " after " .. last) end
    last = number
  end
  assert(net.send(next_one, message.bytes, 120))
  if not number then break end
end
print(last)
