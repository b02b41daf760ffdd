--- The summary of a set of DNA sequences.

local bio_compute = require("bio_compute")
local check = require("bio_compute.check")
local fasta = require("bio_sequence_analysis.fasta")

local summary = {}

local OPTIONS = { table = true, min_length = true, start_codons = true, k = true }
local DEFAULT_TABLE = 11
local DEFAULT_MIN_LENGTH = 300
local DEFAULT_K = 11

local function grouped(number)
  local digits = string.format("%d", number)
  local head = #digits % 3
  local groups = { head > 0 and digits:sub(1, head) or nil }
  for first = head + 1, #digits, 3 do
    groups[#groups + 1] = digits:sub(first, first + 2)
  end
  return table.concat(groups, ",")
end

local Summary = {}

--- The report: one figure a line, names padded to one width.
function Summary.__tostring(self)
  local figures = self.kmers
  local lines = {
    { "records", grouped(self.records) },
    { "length", grouped(self.length) .. " bp" },
    { "GC content", self.gc and string.format("%.2f %%", self.gc * 100) or "undefined (no A, C, G or T)" },
    { "ORFs", string.format("%s (at least %s nt, genetic code %d)",
      grouped(self.orfs), grouped(self.min_length), self.table) },
    { string.format("canonical %d-mers", figures.k), string.format("%s unique, %s distinct, %s total, max count %s",
      grouped(figures.unique), grouped(figures.distinct), grouped(figures.total), grouped(figures.max)) },
  }
  for index, line in ipairs(lines) do
    lines[index] = string.format("%-20s%s", line[1], line[2])
  end
  return table.concat(lines, "\n")
end

local function each_record(source)
  if type(source) ~= "table" or source.lines then
    return fasta.fasta(source)
  end
  local index = 0
  return function()
    index = index + 1
    return source[index]
  end
end

--- Summarizes DNA: records, length, GC content, ORFs and canonical k-mers.
-- @param source string (path of a FASTA file), open file, or array of records
-- @param options table or nil: `table`, `min_length` and `start_codons` as for
--   `bio_compute.find_orfs` (default here: 11, 300 and {"ATG"}); `k`, the number of
--   bases of the k-mers (default 11)
-- @return table with `records`, `length` (nucleotides), `counts` (letters: `A`, `C`,
--   `G`, `T`, `N`, `other`), `gc` (fraction among A, C, G and T, or nil), `orfs`
--   (number), `table` and `min_length` as used, and `kmers` (`k`, `unique`,
--   `distinct`, `total`, `max`); `tostring` of it is the report
function summary.summarize(source, options)
  options = check.options("bio_sequence_analysis.summarize", options, OPTIONS)
  local orf_options = {
    table = options.table == nil and DEFAULT_TABLE or options.table,
    min_length = options.min_length == nil and DEFAULT_MIN_LENGTH or options.min_length,
    start_codons = options.start_codons,
  }
  local k = check.whole_number("bio_sequence_analysis.summarize", "k", options.k, 1, DEFAULT_K)
  bio_compute.find_orfs("", orf_options) -- refuses bad options before any work
  local result = {
    records = 0, length = 0, orfs = 0,
    counts = { A = 0, C = 0, G = 0, T = 0, N = 0, other = 0 },
    table = orf_options.table, min_length = orf_options.min_length,
  }
  local counted = bio_compute.count_kmers("", k, { canonical = true })
  for record in each_record(source) do
    result.records = result.records + 1
    local sequence = record.sequence
    local ok, problem = bio_compute.validate(sequence)
    if not ok then
      error(string.format("bio_sequence_analysis.summarize: record %d (%s): %s",
        result.records, tostring(record.id), problem), 0)
    end
    result.length = result.length + #sequence
    local counts = bio_compute.base_counts(sequence)
    for letter, count in pairs(result.counts) do
      result.counts[letter] = count + counts[letter]
    end
    result.orfs = result.orfs + #bio_compute.find_orfs(sequence, orf_options)
    counted:add(sequence)
  end
  if result.records == 0 then
    error("bio_sequence_analysis.summarize: there is no FASTA record: a record begins with a line that starts with '>'", 0)
  end
  local known = result.counts.A + result.counts.C + result.counts.G + result.counts.T
  result.gc = known > 0 and (result.counts.G + result.counts.C) / known or nil
  result.kmers = counted:stats()
  result.kmers.k = k
  return setmetatable(result, Summary)
end

return summary
