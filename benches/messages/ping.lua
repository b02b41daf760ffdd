-- Sends a peer requests of a size and waits for each reply, as often as it is told to.
local net = require "bioxen.net"
local peer, count, size = ...
local data = ("x"):rep(tonumber(size))
while net.receive().bytes == "go" do
  for _ = 1, tonumber(count) do assert(net.request(peer, data)) end
  assert(net.send("bench", "done"))
end
