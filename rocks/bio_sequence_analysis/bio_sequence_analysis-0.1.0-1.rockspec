rockspec_format = "3.0"
package = "bio_sequence_analysis"
version = "0.1.0-1"
source = {
  -- The archive inside a source rock; the README one folder up says how to make one.
  url = "file://bio_sequence_analysis-0.1.0.tar.gz",
  dir = "bio_sequence_analysis",
}
description = {
  summary = "Streams of FASTA, FASTQ, GenBank, EMBL, GFF3; quality control, trimming, coverage, variants",
  detailed = [[
Reads and writes FASTA, FASTQ (Sanger, Solexa, Illumina), GenBank, EMBL and GFF3 as streams,
gzip on the way; counts and trims reads as seqkit, cutadapt and fastp do; coverage and simple
variants of reads that bio_compute has placed. Pure Lua, for Lua 5.1 to 5.4 and LuaJIT.]],
  license = "MIT",
  labels = { "bioinformatics", "dna", "fasta" },
}
dependencies = { "lua >= 5.1", "bio_compute >= 0.1" }
build = {
  type = "builtin",
  modules = {
    ["bio_sequence_analysis"] = "src/bio_sequence_analysis.lua",
    ["bio_sequence_analysis.crc32"] = "src/bio_sequence_analysis/crc32.lua",
    ["bio_sequence_analysis.fasta"] = "src/bio_sequence_analysis/fasta.lua",
    ["bio_sequence_analysis.fastq"] = "src/bio_sequence_analysis/fastq.lua",
    ["bio_sequence_analysis.features"] = "src/bio_sequence_analysis/features.lua",
    ["bio_sequence_analysis.flatfile"] = "src/bio_sequence_analysis/flatfile.lua",
    ["bio_sequence_analysis.gff3"] = "src/bio_sequence_analysis/gff3.lua",
    ["bio_sequence_analysis.inflate"] = "src/bio_sequence_analysis/inflate.lua",
    ["bio_sequence_analysis.input"] = "src/bio_sequence_analysis/input.lua",
    ["bio_sequence_analysis.output"] = "src/bio_sequence_analysis/output.lua",
    ["bio_sequence_analysis.pileup"] = "src/bio_sequence_analysis/pileup.lua",
    ["bio_sequence_analysis.quality"] = "src/bio_sequence_analysis/quality.lua",
    ["bio_sequence_analysis.sam"] = "src/bio_sequence_analysis/sam.lua",
    ["bio_sequence_analysis.summary"] = "src/bio_sequence_analysis/summary.lua",
    ["bio_sequence_analysis.trim"] = "src/bio_sequence_analysis/trim.lua",
  },
}
