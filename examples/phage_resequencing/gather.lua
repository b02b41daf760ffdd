-- Adds up what reads.lua returned for all shards, and makes the figures of it.
-- Arguments as of reads.lua.

local bio = require("bio_compute")
local seq = require("bio_sequence_analysis")

local GENOME_K = 11
local BACTERIAL = 11
local MIN_ORF = 300

local results, kind, genome_file = ...

-- Adds the numbers of a table to those of another.
local function add(sum, counts)
  for name, count in pairs(counts) do
    sum[name] = (sum[name] or 0) + count
  end
end

-- Keeps memory flat: of everything there is the sum so far, and one more.
local quality, pileup, kmers = {}, nil, nil
local trimmed, placed = {}, {}
for _, value in results do
  for number, counts in ipairs(value.quality) do
    quality[number] = quality[number] and seq.merge_quality({ quality[number], counts }) or counts
  end
  if kind == "pairs" then
    if not kmers then
      kmers = bio.count_kmers({}, value.kmers.k, { canonical = true })
    end
    kmers:merge(value.kmers)
    pileup = pileup and seq.merge_pileups({ pileup, value.pileup }) or value.pileup
    add(trimmed, value.trimmed)
    add(placed, value.placed)
  end
end

local report = { quality = {} }
for number, counts in ipairs(quality) do
  report.quality[number] = seq.quality_figures(counts)
end
if kind == "single" then
  return report
end

-- The spectrum as pairs of a count and the number of k-mers with it, in order.
local function spectrum(counts)
  local pairs_of = {}
  for times, distinct in pairs(counts:spectrum()) do
    pairs_of[#pairs_of + 1] = { times, distinct }
  end
  table.sort(pairs_of, function(left, right)
    return left[1] < right[1]
  end)
  return pairs_of
end

report.trimmed, report.placed = trimmed, placed
report.kmers = kmers:stats()
report.kmers.k, report.kmers.spectrum = kmers.k, spectrum(kmers)
report.kmers.genome_size = kmers:genome_size()

local genome = seq.read_fasta(genome_file)
local genome_kmers = bio.count_kmers(genome, GENOME_K, { canonical = true })
report.genome = { id = genome[1].id, length = #genome[1].sequence, gc = bio.gc_content(genome[1].sequence) }
report.genome.kmers = genome_kmers:stats()
report.genome.kmers.k = GENOME_K

report.orfs = bio.find_orfs(genome[1].sequence, { table = BACTERIAL, min_length = MIN_ORF })
report.coverage = seq.coverage(pileup)[1]
report.depth = pileup[1].depth
report.variants = seq.variants(pileup)
return report
