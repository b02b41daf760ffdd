local here = arg[0]:match("^(.*[/\\])") or "./"
package.path = here .. "../src/?.lua;" .. here .. "../../bio_compute/src/?.lua;"
  .. here .. "../../spec/?.lua;" .. package.path

local harness = require("harness")
local equal, fails_with, test = harness.equal, harness.fails_with, harness.test
local bio = require("bio_sequence_analysis")
local bio_compute = require("bio_compute")

local TWO = "@r1 first\nACGT\n+\nIIII\n@r2\nGGNTA\n+r2\n!!#I~\n"
local TWO_RECORDS = {
  { id = "r1", description = "first", sequence = "ACGT", quality = "IIII", variant = "sanger" },
  { id = "r2", description = "", sequence = "GGNTA", quality = "!!#I~", variant = "sanger" },
}

local PACKED = "\031\139\008\000\000\000\000\000\002\003\179\075\084\168\224\114\116\118\015\065\198\092\000\049\179\218\194\022\000\000\000"

test("parse_fastq reads plain, wrapped and DOS records", function()
  equal(bio.parse_fastq(TWO), TWO_RECORDS)
  equal(bio.parse_fastq((TWO:gsub("\n", "\r\n"))), TWO_RECORDS)
  equal(bio.parse_fastq("@r1 first\nAC\nGT\n+\nII\nII\n\n@r2\nGGN\nTA\n+r2\n!!#\nI~\n"), TWO_RECORDS)
  equal(bio.parse_fastq("\n" .. TWO:sub(1, -2) .. "\n\n"), TWO_RECORDS)
  equal(bio.parse_fastq(""), {})
  -- Qualities may begin with the letters that begin titles.
  equal(bio.parse_fastq("@a\nAC\nGT\n+\n@I\n+I\n")[1].quality, "@I+I")
  equal(bio.parse_fastq("@empty\n\n+\n\n@b\nA\n+\nI\n")[2].id, "b")
end)

test("parse_fastq refuses what is cut short or contradicts itself", function()
  fails_with("FASTQ: record 1, line 1: a record begins with a line that starts with '@'", bio.parse_fastq, "ACGT\n")
  fails_with("FASTQ: record 1, line 1: this looks like FASTA: read it with bio_sequence_analysis.fasta",
    bio.parse_fastq, ">a\nACGT\n")
  fails_with("FASTQ: record 1, line 4: 3 qualities for 2 letters: they must be as many", bio.parse_fastq, "@a\nAC\n+\nIII\n")
  fails_with("FASTQ: record 2, line 7: the file ends within this record: 0 qualities for 1 letters",
    bio.parse_fastq, "@a\nA\n+\nI\n@b\nA\n+\n")
  fails_with("FASTQ: record 1, line 3: the title after '+' is not that after '@'", bio.parse_fastq, "@a\nA\n+b\nI\n")
  fails_with("FASTQ: record 1, line 4: byte 32 at position 2 of the quality does not exist in the variant sanger",
    bio.parse_fastq, "@a\nAC\n+\nI \n")
  fails_with("FASTQ: record 1, line 4: byte 35 at position 1 of the quality does not exist in the variant illumina: "
    .. "this may be a file of the variant sanger", bio.parse_fastq, "@a\nA\n+\n#\n", { variant = "illumina" })
  fails_with("bio_sequence_analysis.parse_fastq: unknown variant 'phred': use sanger, solexa or illumina",
    bio.parse_fastq, "", { variant = "phred" })
end)

test("format_fastq writes what parse_fastq reads, in any variant", function()
  equal(bio.parse_fastq(bio.format_fastq(TWO_RECORDS)), TWO_RECORDS)
  equal(bio.format_fastq({ TWO_RECORDS[1] }, { variant = "illumina" }), "@r1 first\nACGT\n+\nhhhh\n")
  equal(bio.convert_quality("!I", "sanger", "solexa"), ";h")
  equal(bio.convert_quality(";h", "solexa", "sanger"), "\"I")
  equal(bio.convert_quality("~", "sanger", "illumina"), "~")
  fails_with("bio_sequence_analysis.format_fastq: record 2 has 1 qualities for 2 letters: they must be as many",
    bio.format_fastq, { TWO_RECORDS[1], { id = "x", sequence = "AC", quality = "I" } })
end)

test("writers take records one at a time, iterators stream through", function()
  local path = os.tmpname()
  local writer = bio.fastq_writer(path)
  for _, record in ipairs(TWO_RECORDS) do
    writer:write(record)
  end
  writer:close()
  equal(bio.read_fastq(path), TWO_RECORDS)
  bio.write_fasta(path .. ".fa", bio.fastq(path))
  equal(bio.read_fasta(path .. ".fa")[2].sequence, "GGNTA")
  os.remove(path)
  os.remove(path .. ".fa")
end)

