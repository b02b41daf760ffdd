--- Reading and writing FASTA.
--
-- A record is a table with `id` (the header up to the first white space),
-- `description` (the rest of the header, "" when there is none) and `sequence`
-- (white space removed, case kept, "" when the record is empty). The letters of a
-- sequence are not judged here: FASTA holds proteins too.

local check = require("bio_compute.check")

local fasta = {}

local WRITE_OPTIONS = { width = true }
local DEFAULT_WIDTH = 60

local UTF8_MARK = "^\239\187\191"

-- Errors in data name the input and the line in it, not a line of the program.
local function refuse(input, line_number, message)
  error(string.format("%s: line %d: %s", input, line_number, message), 0)
end

local function refuse_headless(input, line_number, line)
  if line:find("^\31\139") then
    refuse(input, line_number, "this is gzip-compressed: decompress it first (gzip -d)")
  elseif line:find("^@") then
    refuse(input, line_number, "this looks like FASTQ: convert it to FASTA first")
  end
  refuse(input, line_number, "sequence before the first header: a record begins with a line that starts with '>'")
end

local function parse_header(input, line_number, line)
  if line:find("\r.") then
    refuse(input, line_number, "the line ends are single carriage returns: convert them to line feeds first")
  end
  local id, description = line:match("^>%s*(%S*)%s*(.-)%s*$")
  return { id = id, description = description }
end

local function close_record(record, parts)
  record.sequence = table.concat(parts)
  return record
end

