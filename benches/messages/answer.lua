-- Answers requests, and tells when so many other messages have come.
local net = require "bioxen.net"
local count, got = tonumber((...)), 0
while true do
  local message = net.receive()
  if message.token then
    message:reply(message.bytes)
  elseif message.from == "bench" then
    break
  else
    got = got + 1
    if got % count == 0 then assert(net.send("bench", "done")) end
  end
end
