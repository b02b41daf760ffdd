rockspec_format = "3.0"
package = "bio_compute"
version = "0.1.0-1"
source = {
  -- The archive inside a source rock; the README one folder up says how to make one.
  url = "file://bio_compute-0.1.0.tar.gz",
  dir = "bio_compute",
}
description = {
  summary = "Figures of DNA sequences: GC content, reverse complement, translation, ORFs",
  detailed = [[
Base counts, GC content, IUPAC-aware reverse complement, translation with all
genetic codes of the NCBI, and open reading frames in six frames as EMBOSS getorf
reports them. Pure Lua, for Lua 5.1 to 5.4 and LuaJIT.]],
  license = "MIT",
  labels = { "bioinformatics", "dna" },
}
dependencies = { "lua >= 5.1" }
build = {
  type = "builtin",
  modules = {
    ["bio_compute"] = "src/bio_compute.lua",
    ["bio_compute.check"] = "src/bio_compute/check.lua",
    ["bio_compute.genetic_code"] = "src/bio_compute/genetic_code.lua",
    ["bio_compute.orfs"] = "src/bio_compute/orfs.lua",
    ["bio_compute.strand"] = "src/bio_compute/strand.lua",
  },
}
