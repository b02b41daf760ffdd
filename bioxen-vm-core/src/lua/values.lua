-- Makes data of values, in either driver.
local value_data

do
  local type, next, rawget, pcall = type, next, rawget, pcall
  local floor, huge, mathtype = math.floor, math.huge, math.type
  local format, find, concat, tostring = string.format, string.find, table.concat, tostring
  local DEPTH, LIMIT = 100, 16 * 1024 * 1024

  local function number(value)
    if mathtype then
      if mathtype(value) == "integer" then return format("i%d;", value) end
    elseif value == floor(value) and value > -2 ^ 53 and value < 2 ^ 53
      and (value ~= 0 or 1 / value > 0) then
      return format("i%.0f;", value)
    end
    if value ~= value then return "dnan;" end
    if value == huge then return "dinf;" end
    if value == -huge then return "d-inf;" end
    return format("d%.17g;", value)
  end

  local function step(key)
    if type(key) == "string" and find(key, "^[%a_][%w_]*$") then return "." .. key end
    if type(key) == "string" then return format("[%q]", key) end
    return format("[%s]", tostring(key))
  end

  -- Gives the text, or nothing, what is no data, and where it is.
  local function encode(values, first)
    local out, count, size, inside = {}, 0, 0, {}
    local function add(text)
      count = count + 1
      out[count] = text
      size = size + #text
    end
    local function put(value, depth)
      local kind = type(value)
      if kind == "nil" then
        add("z")
      elseif kind == "boolean" then
        add(value and "t" or "f")
      elseif kind == "number" then
        add(number(value))
      elseif kind == "string" then
        add("s" .. #value .. ":")
        add(value)
      elseif kind ~= "table" then
        return "a " .. kind, ""
      elseif inside[value] then
        return "a table inside itself", ""
      elseif depth == DEPTH then
        return "a table nested deeper than " .. DEPTH, ""
      else
        inside[value] = true
        local length, fields = 0, 0
        while rawget(value, length + 1) ~= nil do length = length + 1 end
        local function in_array(key)
          return type(key) == "number" and key >= 1 and key <= length and key == floor(key)
        end
        for key in next, value do
          if not in_array(key) then fields = fields + 1 end
        end
        add("{" .. format("%d", length) .. "," .. format("%d", fields) .. ":")
        for i = 1, length do
          local what, where = put(rawget(value, i), depth + 1)
          if what then return what, "[" .. i .. "]" .. where end
        end
        for key, field in next, value do
          if not in_array(key) then
            local what, where = put(key, depth + 1)
            if what then return what .. " as a key", "" end
            what, where = put(field, depth + 1)
            if what then return what, step(key) .. where end
          end
        end
        inside[value] = nil
      end
      if size > LIMIT then return "more than 16 MiB", "" end
    end
    for i = first, values.n do
      local what, where = put(values[i], 0)
      if what then return nil, what .. " at [" .. i - first + 1 .. "]" .. where end
    end
    return concat(out)
  end

  -- Encodes the values of a list from an index on. Gives a kind, V for values and N for what is no
  -- data, and the text.
  function value_data(values, first)
    local ok, text, problem = pcall(encode, values, first)
    if not ok then return "N", "a value that does not fit into memory" end
    if not text then return "N", problem end
    return "V", text
  end
end

