-- Makes the standard library of a fresh state fit for a VM: source text only, no program unless
-- that is allowed, temporary files in the folder of the VM.
local vm = ...
local error, tonumber, type, getmetatable = error, tonumber, type, getmetatable
local find, tointeger = string.find, math.tointeger
local open = io.open

local stdin, stdout, stderr = io.stdin, io.stdout, io.stderr

-- Bytecode can do what no source text can.
local function source_only(mode)
  if mode == nil then return "t" end
  if type(mode) ~= "string" then return mode end
  return find(mode, "t", 1, true) and "t" or ""
end

local load, loadfile = load, loadfile

function _G.load(chunk, name, mode, ...)
  local loaded, problem = load(chunk, name, source_only(mode), ...)
  if loaded then return loaded end
  return loaded, problem
end

function _G.loadfile(name, mode, ...)
  local loaded, problem = loadfile(name, source_only(mode), ...)
  if loaded then return loaded end
  return loaded, problem
end

function dofile(name)
  local loaded, problem = loadfile(name, "t")
  if not loaded then error(problem, 0) end
  return loaded()
end

local package = package
local searchpath = package.searchpath

package.searchers[2] = function(name)
  local path = package.path
  if type(path) ~= "string" then error("'package.path' must be a string", 0) end
  local file, problem = searchpath(name, path)
  if not file then return problem end
  local loaded
  loaded, problem = loadfile(file, "t")
  if loaded then return loaded, file end
  error("error loading module '" .. name .. "' from file '" .. file .. "':\n\t" .. problem, 0)
end

-- Says in the error of a failed require why no C module was looked for.
package.searchers[3] = function()
  return 'no C module (the built-in Lua loads none; set lua_executable, "lua5.4" for example)'
end

-- Ends what the program has started, and then does the same. With close the original closes the
-- state first, and the finalizers of the program, which run then, may start more.
local exit, end_leftovers = os.exit, vm.end_leftovers

function os.exit(code, close)
  if code ~= nil and type(code) ~= "boolean" then
    local whole = tointeger(tonumber(code))
    if not whole then
      local problem = tonumber(code) and "number has no integer representation"
        or "number expected, got " .. type(code)
      error("bad argument #1 to 'exit' (" .. problem .. ")", 2)
    end
    code = whole
  end
  if not close then end_leftovers() end
  exit(code, close and true)
end

if not vm.processes then
  local remedy = " is not allowed; set processes = true in the configuration of the VM"

  function os.execute(command)
    if command == nil then return false end
    error("os.execute" .. remedy, 2)
  end

  function io.popen()
    error("io.popen" .. remedy, 2)
  end
end

local remove = os.remove
local temporary_name = vm.temporary_name

function os.tmpname()
  local name = temporary_name()
  if not name then error("unable to generate a unique filename", 2) end
  return name
end

function io.tmpfile()
  local name, problem = temporary_name()
  if not name then return nil, problem end
  local file, code
  file, problem, code = open(name, "w+b")
  remove(name)
  if file then return file end
  return file, problem, code
end

-- The buffers of the standard streams belong to the process, and outlive this state.
local files = getmetatable(stdout).__index
local setvbuf, process_changed = files.setvbuf, vm.process_changed

function files.setvbuf(file, ...)
  if file == stdout or file == stderr or file == stdin then process_changed() end
  return setvbuf(file, ...)
end

-- Who leaves a program leaves the coroutines of it, too.
if vm.pass then
  local resume, pass = coroutine.resume, vm.pass

  local function passed(ok, ...)
    if not ok then pass() end
    return ok, ...
  end

  function coroutine.resume(...) return passed(resume(...)) end
end
