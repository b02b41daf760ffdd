--- Files of sequences, reads and annotations as streams (FASTA, FASTQ, GenBank, EMBL, GFF3),
-- quality control, trimming, coverage, variants, and summaries with `bio_compute`.
--
-- Misuse and bad data raise an `error` whose message names the place, the reason
-- and the remedy; use `pcall` to go on after it.

local bio_compute = require("bio_compute")
local fasta = require("bio_sequence_analysis.fasta")
local fastq = require("bio_sequence_analysis.fastq")
local features = require("bio_sequence_analysis.features")
local flatfile = require("bio_sequence_analysis.flatfile")
local gff3 = require("bio_sequence_analysis.gff3")
local pileup = require("bio_sequence_analysis.pileup")
local quality = require("bio_sequence_analysis.quality")
local sam = require("bio_sequence_analysis.sam")
local summary = require("bio_sequence_analysis.summary")
local trim = require("bio_sequence_analysis.trim")

return {
  _VERSION = "0.1.0",

  fasta = fasta.fasta,
  fasta_pieces = fasta.fasta_pieces,
  read_fasta = fasta.read_fasta,
  parse_fasta = fasta.parse_fasta,
  format_fasta = fasta.format_fasta,
  write_fasta = fasta.write_fasta,
  fasta_writer = fasta.fasta_writer,

  fastq = fastq.fastq,
  read_fastq = fastq.read_fastq,
  parse_fastq = fastq.parse_fastq,
  format_fastq = fastq.format_fastq,
  write_fastq = fastq.write_fastq,
  fastq_writer = fastq.fastq_writer,
  convert_quality = fastq.convert_quality,

  genbank = flatfile.genbank,
  read_genbank = flatfile.read_genbank,
  format_genbank = flatfile.format_genbank,
  write_genbank = flatfile.write_genbank,
  embl = flatfile.embl,
  read_embl = flatfile.read_embl,
  format_embl = flatfile.format_embl,
  write_embl = flatfile.write_embl,
  parse_location = features.parse_location,
  feature_sequence = features.feature_sequence,
  qualifier = features.qualifier,

  gff3 = gff3.gff3,
  read_gff3 = gff3.read_gff3,
  parse_gff3 = gff3.parse_gff3,
  format_gff3 = gff3.format_gff3,
  write_gff3 = gff3.write_gff3,

  count_quality = quality.count_quality,
  merge_quality = quality.merge_quality,
  quality_figures = quality.quality_figures,

  trim = trim.trim,
  pairs = trim.pairs,
  trim_pairs = trim.trim_pairs,

  new_pileup = pileup.new_pileup,
  merge_pileups = pileup.merge_pileups,
  coverage = pileup.coverage,
  variants = pileup.variants,
  sam_writer = sam.sam_writer,

  -- Counting is of sequences as such, and in bio_compute.
  count_kmers = bio_compute.count_kmers,

  summarize = summary.summarize,
}
