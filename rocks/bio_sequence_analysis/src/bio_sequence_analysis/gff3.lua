--- Reading and writing GFF3 (Sequence Ontology, version 1.26).
--
-- A feature is a table with `seqid`, `source`, `type`, `start`, `stop` (1-based, inclusive),
-- `score` (number or nil), `strand` ("+", "-", "?" or nil), `phase` (0, 1, 2 or nil) and
-- `attributes`, a table from name to an array of values.

local input = require("bio_sequence_analysis.input")
local output = require("bio_sequence_analysis.output")

local gff3 = {}

local STRANDS = { ["+"] = "+", ["-"] = "-", ["?"] = "?" }

local function decoded(text)
  return (text:gsub("%%(%x%x)", function(digits)
    return string.char(tonumber(digits, 16))
  end))
end

local function encoded(text, extra)
  return (text:gsub("[%c%%" .. extra .. "]", function(letter)
    return string.format("%%%02X", letter:byte())
  end))
end

local function attributes_of(lines, count, text)
  local attributes = {}
  if text == "." then
    return attributes
  end
  for pair in text:gmatch("[^;]+") do
    if pair:find("%S") then
      local name, values = pair:match("^%s*([^=]+)=(.*)$")
      if not name then
        lines.refuse(string.format("the attribute '%s' has no value: write NAME=VALUE", pair), count)
      end
      local list = attributes[decoded(name)] or {}
      attributes[decoded(name)] = list
      for value in (values .. ","):gmatch("([^,]*),") do
        list[#list + 1] = decoded(value)
      end
    end
  end
  return attributes
end

local function coordinate(lines, count, text)
  local number = text:match("^%d+$") and tonumber(text)
  if not number or number < 1 then
    lines.refuse(string.format("'%s' is no position: positions are whole numbers from 1 on", text), count)
  end
  return number
end

local function feature_of(lines, count, line)
  local columns = {}
  for column in (line .. "\t"):gmatch("([^\t]*)\t") do
    columns[#columns + 1] = column
  end
  if #columns ~= 9 then
    lines.refuse(string.format("%d columns: a feature has nine, with tabs between them", #columns), count)
  end
  local start, stop = coordinate(lines, count, columns[4]), coordinate(lines, count, columns[5])
  if start > stop then
    lines.refuse(string.format("the start %d is behind the end %d: the strand has a column of its own", start, stop), count)
  end
  local score = columns[6] ~= "." and (tonumber(columns[6]) or lines.refuse(
    string.format("'%s' is no score: write a number or '.'", columns[6]), count)) or nil
  if columns[7] ~= "." and not STRANDS[columns[7]] then
    lines.refuse(string.format("'%s' is no strand: write +, -, ? or .", columns[7]), count)
  elseif columns[8] ~= "." and not columns[8]:find("^[012]$") then
    lines.refuse(string.format("'%s' is no phase: write 0, 1, 2 or .", columns[8]), count)
  elseif columns[3] == "CDS" and columns[8] == "." then
    lines.refuse("a CDS needs a phase: 0, 1 or 2", count)
  elseif columns[1] == "" or columns[3] == "" then
    lines.refuse("a feature needs a sequence and a type", count)
  end
  return {
    seqid = decoded(columns[1]),
    source = columns[2] ~= "." and decoded(columns[2]) or nil,
    type = decoded(columns[3]),
    start = start, stop = stop, score = score,
    strand = STRANDS[columns[7]],
    phase = columns[8] ~= "." and tonumber(columns[8]) or nil,
    attributes = attributes_of(lines, count, columns[9]),
  }
end

local function records_of(lines)
  local count, done = 0, false
  local function next_feature()
    while not done do
      local line = lines.next()
      if line == nil then
        done = true
        break
      end
      line = line:gsub("\r$", "")
      if lines.number == 1 and not line:find("^##gff%-version%s+3") then
        lines.refuse("GFF3 begins with the line '##gff-version 3'")
      elseif line:find("^##FASTA") or line:find("^>") then
        done = true -- what follows is sequence
        lines.close()
      elseif line:find("%S") and line:sub(1, 1) ~= "#" then
        count = count + 1
        return feature_of(lines, count, line)
      end
    end
    return nil
  end
  return next_feature
end

local function read(caller, source)
  local lines = input.lines(caller, source, "GFF3")
  return records_of(lines), lines
end

--- Iterates over the features of a GFF3 file, holding one in memory at a time.
--
-- Comments and directives are skipped, sequence behind `##FASTA` ends the features. Refused,
-- with file, record and line: a file that does not begin with `##gff-version 3`, other than
-- nine columns, a start behind its end, strands and phases that do not exist, a CDS without
-- phase, attributes without value.
-- @param source string (path of a file), open file, or any object with a `lines` method
-- @return iterator of features, for `for`
function gff3.gff3(source)
  return input.iterator(read("bio_sequence_analysis.gff3", source))
end

--- Reads all features of a GFF3 file.
-- @param source as for `gff3`
-- @return array of features
function gff3.read_gff3(source)
  return input.collect((read("bio_sequence_analysis.read_gff3", source)))
end

--- Reads all features of a string in GFF3.
-- @param text string, which may be gzip
-- @return array of features
function gff3.parse_gff3(text)
  return input.collect(records_of(input.text("bio_sequence_analysis.parse_gff3", text, "GFF3")))
end

-- ID, Name and Parent come first, the rest in alphabetical order.
local FIRST = { ID = 1, Name = 2, Parent = 3 }

local function names_of(attributes)
  local names = {}
  for name in pairs(attributes) do
    names[#names + 1] = name
  end
  table.sort(names, function(left, right)
    local a, b = FIRST[left] or 4, FIRST[right] or 4
    if a ~= b then
      return a < b
    end
    return left < right
  end)
  return names
end

local function problem_of(feature)
  if type(feature) ~= "table" or type(feature.seqid) ~= "string" or type(feature.type) ~= "string" then
    return "must be a table with the strings seqid and type"
  elseif type(feature.start) ~= "number" or type(feature.stop) ~= "number" or feature.start < 1 or feature.start > feature.stop then
    return "must have a start of at least 1 and a stop not before it"
  elseif feature.strand ~= nil and not STRANDS[feature.strand] then
    return "must have +, -, ? or nil as strand"
  elseif feature.type == "CDS" and feature.phase == nil then
    return "is a CDS and needs a phase: 0, 1 or 2"
  end
  return nil
end

local function line_of(feature)
  local problem = problem_of(feature)
  if problem then
    return nil, problem
  end
  local parts = {}
  for index, name in ipairs(names_of(feature.attributes or {})) do
    local values = {}
    for place, value in ipairs(feature.attributes[name]) do
      values[place] = encoded(value, ";=&,")
    end
    parts[index] = encoded(name, ";=&,") .. "=" .. table.concat(values, ",")
  end
  local score = feature.score and string.format("%.14g", feature.score) or "."
  return table.concat({
    encoded(feature.seqid, " >"), feature.source and encoded(feature.source, "") or ".", encoded(feature.type, ""),
    string.format("%d", feature.start), string.format("%d", feature.stop), score,
    feature.strand or ".", feature.phase and string.format("%d", feature.phase) or ".",
    #parts > 0 and table.concat(parts, ";") or ".",
  }, "\t") .. "\n"
end

-- The directive comes before the first feature.
local function formatter()
  local begun = false
  return function(feature)
    local line, problem = line_of(feature)
    if line and not begun then
      begun = true
      return "##gff-version 3\n" .. line
    end
    return line, problem
  end
end

--- Writes features to a string in GFF3.
-- @param features array or iterator of features
-- @return string
function gff3.format_gff3(features)
  local text = output.format("bio_sequence_analysis.format_gff3", features, formatter())
  return text ~= "" and text or "##gff-version 3\n"
end

--- Writes features to a file in GFF3, one at a time.
-- @param target string (path of a file, which is replaced), open file, or any object with a
--   `write` method; what is open already stays open
-- @param features as for `format_gff3`
function gff3.write_gff3(target, features)
  local caller = "bio_sequence_analysis.write_gff3"
  local each = output.each(caller, features)
  local format, first = formatter(), true
  -- The directive is due also when there is no feature.
  output.write(caller, target, function()
    local feature = each()
    if feature == nil and first then
      first = false
      return gff3
    end
    first = false
    return feature
  end, function(feature)
    if feature == gff3 then
      return "##gff-version 3\n"
    end
    return format(feature)
  end)
end

return gff3
