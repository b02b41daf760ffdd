-- The same over LuaSocket. Begins a round for each line of its input, and writes a line at its end.
local socket = require "socket"
local host, port, what, count, size = ...
count, size = tonumber(count), tonumber(size)
local server = assert(socket.connect(host, tonumber(port)))
server:setoption("tcp-nodelay", true)
local data = ("x"):rep(size)
for _ in io.lines() do
  for _ = 1, count do
    assert(server:send(data))
    if what == "ping" then assert(server:receive(size)) end
  end
  if what == "flood" then assert(server:receive(1)) end
  print("done")
  io.stdout:flush()
end
