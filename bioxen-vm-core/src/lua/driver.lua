-- Runs one program that standard input brings in a frame, and ends as the lua program would.
-- Works in Lua 5.1 to 5.4 and LuaJIT.
local stdin, stderr, exit = io.stdin, io.stderr, os.exit
local pcall, unpack = pcall, table.unpack or unpack

local function die(message)
  stderr:write("lua: ", message, "\n")
  exit(1)
end

-- Whoever waited for a program in vain has nothing to tell.
local header = stdin:read("*l") or exit(0)
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

-- Captured before the program runs, which may change the library.
local write = stderr.write

-- The program is called by xpcall itself, or as a tail call, so that its frame has no name of
-- ours. Only the xpcall of plain Lua 5.1 passes no arguments on.
local results
if _VERSION == "Lua 5.1" and not jit then
  results = pack(xpcall(function() return program(unpack(arg)) end, describe))
else
  results = pack(xpcall(program, describe, unpack(arg)))
end
if not results[1] then die(results[2]) end
local returned = ""
if results.n > 1 and mark ~= "-" then
  local kind, text = value_data(results, 2)
  returned = "\1" .. mark .. kind .. #text .. "\n" .. text
end
if ending then ending(mark, returned) elseif returned ~= "" then pcall(write, stderr, returned) end
