--- One sequence, or two: composition, strands, translation, ORFs, motifs, alignment, placement.
--
-- A sequence is a string of the IUPAC letters ACGTRYSWKMBDHVN, upper or lower case; RNA and
-- proteins where the function says so.
-- Positions are 1-based and inclusive. Anything else is refused with `error`, and
-- the message names the place, the reason and the remedy.

local align = require("bio_compute.align")
local check = require("bio_compute.check")
local composition = require("bio_compute.composition")
local genetic_code = require("bio_compute.genetic_code")
local kmers = require("bio_compute.kmers")
local melting = require("bio_compute.melting")
local motifs = require("bio_compute.motifs")
local orfs = require("bio_compute.orfs")
local placement = require("bio_compute.placement")
local strand = require("bio_compute.strand")
local weight = require("bio_compute.weight")

local bio_compute = {
  _VERSION = "0.1.0",

  gc_windows = composition.gc_windows,
  letter_counts = composition.letter_counts,
  molecular_weight = weight.molecular_weight,
  melting_temperature = melting.melting_temperature,

  count_kmers = kmers.count_kmers,

  find_motif = motifs.find_motif,
  enzymes = motifs.enzymes,
  restriction_sites = motifs.restriction_sites,
  digest = motifs.digest,

  align = align.align,
  align_score = align.align_score,
  matrix_names = align.matrix_names,

  index = placement.index,
}

local TRANSLATE_OPTIONS = { table = true, frame = true, to_stop = true }
local FRAMES = { [1] = true, [2] = true, [3] = true, [-1] = true, [-2] = true, [-3] = true }

--- Tells whether a value is a sequence, without raising an error.
-- @param sequence any value
-- @param kind "dna" (default), "rna" or "protein"
-- @return true, or nil, a message and, for an unknown character, its position
function bio_compute.validate(sequence, kind)
  local problem, position = check.problem_of(sequence, check.kind("bio_compute.validate", kind))
  if problem then
    return nil, problem, position
  end
  return true
end

--- Counts the letters of a sequence, upper and lower case together.
-- @param sequence string
-- @return table with the numbers `A`, `C`, `G`, `T`, `N`, `other` (the sum of all
--   further IUPAC codes) and the table `ambiguous` (those codes one by one)
function bio_compute.base_counts(sequence)
  check.sequence("bio_compute.base_counts", sequence)
  return strand.base_counts(sequence)
end

--- The GC content as a fraction between 0 and 1: G and C among A, C, G and T.
-- Ambiguous letters, S and W too, are counted on neither side.
-- @param sequence string
-- @return number, or nil when the sequence has none of A, C, G and T
function bio_compute.gc_content(sequence)
  check.sequence("bio_compute.gc_content", sequence)
  return strand.gc_content(strand.base_counts(sequence))
end

--- The reverse complement; IUPAC codes are complemented too, case is kept.
-- @param sequence string
-- @param kind "dna" (default) or "rna"
-- @return string
function bio_compute.reverse_complement(sequence, kind)
  local caller = "bio_compute.reverse_complement"
  kind = check.kind(caller, kind)
  if kind == "protein" then
    error(caller .. ": a protein has no complement: use dna or rna", 0)
  end
  local complement = type(sequence) == "string" and strand.reverse_complement(sequence, kind)
  if not complement then
    check.letters(caller, sequence, kind) -- says what is wrong
  end
  return complement
end

local TO_RNA, TO_DNA = { T = "U", t = "u" }, { U = "T", u = "t" }

--- The RNA with the sequence of a coding strand: U for T, case is kept.
-- @param sequence string of DNA
-- @return string
function bio_compute.transcribe(sequence)
  check.sequence("bio_compute.transcribe", sequence)
  return (sequence:gsub("[Tt]", TO_RNA))
end

