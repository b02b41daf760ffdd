--- Where writers put their text: paths, open files, objects with `write`.

local input = require("bio_sequence_analysis.input")

local output = {}

local function fail(caller, reason)
  error(string.format("%s: cannot write: %s", caller, tostring(reason)), 0)
end

--- Opens a target.
-- @param target string (path of a file, which is replaced), open file, or any object with
--   a `write` method; what is open already stays open
-- @return function that writes a text, and function that ends writing
function output.open(caller, target)
  local ours = type(target) == "string"
  local handle = target
  if ours then
    handle = input.open(caller, target, "wb")
  else
    input.require_handle(caller, target, "write")
  end
  local function close()
    if ours and handle then
      local closing = handle
      handle = nil
      -- A full disk may show only now, when the buffer is flushed.
      local closed, reason = closing:close()
      if not closed then
        fail(caller, reason)
      end
    end
  end
  local function write(text)
    local written, reason = handle:write(text)
    if not written then
      if ours then
        handle:close()
        handle = nil
      end
      fail(caller, reason)
    end
  end
  return write, close
end

--- An iterator over records, given as an array or as an iterator.
function output.each(caller, records)
  if type(records) == "function" then
    return records
  elseif type(records) ~= "table" then
    error(string.format("%s: the records must be an array or an iterator, not %s", caller, type(records)), 0)
  end
  local index = 0
  return function()
    index = index + 1
    return records[index]
  end
end

--- Writes records one by one.
-- @param format function that gives the text of a record, or nil and what is wrong with it
function output.write(caller, target, records, format)
  local each = output.each(caller, records)
  if type(records) == "table" then
    -- An array is checked whole before the first byte is written.
    for index, record in ipairs(records) do
      local text, problem = format(record)
      if not text then
        error(string.format("%s: record %d %s", caller, index, problem), 0)
      end
    end
  end
  local write, close = output.open(caller, target)
  local index = 0
  local ok, problem = pcall(function()
    for record in each do
      index = index + 1
      local text, reason = format(record)
      if not text then
        error(string.format("%s: record %d %s", caller, index, reason), 0)
      end
      write(text)
    end
  end)
  if not ok then
    pcall(close)
    error(problem, 0)
  end
  close()
end

--- The text of records.
function output.format(caller, records, format)
  local texts, index = {}, 0
  for record in output.each(caller, records) do
    index = index + 1
    local text, problem = format(record)
    if not text then
      error(string.format("%s: record %d %s", caller, index, problem), 0)
    end
    texts[index] = text
  end
  return table.concat(texts)
end

--- A writer to which records are given one at a time.
-- @return table with the methods `write` (a record) and `close`
function output.writer(caller, target, format)
  local write, close = output.open(caller, target)
  local written = 0
  local writer = {}
  function writer.write(_, record)
    local text, problem = format(record)
    if not text then
      error(string.format("%s: record %d %s", caller, written + 1, problem), 0)
    end
    write(text)
    written = written + 1
  end
  function writer.close()
    close()
  end
  return setmetatable(writer, { __close = close })
end

return output
