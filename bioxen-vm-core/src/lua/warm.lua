-- Keeps an interpreter waiting that has run nothing yet, and hands it the next program: so that a
-- program with a process and a Lua state of its own waits for neither to start. Works in Lua 5.1 to
-- 5.4 and LuaJIT.
--
-- Standard input brings a line with the mark, then for each program a line with a size and that many
-- bytes for the interpreter's standard input; the size 0 only asks for a sign of life. Frames tell:
-- H on standard error, an interpreter waits; A, alive; R, how a program ended, as a number to which
-- 256 is added for a signal; and E on both streams, that all of its output has come before. The
-- interpreter tells the latter two itself, sooner, of a program that came to its end: ending.lua.
--
-- The interpreter writes to the streams of this process. So this process ends itself, and with it
-- everything in it, when a program leaves something running that could write to them later.
local stdin, stdout, stderr, exit = io.stdin, io.stdout, io.stderr, os.exit
local open, popen, min = io.open, io.popen, math.min
local PIECE, MANY = 65536, 2000

local mark = stdin:read("*l") or exit(0)

local function frame(kind, text)
  return "\1" .. mark .. kind .. #text .. "\n" .. text
end

local function tell(file, text)
  file:write(text)
  file:flush()
end

-- Lua 5.1 does not tell how a process of popen ended, and a shell cannot tell exit code 137 from a
-- death by signal 9. awk can, and tells it itself; but for that of busybox, as in run.sh.
local told = _VERSION ~= "Lua 5.1"
local start = 'lua=$_warm_lua driver=$_warm_driver; unset _warm_lua _warm_driver; exec "$lua" -e "$driver"'
if not told then
  start = ([[
    exec 5>&1
    how=$(awk 'BEGIN { print system("kill -s KILL $$") < 256 ? "?" : system("START >&5 5>&-") }')
    if [ "$how" = '?' ]; then
      { ( exec 2>&6 6>&-; START >&5 5>&- ); } 6>&2 2>/dev/null
      how=$?
      [ "$how" -le 128 ] || how=$((how + 128))
    fi
    printf '\001%sR%s\n%s' MARK "${#how}" "$how" >&2
  ]]):gsub('"START', '"' .. start:gsub('[\\"]', "\\%0")):gsub("START", start):gsub("MARK", mark)
end

-- The number of the process that was started last, on Linux.
local function last_process()
  local file = open("/proc/loadavg")
  local line = file and file:read("*l")
  if file then file:close() end
  return line and tonumber(line:match("(%d+)$"))
end

local function read_all(path)
  local file = open(path, "rb")
  local text = file and file:read("*a")
  if file then file:close() end
  return text or ""
end

local run = os.getenv("BIOXEN_RUN")
local environment = run and "BIOXEN_RUN=" .. run
local own = read_all("/proc/self/stat"):match("^.*%) %a %d+ (%d+)")

-- Whether nothing runs that was started since: nothing in our process group, and nothing with our
-- mark in its environment.
local function is_clean(since)
  local now = last_process()
  if not (own and since and now) or now < since or now - since > MANY then return false end
  for pid = since + 1, now do
    local state, group = read_all("/proc/" .. pid .. "/stat"):match("^.*%) (%a) %d+ (%d+)")
    if state and state ~= "Z" and state ~= "X" then
      local marked = environment
        and ("\0" .. read_all("/proc/" .. pid .. "/environ")):find("\0" .. environment, 1, true)
      if group == own or marked then return false end
    end
  end
  return true
end

while true do
  -- Now, and not when a program comes: that would be waited for.
  local interpreter, since = popen(start, "w"), last_process()
  interpreter:setvbuf("full", PIECE)
  tell(stderr, frame("H", ""))
  local size
  repeat
    size = tonumber(stdin:read("*l") or exit(0))
    if size == 0 then tell(stderr, frame("A", "")) end
  until size > 0
  while size > 0 do
    local piece = stdin:read(min(size, PIECE)) or exit(0)
    interpreter:write(piece)
    size = size - #piece
  end
  local _, how, code = interpreter:close()
  local result = told and frame("R", ("%d"):format(how == "signal" and code + 256 or code)) or ""
  -- As few writes as there are streams: each wakes all that the bytes pass on their way.
  tell(stdout, frame("E", ""))
  tell(stderr, result .. frame("E", ""))
  if not is_clean(since) then exit(0) end
end
