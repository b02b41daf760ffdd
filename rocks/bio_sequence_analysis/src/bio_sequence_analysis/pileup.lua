--- What placed reads say of each base of the reference: coverage and variants.
--
-- A pileup is a plain table, so that those of several parts of the reads can be made in
-- several places and added (`merge_pileups`).

local bio_compute = require("bio_compute")
local check = require("bio_compute.check")

local pileup = {}

local byte, char, sub = string.byte, string.char, string.sub

local PILEUP_OPTIONS = { min_quality = true }
local VARIANT_OPTIONS = { min_depth = true, min_fraction = true, min_count = true, error_rate = true }
local DEFAULT_MIN_QUALITY = 13
local DEFAULT_MIN_DEPTH, DEFAULT_MIN_FRACTION, DEFAULT_MIN_COUNT, DEFAULT_ERROR_RATE = 8, 0.5, 4, 0.05
local BEST_QUALITY = 999

local function zeros(count)
  local row = {}
  for place = 1, count do
    row[place] = 0
  end
  return row
end

local function empty_like(id, length)
  return { id = id, length = length, reads = 0, depth = zeros(length), good = zeros(length), alleles = {} }
end

local function find_reference(state, id)
  for _, reference in ipairs(state) do
    if reference.id == id then
      return reference
    end
  end
  return nil
end

local Pileup = {}
Pileup.__index = Pileup

