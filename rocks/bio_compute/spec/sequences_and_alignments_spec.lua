local here = arg[0]:match("^(.*[/\\])") or "./"
package.path = here .. "../src/?.lua;" .. here .. "../../spec/?.lua;" .. package.path

local harness = require("harness")
local equal, fails_with, test = harness.equal, harness.fails_with, harness.test
local bio = require("bio_compute")

local function rounded(value, places)
  return string.format("%." .. (places or 2) .. "f", value)
end

local function random_bases(length, seed)
  local letters = {}
  for position = 1, length do
    seed = (seed * 16807) % 2147483647
    local at = math.floor(seed / 1000) % 4 + 1
    letters[position] = ("ACGT"):sub(at, at)
  end
  return table.concat(letters)
end

test("RNA and proteins have alphabets of their own", function()
  equal(bio.validate("ACGU", "rna"), true)
  equal(bio.validate("MKV*", "protein"), true)
  equal({ bio.validate("ACGT", "rna") },
    { nil, "unknown character 'T' at position 4 of the sequence: this looks like DNA, transcribe it first", 4 })
  fails_with("bio_compute.validate: unknown kind 'dnaa': use dna, rna or protein", bio.validate, "A", "dnaa")
  equal(bio.transcribe("ATGt"), "AUGu")
  equal(bio.back_transcribe("AUGu"), "ATGt")
  equal(bio.reverse_complement("AUGCRn", "rna"), "nYGCAU")
  fails_with("bio_compute.reverse_complement: a protein has no complement: use dna or rna",
    bio.reverse_complement, "MK", "protein")
  equal(bio.letter_counts("MKKa*", "protein"), { A = 1, K = 2, M = 1, ["*"] = 1 })
end)

