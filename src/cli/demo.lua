-- Analyses the FASTA on standard input with the rock bio_sequence_analysis.
local bio = require("bio_sequence_analysis")
print(bio.summarize(io.stdin))
