rockspec_format = "3.0"
package = "bio_sequence_analysis"
version = "0.1.0-1"
source = {
  -- The archive inside a source rock; the README one folder up says how to make one.
  url = "file://bio_sequence_analysis-0.1.0.tar.gz",
  dir = "bio_sequence_analysis",
}
description = {
  summary = "Sets of DNA sequences: FASTA, k-mer counts, summaries",
  detailed = [[
Reads FASTA as a stream and writes it, counts k-mers with the figures of jellyfish,
and summarizes a set of sequences with bio_compute. Pure Lua, for Lua 5.1 to 5.4
and LuaJIT.]],
  license = "MIT",
  labels = { "bioinformatics", "dna", "fasta" },
}
dependencies = { "lua >= 5.1", "bio_compute >= 0.1" }
build = {
  type = "builtin",
  modules = {
    ["bio_sequence_analysis"] = "src/bio_sequence_analysis.lua",
    ["bio_sequence_analysis.fasta"] = "src/bio_sequence_analysis/fasta.lua",
    ["bio_sequence_analysis.kmers"] = "src/bio_sequence_analysis/kmers.lua",
    ["bio_sequence_analysis.summary"] = "src/bio_sequence_analysis/summary.lua",
  },
}
