-- Prints the ORFs of a FASTA file: orfs.lua FILE TABLE MIN_LENGTH ATG|table
local path, code, min_length, starts = arg[1], arg[2], arg[3], arg[4]
local bio_compute = require("bio_compute")
local bio = require("bio_sequence_analysis")

for record in bio.fasta(path) do
  local orfs = bio_compute.find_orfs(record.sequence, {
    table = tonumber(code),
    min_length = tonumber(min_length),
    start_codons = starts == "table" and "table" or { starts },
  })
  for _, orf in ipairs(orfs) do
    print(record.id, orf.start, orf.stop, orf.strand, orf.protein)
  end
end
