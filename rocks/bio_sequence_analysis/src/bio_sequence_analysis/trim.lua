--- Trimming and filtering of reads, pairs kept together.

local check = require("bio_compute.check")
local fastq = require("bio_sequence_analysis.fastq")

local trim = {}

local byte, sub = string.byte, string.sub

local OPTIONS = {
  head = true, tail = true, tail_quality = true, window = true, window_quality = true,
  min_length = true, max_length = true, max_n = true, min_quality = true, variant = true,
}
local DEFAULT_WINDOW = 4

local function quality_bound(caller, options, name)
  if options[name] == nil then
    return nil
  end
  return check.whole_number(caller, name, options[name], 0)
end

local function checked(caller, options)
  options = check.options(caller, options, OPTIONS)
  local max_n = options.max_n
  if max_n ~= nil and (type(max_n) ~= "number" or max_n < 0) then
    error(string.format("%s: max_n must be a number of letters, not %s", caller, tostring(max_n)), 0)
  end
  return {
    head = check.whole_number(caller, "head", options.head, 0, 0),
    tail = check.whole_number(caller, "tail", options.tail, 0, 0),
    tail_quality = quality_bound(caller, options, "tail_quality"),
    window = check.whole_number(caller, "window", options.window, 1, DEFAULT_WINDOW),
    window_quality = quality_bound(caller, options, "window_quality"),
    min_length = check.whole_number(caller, "min_length", options.min_length, 0, 1),
    max_length = check.whole_number(caller, "max_length", options.max_length, 0, 2 ^ 53),
    max_n = max_n,
    min_quality = quality_bound(caller, options, "min_quality"),
    variant = fastq.variant(caller, options.variant, nil),
  }
end

-- Where the sum of (bound - quality), taken from the end, is greatest: what is behind goes.
-- This is the algorithm of BWA and cutadapt.
local function tail_cut(quality, phred, first, last, bound)
  local sum, greatest, cut = 0, 0, last
  for at = last, first, -1 do
    sum = sum + bound - phred[byte(quality, at)]
    if sum < 0 then
      break
    elseif sum > greatest then
      greatest, cut = sum, at - 1
    end
  end
  return cut
end

-- The first window whose mean is below the bound ends the read; its first bases that are
-- good stay. This is `cut_right` of fastp, which does not look at the very last window.
local function window_cut(quality, phred, first, last, window, bound)
  if last - first + 1 < window then
    return last
  end
  local sum = 0
  for at = first, first + window - 2 do
    sum = sum + phred[byte(quality, at)]
  end
  for start = first, last - window do
    sum = sum + phred[byte(quality, start + window - 1)]
    if sum < bound * window then
      local at = start
      while at < last and phred[byte(quality, at)] >= bound do
        at = at + 1
      end
      return at - 1
    end
    sum = sum - phred[byte(quality, start)]
  end
  return last
end

local function mean_quality(quality, phred, first, last)
  local sum = 0
  for at = first, last do
    sum = sum + phred[byte(quality, at)]
  end
  return sum / (last - first + 1)
end

-- @return the trimmed record, or nil and the name of the filter that it fails
local function trimmed(record, options)
  local quality = record.quality
  local phred = fastq.phred_of_byte(record.variant or "sanger")
  local first, last = 1 + options.head, #record.sequence - options.tail
  if options.tail_quality then
    last = tail_cut(quality, phred, first, last, options.tail_quality)
  end
  if options.window_quality then
    last = window_cut(quality, phred, first, last, options.window, options.window_quality)
  end
  local length = math.max(0, last - first + 1)
  if length < options.min_length then
    return nil, "min_length"
  elseif length > options.max_length then
    return nil, "max_length"
  end
  local sequence = sub(record.sequence, first, last)
  if options.max_n then
    local _, unknown = sequence:gsub("[Nn]", "")
    if unknown > options.max_n then
      return nil, "max_n"
    end
  end
  if options.min_quality and length > 0 and mean_quality(quality, phred, first, last) < options.min_quality then
    return nil, "min_quality"
  end
  return {
    id = record.id,
    description = record.description,
    sequence = sequence,
    quality = sub(quality, first, last),
    variant = record.variant,
  }
