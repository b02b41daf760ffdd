-- Sends a peer messages of a size, each acknowledged, as often as it is told to.
local net = require "bioxen.net"
local peer, count, size = ...
local data = ("x"):rep(tonumber(size))
while net.receive().bytes == "go" do
  for _ = 1, tonumber(count) do assert(net.send(peer, data)) end
end
