-- Compares bio_compute with cases that biopython.py printed: cases.lua CASES GENOME.fa
local bio = require("bio_compute")
local genome = require("bio_sequence_analysis").fasta(arg[2])().sequence
local parts = { GENOME = genome, PART = genome:sub(1, 12000) }

local function options_of(text)
  local options = {}
  for name, value in text:gmatch("([%w_]+)=([^,]+)") do
    if value == "true" or value == "false" then
      options[name] = value == "true"
    else
      options[name] = tonumber(value) or value
    end
  end
  return options
end

local function near(actual, expected)
  expected = assert(tonumber(expected))
  return math.abs(actual - expected) <= 1e-9 * math.max(1, math.abs(expected))
end

local function joined(array, field)
  local parts = {}
  for index, entry in ipairs(array) do
    parts[index] = string.format("%d", entry[field])
  end
  return table.concat(parts, ",")
end

-- The score of an alignment by its columns, so that the alignment itself is checked too.
local function score_of(found, options)
  local score, gap = 0, nil
  local matrix = require("bio_compute.matrices").get(options.matrix)
  for column = 1, #found.a do
    local left, right = found.a:sub(column, column), found.b:sub(column, column)
    local side = left == "-" and "a" or right == "-" and "b" or nil
    if side then
      score = score - (gap == side and options.gap_extend or options.gap_open)
    else
      score = score + matrix[left][right]
    end
    gap = side
  end
  return score
end

local checks = {
  reverse_complement = function(sequence, kind, expected)
    return bio.reverse_complement(sequence, kind) == expected
  end,
  transcribe = function(sequence, expected)
    return bio.transcribe(sequence) == expected
  end,
  back_transcribe = function(sequence, expected)
    return bio.back_transcribe(sequence) == expected
  end,
  translate = function(sequence, code, expected)
    return bio.translate(sequence, { table = tonumber(code) }) == expected
  end,
  melting_temperature = function(sequence, options, expected)
    return near(bio.melting_temperature(sequence, options_of(options)), expected)
  end,
  molecular_weight = function(sequence, options, expected)
    return near(bio.molecular_weight(sequence, options_of(options)), expected)
  end,
  gc_content = function(sequence, expected)
    return near(bio.gc_content(sequence), expected)
  end,
  gc_skew = function(sequence, window, expected)
    local windows = bio.gc_windows(sequence, { window = tonumber(window) })
    local index = 0
    for skew in expected:gmatch("[^,]+") do
      index = index + 1
      if not near(windows[index].skew, skew) then
        return false
      end
    end
    return index == #windows
  end,
  find_motif = function(sequence, motif, expected)
    return joined(bio.find_motif(sequence, motif, { strand = "+" }), "start") == expected
  end,
  restriction_sites = function(sequence, enzyme, circular, expected)
    local sites = bio.restriction_sites(sequence, enzyme, { circular = circular == "true" })
    return joined(sites[enzyme], "cut") == expected
  end,
  align = function(left, right, options, expected)
    options = options_of(options)
    local found = bio.align(left, right, options)
    local free = options.mode == "global" or options.mode == "local"
    return near(found.score, expected) and near(bio.align_score(left, right, options), expected)
      and (not free or near(score_of(found, options), expected))
      and left:sub(found.a_start, found.a_stop) == found.a:gsub("-", "")
      and right:sub(found.b_start, found.b_stop) == found.b:gsub("-", "")
  end,
}

local counts, wrong = {}, 0
for line in io.lines(arg[1]) do
  local fields = {}
  for field in (line .. "\t"):gmatch("([^\t]*)\t") do
    fields[#fields + 1] = parts[field] or field
  end
  local what = table.remove(fields, 1)
  counts[what] = (counts[what] or 0) + 1
  local ok, same = pcall(checks[what], (table.unpack or unpack)(fields))
  if not (ok and same) then
    wrong = wrong + 1
    if wrong <= 5 then
      io.stderr:write("differs: ", line:sub(1, 300), " ", ok and "" or tostring(same), "\n")
    end
  end
end
local names = {}
for what in pairs(checks) do
  names[#names + 1] = what .. " " .. (counts[what] or 0)
end
table.sort(names)
print(table.concat(names, ", "))
os.exit(wrong == 0 and 0 or 1)
