--- Reading and writing GenBank and EMBL flat files, a record at a time.
--
-- A record is a table with `id` (accession and version, such as "NC_005816.1"), `name`,
-- `accession`, `description`, `molecule`, `topology` ("linear" or "circular"), `division`,
-- `organism`, `keywords` (an array), `features`, `sequence` (upper case; "" when the file has
-- none), `length` (as the head says) and `header`: an array of tables with `key` and `text` of all head lines, so that
-- nothing is lost when the same format is written again.

local check = require("bio_compute.check")
local features = require("bio_sequence_analysis.features")
local input = require("bio_sequence_analysis.input")
local output = require("bio_sequence_analysis.output")

local flatfile = {}

local find, sub = string.find, string.sub

local function words_of(text)
  local words = {}
  for word in text:gsub("%.%s*$", ""):gmatch("[^;]+") do
    word = word:match("^%s*(.-)%s*$"):gsub("%s+", " ")
    if word ~= "" then
      words[#words + 1] = word
    end
  end
  return words
end

local function joined(text)
  return (text:gsub("%s*\n%s*", " "))
end

local function header_text(record, key)
  for _, entry in ipairs(record.header) do
    if entry.key == key then
      return entry.text
    end
  end
  return nil
end

-- What both formats have in common of reading: heads, features and sequence come line by line.
local function new_state(lines, count)
  local state = { record = { header = {}, features = {}, keywords = {} }, bases = {}, count = count }
  function state.refuse(message, number)
    lines.refuse(message, count, number)
  end
  function state.head(key, text)
    local header = state.record.header
    header[#header + 1] = { key = key, text = text }
  end
  function state.more(text)
    local entry = state.record.header[#state.record.header]
    if not entry then
      state.refuse("a line that goes on, before the first")
    end
    entry.text = entry.text .. "\n" .. text
  end
  function state.feature(key, text)
    state.reader = state.reader or features.reader(state.refuse, state.record)
    state.reader.line(key, text, lines.number)
  end
  function state.sequence(text)
    local letters = text:gsub("[%s%d]", "")
    local foreign = find(letters, "[^%a%*%-]")
    if foreign then
      state.refuse(string.format("'%s' in the sequence: use letters", sub(letters, foreign, foreign)))
    end
    state.bases[#state.bases + 1] = letters
  end
  function state.finish()
    local record = state.record
    record.features = state.reader and state.reader.finish() or {}
    record.sequence = table.concat(state.bases):upper()
    if record.sequence ~= "" and record.length and #record.sequence ~= record.length then
      state.refuse(string.format("the head says %d letters and the sequence has %d", record.length, #record.sequence))
    end
    return record
  end
  return state
end

-- GenBank -----------------------------------------------------------------------------------

local function locus(state, text)
  local name, length, rest = text:match("^(%S+)%s+(%d+)%s+[bar][pac]%s*(.*)$")
  if not name then
    state.refuse("the line LOCUS must have a name and a length, such as 'LOCUS NC_005816 9609 bp'")
  end
  local record = state.record
  record.name, record.length = name, tonumber(length)
  record.topology = rest:find("circular", 1, true) and "circular" or "linear"
  record.molecule = rest:match("^(%S*NA)%s") or rest:match("^(%S*NA)$")
  record.date = rest:match("(%d+%-%a+%-%d+)%s*$")
  record.division = rest:match("%s(%u%u%u)%s+%d+%-%a+%-%d+%s*$") or rest:match("^(%u%u%u)%s+%d+%-%a+%-%d+%s*$")
end

local function genbank_line(state, line)
  local key = sub(line, 1, 12):match("^%s*(%S*)")
  if state.part == "ORIGIN" and find(line, "^%s*%d") then
    state.sequence(line)
  elseif find(line, "^LOCUS") then
    if state.part then
      state.refuse("LOCUS within a record: the record before it does not end with '//'")
    end
    state.part = "head"
    state.head("LOCUS", (line:match("^LOCUS%s*(.-)%s*$")))
    locus(state, (line:match("^LOCUS%s*(.-)%s*$")))
  elseif not state.part then
    state.refuse("a record begins with a line LOCUS")
  elseif find(line, "^FEATURES") then
    state.part = "FEATURES"
  elseif find(line, "^ORIGIN") or find(line, "^BASE COUNT") or find(line, "^CONTIG") then
    state.part = "ORIGIN"
    if find(line, "^CONTIG") then
      state.head("CONTIG", (sub(line, 13):match("^(.-)%s*$")))
    end
  elseif find(line, "^%S") then
    state.part = "head"
    state.head(key, (sub(line, 13):match("^(.-)%s*$")))
  elseif state.part == "FEATURES" then
    state.feature((sub(line, 6, 21):match("^%s*(.-)%s*$")), (sub(line, 22):match("^(.-)%s*$")))
  elseif state.part == "head" and key ~= "" then
    -- Lower keys, such as ORGANISM and AUTHORS, stand one or two columns in.
    local indent = line:match("^%s*")
    state.head(indent .. key, (sub(line, 13):match("^(.-)%s*$")))
  else
    state.more((sub(line, 13):match("^(.-)%s*$")))
  end
end

local function finish_genbank(state)
  local record = state.finish()
  local accession = header_text(record, "ACCESSION") or ""
  local version = header_text(record, "VERSION") or ""
  record.accession = accession:match("^(%S+)")
  record.id = version:match("^(%S+)") or record.accession or record.name
  record.description = joined(header_text(record, "DEFINITION") or ""):gsub("%.$", "")
  record.keywords = words_of(joined(header_text(record, "KEYWORDS") or ""))
  record.organism = (header_text(record, "  ORGANISM") or ""):match("^[^\n]*")
  return record
end

-- EMBL --------------------------------------------------------------------------------------

local function identification(state, text)
  local record = state.record
  local fields = {}
  for field in text:gsub("%.%s*$", ""):gmatch("[^;]+") do
    fields[#fields + 1] = field:match("^%s*(.-)%s*$")
  end
  local length = text:match("(%d+)%s+[BA][PA]%.?%s*$")
  if not length or #fields < 2 then
    state.refuse("the line ID must have a name and a length, such as 'ID   X56734; SV 1; linear; mRNA; STD; PLN; 1859 BP.'")
  end
  record.length = tonumber(length)
  record.name = fields[1]:match("^(%S+)")
  record.version = text:match("SV (%d+)")
  record.topology = text:find("circular", 1, true) and "circular" or "linear"
  if #fields >= 7 then
    record.molecule, record.division = fields[4], fields[6]
  end
end

local function embl_line(state, line)
  local key, text = sub(line, 1, 2), (sub(line, 6):match("^(.-)%s*$"))
  if state.part == "SQ" and find(line, "^%s") then
    state.sequence(line)
  elseif key == "ID" then
    if state.part then
      state.refuse("ID within a record: the record before it does not end with '//'")
    end
    state.part = "head"
    state.head(key, text)
    identification(state, text)
  elseif not state.part then
    state.refuse("a record begins with a line ID")
  elseif key == "FT" then
    state.feature((sub(line, 6, 21):match("^%s*(.-)%s*$")), (sub(line, 22):match("^(.-)%s*$")))
  elseif key == "SQ" then
    state.part = "SQ"
  elseif key ~= "FH" and key ~= "XX" and find(key, "^%u%u$") then
    local header = state.record.header
    if state.last == key and #header > 0 then
      state.more(text)
    else
      state.head(key, text)
    end
  elseif key ~= "FH" and key ~= "XX" then
    state.refuse(string.format("'%s' is no key of a line", key))
  end
  state.last = key
end

local function finish_embl(state)
  local record = state.finish()
  record.accession = (header_text(record, "AC") or ""):match("^([^;%s]+)") or record.name
  record.version = record.version or (header_text(record, "SV") or ""):match("%.(%d+)$")
  record.id = record.version and record.accession .. "." .. record.version or record.accession
  record.version = nil
  record.description = joined(header_text(record, "DE") or ""):gsub("%.$", "")
  record.keywords = words_of(joined(header_text(record, "KW") or ""))
  record.organism = (header_text(record, "OS") or ""):match("^[^\n]*")
  return record
end

local READERS = {
  GenBank = { line = genbank_line, finish = finish_genbank },
  EMBL = { line = embl_line, finish = finish_embl },
}

local function records_of(lines, format)
  local reader = READERS[format]
  local count, preface = 0, false
  return function()
    local state
    for line in lines.next do
      line = line:gsub("\r$", "")
      if lines.number == 1 and find(line, "Genetic Sequence Data Bank%s*$") then
        preface = true -- of a file of a GenBank release
      end
      preface = preface and not find(line, "^LOCUS")
      if preface then
        state = nil
      elseif find(line, "^//") then
        if not state then
          lines.refuse("'//' without a record before it", count + 1)
        end
        return reader.finish(state)
      elseif find(line, "%S") then
        if not state then
          count = count + 1
          state = new_state(lines, count)
        end
        reader.line(state, line)
      end
    end
    if state then
      state.refuse("the file ends within this record: there is no line '//'")
    end
    return nil
  end
end

local function read(caller, source, format)
  local lines = input.lines(caller, source, format)
  return records_of(lines, format), lines
end

--- Iterates over the records of a GenBank file, holding one in memory at a time.
--
-- Refused, with file, record and line: a record without LOCUS or without '//', a location that
-- is none, a value without closing quote, a sequence that is not as long as LOCUS says.
-- @param source string (path of a file), open file, or any object with a `lines` method
-- @return iterator of records, for `for`
function flatfile.genbank(source)
  return input.iterator(read("bio_sequence_analysis.genbank", source, "GenBank"))
end

--- Reads all records of a GenBank file.
-- @param source as for `genbank`
-- @return array of records
function flatfile.read_genbank(source)
  return input.collect((read("bio_sequence_analysis.read_genbank", source, "GenBank")))
end

--- Iterates over the records of an EMBL file, holding one in memory at a time.
--
-- Refused, with file, record and line: as for `genbank`, with ID in the place of LOCUS.
-- @param source as for `genbank`
-- @return iterator of records, for `for`
function flatfile.embl(source)
  return input.iterator(read("bio_sequence_analysis.embl", source, "EMBL"))
end

--- Reads all records of an EMBL file.
-- @param source as for `genbank`
-- @return array of records
function flatfile.read_embl(source)
  return input.collect((read("bio_sequence_analysis.read_embl", source, "EMBL")))
end

-- Writing -----------------------------------------------------------------------------------

local function problem_of(record)
  if type(record) ~= "table" or type(record.sequence) ~= "string" then
    return "must be a table with the strings id and sequence"
  elseif type(record.id) ~= "string" or not find(record.id, "^%S+$") then
    return "must have an id without white space"
  elseif find(record.sequence, "[^%a%*%-]") then
    return "has something else than letters in its sequence"
  end
  for number, feature in ipairs(record.features or {}) do
    if type(feature.type) ~= "string" or #feature.type > 15 or not features.parse_location(feature.location or "") then
      return string.format("has no type of at most 15 letters or no location in feature %d", number)
    end
  end
  return nil
end

-- A text at words into lines of at most `width`; its own lines stay.
local function wrapped(text, width)
  local lines = {}
  for paragraph in (text .. "\n"):gmatch("(.-)\n") do
    local line = ""
    for word in paragraph:gmatch("%S+") do
      if line ~= "" and #line + 1 + #word > width then
        lines[#lines + 1], line = line, word
      else
        line = line == "" and word or line .. " " .. word
      end
    end
    lines[#lines + 1] = line
  end
  return lines
end

local function blocks(text)
  return (text:gsub("..........", "%0 "):gsub(" $", ""))
end

local function of_format(record, key)
  return record.header and record.header[1] and record.header[1].key == key
end

local function genbank_text(record)
  local problem = problem_of(record)
  if problem then
    return nil, problem
  end
  local lines = {}
  local function head(key, text, keep_lines)
    local parts = keep_lines and {} or wrapped(text, 67)
    if keep_lines then
      for line in (text .. "\n"):gmatch("(.-)\n") do
        parts[#parts + 1] = line
      end
    end
    for index, line in ipairs(parts) do
      lines[#lines + 1] = (string.format("%-12s%s", index == 1 and key or "", line):gsub("%s+$", ""))
    end
  end
  local contig
  if of_format(record, "LOCUS") then
    for _, entry in ipairs(record.header) do
      if entry.key == "CONTIG" then
        contig = entry.text
      else
        head(entry.key, entry.text, true)
      end
    end
  else
    local unit = record.molecule == "protein" and "aa" or "bp"
    head("LOCUS", string.format("%-16s %11d %s    %-6s  %-8s %s %s",
      record.name or record.accession or record.id, #record.sequence, unit, record.molecule or "DNA",
      record.topology or "linear", record.division or "UNA", record.date or "01-JAN-1980"), true)
    head("DEFINITION", (record.description or "") .. ".")
    head("ACCESSION", record.accession or record.id:match("^[^.]+"))
    head("VERSION", record.id)
    head("KEYWORDS", table.concat(record.keywords or {}, "; ") .. ".")
    if record.organism and record.organism ~= "" then
      head("SOURCE", record.organism)
      head("  ORGANISM", record.organism)
    end
  end
  if record.features and #record.features > 0 then
    lines[#lines + 1] = "FEATURES             Location/Qualifiers"
    lines[#lines + 1] = (features.format(record.features, "     "):gsub("\n$", ""))
  end
  if contig then
    head("CONTIG", contig, true)
  end
  if record.sequence ~= "" then
    lines[#lines + 1] = "ORIGIN"
    for first = 1, #record.sequence, 60 do
      lines[#lines + 1] = string.format("%9d %s", first, blocks(record.sequence:sub(first, first + 59):lower()))
    end
  end
  return table.concat(lines, "\n") .. "\n//\n"
end

local function embl_text(record)
  local problem = problem_of(record)
  if problem then
    return nil, problem
  end
  local lines = {}
  local function head(key, text)
    for line in (text .. "\n"):gmatch("(.-)\n") do
      lines[#lines + 1] = (string.format("%s   %s", key, line):gsub("%s+$", ""))
    end
  end
  local function rule()
    lines[#lines + 1] = "XX"
  end
  local unit = record.molecule == "protein" and "AA" or "BP"
  if of_format(record, "ID") then
    local last
    for _, entry in ipairs(record.header) do
      if last and last ~= entry.key and last:sub(1, 1) ~= entry.key:sub(1, 1) then
        rule()
      end
      head(entry.key, entry.text)
      last = entry.key
    end
  else
    local accession = record.accession or record.id:match("^[^.]+")
    head("ID", string.format("%s; SV %s; %s; %s; STD; %s; %d %s.", accession, record.id:match("%.(%d+)$") or "1",
      record.topology or "linear", record.molecule or "unassigned DNA", record.division or "UNC", #record.sequence, unit))
    rule()
    head("AC", accession .. ";")
    rule()
    head("DE", table.concat(wrapped(record.description or "", 75), "\n"))
    rule()
    head("KW", table.concat(wrapped(table.concat(record.keywords or {}, "; ") .. ".", 75), "\n"))
    if record.organism and record.organism ~= "" then
      rule()
      head("OS", record.organism)
    end
  end
  rule()
  if record.features and #record.features > 0 then
    lines[#lines + 1] = "FH   Key             Location/Qualifiers"
    lines[#lines + 1] = "FH"
    lines[#lines + 1] = (features.format(record.features, "FT   "):gsub("\n$", ""))
    rule()
  end
  if record.sequence ~= "" then
    local counts, rest = {}, #record.sequence
    for index, letter in ipairs({ "A", "C", "G", "T" }) do
      local _, count = record.sequence:upper():gsub(letter, "")
      counts[index], rest = count, rest - count
    end
    head("SQ", string.format("Sequence %d %s; %d A; %d C; %d G; %d T; %d other;",
      #record.sequence, unit, counts[1], counts[2], counts[3], counts[4], rest))
    for first = 1, #record.sequence, 60 do
      local part = record.sequence:sub(first, first + 59):lower()
      lines[#lines + 1] = string.format("     %-65s%10d", blocks(part), first + #part - 1)
    end
  end
  return table.concat(lines, "\n") .. "\n//\n"
end

local function without_options(caller, options)
  check.options(caller, options, {})
end

--- Writes records to a string in GenBank format.
--
-- A record that was read from GenBank keeps all lines of its head; others get those that can
-- be made of `id`, `accession`, `name`, `description`, `keywords`, `organism`, `molecule`,
-- `topology`, `division` and `date`.
-- @param records array or iterator of records
-- @return string
function flatfile.format_genbank(records, options)
  local caller = "bio_sequence_analysis.format_genbank"
  without_options(caller, options)
  return output.format(caller, records, genbank_text)
end

--- Writes records to a file in GenBank format, one at a time.
-- @param target string (path of a file, which is replaced), open file, or any object with a
--   `write` method; what is open already stays open
-- @param records as for `format_genbank`
function flatfile.write_genbank(target, records, options)
  local caller = "bio_sequence_analysis.write_genbank"
  without_options(caller, options)
  output.write(caller, target, records, genbank_text)
end

--- Writes records to a string in EMBL format; what `format_genbank` says of heads holds here too.
-- @param records array or iterator of records
-- @return string
function flatfile.format_embl(records, options)
  local caller = "bio_sequence_analysis.format_embl"
  without_options(caller, options)
  return output.format(caller, records, embl_text)
end

--- Writes records to a file in EMBL format, one at a time.
-- @param target as for `write_genbank`
-- @param records as for `format_genbank`
function flatfile.write_embl(target, records, options)
  local caller = "bio_sequence_analysis.write_embl"
  without_options(caller, options)
  output.write(caller, target, records, embl_text)
end

return flatfile
