-- Runs a program over the results of all shards, which come on standard input in their order.
-- The program gets an iterator before its arguments:
--   for shard, value, output in results do ... end
-- Works in Lua 5.1 to 5.4 and LuaJIT.
local code, name = ...
local stdin = io.stdin
local tonumber, find, sub = tonumber, string.find, string.sub

-- A value as the shard's program returned it. The forms: see `bioxen_vm_core::lua::encode`.
local function decode(text)
  local at = 1
  local function until_mark(mark)
    local stop = find(text, mark, at, true)
    local part = sub(text, at, stop - 1)
    at = stop + 1
    return part
  end
  local value
  local function float(part)
    if part == "inf" then return math.huge end
    if part == "-inf" then return -math.huge end
    if part == "NaN" then return 0 / 0 end
    return tonumber(part)
  end
  function value()
    local tag = sub(text, at, at)
    at = at + 1
    if tag == "z" then return nil end
    if tag == "t" then return true end
    if tag == "f" then return false end
    if tag == "i" then return tonumber(until_mark(";")) end
    if tag == "d" then return float(until_mark(";")) end
    if tag == "s" then
      local length = tonumber(until_mark(":"))
      at = at + length
      return sub(text, at - length, at - 1)
    end
    local length, fields = tonumber(until_mark(",")), tonumber(until_mark(":"))
    local result = {}
    for place = 1, length do result[place] = value() end
    for _ = 1, fields do
      local key = value()
      result[key] = value()
    end
    return result
  end
  return value()
end

-- What of standard input belongs to one result.
local function take(length)
  if length == 0 then return "" end
  local text = stdin:read(length)
  if not text or #text < length then error("the results were cut off on their way here", 0) end
  return text
end

local function results()
  local header = stdin:read("*l")
  if not header then return nil end
  local shard, value_length, output_length = header:match("^(%d+) (%d+) (%d+)$")
  local value = decode(take(tonumber(value_length)))
  return tonumber(shard), value, take(tonumber(output_length))
end

-- Standard input is ours. A program that reads it would take results for something else.
local read, lines, input = io.read, io.lines, io.input
local has_input = false
local function nothing()
  error("a reduce program has no standard input; its first argument gives the results: for shard, value, "
    .. "output in ... do", 3)
end
io.stdin = setmetatable({}, {__index = nothing})
function io.read(...)
  if not has_input then nothing() end
  return read(...)
end
function io.lines(file, ...)
  if not (file or has_input) then nothing() end
  if file then return lines(file, ...) end
  return lines(nil, ...)
end
function io.input(file)
  if not (file or has_input) then nothing() end
  if not file then return input() end
  local opened = input(file)
  has_input = true
  return opened
end

local program, problem = (loadstring or load)(code, "=" .. name)
if not program then error(problem, 0) end
local count = select("#", ...)
arg = {[0] = name}
for place = 3, count do arg[place - 2] = (select(place, ...)) end
return program(results, select(3, ...))
