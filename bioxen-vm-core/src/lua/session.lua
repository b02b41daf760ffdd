-- Keeps a Lua state alive and runs chunks in it, one after the other. Works in Lua 5.1 to 5.4 and
-- LuaJIT.
--
-- Requests come on a file of their own, so that standard input is empty for chunks and for what
-- they start: first a line with the mark, then for each request a line with a letter and the length
-- of the code, and the code. e: evaluate; p: evaluate and print the values; r: return.
-- An answer is two frames. S on standard output says that the output is complete; on standard
-- error V, N (as in values.lua), E for an error, or I for a chunk that is not complete.
local control = assert(io.open("/dev/fd/3", "rb"))
local stdout, stderr, exit = io.stdout, io.stderr, os.exit
local write, flush, read = stdout.write, stdout.flush, control.read
local match, find, sub, tonumber = string.match, string.find, string.sub, tonumber
local pcall, xpcall, load = pcall, xpcall, loadstring or load

local mark = read(control, "*l")

local function frame(file, kind, text)
  -- Whoever closes its own output has nothing more to say.
  if not pcall(write, file, "\1" .. mark .. kind .. #text .. "\n" .. text) then exit(1) end
end

local function answer(kind, text)
  frame(stdout, "S", "")
  if not pcall(flush, stdout) then exit(1) end
  frame(stderr, kind, text)
end

-- Gives a function, or a kind of answer and its text.
local function compile(code)
  if sub(code, 1, 1) == "\27" then return nil, "E", "bytecode is not accepted; give source text" end
  local chunk = load("return " .. code, "=stdin")
  if chunk then return chunk end
  local problem
  chunk, problem = load(code, "=stdin")
  if chunk then return chunk end
  if find(problem, "near '?<eof>'?$") then return nil, "I", "" end
  return nil, "E", problem
end

local function run(print_values, code)
  local chunk, kind, text = compile(code)
  if not chunk then return kind, text end
  local results = pack(xpcall(chunk, describe))
  if not results[1] then return "E", results[2] end
  if print_values and results.n > 1 then
    local ok, problem = pcall(print, (table.unpack or unpack)(results, 2, results.n))
    if not ok then return "E", "the values cannot be printed: " .. tostring(problem) end
  end
  return value_data(results, 2)
end

local pending

local function loop()
  while true do
    local letter, length = match(read(control, "*l") or "", "^(%l) (%d+)$")
    if not letter then exit(0) end
    if letter == "r" then return end
    pending = true
    length = tonumber(length)
    local code = length > 0 and read(control, length) or ""
    local kind, text = run(letter == "p", code)
    pending = false
    answer(kind, text)
  end
end

-- Returns after an interrupt, or when it is told to: the lua program minds the signal once for each
-- chunk of its command line.
package.loaded["bioxen.session"] = function()
  if not pcall(loop) and pending then
    pending = false
    answer("E", "interrupted!")
  end
end

local status = io.open("/proc/self/stat")
local pid = status and status:read("*n") or 0
if status then status:close() end
frame(stderr, "H", ("%d %s"):format(pid, _VERSION))
