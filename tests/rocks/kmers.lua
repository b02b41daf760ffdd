-- Prints the k-mer figures and counts of a FASTA file: kmers.lua FILE K canonical|plain
local path, k, mode = arg[1], arg[2], arg[3]
local bio = require("bio_sequence_analysis")

local counts = bio.count_kmers(bio.read_fasta(path), tonumber(k), { canonical = mode == "canonical" })
local stats = counts:stats()
print(string.format("stats %d %d %d %d", stats.unique, stats.distinct, stats.total, stats.max))
for kmer, count in counts:each() do
  print(string.format("%s %d", kmer, count))
end