test("gc_windows cuts a sequence, the last window may be shorter", function()
  local windows = bio.gc_windows("GGGCAAAANNGC", { window = 4 })
  equal(#windows, 3)
  equal({ windows[1].start, windows[1].stop, windows[1].gc, windows[1].skew }, { 1, 4, 1, 0.5 })
  equal({ windows[2].gc, windows[2].skew, windows[2].cumulative_skew }, { 0, 0, 0.5 })
  equal({ windows[3].start, windows[3].stop, windows[3].gc, windows[3].skew }, { 9, 12, 1, 0 })
  equal(#bio.gc_windows("ACGTACGTAC", { window = 4, step = 2 }), 4)
  equal(bio.gc_windows("NNNN")[1].gc, nil)
  equal(bio.gc_windows(""), {})
end)

-- What the letters stand for.
local FORMULAS = {
  dna = { A = "C10H14N5O6P", C = "C9H14N3O7P", G = "C10H14N5O7P", T = "C10H15N2O8P" },
  rna = { A = "C10H14N5O7P", C = "C9H14N3O8P", G = "C10H14N5O8P", U = "C9H13N2O9P" },
  protein = {
    A = "C3H7NO2", C = "C3H7NO2S", D = "C4H7NO4", E = "C5H9NO4", F = "C9H11NO2", G = "C2H5NO2", H = "C6H9N3O2",
    I = "C6H13NO2", K = "C6H14N2O2", L = "C6H13NO2", M = "C5H11NO2S", N = "C4H8N2O3", O = "C12H21N3O3",
    P = "C5H9NO2", Q = "C5H10N2O3", R = "C6H14N4O2", S = "C3H7NO3", T = "C4H9NO3", U = "C3H7NO2Se",
    V = "C5H11NO2", W = "C11H12N2O2", Y = "C9H11NO3",
  },
}
local AVERAGE = { H = 1.00794, C = 12.0107, N = 14.0067, O = 15.9994, P = 30.973762, S = 32.065, Se = 78.96 }
local MONOISOTOPIC = {
  H = 1.00782503, C = 12, N = 14.0030740, O = 15.9949146, P = 30.9737616, S = 31.9720707, Se = 79.9165213,
}

test("the weight of every letter is that of its formula", function()
  local function demand(letter, kind, monoisotopic, atoms, most)
    local sum = 0
    for atom, count in FORMULAS[kind][letter]:gmatch("(%u%l?)(%d*)") do
      sum = sum + atoms[atom] * (tonumber(count) or 1)
    end
    local weight = bio.molecular_weight(letter, { kind = kind, monoisotopic = monoisotopic })
    if math.abs(weight - sum) > most then
      error(string.format("%s of %s: %f, and its formula has %f", letter, kind, weight, sum))
    end
  end
  for kind, letters in pairs(FORMULAS) do
    for letter in pairs(letters) do
      demand(letter, kind, false, AVERAGE, 6e-5) -- the weights have four digits, and six
      demand(letter, kind, true, MONOISOTOPIC, 4e-6)
    end
  end
end)

test("molecular_weight adds the letters and takes a water for each bond", function()
  equal(rounded(bio.molecular_weight("AGC")), "949.61")
  equal(rounded(bio.molecular_weight("AGC", { kind = "dna", double_stranded = true })), "1890.21")
  equal(rounded(bio.molecular_weight("mk", { kind = "protein" })), "277.38")
  equal(bio.molecular_weight(""), 0)
  fails_with("bio_compute.molecular_weight: 'N' at position 2 has no weight: replace ambiguity codes and stops first",
    bio.molecular_weight, "ANC")
  fails_with("bio_compute.molecular_weight: a protein has no other strand: leave double_stranded out",
    bio.molecular_weight, "MK", { kind = "protein", double_stranded = true })
end)

test("melting_temperature names its methods", function()
  equal(bio.melting_temperature("ACGTTGCAAT", { method = "Wallace1979" }), 28)
  local primer = "CGTTCCAAAGATGTGGGCATGAGCTTAC"
  equal(rounded(bio.melting_temperature(primer)), "60.32")
  equal(rounded(bio.melting_temperature((primer:gsub("T", "U")))), "60.32")
  fails_with("bio_compute.melting_temperature: 'N' at position 3 is ambiguous: use A, C, G and T",
    bio.melting_temperature, "ACNGT")
  fails_with("bio_compute.melting_temperature: the sequence must have two letters at least", bio.melting_temperature, "A")
  fails_with("bio_compute.melting_temperature: unknown method 'Wallace': use Allawi1997, Breslauer1986, Freier1986, "
    .. "MarmurDoty1962, Primer3Plus, QuikChange, SantaLucia2004, Schildkraut1965, Sugimoto1996, VonAhsen2001, "
    .. "Wallace1979, Wetmur1991, Wetmur1991Hybrid, Wetmur1991RNA, Xia1998",
    bio.melting_temperature, "ACGT", { method = "Wallace" })
  fails_with("bio_compute.melting_temperature: the salt correction SantaLucia1998 needs ions: give na, k, tris or mg",
    bio.melting_temperature, "ACGT", { na = 0 })
  fails_with("bio_compute.melting_temperature: the salt correction Owczarzy2008 needs magnesium: give mg, or take Owczarzy2004",
    bio.melting_temperature, "ACGT", { salt = "Owczarzy2008" })
end)

test("find_motif finds both strands, overlapping, with mismatches", function()
  local found = bio.find_motif("AAAA", "AAA")
  equal({ #found, found[1].start, found[2].start }, { 2, 1, 2 })
  found = bio.find_motif("GGaTTCNN", "GAATC")
  equal({ #found, found[1].start, found[1].stop, found[1].strand, found[1].match }, { 1, 2, 6, "-", "GAAtC" })
  equal(#bio.find_motif("GATC", "GATC"), 2)
  equal(#bio.find_motif("GATC", "GATC", { strand = "+" }), 1)
  equal(#bio.find_motif("GANC", "GATC"), 0)
  equal(#bio.find_motif("GARC", "GANC", { strand = "+" }), 1)
  equal(bio.find_motif("GAAC", "GATC", { mismatches = 1, strand = "+" })[1].mismatches, 1)
  fails_with("bio_compute.find_motif: the motif is no motif: it is empty", bio.find_motif, "ACGT", "")
end)

test("restriction_sites tell both cuts, digest the fragments", function()
  equal(bio.restriction_sites("AAGAATTCAA", "EcoRI"), { EcoRI = { { cut = 3, other_cut = 7, start = 3, strand = "+" } } })
  equal(bio.restriction_sites("AAGAATTCAA", { "BamHI" }), { BamHI = {} })
  equal(bio.digest("AAGAATTCAA", "EcoRI"), { { start = 1, stop = 3, length = 3 }, { start = 4, stop = 10, length = 7 } })
  -- The site of a plasmid may stand over its origin.
  equal(bio.digest("TTCAAAAGAA", "EcoRI"), { { start = 1, stop = 10, length = 10 } })
  equal(bio.digest("TTCAAAAGAA", "EcoRI", { circular = true }), { { start = 9, stop = 8, length = 10 } })
  -- BsaI cuts outside of its site: GGTCTC(1/5).
  equal(bio.restriction_sites("GGTCTCAAAAAAA", "BsaI").BsaI, { { cut = 7, other_cut = 11, start = 1, strand = "+" } })
  equal(bio.restriction_sites("AAAAAAAGAGACC", "BsaI").BsaI, { { cut = 2, other_cut = 6, start = 8, strand = "-" } })
  equal(#bio.enzymes() > 600, true)
  fails_with("bio_compute.restriction_sites: unknown enzyme 'EcoR1': names are as in REBASE, such as EcoRI, with exact case",
    bio.restriction_sites, "ACGT", "EcoR1")
end)

test("align gives the score, the columns and the places", function()
  local found = bio.align("HEAGAWGHEE", "PAWHEAE", { mode = "local", matrix = "BLOSUM62" })
  equal({ found.score, found.a, found.b, found.a_start, found.a_stop, found.b_start, found.b_stop },
    { 18, "AWGHE", "AW-HE", 5, 9, 2, 5 })
  equal({ found.cigar, found.length, found.identities, found.similar, found.gaps }, { "2M1I2M", 5, 4, 4, 1 })
  found = bio.align("ACGT", "AC", { match = 1, mismatch = -1, gap_open = 2, gap_extend = 1 })
  equal({ found.score, found.a, found.b }, { -1, "ACGT", "AC--" })
  found = bio.align("CCC", "AAACCCAAA", { mode = "fit" })
  equal({ found.score, found.b_start, found.b_stop, found.cigar }, { 15, 4, 6, "3M" })
  found = bio.align("AAACCC", "CCCGGG", { mode = "overlap" })
  equal({ found.score, found.a_start, found.a_stop, found.b_start, found.b_stop }, { 15, 4, 6, 1, 3 })
end)

test("align takes empty sequences and those without anything alike", function()
  equal(bio.align("", "", { mode = "global" }).score, 0)
  equal(bio.align("ACG", "", { mode = "global" }).score, -11)
  equal(bio.align("", "ACG", { mode = "global" }).cigar, "3D")
  equal(bio.align("AAA", "CCC", { mode = "local" }),
    { score = 0, a_start = 0, a_stop = 0, b_start = 0, b_stop = 0, a = "", b = "", cigar = "", length = 0,
      identities = 0, similar = 0, gaps = 0 })
end)

test("the band that align takes by itself loses nothing, a narrow one does", function()
  local long = random_bases(240, 17)
  local shifted = long:sub(1, 60) .. long:sub(151)
  local found = bio.align(long, shifted)
  equal(found.score, 5 * #shifted - 10 - 0.5 * 89)
  equal(found.gaps, 90)
  equal(bio.align_score(long, shifted, { band = #long }), found.score)
  equal(bio.align_score(long .. "A", "T" .. long, { band = 0 }) < bio.align_score(long .. "A", "T" .. long), true)
end)

-- The best score by all cells of three tables, as in the textbook.
local function plain_score(a, b, options)
  local matrix = require("bio_compute.matrices").get(options.matrix)
  local open, extend, mode, never = options.gap_open, options.gap_extend, options.mode, -1e9
  local free_a, free_b = mode == "local" or mode == "overlap", mode ~= "global"
  local best, down, right = {}, {}, {}
  for i = 0, #a do
    best[i], down[i], right[i] = {}, {}, {}
    for j = 0, #b do
      down[i][j] = i > 0 and math.max(down[i - 1][j] - extend, best[i - 1][j] - open) or never
      right[i][j] = j > 0 and math.max(right[i][j - 1] - extend, best[i][j - 1] - open) or never
      local pair = i > 0 and j > 0 and best[i - 1][j - 1] + matrix[a:sub(i, i)][b:sub(j, j)] or never
      local free = i == 0 and j == 0 or mode == "local" or i == 0 and free_b or j == 0 and free_a
      best[i][j] = math.max(pair, down[i][j], right[i][j], free and 0 or never)
    end
  end
  local most = never
  for i = 0, #a do
    for j = 0, #b do
      local ends = i == #a and j == #b or mode == "local" or i == #a and free_b or j == #b and free_a
      most = ends and math.max(most, best[i][j]) or most
    end
  end
  return most
end

-- What the columns of an alignment, and the ends outside of it, score.
local function score_of_columns(found, options)
  local matrix = require("bio_compute.matrices").get(options.matrix)
  local score, gap = 0, nil
  for column = 1, found.length do
    local left, right = found.a:sub(column, column), found.b:sub(column, column)
    local side = left == "-" and "a" or right == "-" and "b" or nil
    score = score + (side and (gap == side and -options.gap_extend or -options.gap_open) or matrix[left][right])
    gap = side
  end
  return score
end

test("align finds the score of the textbook's whole table, and its columns have it", function()
  local seed = 7
  local function random(count)
    seed = (seed * 16807) % 2147483647
    return math.floor(seed / 1000) % count + 1
  end
  local function letter(letters)
    local at = random(#letters)
    return letters:sub(at, at)
  end
  -- Rows are taken eight at a time, so all remainders matter; some penalties have no half numbers.
  local gaps = { { 10, 0.5 }, { 5, 2 }, { 3, 3 }, { 12, 1 }, { 1, 0 }, { 7.3, 0.1 } }
  for round = 1, 30 do
    local matrix = round % 2 == 0 and "EDNAFULL" or "BLOSUM62"
    local letters = matrix == "EDNAFULL" and "ACGT" or "ARNDCQEGHILKMFPSTWYV"
    local left, right = {}, {}
    for position = 1, round % 5 == 0 and 150 or random(40) do
      left[position] = letter(letters)
      local chance = random(100)
      if chance > 8 then
        right[#right + 1] = chance > 70 and letter(letters) or left[position]
      end
      if chance < 14 then
        for _ = 1, random(12) do
          right[#right + 1] = letter(letters)
        end
      end
    end
    local a, b = table.concat(left), table.concat(right)
    if round % 3 == 0 then
      a, b = b, a
    end
    for _, mode in ipairs({ "global", "local", "overlap", "fit" }) do
      local gap = gaps[random(#gaps)]
      local options = { mode = mode, matrix = matrix, gap_open = gap[1], gap_extend = gap[2] }
      local expected = string.format("%.6f", plain_score(a, b, options))
      local found = bio.align(a, b, options)
      equal(string.format("%.6f", found.score), expected)
      equal(string.format("%.6f", bio.align_score(a, b, options)), expected)
      equal(string.format("%.6f", score_of_columns(found, options)), expected)
      equal({ (found.a:gsub("-", "")), (found.b:gsub("-", "")) },
        { a:sub(found.a_start, found.a_stop), b:sub(found.b_start, found.b_stop) })
    end
  end
end)

test("align is exact for matrices that are not symmetric, and for lengths far apart", function()
  local matrix = { A = { A = 5, C = 4 }, C = { A = -4, C = 5 } }
  equal(bio.align("AAAAAAAAAA", "CCCCCCCCCC", { matrix = matrix }).score, 40)
  equal(bio.align("CCCCCCCCCC", "AAAAAAAAAA", { matrix = matrix, gap_open = 100 }).score, -40)
  -- The one gap goes through all strips of rows.
  equal(bio.align(("C"):rep(40) .. "AG", "AG", { gap_open = 7, gap_extend = 1 }).cigar, "40I2M")
  equal(bio.align("AG", "AG" .. ("C"):rep(40), { gap_open = 7, gap_extend = 1 }).cigar, "2M40D")
end)

test("align finds one protein within another, and ends that overlap by a letter", function()
  local before = "IZDSACLPAVRGRTNGGZHNMFVKPTHQRDYPCAKXBDYFVAKDWXRENATKLGNCN"
  local part = "TIPHYMHAALAQQNDNLAWPCTQSSPLRYFNLTSASPRVICENILDQWDMYSFQRHTSCVKGFBKZQISDWGDYMXIDPLPDQGNKBFNYPMFNA"
    .. "FLIPHXRPPLCVBXMMNRHPTDGG"
  local alike = "TIPHYMHAALAQQNDNLAWPCTQSSPLRYFNLTSASPRVICENILDQWDXYSFQRHTSCVKGFBKZTISDWGDYMXIDPLPEAGNKBFNYPMFNA"
    .. "ZLIPHXRPPLCVBXMMNRHPTDGG"
  local options = { matrix = "BLOSUM62", gap_open = 11, gap_extend = 1 }
  local expected = plain_score(part, alike, { mode = "global", matrix = "BLOSUM62", gap_open = 11, gap_extend = 1 })
  for _, mode in ipairs({ "local", "overlap" }) do
    options.mode = mode
    for shift = 0, 7 do -- what may still come is bounded by four letters at a time
      local whole = before:sub(shift + 1) .. alike
      local found = bio.align(whole, part, options)
      equal({ found.score, found.a_start, found.b_start }, { expected, #before - shift + 1, 1 })
      equal(bio.align(part, whole, options).score, expected)
    end
  end
  options = { mode = "overlap", matrix = "PAM30", gap_open = 12, gap_extend = 2 }
  equal(bio.align("DZSZMAHDXNSNPYQMLLXHYKSSTERZDKQSYAIZAMGZIAZBDMEWZLQDSIIVMAWSNK", "APGPNTPWE", options).score, 2)
end)

test("align refuses what it cannot align", function()
  fails_with("bio_compute.align: 'E' at position 2 of the first sequence is not in the matrix EDNAFULL: "
    .. "for proteins take BLOSUM62", bio.align, "HEA", "ACG")
  fails_with("bio_compute.align: unknown matrix 'BLOSUM63': use BLOSUM45, BLOSUM50, BLOSUM62, BLOSUM80, BLOSUM90, "
    .. "EDNAFULL, PAM250, PAM30, PAM70, or a table of tables", bio.align, "A", "A", { matrix = "BLOSUM63" })
  fails_with("bio_compute.align: gap_open (1) is the penalty of a gap's first letter and must be at least gap_extend (2)",
    bio.align, "A", "A", { gap_open = 1, gap_extend = 2 })
  fails_with("bio_compute.align: unknown mode 'glocal': use global, local, overlap or fit",
    bio.align, "A", "A", { mode = "glocal" })
  fails_with("bio_compute.align: the second sequence must be a string, not nil", bio.align, "A")
end)

test("reads are placed on both strands, with mismatches and gaps", function()
  local genome = random_bases(5000, 11)
  local index = bio.index(genome)
  local found = index:place(genome:sub(1001, 1100))
  equal({ found.position, found.last, found.strand, found.penalty, found.cigar, found.unique },
    { 1001, 1100, "+", 0, "100M", true })
  found = index:place(bio.reverse_complement(genome:sub(2001, 2080)):lower())
  equal({ found.position, found.strand, found.penalty }, { 2001, "-", 0 })
  local wrong = genome:sub(3050, 3050) == "A" and "C" or "A"
  found = index:place(genome:sub(3001, 3049) .. wrong .. genome:sub(3051, 3100), ("I"):rep(100))
  equal({ found.position, found.penalty }, { 3001, 6 })
  found = index:place(genome:sub(101, 150) .. genome:sub(161, 220))
  equal({ found.position, found.last, found.penalty }, { 101, 220, 35 })
  equal(found.cigar:match("^%d+M10D%d+M$") ~= nil, true)
  found = index:place(genome:sub(401, 450) .. random_bases(7, 3) .. genome:sub(451, 500))
  equal({ found.position, found.last }, { 401, 500 })
  equal(index:place(random_bases(100, 99)), nil)
  equal(index:place(("N"):rep(50)), nil)
  equal(index:place("ACG"), nil)
end)

test("a read of a repeat is not unique, and no read spans two references", function()
  local part = random_bases(200, 5)
  local index = bio.index({ { id = "one", sequence = random_bases(300, 6) .. part }, { id = "two", sequence = part .. random_bases(300, 8) } })
  local found = index:place(part)
  equal({ found.reference, found.position, found.unique, found.second }, { "one", 301, false, 0 })
  local border = bio.index({ { id = "one", sequence = part:sub(1, 100) }, { id = "two", sequence = part:sub(101) } })
  equal(border:place(part:sub(51, 150)), nil)
  equal(border:place(part:sub(111, 170)).position, 11)
end)

test("index and place refuse what makes no sense", function()
  fails_with("bio_compute.index: the reference has no base: give a sequence or records of FASTA", bio.index, "")
  local index = bio.index("ACGTACGTACGTACGT")
  fails_with("Index:place: the quality must be a string of 4 Sanger letters", index.place, index, "ACGT", "II")
end)

test("counts of k-mers made apart are merged, and tell the length of a genome", function()
  local one, other = bio.count_kmers("ACGTACGT", 3), bio.count_kmers("TTACG", 3)
  local both = bio.count_kmers("ACGTACGT", 3):add("TTACG")
  one:merge(other:state())
  equal(one:stats(), both:stats())
  equal(one:get("ACG"), both:get("ACG"))
  fails_with("KmerCounts:merge: these are counts of k = 4, and those of k = 3", one.merge, one, bio.count_kmers("", 4))
  local genome = random_bases(2000, 21)
  local reads = bio.count_kmers("", 15)
  for _ = 1, 20 do
    reads:add(genome)
  end
  reads:add(random_bases(400, 22))
  local size = reads:genome_size()
  equal({ size.length, size.depth }, { 1986, 20 })
  equal(bio.count_kmers("ACGT", 3):genome_size(), nil)
end)

harness.finish()
