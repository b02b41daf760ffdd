-- Uses all of bioxen.net against a peer in Rust, "rust", which sends back what it gets.
local net = require "bioxen.net"

local function same(got, wanted)
  if got ~= wanted then
    error(("got %q, wanted %q"):format(tostring(got), tostring(wanted)), 2)
  end
end

-- Any bytes, of many lengths, there and back.
local bytes = {}
for byte = 0, 255 do bytes[#bytes + 1] = string.char(byte) end
local all = table.concat(bytes)
for _, data in ipairs{"", "a", "\n", "\0", "\1", "\\", "\\n", all, all:rep(1000)} do
  same(net.send("rust", data), true)
  local message = net.receive(10)
  same(message.bytes, data)
  same(message.from, "rust")
  same(message.topic, nil)
end

-- Requests, both ways.
same(net.request("rust", "GC?"), "GC?")
same(net.send("rust", "ask me"), true)
local question = net.receive()
same(question.bytes, "what?")
same(question:reply("that"), true)
local again, problem, kind = net.reply(question, "that")
same(again, nil)
same(kind, "failed")
same(problem:match("nobody waits") ~= nil, true)

-- Topics and all.
same(net.subscribe("chr1"), true)
same(net.send("rust", "publish"), true)
local published = net.receive(10)
same(published.topic, "chr1")
same(published.bytes, "variant")
same(net.unsubscribe("chr1"), true)
same(net.publish("chr2", "nobody listens"), 0)
same(net.broadcast("to all", 5), 1)
same(net.receive(5).bytes, "to all")

-- Who is there, and what cannot be.
same(net.name, "vm")
same(table.concat(net.peers(), " "), "rust vm")
local nothing, why, how = net.receive(0.01)
same(nothing, nil)
same(how, "timeout")
same(why, "no message came in time")
nothing, why, how = net.send("nobody", "x", 1)
same(how, "failed")
same(why, 'cannot send: nobody has joined as "nobody"; there are: rust, vm')
for _, wrong in ipairs{
  function() net.send(1, "x") end,
  function() net.send("rust", 1) end,
  function() net.send("rust", "x", -1) end,
  function() net.receive("soon") end,
  function() net.publish("", "x") end,
  function() net.reply("x", "y") end,
} do
  same(pcall(wrong), false)
end
print(_VERSION, "ok")
