-- Gives a state that shares its process streams, variables, a search path and an exit of its own.
-- Runs before stdlib.lua.
local vm = ...
local guest, open, error, type = vm.guest, io.open, error, type

io.stdin, io.stdout = assert(open(guest.stdin, "rb")), assert(open(guest.stdout, "wb"))
io.stderr = assert(open(guest.stderr, "wb"))
io.stderr:setvbuf("no")
io.input(io.stdin)
io.output(io.stdout)
package.path, package.cpath = guest.path, guest.cpath
os.exit = vm.exit

local stdin, stdout, stderr = io.stdin, io.stdout, io.stderr
local files = getmetatable(stdout).__index
local env, tostring, select, setlocale = guest.env, tostring, select, os.setlocale
local write, close, metatable = files.write, files.close, getmetatable(stdout)
local output, close_file, collect = io.output, io.close, metatable.__close
local standard = {[stdin] = true, [stdout] = true, [stderr] = true}

function print(...)
  for i = 1, select("#", ...) do
    if i > 1 then write(stdout, "\t") end
    write(stdout, tostring((select(i, ...))))
  end
  write(stdout, "\n")
end

function files.close(file)
  if standard[file] then return nil, "cannot close standard file" end
  return close(file)
end

function io.close(file)
  if file == nil then file = output() end
  if standard[file] then return nil, "cannot close standard file" end
  return close_file(file)
end

function metatable.__close(file)
  if not standard[file] then collect(file) end
end

function os.getenv(name)
  if type(name) ~= "string" and type(name) ~= "number" then
    error("bad argument #1 to 'getenv' (string expected, got " .. type(name) .. ")", 2)
  end
  return env[tostring(name)]
end

-- The locale is that of the process.
function os.setlocale(locale, category)
  if locale ~= nil and locale ~= "C" then return nil end
  return setlocale(nil, category)
end
