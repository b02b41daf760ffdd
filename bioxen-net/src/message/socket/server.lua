-- Serves one client: greets it with a line, prints the line that it sends, and ends.
local socket = require "socket"
local port = ...
local server = assert(socket.bind("*", tonumber(port)))
print("Listening on port " .. port)
io.stdout:flush()
local client = assert(server:accept())
server:close()
assert(client:send("Hello from Lua Server!\n"))
print("Received: " .. assert(client:receive("*l")))
client:close()
