-- Runs the rockspec on standard input and writes what it says as constants, `name = value`. As with
-- LuaRocks it runs without any function of Lua's libraries, except for the methods of strings. What
-- it may take is limited: steps here, memory and time by whoever starts this program. For any Lua from
-- 5.1 on.
local STEPS, SIZE, DEPTH = 10000000, 1024 * 1024, 64

local function fail(reason)
   io.stderr:write(reason, "\n")
   os.exit(1)
end

local text = io.read("*a"):gsub("^#![^\n]*", "")
if text:byte() == 27 then
   fail("it is compiled Lua, which is never run")
end
local environment = {}
local run, reason
if setfenv then
   run, reason = loadstring(text, "=line")
   if run then
      setfenv(run, environment)
   end
else
   run, reason = load(text, "=line", "t", environment)
end
if not run then
   fail(reason)
end

local written, size = {}, 0
local function write(piece)
   size = size + #piece
   if size > SIZE then
      error("it says more than 1 MiB", 0)
   end
   written[#written + 1] = piece
end

local function quoted(value)
   local escaped = value:gsub('[%c"\\]', function(c)
      return ("\\%03d"):format(c:byte())
   end)
   return '"' .. escaped .. '"'
end

local function write_value(value, depth)
   local kind = type(value)
   if kind == "string" then
      return write(quoted(value))
   elseif kind == "number" or kind == "boolean" then
      return write(tostring(value))
   elseif kind ~= "table" then
      error("it holds a " .. kind, 0)
   elseif depth == DEPTH then
      error("its tables are nested too deep", 0)
   end
   write("{")
   local items = #value
   for index = 1, items do
      write_value(value[index], depth + 1)
      write(",")
   end
   for key, entry in pairs(value) do
      if type(key) == "string" then
         write("[" .. quoted(key) .. "]=")
         write_value(entry, depth + 1)
         write(",")
      elseif type(key) ~= "number" or key < 1 or key > items or key % 1 ~= 0 then
         error("a key of its tables is no text", 0)
      end
   end
   write("}")
end

-- Machine code of LuaJIT counts no steps.
if jit then
   jit.off()
end
debug.sethook(function()
   error("it takes more than " .. STEPS .. " steps", 0)
end, "", STEPS)
local done, failure = pcall(function()
   run()
   for name, value in pairs(environment) do
      if type(name) == "string" and name:find("^[%a_][%w_]*$") then
         write(name .. "=")
         write_value(value, 0)
         write("\n")
      end
   end
end)
debug.sethook()
if not done then
   fail(tostring(failure))
end
io.write(table.concat(written))
