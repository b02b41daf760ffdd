-- The same over LuaSocket: sends back what comes, or takes it and tells when all has come.
local socket = require "socket"
local port, what, count, size, rounds = ...
count, size = tonumber(count), tonumber(size)
local server = assert(socket.bind("*", tonumber(port)))
print("listening")
io.stdout:flush()
local client = assert(server:accept())
client:setoption("tcp-nodelay", true)
for _ = 1, tonumber(rounds) do
  for _ = 1, count do
    local data = assert(client:receive(size))
    if what == "ping" then assert(client:send(data)) end
  end
  if what == "flood" then assert(client:send("d")) end
end
