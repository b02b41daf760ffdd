--- Reading and writing FASTA.
--
-- A record is a table with `id` (the header up to the first white space),
-- `description` (the rest of the header, "" when there is none) and `sequence`
-- (white space removed, case kept, "" when the record is empty). The letters of a
-- sequence are not judged here: FASTA holds proteins too.

local check = require("bio_compute.check")
local input = require("bio_sequence_analysis.input")
local output = require("bio_sequence_analysis.output")

local fasta = {}

local WRITE_OPTIONS = { width = true }
local PIECE_OPTIONS = { size = true, overlap = true }
local DEFAULT_WIDTH = 60
local DEFAULT_SIZE = 1048576

local function refuse_headless(lines, line)
  if line:find("^@") then
    lines.refuse("this looks like FASTQ: read it with bio_sequence_analysis.fastq")
  end
  lines.refuse("sequence before the first header: a record begins with a line that starts with '>'")
end

local function parse_header(lines, line)
  if line:find("\r.") then
    lines.refuse("the line ends are single carriage returns: convert them to line feeds first")
  end
  local id, description = line:match("^>%s*(%S*)%s*(.-)%s*$")
  return { id = id, description = description }
end

-- What lines of sequence may not have, or not keep. One byte is looked for at a time, which is
-- many times faster than any of a set.
local UNWANTED = { ">", " ", "\t", "\r", "\v", "\f" }

local function is_clean(sequence)
  for _, letter in ipairs(UNWANTED) do
    if sequence:find(letter, 1, true) then
      return false
    end
  end
  return true
end

-- The sequence of lines that have something of that.
local function cleaned(lines, record, parts, first)
  for index, line in ipairs(parts) do
    if line:find(">", 1, true) then
      lines.refuse("'>' inside a sequence: put each header on a line of its own", record, first + index - 1)
    end
    parts[index] = line:gsub("%s+", "")
  end
  return table.concat(parts)
end

--- The records of an object of lines, of which one is held at a time.
local function records_of(lines)
  local count = 0
  local header
  local function begin()
    for line in lines.next do
      if line:byte() == 62 then -- >
        return line
      elseif line:find("%S") then
        refuse_headless(lines, line)
      end
    end
    return nil
  end
  return function()
    if count == 0 then
      header = begin()
    end
    if not header then
      return nil
    end
    count = count + 1
    local record, first, parts = parse_header(lines, header), lines.number + 1, {}
    header = lines.take_until(62, parts)
    local sequence = table.concat(parts)
    record.sequence = is_clean(sequence) and sequence or cleaned(lines, count, parts, first)
    return record
  end
end

local function read(caller, source)
  local lines = input.lines(caller, source, "FASTA")
  return records_of(lines), lines
end

--- Iterates over the records of a FASTA file, holding one in memory at a time.
--
-- Gzip, blank lines, CRLF line ends, a byte order mark and empty records are accepted.
-- Refused, with file, record and line: sequence before the first header, `>` inside a
-- sequence, FASTQ, and line ends of a single carriage return. The letters are not judged.
-- @param source string (path of a file), open file, or any object with a `lines`
--   method; what is open already stays open
-- @return iterator of records, for `for`
function fasta.fasta(source)
  return input.iterator(read("bio_sequence_analysis.fasta", source))
end

-- What a part of a line adds to a sequence.
local function letters_of(lines, record, part)
  if part:find(">", 1, true) then
    lines.refuse("'>' inside a sequence: put each header on a line of its own", record)
  end
  return (part:gsub("%s+", ""))
end