end

--- Trims reads and leaves out those that fail a filter, one at a time.
--
-- In this order: `head` and `tail` bases are cut; the end is cut by `tail_quality` (where
-- the sum of its differences to the qualities, from the end on, is greatest: the algorithm
-- of BWA and of `cutadapt -q`); the read ends with the first window of `window` bases whose
-- mean quality is below `window_quality`, of which the first bases that reach it stay
-- (`fastp --cut_right`, which leaves out the very last window); then the filters `min_length`, `max_length`, `max_n`, `min_quality`.
-- @param source as for `fastq`, or an array or iterator of records
-- @param options table or nil: `head`, `tail` (bases, default 0); `tail_quality`,
--   `window_quality` (Phred, default none); `window` (bases, default 4); `min_length`
--   (default 1), `max_length`; `max_n`, the most letters N; `min_quality`, the least mean
--   quality; `variant` as for `fastq`
-- @return iterator of records, for `for`, and as third value a table of counts that grows with
--   it: the reads `read`, `kept`, and left out, by the name of the filter
function trim.trim(source, options)
  local caller = "bio_sequence_analysis.trim"
  options = checked(caller, options)
  local each = fastq.each(caller, source, options.variant)
  local counts = { read = 0, kept = 0 }
  return function()
    for record in each do
      counts.read = counts.read + 1
      local kept, reason = trimmed(record, options)
      if kept then
        counts.kept = counts.kept + 1
        return kept
      end
      counts[reason] = (counts[reason] or 0) + 1
    end
    return nil
  end, nil, counts
end

-- The name of a pair: without what tells its reads apart.
local function pair_name(id)
  return (id:gsub("[/._][12]$", ""))
end

--- Iterates over the pairs of two files.
--
-- Refused, with the number of the record: files of different lengths, and reads of one
-- place whose ids differ otherwise than by `/1` and `/2` (or `.1`, `_1`) at the end.
-- @param first, second as `source` of `fastq`, or arrays or iterators of records
-- @param options table or nil: `variant` as for `fastq`
-- @return iterator of two records, for `for`
function trim.pairs(first, second, options)
  local caller = "bio_sequence_analysis.pairs"
  options = check.options(caller, options, { variant = true })
  local variant = fastq.variant(caller, options.variant, nil)
  local left, right = fastq.each(caller, first, variant), fastq.each(caller, second, variant)
  local names = {
    type(first) == "string" and first or "the first file",
    type(second) == "string" and second or "the second file",
  }
  local count = 0
  return function()
    local one, other = left(), right()
    if not (one or other) then
      return nil
    end
    count = count + 1
    if not (one and other) then
      error(string.format("%s: record %d: %s ends here and %s goes on: pairs need files of the same length",
        caller, count, one and names[2] or names[1], one and names[1] or names[2]), 0)
    elseif one.id ~= other.id and pair_name(one.id) ~= pair_name(other.id) then
      error(string.format("%s: record %d: %s has '%s' and %s has '%s': these are no pair",
        caller, count, names[1], one.id, names[2], other.id), 0)
    end
    return one, other
  end
end

--- Trims the reads of pairs as `trim` does; a pair stays when both of its reads do.
-- @param first, second as for `pairs`
-- @param options as for `trim`
-- @return iterator of two records, for `for`, and as third value the counts, of pairs: `read`,
--   `kept`, and left out, by the name of the filter (that of the first read when both fail)
function trim.trim_pairs(first, second, options)
  local caller = "bio_sequence_analysis.trim_pairs"
  options = checked(caller, options)
  local each = trim.pairs(first, second, { variant = options.variant })
  local counts = { read = 0, kept = 0 }
  return function()
    for one, other in each do
      counts.read = counts.read + 1
      local kept, reason = trimmed(one, options)
      local also, its_reason = trimmed(other, options)
      if kept and also then
        counts.kept = counts.kept + 1
        return kept, also
      end
      reason = reason or its_reason
      counts[reason] = (counts[reason] or 0) + 1
    end
    return nil
  end, nil, counts
end

return trim
