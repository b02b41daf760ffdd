rockspec_format = "3.0"
package = "bio_compute"
version = "0.1.0-1"
source = {
  -- The archive inside a source rock; the README one folder up says how to make one.
  url = "file://bio_compute-0.1.0.tar.gz",
  dir = "bio_compute",
}
description = {
  summary = "Sequences: composition, translation, ORFs, k-mers, motifs, melting, alignment, placement",
  detailed = [[
DNA, RNA and proteins: composition, IUPAC-aware reverse complement, translation with all
genetic codes of the NCBI, ORFs as EMBOSS getorf reports them, k-mers as jellyfish counts
them, motifs and restriction sites, melting temperatures, molecular weights, exact alignment
with affine gaps, and the placing of reads on a reference. Pure Lua, for Lua 5.1 to 5.4 and
LuaJIT.]],
  license = "MIT",
  labels = { "bioinformatics", "dna" },
}
dependencies = { "lua >= 5.1" }
build = {
  type = "builtin",
  modules = {
    ["bio_compute"] = "src/bio_compute.lua",
    ["bio_compute.align"] = "src/bio_compute/align.lua",
    ["bio_compute.alphabet"] = "src/bio_compute/alphabet.lua",
    ["bio_compute.check"] = "src/bio_compute/check.lua",
    ["bio_compute.composition"] = "src/bio_compute/composition.lua",
    ["bio_compute.enzymes"] = "src/bio_compute/enzymes.lua",
    ["bio_compute.extension"] = "src/bio_compute/extension.lua",
    ["bio_compute.genetic_code"] = "src/bio_compute/genetic_code.lua",
    ["bio_compute.hope"] = "src/bio_compute/hope.lua",
    ["bio_compute.kmers"] = "src/bio_compute/kmers.lua",
    ["bio_compute.lanes"] = "src/bio_compute/lanes.lua",
    ["bio_compute.matrices"] = "src/bio_compute/matrices.lua",
    ["bio_compute.melting"] = "src/bio_compute/melting.lua",
    ["bio_compute.motifs"] = "src/bio_compute/motifs.lua",
    ["bio_compute.orfs"] = "src/bio_compute/orfs.lua",
    ["bio_compute.placement"] = "src/bio_compute/placement.lua",
    ["bio_compute.strand"] = "src/bio_compute/strand.lua",
    ["bio_compute.weight"] = "src/bio_compute/weight.lua",
  },
}
