--- Where readers have their lines from: paths, open files, objects with `lines`, texts.
--
-- Bytes come in blocks, so that the memory is the same for files of any size, and gzip
-- is recognized by its first bytes and decompressed on the way.

local inflate = require("bio_sequence_analysis.inflate")

local input = {}

local BLOCK = 65536
local byte, find, sub = string.byte, string.find, string.sub

--- Opens a file, or says why not.
function input.open(caller, path, mode)
  if not (io and io.open) then
    error(caller .. ": this Lua has no io library: use the functions that work on strings", 0)
  end
  local handle, reason = io.open(path, mode)
  if not handle then
    error(string.format("%s: cannot open the file: %s", caller, reason), 0)
  end
  return handle
end

--- Demands an open file, or any object with the method, for files that other libraries open.
function input.require_handle(caller, value, method)
  local kind = io and io.type and io.type(value) or type(value)
  local ok, found = pcall(function()
    return value[method]
  end)
  if kind == "closed file" or kind == "string" or not ok or type(found) ~= "function" then
    error(string.format("%s: a path or an open file is needed, not %s", caller, kind), 0)
  end
end

-- Blocks of an open file, which is closed at its end when it is `ours`. After the end there are none,
-- however often one is asked for.
local function blocks_of_handle(caller, name, handle, ours)
  local ended = false
  local function close()
    if ours and not ended then
      handle:close()
    end
    ended = true
  end
  local function read_block()
    if ended then
      return nil
    end
    local block, reason = handle:read(BLOCK)
    if block == nil then
      close()
      if reason then
        error(string.format("%s: cannot read %s: %s", caller, name, reason), 0)
      end
    end
    return block
  end
  return read_block, close
end

local function nothing() end

-- Lines of an iterator that may not be called after its end.
local function lines_of_iterator(next_line, state, control)
  return function()
    if next_line then
      control = next_line(state, control)
      if control == nil then
        next_line = nil
      end
      return control
    end
    return nil
  end
end

local function blocks_of_text(text)
  return function()
    local block = text
    text = nil
    return block
  end
end

-- Goes through gzip when the first bytes say so.
local function decompressed(read_block, refuse)
  local first = read_block()
  local function replay()
    if first then
      local block = first
      first = nil
      return block
    end
    return read_block()
  end
  -- A pipe may give its first byte alone.
  while first and #first < 2 do
    local more = read_block()
    if not more then
      break
    end
    first = first .. more
  end
  if first and sub(first, 1, 2) == "\31\139" then
    return inflate(replay, refuse)
  end
  return replay
end

