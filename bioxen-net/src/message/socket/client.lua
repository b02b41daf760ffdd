-- Talks to one server: prints the line that it greets with, sends one, and ends.
local socket = require "socket"
local host, port, message = ...
local server = assert(socket.connect(host, tonumber(port)))
print("Received: " .. assert(server:receive("*l")))
assert(server:send(message .. "\n"))
server:close()
