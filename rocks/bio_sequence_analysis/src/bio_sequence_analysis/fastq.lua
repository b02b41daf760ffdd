--- Reading and writing FASTQ.
--
-- The format is that of Cock et al. 2010 (Nucleic Acids Research 38:1767), with its three
-- variants of quality letters:
--
-- - `sanger`: Phred qualities 0 to 93 as the letters from `!` (33) on. All of today's files;
-- - `solexa`: Solexa qualities -5 to 62 as letters from `;` (59) on, offset 64 (before 2008);
-- - `illumina`: Phred qualities 0 to 62 as letters from `@` (64) on (Illumina 1.3 to 1.7).
--
-- A record is a table with `id` (the title up to the first white space), `description` (the
-- rest), `sequence`, `quality` (the letters as in the file) and `variant`.

local check = require("bio_compute.check")
local input = require("bio_sequence_analysis.input")
local output = require("bio_sequence_analysis.output")

local fastq = {}

local find, sub, byte = string.find, string.sub, string.byte

-- Per variant: the offset of letters, and the lowest and highest quality.
local VARIANTS = {
  sanger = { offset = 33, low = 0, high = 93 },
  solexa = { offset = 64, low = -5, high = 62 },
  illumina = { offset = 64, low = 0, high = 62 },
}

local READ_OPTIONS = { variant = true }
local WRITE_OPTIONS = { variant = true }

-- Letters that a variant does not have.
local FOREIGN = { sanger = "[^!-~]", solexa = "[^;-~]", illumina = "[^@-~]" }
-- Of one class, which is the fastest to look for: the letters of `sanger` are those that
-- print, where the interpreter has a class for them.
local ALL_KNOWN = {
  sanger = find("!", "^%g*$") and not find(" ", "^%g*$") and "^%g*$" or "^[!-~]*$",
  solexa = "^[;-~]*$",
  illumina = "^[@-~]*$",
}

local function rounded(value)
  return math.floor(value + 0.5)
end

local function solexa_of_phred(phred)
  if phred == 0 then
    return -5
  end
  return math.max(-5, rounded(10 * math.log(10 ^ (phred / 10) - 1) / math.log(10)))
end

local function phred_of_solexa(solexa)
  return rounded(10 * math.log(10 ^ (solexa / 10) + 1) / math.log(10))
end

-- The map from letters of one variant to letters of another.
local function letters(from, to)
  local source, target = VARIANTS[from], VARIANTS[to]
  local map = {}
  for quality = source.low, source.high do
    local converted = quality
    if from == "solexa" and to ~= "solexa" then
      converted = phred_of_solexa(quality)
    elseif to == "solexa" and from ~= "solexa" then
      converted = solexa_of_phred(quality)
    end
    converted = math.min(converted, target.high)
    map[string.char(quality + source.offset)] = string.char(converted + target.offset)
  end
  return map
end

local maps = {}

local function map_of(from, to)
  local name = from .. to
  maps[name] = maps[name] or letters(from, to)
  return maps[name]
end

--- Demands the name of a variant; nil gives `default`.
function fastq.variant(caller, variant, default)
  if variant == nil then
    return default
  elseif not VARIANTS[variant] then
    error(string.format("%s: unknown variant '%s': use sanger, solexa or illumina", caller, tostring(variant)), 0)
  end
  return variant
end

local scores = {}

--- The Phred quality of each letter's byte in a variant; Solexa qualities are converted.
function fastq.phred_of_byte(variant)
  if not scores[variant] then
    local table_of_scores = {}
    for letter, sanger in pairs(map_of(variant, "sanger")) do
      table_of_scores[byte(letter)] = byte(sanger) - 33
    end
    scores[variant] = table_of_scores
  end
  return scores[variant]
end

--- Converts quality letters from one variant to another.
--
-- Phred Q and Solexa S mean the same chance of an error when Q = 10 log10(10^(S/10) + 1);
-- the result is rounded. What is above the highest quality of the target becomes that (62
-- for `solexa` and `illumina`).
-- @param quality string, letters of `from`
-- @param from, to names of variants
-- @return string
function fastq.convert_quality(quality, from, to)
  local caller = "bio_sequence_analysis.convert_quality"
  from, to = fastq.variant(caller, from, "sanger"), fastq.variant(caller, to, "sanger")
  if type(quality) ~= "string" then
    error(string.format("%s: the quality must be a string, not %s", caller, type(quality)), 0)
  end
  local position = find(quality, FOREIGN[from])
  if position then
    error(string.format("%s: byte %d at position %d is no quality of the variant %s",
      caller, byte(quality, position), position, from), 0)
  end
  if from == to then
    return quality
  end
  return (quality:gsub(".", map_of(from, to)))
