--- The feature table that GenBank and EMBL share (INSDC, version 11).
--
-- A feature is a table with `type`, `location` (as it stands in the file), `parts` (places in
-- the order in which they are read, see `parse_location`) and `qualifiers`, an array of tables
-- with `name` and `value` (true for a qualifier without value).

local bio_compute = require("bio_compute")

local features = {}

-- Columns of both formats: the key from 6 on, location and qualifiers from 22 on.
local WIDTH = 80 - 21
-- Values that are one word, to be joined and broken without spaces.
local UNSPACED = { translation = true, db_xref = true, protein_id = true }
-- Values that stand without quotes.
local BARE = {
  anticodon = true, citation = true, codon = true, codon_start = true, compare = true, direction = true,
  estimated_length = true, mod_base = true, number = true, rpt_type = true, rpt_unit_range = true,
  tag_peptide = true, transl_except = true, transl_table = true, ribosomal_slippage = true,
}

local parse_any

-- The arguments of a call, split at its own commas.
local function arguments_of(text)
  local list, depth, from = {}, 0, 1
  for at = 1, #text do
    local letter = text:sub(at, at)
    if letter == "(" then
      depth = depth + 1
    elseif letter == ")" then
      depth = depth - 1
    elseif letter == "," and depth == 0 then
      list[#list + 1] = text:sub(from, at - 1)
      from = at + 1
    end
  end
  list[#list + 1] = text:sub(from)
  return list
end

-- A position such as 12, <12, >12, (10.12) or one-of(10,12): the outermost base is meant.
local function position_of(text, outermost)
  local choice = text:match("^one%-of%(([%d,]+)%)$")
  if choice then
    local position
    for number in choice:gmatch("%d+") do
      position = position and outermost(position, tonumber(number)) or tonumber(number)
    end
    return position, true
  end
  local mark, number = text:match("^([<>]?)(%d+)$")
  if number then
    return tonumber(number), mark ~= ""
  end
  local first, second = text:match("^%(?(%d+)%.(%d+)%)?$")
  if first then
    return outermost(tonumber(first), tonumber(second)), true
  end
  return nil
end

local function parse_span(text)
  local remote, rest = text:match("^([%w_%.%-]+):(.+)$")
  text = rest or text
  local first, second = text:match("^(.-)%.%.(.+)$")
  if first then
    local start, open_start = position_of(first, math.min)
    local stop, open_stop = position_of(second, math.max)
    if not (start and stop) then
      return nil
    end
    return { start = start, stop = stop, strand = "+", partial = open_start or open_stop or nil, remote = remote }
  end
  local left, right = text:match("^(%d+)%^(%d+)$")
  if left then
    return { start = tonumber(left), stop = tonumber(right), strand = "+", between = true, remote = remote }
  end
  local only, open = position_of(text, math.min)
  if only then
    return { start = only, stop = only, strand = "+", partial = open or nil, remote = remote }
  end
  return nil
end

local OPERATORS = { join = true, order = true, bond = true }

function parse_any(text, parts)
  local operator, inner = text:match("^([%a%-]+)%((.*)%)$")
  if operator == "complement" then
    local turned = {}
    if not parse_any(inner, turned) then
      return nil
    end
    for index = #turned, 1, -1 do
      turned[index].strand = turned[index].strand == "+" and "-" or "+"
      parts[#parts + 1] = turned[index]
    end
    return true
  elseif OPERATORS[operator] then
    for _, argument in ipairs(arguments_of(inner)) do
      if not parse_any(argument, parts) then
        return nil
      end
    end
    return true
  end
  local part = parse_span(text)
  parts[#parts + 1] = part
  return part and true
end

--- Reads a location.
-- @param text such as `complement(join(1..20,>30..40))`, without white space
-- @return array of parts in the order in which they are read (of a complement the last comes
--   first), tables with `start`, `stop` (1-based, inclusive), `strand`, `partial` (true
--   where an end is not exact), `between` (true for a place between two bases) and `remote` (the
--   accession of another sequence); or nil when this is no location
function features.parse_location(text)
  local parts = {}
  return parse_any(text, parts) and parts or nil
end

--- The sequence of a feature: its parts joined, the complement's reversed.
-- @param record with `sequence`
-- @param feature with `parts`, or an array of parts
-- @return string; nil when a part is on another sequence or beyond the end
function features.feature_sequence(record, feature)
  local pieces = {}
  for index, part in ipairs(feature.parts or feature) do
    if part.remote or part.stop > #record.sequence then
      return nil
    end
    local piece = part.between and "" or record.sequence:sub(part.start, part.stop)
    pieces[index] = part.strand == "-" and bio_compute.reverse_complement(piece) or piece
  end
  return table.concat(pieces)
end

-- Splits the parts that go over the origin of a circle, of which the end is before the start.
-- @return the parts; nil when the sequence is no circle
local function around_origin(parts, circle_length)
  local whole = {}
  for _, part in ipairs(parts) do
    if part.start <= part.stop or part.remote or part.between then
      whole[#whole + 1] = part
    elseif not circle_length then
      return nil
    else
      local tail = { start = part.start, stop = circle_length, strand = part.strand, partial = part.partial }
      local head = { start = 1, stop = part.stop, strand = part.strand, partial = part.partial }
      whole[#whole + 1] = part.strand == "+" and tail or head
      whole[#whole + 1] = part.strand == "+" and head or tail
    end
  end
  return whole
end

--- The first value of a qualifier.
-- @param feature table
-- @param name such as "gene"
-- @return string, true, or nil
function features.qualifier(feature, name)
  for _, qualifier in ipairs(feature.qualifiers) do
    if qualifier.name == name then
      return qualifier.value
    end
  end
  return nil
end

local function finish_qualifier(qualifier, refuse)
  local lines = qualifier.lines
  local text = table.concat(lines, UNSPACED[qualifier.name] and "" or " ")
  qualifier.lines = nil
  if text:sub(1, 1) == '"' then
    if #text < 2 or text:sub(-1) ~= '"' then
      refuse(string.format("the value of /%s has no closing quote", qualifier.name), qualifier.line)
    end
    text = text:sub(2, -2):gsub('""', '"')
  end
  qualifier.value = text
end

local function is_open(qualifier)
  local lines = qualifier and qualifier.lines
  if not lines or lines[1]:sub(1, 1) ~= '"' then
    return false
  end
  local _, quotes = table.concat(lines):gsub('"', "")
  return quotes % 2 == 1
end

--- A reader of the lines of one feature table.
-- @param refuse function that raises an error with the reason and the number of the line
-- @param record whose `topology` and `length` are known
-- @return table with `line` (takes a key, "" in a line that goes on, the rest of the line and its number)
--   and `finish`, which gives the features
function features.reader(refuse, record)
  local list = {}
  local feature, qualifier

  local function end_qualifier()
    if qualifier and qualifier.lines then
      finish_qualifier(qualifier, refuse)
    end
    if qualifier then
      qualifier.line = nil
    end
    qualifier = nil
  end

  local function end_feature()
    end_qualifier()
    if feature then
      feature.location = feature.location:gsub("%s+", "")
      feature.parts = features.parse_location(feature.location)
      if not feature.parts then
        refuse(string.format("the location '%s' of the feature %s is no location", feature.location, feature.type), feature.line)
      end
      feature.parts = around_origin(feature.parts, record.topology == "circular" and record.length)
      if not feature.parts then
        refuse(string.format("the location '%s' of the feature %s ends before its start, and the sequence is no circle",
          feature.location, feature.type), feature.line)
      end
      feature.line = nil
    end
    feature = nil
  end

  local reader = {}
  function reader.line(key, text, number)
    if key ~= "" then
      end_feature()
      feature = { type = key, location = text, qualifiers = {}, line = number }
      list[#list + 1] = feature
      return
    elseif not feature then
      refuse("a line of a feature before the first feature")
    end
    local name, rest = nil, nil
    if not is_open(qualifier) then
      name, rest = text:match("^/([%w_%-'%*%.]+)(.*)$")
    end
    if name then
      end_qualifier()
      qualifier = { name = name, value = true, line = number }
      feature.qualifiers[#feature.qualifiers + 1] = qualifier
      if rest:sub(1, 1) == "=" then
        qualifier.lines = { (rest:sub(2)) }
      end
    elseif qualifier and qualifier.lines then
      qualifier.lines[#qualifier.lines + 1] = text
    else
      feature.location = feature.location .. text
    end
  end
  function reader.finish()
    end_feature()
    return list
  end
  return reader
end

-- Breaks a text into lines of at most `width`, at spaces or behind commas where there are some.
local function broken(text, width, breaks)
  local lines = {}
  while #text > width do
    local at = width
    if breaks == " " then
      local space = text:sub(1, width + 1):match("^.*() ")
      if space and space > 1 then
        lines[#lines + 1] = text:sub(1, space - 1)
        text = text:sub(space + 1)
        at = nil
      end
    elseif breaks == "," then
      at = text:sub(1, width):match("^.*,()")
      at = at and at - 1 or width
    end
    if at then
      lines[#lines + 1] = text:sub(1, at)
      text = text:sub(at + 1)
    end
  end
  lines[#lines + 1] = text
  return lines
end

--- The lines of a feature table.
-- @param prefix what stands in the first five columns
function features.format(list, prefix)
  local lines = {}
  local function push(key, text)
    lines[#lines + 1] = string.format("%s%-16s%s\n", prefix, key, text)
  end
  for _, feature in ipairs(list) do
    for index, part in ipairs(broken(feature.location, WIDTH, ",")) do
      push(index == 1 and feature.type or "", part)
    end
    for _, qualifier in ipairs(feature.qualifiers) do
      local text = "/" .. qualifier.name
      if qualifier.value ~= true then
        local value = tostring(qualifier.value)
        if not BARE[qualifier.name] then
          value = '"' .. value:gsub('"', '""') .. '"'
        end
        text = text .. "=" .. value
      end
      for _, part in ipairs(broken(text, WIDTH, UNSPACED[qualifier.name] and "" or " ")) do
        push("", part)
      end
    end
  end
  return table.concat(lines)
end

return features