--- Starts a pileup.
-- @param references array of records with `id` and `sequence`
-- @param options table or nil: `min_quality`, the Phred quality from which on a base counts
--   for variants (default 13, as in samtools mpileup)
-- @return table with the method `add` and the field `counts`: an array of tables with `id`,
--   `length`, `reads`, `depth` (per base, how many reads have a base there; deletions do not
--   count, as in `samtools depth`), `good` (the same of bases of at least `min_quality`) and
--   `alleles` (differences from the reference, as `"POSITION REF ALT"` to an array of the
--   counts on the two strands)
function pileup.new_pileup(references, options)
  local caller = "bio_sequence_analysis.new_pileup"
  options = check.options(caller, options, PILEUP_OPTIONS)
  local self = setmetatable({
    counts = {},
    _least = check.whole_number(caller, "min_quality", options.min_quality, 0, DEFAULT_MIN_QUALITY) + 33,
    _sequences = {},
  }, Pileup)
  if type(references) ~= "table" or #references == 0 then
    error(caller .. ": an array of records with id and sequence is needed, at least one", 0)
  end
  for number, reference in ipairs(references) do
    self.counts[number] = empty_like(reference.id, #reference.sequence)
    self._sequences[reference.id] = reference.sequence:upper()
  end
  return self
end

local function count_allele(alleles, position, reference, alternative, sense)
  local name = position .. " " .. reference .. " " .. alternative
  local counts = alleles[name]
  if not counts then
    counts = { 0, 0 }
    alleles[name] = counts
  end
  counts[sense] = counts[sense] + 1
end

--- Adds a placed read.
-- @param placement what `Index:place` gave
-- @param record the read, with `sequence` and perhaps `quality` (Sanger letters)
function Pileup:add(placement, record)
  local counts = find_reference(self.counts, placement.reference)
  if not counts then
    error(string.format("Pileup:add: the reference '%s' is not in this pileup", tostring(placement.reference)), 0)
  end
  local text = self._sequences[placement.reference]
  local sequence, quality = record.sequence:upper(), record.quality
  local sense = 1
  if placement.strand == "-" then
    sense = 2
    sequence, quality = bio_compute.reverse_complement(sequence), quality and quality:reverse()
  end
  local depth, good, alleles, least = counts.depth, counts.good, counts.alleles, self._least
  local here, there = 1, placement.position
  for run, operation in placement.cigar:gmatch("(%d+)(%a)") do
    run = tonumber(run)
    if operation == "M" then
      for offset = 0, run - 1 do
        local at = there + offset
        depth[at] = depth[at] + 1
        if not quality or byte(quality, here + offset) >= least then
          good[at] = good[at] + 1
          local base, known = byte(sequence, here + offset), byte(text, at)
          if base ~= known and base ~= 78 then
            count_allele(alleles, at, char(known), char(base), sense)
          end
        end
      end
      here, there = here + run, there + run
    elseif operation == "I" then
      local anchor = sub(text, there - 1, there - 1)
      count_allele(alleles, there - 1, anchor, anchor .. sub(sequence, here, here + run - 1), sense)
      here = here + run
    else
      local anchor = sub(text, there - 1, there - 1)
      count_allele(alleles, there - 1, sub(text, there - 1, there + run - 1), anchor, sense)
      there = there + run
    end
  end
  counts.reads = counts.reads + 1
end

--- Adds the counts of several pileups on the same references.
-- @param parts array of the field `counts` of pileups
-- @return counts
function pileup.merge_pileups(parts)
  local caller = "bio_sequence_analysis.merge_pileups"
  if type(parts) ~= "table" or #parts == 0 then
    error(caller .. ": an array of counts is needed, at least one", 0)
  end
  local sum = {}
  for number, reference in ipairs(parts[1]) do
    sum[number] = empty_like(reference.id, reference.length)
  end
  for index, part in ipairs(parts) do
    for number, reference in ipairs(part) do
      local total = sum[number]
      if not total or total.id ~= reference.id or total.length ~= reference.length then
        error(string.format("%s: part %d has other references than the first", caller, index), 0)
      end
      total.reads = total.reads + reference.reads
      for at = 1, reference.length do
        total.depth[at] = total.depth[at] + reference.depth[at]
        total.good[at] = total.good[at] + reference.good[at]
      end
      for name, counts in pairs(reference.alleles) do
        local both = total.alleles[name] or { 0, 0 }
        total.alleles[name] = both
        both[1], both[2] = both[1] + counts[1], both[2] + counts[2]
      end
    end
  end
  return sum
end

--- Figures of the coverage.
-- @param counts the field `counts` of a pileup, or what `merge_pileups` gave
-- @return array, one table per reference: `id`, `length`, `reads`, `mean` (depth over all
--   bases), `max`, `uncovered` (bases without any read) and `breadth` (fraction of bases
--   with a read)
function pileup.coverage(counts)
  local figures = {}
  for number, reference in ipairs(counts) do
    local sum, most, uncovered = 0, 0, 0
    for at = 1, reference.length do
      local depth = reference.depth[at]
      sum = sum + depth
      if depth > most then
        most = depth
      end
      if depth == 0 then
        uncovered = uncovered + 1
      end
    end
    figures[number] = {
      id = reference.id, length = reference.length, reads = reference.reads,
      mean = sum / reference.length, max = most, uncovered = uncovered,
      breadth = (reference.length - uncovered) / reference.length,
    }
  end
  return figures
end

-- -10 log10 of the chance of at least `count` errors among `depth` bases.
local function phred_of_chance(count, depth, rate)
  -- Logarithms of the terms, from the greatest number of errors down, as ratios of one another.
  local log_term = depth * math.log(rate)
  local greatest, sum = log_term, 1
  for errors = depth - 1, count, -1 do
    log_term = log_term + math.log((errors + 1) / (depth - errors)) + math.log((1 - rate) / rate)
    if log_term > greatest then
      sum = sum * math.exp(greatest - log_term) + 1
      greatest = log_term
    else
      sum = sum + math.exp(log_term - greatest)
    end
  end
  return math.min(BEST_QUALITY, math.max(0, -10 * (greatest + math.log(sum)) / math.log(10)))
end

--- Calls variants of a haploid genome where reads agree against the reference.
--
-- A base is called when at least `min_depth` good bases stand on it and one alternative has
-- at least `min_count` and the part `min_fraction` of them; insertions and deletions count
-- against the depth of the base before them. `quality` is -10 log10 of the chance that as
-- many errors fall together at `error_rate`, at most 999. Neither realignment nor diploid
-- genotypes are attempted: for those take bcftools.
-- @param counts the field `counts` of a pileup, or what `merge_pileups` gave
-- @param options table or nil: `min_depth` (default 8), `min_count` (4), `min_fraction`
--   (0.5), `error_rate` (0.05)
-- @return array of tables in the order of the reference: `reference` (id), `position`,
--   `ref`, `alt` (as in VCF), `depth`, `count`, `forward`, `reverse` (counts on the
--   strands), `fraction`, `quality`
function pileup.variants(counts, options)
  local caller = "bio_sequence_analysis.variants"
  options = check.options(caller, options, VARIANT_OPTIONS)
  local min_depth = check.whole_number(caller, "min_depth", options.min_depth, 1, DEFAULT_MIN_DEPTH)
  local min_count = check.whole_number(caller, "min_count", options.min_count, 1, DEFAULT_MIN_COUNT)
  local min_fraction = options.min_fraction or DEFAULT_MIN_FRACTION
  local rate = options.error_rate or DEFAULT_ERROR_RATE
  for name, value in pairs({ min_fraction = min_fraction, error_rate = rate }) do
    if type(value) ~= "number" or value <= 0 or value > 1 then
      error(string.format("%s: %s must be a number above 0 and at most 1, not %s", caller, name, tostring(value)), 0)
    end
  end
  local calls = {}
  for order, reference in ipairs(counts) do
    for name, strands in pairs(reference.alleles) do
      local position, ref, alt = name:match("^(%d+) (%a+) (%a+)$")
      position = tonumber(position)
      local count = strands[1] + strands[2]
      local is_base = #ref == 1 and #alt == 1
      local depth = math.max(is_base and reference.good[position] or reference.depth[position], count)
      if depth >= min_depth and count >= min_count and count / depth >= min_fraction then
        calls[#calls + 1] = {
          order = order, reference = reference.id, position = position, ref = ref, alt = alt,
          depth = depth, count = count, forward = strands[1], reverse = strands[2],
          fraction = count / depth, quality = phred_of_chance(count, depth, rate),
        }
      end
    end
  end
  table.sort(calls, function(left, right)
    if left.order ~= right.order then
      return left.order < right.order
    elseif left.position ~= right.position then
      return left.position < right.position
    elseif left.ref ~= right.ref then
      return left.ref < right.ref
    end
    return left.alt < right.alt
  end)
  for _, call in ipairs(calls) do
    call.order = nil
  end
  return calls
end

return pileup