end

-- Says what is wrong with sequence or quality letters.
local function refuse_letters(lines, record, sequence, quality, variant)
  local at = find(sequence, "[^%w%-%.%*]")
  if at then
    local shown = sub(sequence, at, at)
    lines.refuse(find(shown, "%s") and "white space in the sequence: remove it"
      or string.format("byte %d at position %d of the sequence: use letters", byte(shown), at), record)
  end
  at = find(quality, FOREIGN[variant])
  if at then
    lines.refuse(string.format("byte %d at position %d of the quality does not exist in the variant %s%s",
      byte(quality, at), at, variant,
      variant ~= "sanger" and byte(quality, at) < 64 and ": this may be a file of the variant sanger" or ""), record)
  end
end

local function without_return(line)
  if byte(line, -1) == 13 then
    return sub(line, 1, -2)
  end
  return line
end

-- The sequence of which `first` and `line` are the first lines, up to the line with '+'.
local function long_sequence(lines, record, first, line)
  local parts = { first }
  while line and byte(line) ~= 43 do -- +
    if byte(line) == 64 then -- @
      lines.refuse("a title before the line with '+': the record before it is cut short", record)
    end
    parts[#parts + 1] = line
    line = lines.next()
    line = line and without_return(line)
  end
  if not line then
    lines.refuse("the file ends within this record: there is no line with '+'", record)
  end
  return table.concat(parts), line
end

-- The quality of which `line` is the first line, for a sequence of `wanted` letters.
local function long_quality(lines, record, line, wanted)
  local parts, found = {}, 0
  while line and found < wanted do
    line = without_return(line)
    parts[#parts + 1], found = line, found + #line
    line = found < wanted and lines.next()
  end
  if found < wanted then
    lines.refuse(string.format("the file ends within this record: %d qualities for %d letters", found, wanted), record)
  elseif found > wanted then
    lines.refuse(string.format("%d qualities for %d letters: they must be as many", found, wanted), record)
  end
  return table.concat(parts)
end

local function refuse_title(lines, record, line)
  if record > 1 then
    lines.refuse("a record begins with '@': the record before has more qualities than letters", record)
  elseif byte(line) == 62 then
    lines.refuse("this looks like FASTA: read it with bio_sequence_analysis.fasta", record)
  end
  lines.refuse("a record begins with a line that starts with '@'", record)
end

--- The records of an object of lines.
local function records_of(lines, variant)
  local next_line = lines.next
  local known = ALL_KNOWN[variant]
  local count = 0
  return function()
    local title = next_line()
    while title and byte(title) ~= 64 do
      if find(title, "%S") then
        refuse_title(lines, count + 1, title)
      end
      title = next_line()
    end
    if not title then
      return nil
    end
    count = count + 1
    title = sub(without_return(title), 2)
    local sequence, plus = next_line(), next_line()
    if not plus then
      lines.refuse("the file ends within this record", count)
    end
    sequence, plus = without_return(sequence), without_return(plus)
    if byte(plus) ~= 43 then
      sequence, plus = long_sequence(lines, count, sequence, plus)
    end
    if plus ~= "+" and sub(plus, 2) ~= title then
      lines.refuse("the title after '+' is not that after '@'", count)
    end
    local quality = next_line()
    quality = quality and without_return(quality)
    -- A sequence without letters has an empty line of qualities, or none at the end.
    if not quality or #quality ~= #sequence then
      quality = long_quality(lines, count, quality, #sequence)
    end
    if not (find(sequence, "^%a*$") and find(quality, known)) then
      refuse_letters(lines, count, sequence, quality, variant)
    end
    local gap = find(title, "%s")
    return {
      id = gap and sub(title, 1, gap - 1) or title,
      description = gap and sub(title, gap + 1) or "",
      sequence = sequence,
      quality = quality,
      variant = variant,
    }
  end
end

local function read(caller, source, options)
  options = check.options(caller, options, READ_OPTIONS)
  local variant = fastq.variant(caller, options.variant, "sanger")
  local lines = input.lines(caller, source, "FASTQ")
  return records_of(lines, variant), lines
end

--- Iterates over the records of a FASTQ file, holding one in memory at a time.
--
-- Gzip, CRLF line ends, blank lines between records and sequences over several lines are
-- accepted. Refused, with file, record and line: a record that is cut short, more or fewer
-- qualities than letters, white space in a sequence, a title after `+` that differs from
-- that after `@`, and letters that the variant does not have.
-- @param source string (path of a file), open file, or any object with a `lines` method
-- @param options table or nil: `variant`, "sanger" (default), "solexa" or "illumina"
-- @return iterator of records, for `for`
function fastq.fastq(source, options)
  return input.iterator(read("bio_sequence_analysis.fastq", source, options))
end

--- Reads all records of a FASTQ file.
-- @param source as for `fastq`
-- @param options as for `fastq`
-- @return array of records
function fastq.read_fastq(source, options)
  return input.collect((read("bio_sequence_analysis.read_fastq", source, options)))
end

--- Reads all records of a string in FASTQ.
-- @param text string, which may be gzip
-- @param options as for `fastq`
-- @return array of records
function fastq.parse_fastq(text, options)
  local caller = "bio_sequence_analysis.parse_fastq"
  options = check.options(caller, options, READ_OPTIONS)
  local variant = fastq.variant(caller, options.variant, "sanger")
  return input.collect(records_of(input.text(caller, text, "FASTQ"), variant))
end

--- An iterator over records: of a file, or given as array or iterator.
function fastq.each(caller, source, variant)
  if type(source) == "function" or type(source) == "table" and not source.lines then
    return output.each(caller, source)
  end
  return (read(caller, source, { variant = variant }))
end

local function problem_of(record)
  if type(record) ~= "table" or type(record.sequence) ~= "string" or type(record.quality) ~= "string" then
    return "must be a table with the strings id, sequence and quality"
  elseif type(record.id) ~= "string" or find(record.id, "%s") then
    return "must have an id without white space: put further words into description"
  elseif record.description ~= nil and (type(record.description) ~= "string" or find(record.description, "[\r\n]")) then
    return "must have a string without line ends as description"
  elseif #record.sequence ~= #record.quality then
    return string.format("has %d qualities for %d letters: they must be as many", #record.quality, #record.sequence)
  elseif find(record.sequence, "[^%w%-%.%*]") then
    return "has something else than letters in its sequence"
  elseif not VARIANTS[record.variant or "sanger"] then
    return string.format("has the unknown variant '%s': use sanger, solexa or illumina", tostring(record.variant))
  elseif find(record.quality, FOREIGN[record.variant or "sanger"]) then
    return "has qualities that its variant does not have"
  end
  return nil
end

--- How records are written, for `output`.
function fastq.formatter(caller, options)
  options = check.options(caller, options, WRITE_OPTIONS)
  local wanted = fastq.variant(caller, options.variant, nil)
  return function(record)
    local problem = problem_of(record)
    if problem then
      return nil, problem
    end
    local variant, quality = record.variant or "sanger", record.quality
    if wanted and wanted ~= variant then
      quality = quality:gsub(".", map_of(variant, wanted))
    end
    local title = record.id
    if record.description and record.description ~= "" then
      title = title .. " " .. record.description
    end
    return "@" .. title .. "\n" .. record.sequence .. "\n+\n" .. quality .. "\n"
  end
end

--- Writes FASTQ records to a string.
-- @param records array or iterator of records; those without `variant` are Sanger
-- @param options table or nil: `variant`, to convert the qualities to (default: as the
--   records have them)
-- @return string
function fastq.format_fastq(records, options)
  local caller = "bio_sequence_analysis.format_fastq"
  return output.format(caller, records, fastq.formatter(caller, options))
end

--- Writes FASTQ records to a file, one at a time.
--
-- `write_fastq("out.fq", fastq("in.fq", { variant = "solexa" }), { variant = "sanger" })`
-- converts a file of any size.
-- @param target string (path of a file, which is replaced), open file, or any object with a
--   `write` method; what is open already stays open
-- @param records as for `format_fastq`
-- @param options as for `format_fastq`
function fastq.write_fastq(target, records, options)
  local caller = "bio_sequence_analysis.write_fastq"
  output.write(caller, target, records, fastq.formatter(caller, options))
end

--- Opens a FASTQ file to which records are given one at a time.
-- @param target as for `write_fastq`
-- @param options as for `format_fastq`
-- @return table with the methods `write(record)` and `close()`
function fastq.fastq_writer(target, options)
  local caller = "bio_sequence_analysis.fastq_writer"
  return output.writer(caller, target, fastq.formatter(caller, options))
end

return fastq