-- The pieces of the records of an object of lines.
local function pieces_of(lines, size, overlap)
  local record, count = nil, 0 -- the record that is read, and its number
  local text, at, parts, held, start = "", 1, {}, 0, 1 -- letters that are not given yet
  local line_begins = true
  local title = {} -- parts of a header that has not ended

  local function piece(length, is_last)
    if #parts > 0 then
      text, at, parts = text:sub(at) .. table.concat(parts), 1, {}
    end
    local given = {
      id = record.id, description = record.description,
      start = start, sequence = text:sub(at, at + length - 1), is_last = is_last,
    }
    if is_last then
      text, at, held, start = "", 1, 0, 1
    else
      local step = length - overlap
      at, held, start = at + step, held - step, start + step
    end
    return given
  end

  -- Takes a part of a line; gives the piece that it ends, if any.
  local function take(part, is_end)
    local ended
    if #title > 0 or line_begins and part:byte() == 62 then
      if #title == 0 and record then
        ended = piece(held, true)
      end
      title[#title + 1] = part
      if is_end then
        record, count = parse_header(lines, table.concat(title)), count + 1
        title = {}
      else
        record = nil
      end
    elseif record then
      local letters = letters_of(lines, count, part)
      parts[#parts + 1], held = letters, held + #letters
    elseif part:find("%S") then
      refuse_headless(lines, part)
    end
    line_begins = is_end
    return ended
  end

  return function()
    while true do
      if held > size then
        return piece(size, false)
      end
      local part, is_end = lines.part()
      if part == nil then
        if not record then
          return nil
        end
        local last = piece(held, true)
        record = nil
        return last
      end
      local ended = take(part, is_end)
      if ended then
        return ended
      end
    end
  end
end

--- Iterates over pieces of the records of a FASTA file: for records that do not fit into memory.
--
-- No more than a piece and a block of the file are held, however long records and lines are. Each
-- piece begins `overlap` letters before the end of the one before, so that with k - 1 every k-mer
-- is in one piece exactly: `counts:add(piece.sequence)`.
-- Accepted and refused is what `fasta` accepts and refuses.
-- @param source as for `fasta`
-- @param options table or nil: `size`, the most letters of a piece (default 1048576);
--   `overlap`, letters (default 0), less than `size`
-- @return iterator of tables with `id`, `description`, `start` (the position of the first letter
--   in the record, from 1), `sequence` and `is_last`; an empty record has one empty piece
function fasta.fasta_pieces(source, options)
  local caller = "bio_sequence_analysis.fasta_pieces"
  options = check.options(caller, options, PIECE_OPTIONS)
  local size = check.whole_number(caller, "size", options.size, 1, DEFAULT_SIZE)
  local overlap = check.whole_number(caller, "overlap", options.overlap, 0, 0)
  if overlap >= size then
    error(string.format("%s: overlap (%d) must be less than size (%d)", caller, overlap, size), 0)
  end
  local lines = input.lines(caller, source, "FASTA")
  return input.iterator(pieces_of(lines, size, overlap), lines)
end

--- Reads all records of a FASTA file.
-- @param source as for `fasta`
-- @return array of records
function fasta.read_fasta(source)
  return input.collect((read("bio_sequence_analysis.read_fasta", source)))
end

--- Reads all records of a string in FASTA.
-- @param text string, which may be gzip
-- @return array of records
function fasta.parse_fasta(text)
  return input.collect(records_of(input.text("bio_sequence_analysis.parse_fasta", text, "FASTA")))
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

local function formatter(caller, options)
  options = check.options(caller, options, WRITE_OPTIONS)
  local width = check.whole_number(caller, "width", options.width, 0, DEFAULT_WIDTH)
  return function(record)
    local problem = problem_of(record)
    if problem then
      return nil, problem
    end
    return formatted(record, width)
  end
end

--- Writes records to a string. What could not be read back the same is refused.
-- @param records array or iterator of records
-- @param options table or nil: `width`, letters in a line (default 60; 0 puts each
--   sequence on one line)
-- @return string
function fasta.format_fasta(records, options)
  local caller = "bio_sequence_analysis.format_fasta"
  return output.format(caller, records, formatter(caller, options))
end

--- Writes records to a file, one at a time.
-- @param target string (path of a file, which is replaced), open file, or any
--   object with a `write` method; what is open already stays open
-- @param records as for `format_fasta`
-- @param options as for `format_fasta`
function fasta.write_fasta(target, records, options)
  local caller = "bio_sequence_analysis.write_fasta"
  output.write(caller, target, records, formatter(caller, options))
end

--- Opens a FASTA file to which records are given one at a time.
-- @param target as for `write_fasta`
-- @param options as for `format_fasta`
-- @return table with the methods `write(record)` and `close()`
function fasta.fasta_writer(target, options)
  local caller = "bio_sequence_analysis.fasta_writer"
  return output.writer(caller, target, formatter(caller, options))
end

return fasta