--- Iterates over the records of an iterator of lines, holding one record at a time.
local function records_of(next_line, input)
  local line_number = 0
  local pending
  local done = false
  return function()
    local record, parts = pending, {}
    pending = nil
    while not done do
      local line = next_line()
      if line == nil then
        done = true
        break
      end
      line_number = line_number + 1
      if line_number == 1 then
        line = line:gsub(UTF8_MARK, "")
      end
      if line:sub(1, 1) == ">" then
        local header = parse_header(input, line_number, line)
        if record then
          pending = header
          return close_record(record, parts)
        end
        record = header
      elseif line:find("%S") then
        if not record then
          refuse_headless(input, line_number, line)
        elseif line:find(">", 1, true) then
          refuse(input, line_number, "'>' inside a sequence: put each header on a line of its own")
        end
        parts[#parts + 1] = line:gsub("%s+", "")
      end
    end
    if record then
      return close_record(record, parts)
    end
    return nil
  end
end

local function collect(next_record)
  local records = {}
  for record in next_record do
    records[#records + 1] = record
  end
  return records
end

local function open(caller, path, mode)
  if not (io and io.open) then
    error(caller .. ": this Lua has no io library: use parse_fasta and format_fasta on strings", 0)
  end
  local handle, reason = io.open(path, mode)
  if not handle then
    error(string.format("%s: cannot open the file: %s", caller, reason), 0)
  end
  return handle
end

-- Any object with the method will do, for files that other libraries open.
local function require_handle(caller, value, method)
  local kind = io and io.type and io.type(value) or type(value)
  local ok, found = pcall(function()
    return value[method]
  end)
  if kind == "closed file" or kind == "string" or not ok or type(found) ~= "function" then
    error(string.format("%s: a path or an open file is needed, not %s", caller, kind), 0)
  end
end

local function lines_of_file(caller, path)
  local handle = open(caller, path, "rb")
  return function()
    local line, reason = handle:read("*l")
    if line == nil then
      handle:close()
      if reason then
        error(string.format("%s: cannot read %s: %s", caller, path, reason), 0)
      end
    end
    return line
  end
end

local function records_in(caller, source)
  if type(source) == "string" then
    return records_of(lines_of_file(caller, source), source)
  end
  require_handle(caller, source, "lines")
  return records_of(source:lines(), "FASTA")
end

--- Iterates over the records of a file, holding one in memory at a time.
-- Blank lines, CRLF line ends and empty records are accepted. A file that is opened
-- here is closed after its last record.
-- @param source string (path of a file), open file, or any object with a `lines`
--   method; what is open already stays open
-- @return iterator of records, for `for`
function fasta.fasta(source)
  return records_in("bio_sequence_analysis.fasta", source)
end

--- Reads all records of a file.
-- @param source as for `fasta`
-- @return array of records
function fasta.read_fasta(source)
  return collect(records_in("bio_sequence_analysis.read_fasta", source))
end

--- Reads all records of a string.
-- @param text string
-- @return array of records
function fasta.parse_fasta(text)
  if type(text) ~= "string" then
    error("bio_sequence_analysis.parse_fasta: the text must be a string, not " .. type(text), 0)
  end
  if text ~= "" and text:sub(-1) ~= "\n" then
    text = text .. "\n"
  end
  return collect(records_of(text:gmatch("([^\n]*)\n"), "FASTA"))
end

local function problem_of(record)
  if type(record) ~= "table" or type(record.sequence) ~= "string" then
    return "must be a table with the strings id and sequence"
  elseif type(record.id) ~= "string" or not record.id:find("^%S+$") then
    return "must have an id without white space: put further words into description"
  elseif record.description ~= nil and type(record.description) ~= "string" then
    return "must have a string as description"
  elseif (record.description or ""):find("[\r\n]") then
    return "has a line end in its description: remove it"
  elseif record.sequence:find("[%s>]") then
    return "has white space or '>' in its sequence: remove it"
  end
  return nil
end

-- Checks records and options before the first byte is written.
-- @return the letters in a line
local function checked_width(caller, records, options)
  if type(records) ~= "table" then
    error(string.format("%s: the records must be an array, not %s", caller, type(records)), 0)
  end
  for index, record in ipairs(records) do
    local problem = problem_of(record)
    if problem then
      error(string.format("%s: record %d %s", caller, index, problem), 0)
    end
  end
  options = check.options(caller, options, WRITE_OPTIONS)
  return check.whole_number(caller, "width", options.width, 0, DEFAULT_WIDTH)
end

local function formatted(record, width)
  local description = record.description or ""
  local lines = { ">" .. record.id .. (description ~= "" and " " .. description or "") }
  local length = #record.sequence
  local step = width > 0 and width or length
  for first = 1, length, math.max(step, 1) do
    lines[#lines + 1] = record.sequence:sub(first, first + step - 1)
  end
  return table.concat(lines, "\n") .. "\n"
end

--- Writes records to a string.
-- @param records array of records
-- @param options table or nil: `width`, letters in a line (default 60; 0 puts each
--   sequence on one line)
-- @return string
function fasta.format_fasta(records, options)
  local width = checked_width("bio_sequence_analysis.format_fasta", records, options)
  local texts = {}
  for index, record in ipairs(records) do
    texts[index] = formatted(record, width)
  end
  return table.concat(texts)
end

local function write_all(handle, records, width)
  for _, record in ipairs(records) do
    local written, reason = handle:write(formatted(record, width))
    if not written then
      return nil, reason
    end
  end
  return true
end

--- Writes records to a file, one at a time.
-- @param target string (path of a file, which is replaced), open file, or any
--   object with a `write` method; what is open already stays open
-- @param records array of records
-- @param options table or nil: as for `format_fasta`
function fasta.write_fasta(target, records, options)
  local caller = "bio_sequence_analysis.write_fasta"
  local width = checked_width(caller, records, options)
  local written, reason
  if type(target) == "string" then
    local handle = open(caller, target, "wb")
    written, reason = write_all(handle, records, width)
    -- A full disk may show only now, when the buffer is flushed.
    local closed, close_reason = handle:close()
    if written and not closed then
      written, reason = closed, close_reason
    end
  else
    require_handle(caller, target, "write")
    written, reason = write_all(target, records, width)
  end
  if not written then
    error(string.format("%s: cannot write: %s", caller, tostring(reason)), 0)
  end
end

return fasta
