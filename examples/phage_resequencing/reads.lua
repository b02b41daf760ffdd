-- What one shard of reads says: run by `bioxen map` with
--   reads.lua KIND GENOME
-- KIND is `pairs` (read 1 and read 2 of each pair in turns) or `single`; GENOME a FASTA file in the VM.
-- Returns counts only, which gather.lua adds up: the sums do not depend on how the reads were cut.

local bio = require("bio_compute")
local seq = require("bio_sequence_analysis")

local K = 21
-- The rule of `cutadapt -q 20 -m 30`: bad ends are cut, and pairs with a read shorter than 30 bases go.
local TRIMMING = { tail_quality = 20, min_length = 30 }

local _, _, _, kind, genome_file = ...
local records = seq.fastq(io.stdin)

if kind == "single" then
  return { quality = { seq.count_quality(records) } }
end

local first, second = {}, {}
for one, other in seq.pairs(records, records) do
  first[#first + 1], second[#second + 1] = one, other
end

local kmers = bio.count_kmers(first, K, { canonical = true })
for _, read in ipairs(second) do
  kmers:add(read.sequence)
end

local genome = seq.read_fasta(genome_file)
local index, pileup = bio.index(genome), seq.new_pileup(genome)
local placed = { reads = 0, placed = 0, forward = 0, reverse = 0 }
local each_pair, _, trimmed = seq.trim_pairs(first, second, TRIMMING)
for one, other in each_pair do
  for _, read in ipairs({ one, other }) do
    local place = index:place(read.sequence, read.quality)
    placed.reads = placed.reads + 1
    if place then
      local strand = place.strand == "+" and "forward" or "reverse"
      placed.placed, placed[strand] = placed.placed + 1, placed[strand] + 1
      pileup:add(place, read)
    end
  end
end

return {
  quality = { seq.count_quality(first), seq.count_quality(second) },
  kmers = kmers:state(),
  trimmed = trimmed,
  placed = placed,
  pileup = pileup.counts,
}