--- The DNA of an RNA: T for U, case is kept.
-- @param sequence string of RNA
-- @return string
function bio_compute.back_transcribe(sequence)
  check.letters("bio_compute.back_transcribe", sequence, "rna")
  return (sequence:gsub("[Uu]", TO_DNA))
end

--- Translates a sequence, stops as `*`; a last incomplete codon is left out.
-- An ambiguous codon gives the amino acid that all its readings share, otherwise
-- B (D or N), Z (E or Q), J (I or L) or X (anything).
-- @param sequence string
-- @param options table or nil: `table`, the NCBI number of the genetic code
--   (default 1); `frame`, one of 1, 2, 3 or -1, -2, -3, counted from the 5' end of
--   the strand that is read (default 1); `to_stop`, true to end before the first
--   stop (default false)
-- @return string
function bio_compute.translate(sequence, options)
  check.sequence("bio_compute.translate", sequence)
  options = check.options("bio_compute.translate", options, TRANSLATE_OPTIONS)
  local code = check.table("bio_compute.translate", options.table)
  local frame = options.frame == nil and 1 or options.frame
  if not FRAMES[frame] then
    error(string.format("bio_compute.translate: unknown frame %s: use 1, 2, 3, -1, -2 or -3", tostring(frame)), 0)
  end
  local read = frame > 0 and sequence or strand.reverse_complement(sequence)
  local protein = strand.translate(read:upper(), math.abs(frame), code)
  if options.to_stop then
    protein = protein:match("^[^*]*")
  end
  return protein
end

--- Finds open reading frames in all six frames of a linear sequence.
--
-- An ORF runs from a START codon to the last codon before the next in-frame STOP,
-- or to the last whole codon when the sequence ends first. The START nearest to the
-- preceding STOP is taken, so ORFs of one frame never overlap. This is what EMBOSS
-- `getorf -find 1` reports.
-- @param sequence string
-- @param options table or nil: `table`, the NCBI number of the genetic code
--   (default 1); `min_length`, in nucleotides from START to the last codon before
--   STOP (default 30); `start_codons`, an array of codons, or "table" for all
--   initiation codons of the genetic code (default {"ATG"})
-- @return array, ordered by place, of tables with `start` and `stop` (positions on
--   the given strand, start < stop, the STOP codon left out), `strand` ("+" or
--   "-"), `frame` (1, 2, 3, -1, -2, -3, from the 5' end of its strand), `length`
--   (nucleotides), `complete` (false when no STOP follows) and `protein`
function bio_compute.find_orfs(sequence, options)
  check.sequence("bio_compute.find_orfs", sequence)
  local search = check.orf_search("bio_compute.find_orfs", options)
  return orfs.find(sequence:upper(), search)
end

--- Everything about one sequence.
-- @param sequence string
-- @param options table or nil: those of `find_orfs`
-- @return table with `length` (nucleotides), `counts` (see `base_counts`), `gc`
--   (fraction, see `gc_content`), `reverse_complement`, `translation` (frame 1),
--   `orfs` (see `find_orfs`) and `genetic_code` (`id` and `name` of the code used)
function bio_compute.analyze_dna(sequence, options)
  check.sequence("bio_compute.analyze_dna", sequence)
  local search = check.orf_search("bio_compute.analyze_dna", options)
  local upper = sequence:upper()
  local counts = strand.base_counts(sequence)
  return {
    length = #sequence,
    counts = counts,
    gc = strand.gc_content(counts),
    reverse_complement = strand.reverse_complement(sequence),
    translation = strand.translate(upper, 1, search.code),
    orfs = orfs.find(upper, search),
    genetic_code = { id = search.code.id, name = search.code.name },
  }
end

--- The genetic codes that `table` options accept.
-- @return array of tables with `id` (NCBI number) and `name`, by number
function bio_compute.genetic_codes()
  local codes = {}
  for _, id in ipairs(genetic_code.ids()) do
    codes[#codes + 1] = { id = id, name = genetic_code.get(id).name }
  end
  return codes
end

return bio_compute
