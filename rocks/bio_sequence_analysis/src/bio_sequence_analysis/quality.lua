--- Quality control of reads: how many, how long, how good.
--
-- What is counted is a plain table of counts, so that the counts of several parts of a file
-- can be made in several places and added (`merge_quality`); the figures follow from them.

local check = require("bio_compute.check")
local fastq = require("bio_sequence_analysis.fastq")

local quality = {}

local byte = string.byte

local COUNT_OPTIONS = { variant = true, positions = true }
local DEFAULT_POSITIONS = 1000
local BEST = 93
-- Bytes are fetched so many at a time: a call for each would cost more than the counting.
local CHUNK = 8

local function zeros(count)
  local row = {}
  for place = 1, count do
    row[place] = 0
  end
  return row
end

local function new_counts(positions)
  return {
    reads = 0,
    bases = 0,
    positions = positions,
    lengths = {},
    letters = { A = 0, C = 0, G = 0, T = 0, N = 0, other = 0, gaps = 0 },
    -- By position in the read, how often each quality from 0 on occurs; the last row is
    -- that of all positions behind.
    by_position = {},
  }
end

local function count_row(row, from, text, first, last)
  for at = first, last do
    local place = byte(text, at) - from
    row[place] = row[place] + 1
  end
end

local function add(counts, letters, record)
  local sequence, phred = record.sequence, record.quality
  local length = #sequence
  counts.reads = counts.reads + 1
  counts.bases = counts.bases + length
  counts.lengths[length] = (counts.lengths[length] or 0) + 1
  if record.variant and record.variant ~= "sanger" then
    phred = fastq.convert_quality(phred, record.variant, "sanger")
  end
  local rows, positions = counts.by_position, counts.positions
  local own = length < positions and length or positions
  for place = #rows + 1, length > positions and positions + 1 or own do
    rows[place] = zeros(BEST + 1)
  end
  local at = 1
  while at + CHUNK - 1 <= own do
    local a, b, c, d, e, f, g, h = byte(phred, at, at + CHUNK - 1)
    local row = rows[at]
    row[a - 32] = row[a - 32] + 1
    row = rows[at + 1]
    row[b - 32] = row[b - 32] + 1
    row = rows[at + 2]
    row[c - 32] = row[c - 32] + 1
    row = rows[at + 3]
    row[d - 32] = row[d - 32] + 1
    row = rows[at + 4]
    row[e - 32] = row[e - 32] + 1
    row = rows[at + 5]
    row[f - 32] = row[f - 32] + 1
    row = rows[at + 6]
    row[g - 32] = row[g - 32] + 1
    row = rows[at + 7]
    row[h - 32] = row[h - 32] + 1
    a, b, c, d, e, f, g, h = byte(sequence, at, at + CHUNK - 1)
    letters[a] = letters[a] + 1
    letters[b] = letters[b] + 1
    letters[c] = letters[c] + 1
    letters[d] = letters[d] + 1
    letters[e] = letters[e] + 1
    letters[f] = letters[f] + 1
    letters[g] = letters[g] + 1
    letters[h] = letters[h] + 1
    at = at + CHUNK
  end
  for place = at, own do
    count_row(rows[place], 32, phred, place, place)
  end
  if length > own then
    count_row(rows[positions + 1], 32, phred, own + 1, length)
  end
  count_row(letters, 0, sequence, at, length)
end

-- Adds the counts of bytes to those of letters.
local function add_letters(counts, letters)
  for value = 1, 255 do
    local count = letters[value]
    if count > 0 then
      local letter = string.char(value):upper()
      if letter == "-" or letter == "." or letter == "*" then
        letter = "gaps"
      elseif not counts.letters[letter] then
        letter = "other"
      end
      counts.letters[letter] = counts.letters[letter] + count
    end
  end
end

--- Counts the reads of a FASTQ file, for `quality_figures`.
--
-- The memory depends on the lengths and qualities that occur, not on the number of reads.
-- @param source as for `fastq`, or an array or iterator of records
-- @param options table or nil: `variant` as for `fastq`; `positions`, how many positions
--   of the reads are told apart (default 1000; those behind are counted together)
-- @return table of counts: `reads`, `bases`, `lengths` (length to number of reads),
--   `letters` (`A`, `C`, `G`, `T`, `N`, `other`, `gaps`), `positions` as used and
--   `by_position` (per position an array: how often quality 0, 1 ... 93 occurs)
function quality.count_quality(source, options)
  local caller = "bio_sequence_analysis.count_quality"
  options = check.options(caller, options, COUNT_OPTIONS)
  local positions = check.whole_number(caller, "positions", options.positions, 1, DEFAULT_POSITIONS)
  local each = fastq.each(caller, source, options.variant)
  local counts, letters = new_counts(positions), zeros(255)
  for record in each do
    add(counts, letters, record)
  end
  add_letters(counts, letters)
  return counts
end

