-- Listens, connects to another one that does the same, sends it a line at each interval, and prints
-- the lines that come, for so many seconds. The other one may begin later, or end earlier.
local socket = require "socket"
local port, host, other, duration, interval = ...
duration, interval = tonumber(duration), tonumber(interval)
local now = socket.gettime
local server = assert(socket.bind("*", tonumber(port)))
local deadline = now() + duration
local readers, begun = {server}, {}
local out
local beat, sent, received = now(), 0, 0
print("Listening on port " .. port)
io.stdout:flush()

local function leave(client)
  client:close()
  for at, reader in ipairs(readers) do
    if reader == client then table.remove(readers, at) end
  end
end

while now() < deadline do
  if now() >= beat then
    beat = beat + interval
    if not out then
      out = socket.tcp()
      out:settimeout(math.max(0.01, math.min(interval, deadline - now())))
      if not out:connect(host, tonumber(other)) then out = out:close() and nil end
    end
    if out then
      if out:send(("Heartbeat %d from port %s\n"):format(sent + 1, port)) then
        sent = sent + 1
      else
        out = out:close() and nil
      end
    end
  end
  -- That nothing came in time is no failure.
  for _, reader in ipairs((socket.select(readers, nil, math.max(0, math.min(beat, deadline) - now())))) do
    if reader == server then
      local client = assert(server:accept())
      client:settimeout(0)
      readers[#readers + 1] = client
    else
      local line, problem, part = reader:receive("*l", begun[reader])
      begun[reader] = part
      if line then
        received = received + 1
        print("Received: " .. line)
        io.stdout:flush()
      elseif problem ~= "timeout" then
        leave(reader)
      end
    end
  end
end
print(("Sent %d, received %d"):format(sent, received))
