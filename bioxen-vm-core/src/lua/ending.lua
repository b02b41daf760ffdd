-- Tells how a program ended as the last thing that its interpreter does. The keeper tells it too, and has to
-- wait for the process to be gone before: several times as long as all of it takes.
--
-- Frames tell on both streams, as the keeper's do: E, that all output has come before; R, how it ended. Only
-- a program that came to its end is told of here, since what it said is out by then: its finalizers
-- have run. One that failed, that calls os.exit, or that closed a stream, is told of by the keeper.
local ending
do
  local stdout, stderr = io.stdout, io.stderr
  local write, flush, pcall = stdout.write, stdout.flush, pcall
  local complete, last

  -- The program may have closed the streams.
  local function tell()
    if not complete then return end
    local is_open, written = pcall(write, stdout, complete)
    if is_open and written and flush(stdout) then pcall(write, stderr, last) end
  end

  -- Finalizers run in the order opposite to that in which they were set: this is the last. Before
  -- Lua 5.2 tables have none.
  local watch
  if newproxy then
    watch = newproxy(true)
    getmetatable(watch).__gc = tell
  else
    watch = setmetatable({}, {__gc = tell})
  end
  debug.getregistry()[{}] = watch

  function ending(mark, said)
    complete = "\1" .. mark .. "E0\n"
    last = said .. "\1" .. mark .. "R1\n0" .. complete
  end
end
