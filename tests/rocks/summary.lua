-- Prints the figures and the report of a FASTA file: summary.lua FILE
local bio = require("bio_sequence_analysis")

local summary = bio.summarize(arg[1])
print(string.format("%d %.10f", summary.length, summary.gc))
print(summary)
