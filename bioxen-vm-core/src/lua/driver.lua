-- Runs one program that standard input brings in a frame, and ends as the lua program would.
-- Works in Lua 5.1 to 5.4 and LuaJIT.
local stdin, stderr, exit = io.stdin, io.stderr, os.exit
local concat, unpack = table.concat, table.unpack or unpack
local traceback = debug.traceback

local function die(message)
  stderr:write("lua: ", message, "\n")
  exit(1)
end

local header = stdin:read("*l")
local mark = header:match("^%S+")
local parts = {}
local count = 0
for length in header:sub(#mark + 1):gmatch("%d+") do
  count = count + 1
  parts[count] = tonumber(length)
end
for i = 1, count do
  local length = parts[i]
  parts[i] = length > 0 and stdin:read(length) or ""
  if #parts[i] < length then die("the program was cut off on its way here") end
end

local code, name = parts[1], parts[2]
arg = {[0] = name}
for i = 3, count do arg[i - 2] = parts[i] end

-- A first line that starts with # is for the shell, as in a file that lua runs.
if code:sub(1, 1) == "#" then code = "--" .. code end
if code:sub(1, 1) == "\27" then die(name .. ": bytecode is not accepted; give source text") end
local program, problem = (loadstring or load)(code, "=" .. name)
if not program then die(problem) end

-- Leaves out of a traceback what belongs to this driver: everything below the program.
local function trimmed(trace)
  local kept = {}
  for line in (trace .. "\n"):gmatch("(.-)\n") do
    if line:find("^\t%(command line%)") or line:find("^\t%[C%]: in function 'xpcall'") then
      if kept[#kept] == "\t(tail call): ?" then kept[#kept] = nil end
      kept[#kept + 1] = "\t[C]: in ?"
      break
    end
    kept[#kept + 1] = line
  end
  return concat(kept, "\n")
end

local function describe(value)
  local kind = type(value)
  if kind ~= "string" and kind ~= "number" then
    local meta = getmetatable(value)
    if type(meta) == "table" and meta.__tostring then return tostring(value) end
    value = "(error object is a " .. kind .. " value)"
  end
  return trimmed(traceback(tostring(value), 2))
end

-- Made before the program runs, which may change the library.
local report = value_writer(mark)

local function pack(...) return {n = select("#", ...), ...} end

-- The program is called by xpcall itself, or as a tail call, so that its frame has no name of
-- ours. Only the xpcall of plain Lua 5.1 passes no arguments on.
local results
if _VERSION == "Lua 5.1" and not jit then
  results = pack(xpcall(function() return program(unpack(arg)) end, describe))
else
  results = pack(xpcall(program, describe, unpack(arg)))
end
if not results[1] then die(results[2]) end
if results.n > 1 then report(results, 2) end