test("gzip is decompressed on the way, and refused when it is damaged", function()
  equal(bio.parse_fasta(PACKED), { { id = "a", description = "x", sequence = ("ACGT"):rep(4) } })
  -- Several members, as bgzip writes them.
  equal(#bio.parse_fasta(PACKED .. PACKED), 2)
  local function damaged(reason, text)
    fails_with("FASTA: this gzip data cannot be decompressed: " .. reason, bio.parse_fasta, text)
  end
  for length = 3, #PACKED - 1 do
    damaged("it ends too early", PACKED:sub(1, length))
  end
  damaged("its checksum is wrong", PACKED:sub(1, -9) .. string.char((PACKED:byte(-8) + 1) % 256) .. PACKED:sub(-7))
  damaged("its length is wrong", PACKED:sub(1, -5) .. "\1\0\0\0")
  damaged("there is something else after its end", PACKED .. "more")
end)

-- How many records an iterator gives. After its end there is none, however often it is asked.
local function drained(next_record)
  local count = 0
  while next_record() do
    count = count + 1
  end
  for _ = 1, 3 do
    equal(next_record(), nil)
  end
  return count
end

local EVERY_READER = {}
for name, options in pairs({ fasta = {}, fasta_pieces = { size = 8 }, fastq = {}, genbank = {}, embl = {}, gff3 = {}, trim = {} }) do
  EVERY_READER[name] = function(source)
    return drained((bio[name](source, options)))
  end
end
for _, name in ipairs({ "read_fasta", "read_fastq", "read_genbank", "read_embl", "read_gff3" }) do
  EVERY_READER[name] = function(source)
    return #bio[name](source)
  end
end
for _, name in ipairs({ "pairs", "trim_pairs" }) do
  EVERY_READER[name] = function(source)
    return drained((bio[name](source, source)))
  end
end
function EVERY_READER.count_quality(source)
  return bio.count_quality(source).reads
end
function EVERY_READER.summarize(source)
  return bio.summarize(source).records
end

test("files of no byte and of one byte are read or refused like any other, by path and by handle", function()
  local path = os.tmpname()
  local none = "bio_sequence_analysis.summarize: there is no FASTA record: a record begins with a line that starts with '>'"
  local function has(text, outcomes)
    local file = assert(io.open(path, "wb"))
    file:write(text)
    file:close()
    for name, read in pairs(EVERY_READER) do
      local expected = outcomes[name] or outcomes.others
      local handle = assert(io.open(path, "rb"))
      for _, source in ipairs({ path, handle }) do
        local _, found = pcall(read, source)
        if type(found) == "string" then
          found = found:gsub("^.-: ([rl])", "%1") -- what the file is called
        end
        equal({ name, text, io.type(source), found }, { name, text, io.type(source), expected })
      end
      equal(io.type(handle), "file")
      handle:close()
    end
  end
  local no_gff = "line 1: GFF3 begins with the line '##gff-version 3'"
  has("", { others = 0, summarize = none })
  has("\n", { others = 0, summarize = none, gff3 = no_gff, read_gff3 = no_gff })

  local headless = "line 1: sequence before the first header: a record begins with a line that starts with '>'"
  local no_locus, no_id = "record 1, line 1: a record begins with a line LOCUS", "record 1, line 1: a record begins with a line ID"
  local refused = {
    fasta = headless, fasta_pieces = headless, read_fasta = headless, summarize = headless,
    genbank = no_locus, read_genbank = no_locus, embl = no_id, read_embl = no_id, gff3 = no_gff, read_gff3 = no_gff,
    others = "record 1, line 1: a record begins with a line that starts with '@'",
  }
  has("A", refused)
  has("\31", refused) -- the first byte of gzip
  for _, name in ipairs({ "fasta", "fasta_pieces", "read_fasta", "summarize" }) do
    refused[name] = 1 -- a header alone is an empty record
  end
  refused.others = "record 1, line 1: this looks like FASTA: read it with bio_sequence_analysis.fasta"
  has(">", refused)
  os.remove(path)
end)

test("an object with lines is not asked again after its end", function()
  local source = { lines = function()
    local lines, at = { ">a", "ACGT" }, 0
    return function()
      at = at + 1
      if at > #lines + 1 then
        error("asked after the end")
      end
      return lines[at]
    end
  end }
  equal(drained((bio.fasta(source))), 1)
  equal(drained((bio.fasta_pieces(source, { size = 2 }))), 2)
end)

test("counts of quality made apart and merged are those of the whole", function()
  local records = {}
  for number = 1, 9 do
    local length = number * 7 % 23 + 3
    records[number] = { id = "r" .. number, sequence = ("ACGTN"):rep(6):sub(1, length), quality = ("#5I?!B"):rep(5):sub(1, length) }
  end
  local whole = bio.quality_figures(bio.count_quality(records, { positions = 20 }))
  local one = bio.count_quality({ records[1], records[2], records[3] }, { positions = 20 })
  local rest = bio.count_quality({ records[4], records[5], records[6], records[7], records[8], records[9] }, { positions = 20 })
  equal(bio.quality_figures(bio.merge_quality({ one, rest })), whole)
  equal(#whole.positions, 20)
  equal({ whole.reads, whole.min_length, whole.max_length }, { 9, 6, 24 })
  fails_with("bio_sequence_analysis.merge_quality: part 2 has 5 positions and the first has 20: count all with the same",
    bio.merge_quality, { one, bio.count_quality(records, { positions = 5 }) })
end)

test("quality_figures of a file made by hand", function()
  local figures = bio.quality_figures(bio.count_quality({
    { id = "a", sequence = "ACGT", quality = "I5?!" }, -- 40, 20, 30, 0
    { id = "b", sequence = "GN-", quality = "III" },
  }))
  equal({ figures.bases, figures.mean_length, figures.n50, figures.gaps }, { 7, 3.5, 4, 1 })
  equal({ figures.q20, figures.q30 }, { 6 / 7, 5 / 7 })
  equal({ figures.gc, figures.gc_of_all, figures.n }, { 3 / 5, 3 / 7, 1 / 7 })
  equal(figures.positions[1], { bases = 2, mean = 40, low = 40, q1 = 40, median = 40, q3 = 40, high = 40 })
  equal({ figures.positions[2].mean, figures.positions[2].median }, { 30, 20 })
  -- Solexa and Illumina letters are counted as the Phred qualities that they mean.
  equal(bio.quality_figures(bio.count_quality({ { id = "a", sequence = "A", quality = "h", variant = "illumina" } })).mean_quality, 40)
  equal(bio.quality_figures(bio.count_quality({})), { reads = 0, bases = 0, gaps = 0, positions = {} })
end)

test("memory is that of a record, whatever the size of the file", function()
  local given = 0
  local source = { lines = function()
    local record = { "@read", ("ACGT"):rep(50), "+", ("I"):rep(200) }
    return function()
      given = given + 1
      return given <= 40000 and record[(given - 1) % 4 + 1] or nil
    end
  end }
  local first, last
  local counts = bio.count_quality(bio.trim(bio.fastq(source), { head = 1 }))
  equal({ counts.reads, counts.lengths }, { 10000, { [199] = 10000 } })
  given = 0
  for _ in bio.fastq(source) do
    if given % 8000 == 0 then
      collectgarbage()
      collectgarbage()
      last = collectgarbage("count")
      first = first or last
    end
  end
  if last - first > 32 then
    error(string.format("grew from %d to %d KiB", first, last))
  end
end)

local function trimmed(quality, options)
  local kept = bio.trim({ { id = "r", sequence = ("ACGT"):rep(10):sub(1, #quality), quality = quality } }, options)()
  return kept and kept.quality or nil
end

test("trim cuts and filters in the order that it tells", function()
  equal(trimmed("ABCDEF", { head = 1, tail = 2 }), "BCD")
  equal(trimmed("IIII####", { tail_quality = 20 }), "IIII")
  equal(trimmed("IIII##I##", { tail_quality = 20 }), "IIII")
  equal(trimmed("########", { tail_quality = 20 }), nil)
  equal(trimmed("IIIIII####IIII", { window_quality = 20 }), "IIIIII")
  equal(trimmed("IIII", { max_n = 0 }), "IIII")
  equal(trimmed("IIII", { min_length = 5 }), nil)
  equal(trimmed("IIII", { max_length = 3 }), nil)
  equal(trimmed("II##", { min_quality = 22 }), nil)
  local each, _, counts = bio.trim(bio.parse_fastq(TWO), { max_n = 0, min_length = 4 })
  equal({ each().id, each() }, { "r1" })
  equal(counts, { read = 2, kept = 1, max_n = 1 })
  fails_with("bio_sequence_analysis.trim: unknown option 'quality': use head, max_length, max_n, min_length, min_quality, "
    .. "tail, tail_quality, variant, window, window_quality", bio.trim, {}, { quality = 20 })
end)

test("pairs stay together, and files that are no pairs are refused", function()
  local function reads(names, quality)
    local records = {}
    for name in names:gmatch("%S+") do
      records[#records + 1] = { id = name, sequence = "ACGT", quality = quality }
    end
    return records
  end
  local kept = {}
  for one, other in bio.trim_pairs(reads("a/1 b/1", "IIII"), reads("a/2 b/2", "IIII"), { min_quality = 20 }) do
    kept[#kept + 1] = one.id .. other.id
  end
  equal(kept, { "a/1a/2", "b/1b/2" })
  local each, _, counts = bio.trim_pairs(reads("a b", "IIII"), reads("a b", "####"), { min_quality = 20 })
  equal({ each(), counts.kept, counts.min_quality }, { nil, 0, 2 })
  fails_with("bio_sequence_analysis.pairs: record 1: the first file has 'a' and the second file has 'b': these are no pair",
    bio.pairs(reads("a", "IIII"), reads("b", "IIII")))
  each = bio.pairs(reads("a", "IIII"), reads("a b", "IIII"))
  each()
  fails_with("bio_sequence_analysis.pairs: record 2: the first file ends here and the second file goes on: "
    .. "pairs need files of the same length", each)
end)

local function random_bases(length, seed)
  local letters = {}
  for position = 1, length do
    seed = (seed * 16807) % 2147483647
    local at = math.floor(seed / 1000) % 4 + 1
    letters[position] = ("ACGT"):sub(at, at)
  end
  return table.concat(letters)
end

test("variants that a genome has are called, with place and letters, and no others", function()
  local genome = random_bases(3000, 41)
  local other = { A = "C", C = "G", G = "T", T = "A" }
  local before, at500 = genome:sub(1, 499), genome:sub(500, 500)
  local changed = before .. other[at500] .. genome:sub(501, 1200) .. genome:sub(1204, 2000) .. "ACGT" .. genome:sub(2001)
  local references = { { id = "genome", sequence = genome } }
  local index = bio_compute.index(references)
  local whole, parts = bio.new_pileup(references), { bio.new_pileup(references), bio.new_pileup(references) }
  local count = 0
  for start = 1, #changed - 99, 7 do
    count = count + 1
    local sequence = changed:sub(start, start + 99)
    if count % 2 == 0 then
      sequence = bio_compute.reverse_complement(sequence)
    end
    local record = { id = "r" .. start, sequence = sequence, quality = ("I"):rep(100) }
    local placement = index:place(record.sequence, record.quality)
    whole:add(placement, record)
    parts[count % 2 + 1]:add(placement, record)
  end
  local merged = bio.merge_pileups({ parts[1].counts, parts[2].counts })
  equal(merged, whole.counts)
  local calls = bio.variants(merged, { min_fraction = 0.6 })
  equal(#calls, 3)
  equal({ calls[1].position, calls[1].ref, calls[1].alt, calls[1].fraction }, { 500, at500, other[at500], 1 })
  equal(calls[1].forward > 0 and calls[1].reverse > 0 and calls[1].quality > 100, true)
  -- A gap may stand at several places with the same result: what counts is the genome it makes.
  equal({ #calls[2].alt - #calls[2].ref, #calls[3].alt - #calls[3].ref }, { -3, 4 })
  local rebuilt = genome
  for number = 3, 1, -1 do
    local call = calls[number]
    equal(rebuilt:sub(call.position, call.position + #call.ref - 1), call.ref)
    rebuilt = rebuilt:sub(1, call.position - 1) .. call.alt .. rebuilt:sub(call.position + #call.ref)
  end
  equal(rebuilt == changed, true)
  local coverage = bio.coverage(merged)[1]
  equal({ coverage.id, coverage.length, coverage.reads, coverage.uncovered }, { "genome", 3000, count, 3 }) -- the deleted ones
end)

test("coverage counts bases, not deletions", function()
  local pileup = bio.new_pileup({ { id = "g", sequence = "ACGTACGT" } })
  pileup:add({ reference = "g", position = 2, strand = "+", cigar = "2M2D1M" }, { sequence = "CGC" })
  equal(pileup.counts[1].depth, { 0, 1, 1, 0, 0, 1, 0, 0 })
  equal(bio.coverage(pileup.counts)[1], { id = "g", length = 8, reads = 1, mean = 3 / 8, max = 1, uncovered = 5, breadth = 3 / 8 })
  equal(pileup.counts[1].alleles, { ["3 GTA G"] = { 1, 0 } })
end)

test("sam_writer writes placed and unplaced reads", function()
  local lines = {}
  local writer = bio.sam_writer({ write = function(_, text)
    lines[#lines + 1] = text
    return true
  end }, { { id = "g", sequence = "ACGTACGT" } })
  writer:write({ id = "r", sequence = "GTAA", quality = "ABCD" },
    { reference = "g", position = 3, strand = "-", cigar = "4M", penalty = 6, second = 9 })
  writer:write({ id = "s", sequence = "GT", quality = "AB" }, nil)
  writer:close()
  equal(table.concat(lines), "@HD\tVN:1.6\tSO:unknown\n@SQ\tSN:g\tLN:8\n"
    .. "r\t16\tg\t3\t255\t4M\t*\t0\t0\tTTAC\tDCBA\tAS:i:-6\tXS:i:-9\n"
    .. "s\t4\t*\t0\t0\t*\t*\t0\t0\tGT\tAB\n")
end)

harness.finish()
