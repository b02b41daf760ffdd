local here = arg[0]:match("^(.*[/\\])") or "./"
package.path = here .. "../src/?.lua;" .. here .. "../../spec/?.lua;" .. package.path

local harness = require("harness")
local equal, fails_with, test = harness.equal, harness.fails_with, harness.test
local bio_compute = require("bio_compute")

local IUPAC = "ACGTRYSWKMBDHVN"

test("validate accepts IUPAC letters of both cases and the empty sequence", function()
  equal({ bio_compute.validate(IUPAC .. IUPAC:lower()) }, { true })
  equal({ bio_compute.validate("") }, { true })
end)

test("validate names the character, its position and a remedy", function()
  local function problem(sequence)
    local ok, message, position = bio_compute.validate(sequence)
    return { tostring(ok), message, tostring(position) }
  end
  equal(problem("ACGU"),
    { "nil", "unknown character 'U' at position 4 of the sequence: this looks like RNA, replace U by T first", "4" })
  equal(problem("AC-GT"),
    { "nil", "unknown character '-' at position 3 of the sequence: remove alignment gaps first", "3" })
  equal(problem("AC\nGT"), { "nil", "unknown character byte 10 at position 3 of the sequence: "
    .. "remove white space and line ends, or read FASTA with bio_sequence_analysis", "3" })
  equal(problem("ACGTE"), { "nil", "unknown character 'E' at position 5 of the sequence: "
    .. "use the IUPAC letters ACGTRYSWKMBDHVN only", "5" })
  equal(problem("A\0"), { "nil", "unknown character byte 0 at position 2 of the sequence: "
    .. "use the IUPAC letters ACGTRYSWKMBDHVN only", "2" })
  equal(problem(12), { "nil", "the sequence must be a string, not number", "nil" })
end)

test("base_counts joins the cases and lists ambiguity codes", function()
  equal(bio_compute.base_counts("AaCcCGTTTTNnRrYs"),
    { A = 2, C = 3, G = 1, T = 4, N = 2, other = 4, ambiguous = { R = 2, Y = 1, S = 1 } })
  equal(bio_compute.base_counts(""), { A = 0, C = 0, G = 0, T = 0, N = 0, other = 0, ambiguous = {} })
end)

test("gc_content is a fraction among A, C, G and T", function()
  equal(bio_compute.gc_content("GGCA"), 0.75)
  equal(bio_compute.gc_content("ggcaNNNNSSSSWW"), 0.75)
  equal(bio_compute.gc_content("ATAT") == 0, true)
  equal(bio_compute.gc_content("NNN"), nil)
  equal(bio_compute.gc_content(""), nil)
end)

test("reverse_complement knows IUPAC codes and keeps the case", function()
  equal(bio_compute.reverse_complement("AACGTTTN"), "NAAACGTT")
  equal(bio_compute.reverse_complement("aCgTn"), "nAcGt")
  equal(bio_compute.reverse_complement("RYSWKMBDHVN"), "NBDHVKMWSRY")
  equal(bio_compute.reverse_complement(""), "")
  local both = IUPAC .. IUPAC:lower()
  equal(bio_compute.reverse_complement(bio_compute.reverse_complement(both)), both)
end)

test("translate reads the six frames and leaves out an incomplete codon", function()
  local sequence = "ATGGCCTAAGT"
  equal(bio_compute.translate(sequence), "MA*")
  equal(bio_compute.translate(sequence, { frame = 2 }), "WPK")
  equal(bio_compute.translate(sequence, { frame = 3 }), "GLS")
  equal(bio_compute.translate(sequence, { frame = -1 }), "T*A") -- ACT TAG GCC AT
  equal(bio_compute.translate(sequence, { frame = -2 }), "LRP") -- A CTT AGG CCA T
  equal(bio_compute.translate(sequence, { frame = -3 }), "LGH") -- AC TTA GGC CAT
  equal(bio_compute.translate("atggcc"), "MA")
  equal(bio_compute.translate("AT"), "")
  equal(bio_compute.translate(""), "")
end)

test("translate ends before a stop when asked", function()
  equal(bio_compute.translate("ATGTAAGCC", { to_stop = true }), "M")
  equal(bio_compute.translate("ATGGCC", { to_stop = true }), "MA")
  equal(bio_compute.translate("ATGTAAGCC", { to_stop = false }), "M*A")
end)