-- Lines without their line feeds. A carriage return before it is left to the reader.
-- @return function that gives the next line, one that appends lines to an array until one
--   begins with a byte, and gives that line, and one that gives a line in parts
local function lines_of_blocks(read_block)
  local block, from = "", 1
  local function next_line()
    if not block then
      return nil
    end
    local stop = find(block, "\n", from, true)
    if stop then
      local line = sub(block, from, stop - 1)
      from = stop + 1
      return line
    end
    local parts = { sub(block, from) }
    while true do
      block = read_block()
      if not block then
        local rest = table.concat(parts)
        return rest ~= "" and rest or nil
      end
      stop = find(block, "\n", 1, true)
      if stop then
        parts[#parts + 1] = sub(block, 1, stop - 1)
        from = stop + 1
        return table.concat(parts)
      end
      parts[#parts + 1] = block
    end
  end
  local function take_until(letter, array)
    local count, marker = #array, "\n" .. string.char(letter)
    while true do
      if block and byte(block, from) ~= letter then
        -- Looked for once, so that lines before it need not be looked at one by one.
        local text, first, find, sub = block, from, find, sub
        local last = find(text, marker, first, true) or #text
        local stop = find(text, "\n", first, true)
        while stop and stop <= last do
          count = count + 1
          array[count] = sub(text, first, stop - 1)
          first = stop + 1
          stop = find(text, "\n", first, true)
        end
        from = first
      end
      local line = next_line()
      if line == nil or byte(line) == letter then
        return line
      end
      count = count + 1
      array[count] = line
    end
  end
  local function next_part()
    while block do
      local stop = find(block, "\n", from, true)
      local part = sub(block, from, stop and stop - 1)
      if stop then
        from = stop + 1
        return part, true
      end
      block, from = read_block(), 1
      if part ~= "" then
        return part, block == nil
      end
    end
    return nil
  end
  return next_line, take_until, next_part
end

local Closer = {}
Closer.__close = function(self)
  self.close()
end

local function lines_object(name, close)
  local lines = setmetatable({ name = name, number = 0, is_fresh = true, close = close }, Closer)
  --- Ends reading with an error that names the input, the record and the line.
  function lines.refuse(message, record, number)
    close()
    local place = record and string.format("record %d, ", record) or ""
    error(string.format("%s: %sline %d: %s", name, place, number or lines.number, message), 0)
  end
  return lines
end

local function counted(lines, next_line, take_until, next_part)
  lines.next = function()
    local line = next_line()
    if line then
      lines.number = lines.number + 1
      if lines.number == 1 and find(line, "^\239\187\191") then
        line = sub(line, 4)
      end
      return line
    end
    return nil
  end
  --- The next part of a line, so that lines of any length need no more memory than a block.
  -- @return the part, and whether the line ends with it
  lines.part = function()
    if not next_part then
      return lines.next(), true
    end
    local part, is_end = next_part()
    if part and lines.is_fresh then
      lines.is_fresh = false
      part = part:gsub("^\239\187\191", "")
    end
    lines.number = lines.number + (is_end and 1 or 0)
    return part, is_end
  end
  --- Appends lines to an array until one begins with a byte, and gives that line.
  lines.take_until = function(letter, array)
    local before = #array
    local line
    if take_until then
      line = take_until(letter, array)
    else
      for other in next_line do
        if byte(other) == letter then
          line = other
          break
        end
        array[#array + 1] = other
      end
    end
    lines.number = lines.number + #array - before + (line and 1 or 0)
    return line
  end
  return lines
end

--- The lines of a text.
-- @param kind the name of the format, which stands for the file in errors
function input.text(caller, text, kind)
  if type(text) ~= "string" then
    error(string.format("%s: the text must be a string, not %s", caller, type(text)), 0)
  end
  local lines = lines_object(kind, nothing)
  local function refuse(reason)
    error(string.format("%s: this gzip data cannot be decompressed: %s", kind, reason), 0)
  end
  return counted(lines, lines_of_blocks(decompressed(blocks_of_text(text), refuse)))
end

--- The lines of a path, an open file, or an object with a `lines` method.
-- @return table with `next` (gives the next line, or nil), `take_until`, `part`, `number` (of the line
--   last given), `refuse` (ends with an error there) and `close`
function input.lines(caller, source, kind)
  if type(source) ~= "string" then
    local reads = io and io.type and io.type(source) == "file"
    if not reads then
      input.require_handle(caller, source, "lines")
      return counted(lines_object(kind, nothing), lines_of_iterator(source:lines()))
    end
  end
  local ours = type(source) == "string"
  local name = ours and source or kind
  local handle = ours and input.open(caller, source, "rb") or source
  local read_block, close = blocks_of_handle(caller, name, handle, ours)
  local function refuse(reason)
    close()
    error(string.format("%s: this gzip file cannot be decompressed: %s", name, reason), 0)
  end
  return counted(lines_object(name, close), lines_of_blocks(decompressed(read_block, refuse)))
end

--- An iterator for `for` whose file is closed also when the loop ends early, where the
-- interpreter can tell (Lua 5.4); elsewhere the collector closes it.
function input.iterator(next_record, lines)
  return next_record, nil, nil, lines
end

--- All that an iterator gives.
function input.collect(next_record)
  local records = {}
  for record in next_record do
    records[#records + 1] = record
  end
  return records
end

return input
