-- What both drivers share: lists, and errors as the lua program tells them.
local pack, describe

function pack(...) return {n = select("#", ...), ...} end

do
  local type, tostring, getmetatable = type, tostring, getmetatable
  local traceback, concat, find, gmatch = debug.traceback, table.concat, string.find, string.gmatch

  -- Leaves out of a traceback what belongs to a driver: everything below the program.
  local function trimmed(trace)
    local kept = {}
    for line in gmatch(trace .. "\n", "(.-)\n") do
      if find(line, "^\t%(command line%)") or find(line, "^\t%[C%]: in function 'xpcall'") then
        if kept[#kept] == "\t(tail call): ?" then kept[#kept] = nil end
        kept[#kept + 1] = "\t[C]: in ?"
        break
      end
      kept[#kept + 1] = line
    end
    return concat(kept, "\n")
  end

  -- The message handler of a program.
  function describe(value)
    local kind = type(value)
    if kind ~= "string" and kind ~= "number" then
      local meta = getmetatable(value)
      if type(meta) == "table" and meta.__tostring then return tostring(value) end
      value = "(error object is a " .. kind .. " value)"
    end
    return trimmed(traceback(tostring(value), 2))
  end
end