test("translate resolves ambiguous codons when their readings agree", function()
  equal(bio_compute.translate("CTNGGNMGRTARTRA"), "LGR**")
  equal(bio_compute.translate("RAYSARATHWTANNNTNNYTN"), "BZIJXXX")
  equal(bio_compute.translate("TAR", { table = 6 }), "Q")
end)

local CODONS = {}
for first in ("ACGT"):gmatch(".") do
  for second in ("ACGT"):gmatch(".") do
    for third in ("ACGT"):gmatch(".") do
      CODONS[#CODONS + 1] = first .. second .. third
    end
  end
end

-- How each code differs from the standard one, as codons and their letters.
local DIFFERENCES = {
  [1] = "",
  [2] = "AGA* AGG* ATAM TGAW",
  [3] = "ATAM CTAT CTCT CTGT CTTT TGAW",
  [4] = "TGAW",
  [5] = "AGAS AGGS ATAM TGAW",
  [6] = "TAAQ TAGQ",
  [9] = "AAAN AGAS AGGS TGAW",
  [10] = "TGAC",
  [11] = "",
  [12] = "CTGS",
  [13] = "AGAG AGGG ATAM TGAW",
  [14] = "AAAN AGAS AGGS TAAY TGAW",
  [15] = "TAGQ",
  [16] = "TAGL",
  [21] = "AAAN AGAS AGGS ATAM TGAW",
  [22] = "TAGL TCA*",
  [23] = "TTA*",
  [24] = "AGAS AGGK TGAW",
  [25] = "TGAG",
  [26] = "CTGA",
  [27] = "TAAQ TAGQ TGAW",
  [28] = "TAAQ TAGQ TGAW",
  [29] = "TAAY TAGY",
  [30] = "TAAE TAGE",
  [31] = "TAAE TAGE TGAW",
  [32] = "TAGW",
  [33] = "AGAS AGGK TAAY TGAW",
}

test("every genetic code differs from the standard one as published", function()
  local known = 0
  for _, code in ipairs(bio_compute.genetic_codes()) do
    known = known + 1
    local found = {}
    for _, codon in ipairs(CODONS) do
      local letter = bio_compute.translate(codon, { table = code.id })
      if letter ~= bio_compute.translate(codon) then
        found[#found + 1] = codon .. letter
      end
    end
    equal({ code.id, table.concat(found, " ") }, { code.id, DIFFERENCES[code.id] })
  end
  equal(known, 27)
  equal(bio_compute.translate("TTTTTCTTATTGCTTATTATGGTTTCTCCTACTGCTTATTAATAGCATCAAAATAAAGATGAATGTTGATGGCGTAGTAGAGGT"),
    "FFLLLIMVSPTAY**HQNKDEC*WRSRG")
end)

-- The initiation codons of each code, as published.
local STARTS = {
  [1] = "ATG CTG TTG",
  [2] = "ATA ATC ATG ATT GTG",
  [3] = "ATA ATG GTG",
  [4] = "ATA ATC ATG ATT CTG GTG TTA TTG",
  [5] = "ATA ATC ATG ATT GTG TTG",
  [6] = "ATG",
  [9] = "ATG GTG",
  [10] = "ATG",
  [11] = "ATA ATC ATG ATT CTG GTG TTG",
  [12] = "ATG CTG",
  [13] = "ATA ATG GTG TTG",
  [14] = "ATG",
  [15] = "ATG",
  [16] = "ATG",
  [21] = "ATG GTG",
  [22] = "ATG",
  [23] = "ATG ATT GTG",
  [24] = "ATG CTG GTG TTG",
  [25] = "ATG GTG TTG",
  [26] = "ATG CTG",
  [27] = "ATG",
  [28] = "ATG",
  [29] = "ATG",
  [30] = "ATG",
  [31] = "ATG",
  [32] = "ATA ATC ATG ATT CTG GTG TTG",
  [33] = "ATG CTG GTG TTG",
}

test("every genetic code starts ORFs with its own initiation codons", function()
  for _, code in ipairs(bio_compute.genetic_codes()) do
    local found = {}
    for _, codon in ipairs(CODONS) do
      local orfs = bio_compute.find_orfs(codon, { table = code.id, min_length = 3, start_codons = "table" })
      if orfs[1] and orfs[1].strand == "+" then
        found[#found + 1] = codon
      end
    end
    equal({ code.id, table.concat(found, " ") }, { code.id, STARTS[code.id] })
  end
end)

local function places(sequence, options)
  local list = {}
  for _, orf in ipairs(bio_compute.find_orfs(sequence, options)) do
    list[#list + 1] = string.format("%d-%d %s%d %s%s", orf.start, orf.stop, orf.strand,
      math.abs(orf.frame), orf.protein, orf.complete and "" or " open")
  end
  return table.concat(list, "; ")
end

test("find_orfs gives every field", function()
  equal(bio_compute.find_orfs("CCCATGCCCTAACC", { min_length = 6 }), { {
    start = 4, stop = 9, strand = "+", frame = 1, length = 6, complete = true, protein = "MP",
  } })
  -- The same read from the other strand: TTACCCCAT is ATG GGG TAA backwards.
  equal(bio_compute.find_orfs("CTTACCCCATC", { min_length = 6 }), { {
    start = 5, stop = 10, strand = "-", frame = -2, length = 6, complete = true, protein = "MG",
  } })
end)

test("find_orfs takes the first START, nests nothing, goes on after a STOP", function()
  equal(places("ATGCCCATGCCCTAAATGCCCCCCTAG", { min_length = 6 }),
    "1-12 +1 MPMP; 3-8 -2 MG open; 16-24 +1 MPP")
end)

test("find_orfs reports ORFs that run off the sequence as incomplete", function()
  equal(places("CATGCCCCC", { min_length = 6 }), "2-7 +2 MP open")
  equal(places("CATGCCCC", { min_length = 6 }), "2-7 +2 MP open")
  equal(places("CATGCCC", { min_length = 6 }), "2-7 +2 MP open")
  equal(places("CATGCC", { min_length = 3 }), "1-3 -1 M open; 2-4 +2 M open")
  equal(places("CCCCCC", { min_length = 1 }), "")
  equal(places("", { min_length = 1 }), "")
  equal(places("AT", { min_length = 1 }), "")
end)

test("find_orfs counts from START to the codon before STOP", function()
  local sequence = "ATG" .. ("CCC"):rep(9) .. "TAA"
  equal(places(sequence, { min_length = 30 }), "1-30 +1 MPPPPPPPPP")
  equal(places(sequence), "1-30 +1 MPPPPPPPPP")
  equal(places(sequence, { min_length = 31 }), "")
  equal(places("ATGTAACC", { min_length = 3 }), "1-3 +1 M")
end)

test("find_orfs handles lower case and ambiguous codons", function()
  equal(places("cccatgcccnnnatgccctaaccc", { min_length = 9 }), "4-18 +1 MPXMP")
  equal(places("ATGCCCTARCCC", { min_length = 3 }), "1-6 +1 MP")
  equal(places("ATGCCCTANCCC", { min_length = 3 }), "1-12 +1 MPXP open")
  equal(places("NTGCCCCCCTAA", { min_length = 3, table = 11, start_codons = "table" }), "")
end)

test("find_orfs starts where start_codons says, always with methionine", function()
  local sequence = "CCCTTGCCAATGCCCTAACC"
  equal(places(sequence, { table = 11, min_length = 6 }), "10-15 +1 MP")
  equal(places(sequence, { table = 11, min_length = 12, start_codons = "table" }), "4-15 +1 MPMP")
  equal(places(sequence, { table = 11, min_length = 12, start_codons = { "ttg" } }), "4-15 +1 MPMP")
  equal(places(sequence, { table = 15, min_length = 6, start_codons = "table" }), "10-15 +1 MP")
end)

test("codons that are stop or amino acid end ORFs and translate to the amino acid", function()
  equal(places("ATGCCCTGACCC", { table = 27, min_length = 3 }), "1-6 +1 MP")
  equal(bio_compute.translate("ATGCCCTGACCC", { table = 27 }), "MPWP")
  equal(places("ATGCCCTGACCC", { table = 31, min_length = 3 }), "1-12 +1 MPWP open")
  equal(places("ATGCCCTAGCCC", { table = 31, min_length = 3 }), "1-6 +1 MP")
end)

test("analyze_dna joins the figures", function()
  local sequence = "ATGGCCnnnTAAg"
  equal(bio_compute.analyze_dna(sequence, { table = 11, min_length = 6 }), {
    length = 13,
    counts = { A = 3, C = 2, G = 3, T = 2, N = 3, other = 0, ambiguous = {} },
    gc = 0.5,
    reverse_complement = "cTTAnnnGGCCAT",
    translation = "MAX*",
    orfs = { {
      start = 1, stop = 9, strand = "+", frame = 1, length = 9, complete = true, protein = "MAX",
    } },
    genetic_code = { id = 11, name = "Bacterial, Archaeal and Plant Plastid" },
  })
  equal(bio_compute.analyze_dna("").length, 0)
  equal(bio_compute.analyze_dna("").gc, nil)
end)

test("wrong arguments are refused with place, reason and remedy", function()
  fails_with("bio_compute.analyze_dna: the sequence must be a string, not nil", bio_compute.analyze_dna)
  fails_with("bio_compute.gc_content: unknown character 'X' at position 3 of the sequence: "
    .. "use the IUPAC letters ACGTRYSWKMBDHVN only", bio_compute.gc_content, "ACX")
  fails_with("bio_compute.base_counts: the sequence must be a string, not table", bio_compute.base_counts, {})
  -- It is looked for on the way, in whole words of letters and in the rest.
  for position = 1, 23 do
    local sequence = ("ACGTN"):rep(4) .. "ACG"
    sequence = sequence:sub(1, position - 1) .. "*" .. sequence:sub(position + 1)
    fails_with("bio_compute.reverse_complement: unknown character '*' at position " .. position .. " of the sequence: "
      .. "use the IUPAC letters ACGTRYSWKMBDHVN only", bio_compute.reverse_complement, sequence)
  end
  fails_with("bio_compute.reverse_complement: the sequence must be a string, not nil", bio_compute.reverse_complement)
  fails_with("bio_compute.translate: unknown genetic code 7: use one of the NCBI numbers 1-6, 9-16, 21-33",
    bio_compute.translate, "ATG", { table = 7 })
  fails_with("bio_compute.find_orfs: unknown genetic code standard: use one of the NCBI numbers 1-6, 9-16, 21-33",
    bio_compute.find_orfs, "ATG", { table = "standard" })
  fails_with("bio_compute.translate: unknown frame 0: use 1, 2, 3, -1, -2 or -3",
    bio_compute.translate, "ATG", { frame = 0 })
  fails_with("bio_compute.translate: unknown option 'tabel': use frame, table, to_stop",
    bio_compute.translate, "ATG", { tabel = 1 })
  fails_with("bio_compute.translate: the options must be a table, not number", bio_compute.translate, "ATG", 11)
  fails_with("bio_compute.find_orfs: min_length must be a whole number of at least 1, not 0",
    bio_compute.find_orfs, "ATG", { min_length = 0 })
  fails_with("bio_compute.analyze_dna: min_length must be a whole number of at least 1, not many",
    bio_compute.analyze_dna, "ATG", { min_length = "many" })
  fails_with("bio_compute.find_orfs: start_codons must be \"table\" or an array of codons "
    .. "such as {\"ATG\", \"GTG\"}, not ATG", bio_compute.find_orfs, "ATG", { start_codons = "ATG" })
  fails_with("bio_compute.find_orfs: start_codons must be \"table\" or an array of codons "
    .. "such as {\"ATG\", \"GTG\"}, not a table without any", bio_compute.find_orfs, "ATG", { start_codons = {} })
  fails_with("bio_compute.find_orfs: start_codons has AUG: a codon is three of the letters A, C, G and T",
    bio_compute.find_orfs, "ATG", { start_codons = { "AUG" } })
  fails_with("bio_compute.find_orfs: start_codons has TGA, a stop in genetic code 1: leave it out",
    bio_compute.find_orfs, "ATG", { start_codons = { "ATG", "TGA" } })
end)

harness.finish()
