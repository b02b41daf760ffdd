--- Sets of DNA sequences: FASTA, k-mers, and a summary of both with `bio_compute`.
--
-- Misuse and bad data raise an `error` whose message names the place, the reason
-- and the remedy; use `pcall` to go on after it.

local fasta = require("bio_sequence_analysis.fasta")
local kmers = require("bio_sequence_analysis.kmers")
local summary = require("bio_sequence_analysis.summary")

return {
  _VERSION = "0.1.0",

  fasta = fasta.fasta,
  read_fasta = fasta.read_fasta,
  parse_fasta = fasta.parse_fasta,
  format_fasta = fasta.format_fasta,
  write_fasta = fasta.write_fasta,

  count_kmers = kmers.count_kmers,

  summarize = summary.summarize,
}