--- Adds the counts of several parts.
-- @param parts array of what `count_quality` gave, all with the same `positions`
-- @return table of counts
function quality.merge_quality(parts)
  local caller = "bio_sequence_analysis.merge_quality"
  if type(parts) ~= "table" or #parts == 0 then
    error(caller .. ": an array of counts is needed, at least one", 0)
  end
  local sum = new_counts(parts[1].positions)
  for number, part in ipairs(parts) do
    if part.positions ~= sum.positions then
      error(string.format("%s: part %d has %s positions and the first has %s: count all with the same",
        caller, number, tostring(part.positions), tostring(sum.positions)), 0)
    end
    sum.reads, sum.bases = sum.reads + part.reads, sum.bases + part.bases
    for length, count in pairs(part.lengths) do
      length = tonumber(length)
      sum.lengths[length] = (sum.lengths[length] or 0) + count
    end
    for letter, count in pairs(part.letters) do
      sum.letters[letter] = sum.letters[letter] + count
    end
    for position, row in ipairs(part.by_position) do
      local total = sum.by_position[position] or zeros(BEST + 1)
      sum.by_position[position] = total
      for place, count in ipairs(row) do
        total[place] = total[place] + count
      end
    end
  end
  return sum
end

-- The value of a rank, from counts by value from 0 on.
local function at_rank(row, rank)
  local seen = 0
  for place = 1, #row do
    seen = seen + row[place]
    if seen >= rank then
      return place - 1
    end
  end
  return nil
end

local function row_figures(row)
  local total, sum = 0, 0
  for place, count in ipairs(row) do
    total, sum = total + count, sum + count * (place - 1)
  end
  local function quantile(part)
    return at_rank(row, math.max(1, math.ceil(part * total)))
  end
  return {
    bases = total,
    mean = total > 0 and sum / total or nil,
    low = quantile(0.1), q1 = quantile(0.25), median = quantile(0.5), q3 = quantile(0.75), high = quantile(0.9),
  }
end

-- Lengths in ascending order, with counts.
local function sorted_lengths(lengths)
  local sorted = {}
  for length, count in pairs(lengths) do
    sorted[#sorted + 1] = { length = tonumber(length), count = count }
  end
  table.sort(sorted, function(left, right)
    return left.length < right.length
  end)
  return sorted
end

--- The length of which reads at least as long have half of all bases.
local function n50(sorted, bases)
  local sum = 0
  for place = #sorted, 1, -1 do
    sum = sum + sorted[place].length * sorted[place].count
    if sum * 2 >= bases then
      return sorted[place].length
    end
  end
  return nil
end

-- The length at a rank that may lie between two reads.
local function length_at(sorted, rank)
  local function one(wanted)
    local seen = 0
    for _, entry in ipairs(sorted) do
      seen = seen + entry.count
      if seen >= wanted then
        return entry.length
      end
    end
  end
  return (one(math.floor(rank)) + one(math.ceil(rank))) / 2
end

-- Tukey's hinges, as seqkit has them: medians of the lower and upper half, of which both have
-- the middle read when there is one.
local function quartiles(sorted, reads)
  local half = math.ceil(reads / 2)
  return length_at(sorted, (half + 1) / 2),
    length_at(sorted, (reads + 1) / 2),
    length_at(sorted, reads - half + (half + 1) / 2)
end

--- The figures of counted reads.
--
-- `n50` is the greatest length such that reads at least as long have half of the bases.
-- `q20` and `q30` are the fractions of bases with a quality of at least 20 and 30 (a chance
-- of an error of at most 1 in 100 and 1 in 1000). The quartiles of the lengths are Tukey's
-- hinges: medians of the lower and the upper half, both with the middle read if there is
-- one. All equal those of `seqkit stats -a`, whose GC content is `gc_of_all`.
-- @param counts what `count_quality` or `merge_quality` gave
-- @return table with `reads`, `bases`, `min_length`, `mean_length`, `max_length`, `q1_length`,
--   `median_length`, `q3_length`, `n50` (all nil without reads), `q20`, `q30`, `mean_quality`,
--   `gc` (G and C among A, C, G and T), `gc_of_all` (among all letters), `n` (fraction of N),
--   `gaps` (letters `-`, `.` and `*`), and `positions`, an array of tables per position: `bases`, `mean`, `low` (10 of 100 bases
--   are at most that good), `q1`, `median`, `q3`, `high` (90 of 100)
function quality.quality_figures(counts)
  local sorted = sorted_lengths(counts.lengths)
  local figures = { reads = counts.reads, bases = counts.bases, positions = {} }
  if counts.reads > 0 then
    figures.min_length, figures.max_length = sorted[1].length, sorted[#sorted].length
    figures.mean_length = counts.bases / counts.reads
    figures.q1_length, figures.median_length, figures.q3_length = quartiles(sorted, counts.reads)
    figures.n50 = n50(sorted, counts.bases)
  end
  local all = zeros(BEST + 1)
  for position, row in ipairs(counts.by_position) do
    for place, count in ipairs(row) do
      all[place] = all[place] + count
    end
    if position <= counts.positions then
      figures.positions[position] = row_figures(row)
    end
  end
  local letters = counts.letters
  local known = letters.A + letters.C + letters.G + letters.T
  if counts.bases > 0 then
    local good, better = 0, 0
    for place = 21, BEST + 1 do
      good = good + all[place]
      better = place > 30 and better + all[place] or better
    end
    figures.q20, figures.q30 = good / counts.bases, better / counts.bases
    figures.mean_quality = row_figures(all).mean
    figures.gc = known > 0 and (letters.G + letters.C) / known or nil
    figures.gc_of_all = (letters.G + letters.C) / counts.bases
    figures.n = letters.N / counts.bases
  end
  figures.gaps = letters.gaps
  return figures
end

return quality
