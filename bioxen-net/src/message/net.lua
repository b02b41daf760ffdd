--- Messages between programs in VMs, and between them and the Rust program that owns the VMs.
--
-- Works in Lua 5.1 to 5.4 and LuaJIT, and needs nothing but the standard library: a program asks the
-- hub one thing at a time, through one FIFO, and waits for the answer on another. The hub minds the
-- time. What an operation could not do is told as nil, a text, and "timeout" or "failed"; arguments
-- that cannot be are an error.
local open, getenv = io.open, os.getenv
local find, gsub, match, sub = string.find, string.gsub, string.match, string.sub
local concat, tonumber, type, error = table.concat, tonumber, type, error
local getmetatable, setmetatable = getmetatable, setmetatable
local ceil = math.ceil

local run, own, folder = match(getenv("BIOXEN_NET") or "", "^(%d+) (%S+) (.*)$")
if not run then error("bioxen.net: this program has not joined a hub", 2) end

-- Read and write, so that neither waits for the other side to be there, nor sees it go: a lost
-- connection comes back.
local function fifo(name)
  local file, problem = open(folder .. "/" .. name, "r+b")
  if not file then error("bioxen.net: " .. problem, 3) end
  file:setvbuf("full", 65536)
  return file
end
local questions, answers = fifo("questions"), fifo("answers")

-- Read and written by wire.rs, which says why it is so.
local escapes = {["\0"] = "\\0", ["\1"] = "\\1", ["\n"] = "\\n", ["\\"] = "\\\\"}
-- What follows a backslash; nothing does where a frame is torn, and then it is too short.
local plain = {["0"] = "\0", ["1"] = "\1", n = "\n", ["\\"] = "\\", [""] = ""}
local number = 0

-- Whether there is nothing to escape. Plain searches are many times faster than one for a set.
local function is_plain(text)
  return not (find(text, "\n", 1, true) or find(text, "\\", 1, true)
    or find(text, "\0", 1, true) or find(text, "\1", 1, true))
end

local function ask(operation, value, name, bytes)
  number = number + 1
  local body = concat({operation, " ", value, " ", #name, ":", name, bytes})
  local size = #body
  if not is_plain(body) then body = gsub(body, "[%z\1\n\\]", escapes) end
  local id = run .. " " .. number
  local line = "\1" .. id .. " " .. size .. " " .. body .. "\n"
  -- What an earlier program began to write ends here.
  if number == 1 then line = "\n" .. line end
  questions:write(line)
  questions:flush()
  while true do
    local got = answers:read("*l")
    if not got then error("bioxen.net: the hub is gone", 3) end
    local about, length, at = match(got, "^\1(%d+ %d+) (%d+) ()")
    if about == "0 0" then
      questions:write("\n", line)
      questions:flush()
    elseif about == id then
      local text = sub(got, at)
      if find(text, "\\", 1, true) then text = gsub(text, "\\(.?)", plain) end
      if #text == tonumber(length) then
        local kind, count, first, second, start = match(text, "^(%a+) (%d+) (%d+) (%d+):()")
        first, second = start + first, start + first + second
        return kind, tonumber(count), sub(text, start, first - 1), sub(text, first, second - 1),
          sub(text, second)
      end
    end
  end
end

local function check(argument, value, wanted)
  if type(value) ~= wanted then
    error(argument .. " must be a " .. wanted .. ", not " .. type(value), 3)
  end
end

-- Seconds as whole milliseconds. As text: 5.3 and later would write 1e3 as 1000.0.
local function limit(seconds)
  if seconds == nil then return "-1" end
  check("the time limit", seconds, "number")
  if not (seconds >= 0) then error("the time limit must not be below 0", 3) end
  if seconds > 1e9 then return "-1" end
  return ("%.0f"):format(ceil(seconds * 1000))
end

local function result(kind, count, text, _, bytes)
  if kind == "done" then return count end
  if kind == "bytes" then return bytes end
  return nil, text, kind
end

local net = {
  --- The name that this program has joined by.
  name = own,
}

local message = {}
message.__index = message

--- Answers a message that was sent with `request`. Returns true.
function message:reply(bytes)
  check("the reply", bytes, "string")
  if not self.token then error("nobody waits for a reply to this message", 2) end
  local count, problem, kind = result(ask("reply", self.token, "", bytes))
  return count and true, problem, kind
end

--- Sends bytes to a peer. Returns true when they are in its mailbox: it receives them once, and after
-- what was sent before. Waits for room there, for no longer than the limit in seconds if there is one.
function net.send(peer, bytes, seconds)
  check("the peer", peer, "string")
  check("the message", bytes, "string")
  local count, problem, kind = result(ask("send", limit(seconds), peer, bytes))
  return count and true, problem, kind
end

--- Waits for the next message, for no longer than the limit in seconds if there is one: a table with
-- `from`, `bytes`, `topic` if it was published, and `token` if its sender waits for a reply.
function net.receive(seconds)
  local kind, token, text, topic, bytes = ask("receive", limit(seconds), "", "")
  if kind == "message" then
    return setmetatable({
      from = text,
      bytes = bytes,
      topic = topic ~= "" and topic or nil,
      token = token > 0 and token or nil,
    }, message)
  end
  return nil, text, kind
end

--- Sends bytes to a peer and waits for its reply, which is returned.
function net.request(peer, bytes, seconds)
  check("the peer", peer, "string")
  check("the message", bytes, "string")
  return result(ask("request", limit(seconds), peer, bytes))
end

--- Answers a message, as `message:reply(bytes)` does.
function net.reply(to, bytes)
  if getmetatable(to) ~= message then error("reply wants a message that was received", 2) end
  return to:reply(bytes)
end

--- Gets what is published under a topic from now on. Returns true.
function net.subscribe(topic)
  check("the topic", topic, "string")
  if topic == "" then error("the topic must not be empty", 2) end
  return result(ask("subscribe", "0", topic, "")) and true
end

--- Gets no more of a topic. Returns true.
function net.unsubscribe(topic)
  check("the topic", topic, "string")
  return result(ask("unsubscribe", "0", topic, "")) and true
end

--- Sends bytes to all others that have subscribed to a topic. Returns how many have it.
function net.publish(topic, bytes, seconds)
  check("the topic", topic, "string")
  check("the message", bytes, "string")
  if topic == "" then error("the topic must not be empty", 2) end
  return result(ask("publish", limit(seconds), topic, bytes))
end

--- Sends bytes to all others. Returns how many have it.
function net.broadcast(bytes, seconds)
  check("the message", bytes, "string")
  return result(ask("broadcast", limit(seconds), "", bytes))
end

--- The names of all who have joined, sorted.
function net.peers()
  local names = {}
  for name in result(ask("peers", "0", "", "")):gmatch("%S+") do names[#names + 1] = name end
  return names
end

return net
