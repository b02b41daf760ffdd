local here = arg[0]:match("^(.*[/\\])") or "./"
package.path = here .. "../src/?.lua;" .. here .. "../../bio_compute/src/?.lua;"
  .. here .. "../../spec/?.lua;" .. package.path

local harness = require("harness")
local equal, fails_with, test = harness.equal, harness.fails_with, harness.test
local bio_compute = require("bio_compute")
local bio = require("bio_sequence_analysis")

local function with_file(text, body)
  local path = os.tmpname()
  local handle = assert(io.open(path, "wb"))
  handle:write(text)
  handle:close()
  local ok, problem = pcall(body, path)
  os.remove(path)
  if not ok then
    error(problem, 0)
  end
end

local TWO = ">first the  description \nACGT\nacgtn\n>second\nTT\n"
local TWO_RECORDS = {
  { id = "first", description = "the  description", sequence = "ACGTacgtn" },
  { id = "second", description = "", sequence = "TT" },
}

test("parse_fasta splits headers and joins lines", function()
  equal(bio.parse_fasta(TWO), TWO_RECORDS)
  equal(bio.parse_fasta(TWO:gsub("\n$", "") .. ""), TWO_RECORDS)
end)

test("parse_fasta accepts CRLF, blank lines, spaces in sequences and a byte order mark", function()
  equal(bio.parse_fasta((TWO:gsub("\n", "\r\n"))), TWO_RECORDS)
  equal(bio.parse_fasta("\239\187\191\n\n" .. TWO:gsub("\n", "\n \t\n\n")), TWO_RECORDS)
  equal(bio.parse_fasta("> first  the  description\nAC GT\tacg\ntn \n>second\r\nT\nT"), TWO_RECORDS)
end)

test("parse_fasta keeps empty records and reads no record from nothing", function()
  equal(bio.parse_fasta(">a\n>b\n\n>c x\nA\n>d"), {
    { id = "a", description = "", sequence = "" },
    { id = "b", description = "", sequence = "" },
    { id = "c", description = "x", sequence = "A" },
    { id = "d", description = "", sequence = "" },
  })
  equal(bio.parse_fasta(""), {})
  equal(bio.parse_fasta("\n\r\n"), {})
end)

test("parse_fasta leaves the letters of a sequence alone", function()
  equal(bio.parse_fasta(">protein\nMKV*\n")[1].sequence, "MKV*")
end)

-- A file that gives its text in blocks of some bytes.
local function in_blocks(text, bytes, body)
  with_file(text, function(path)
    local open = io.open
    io.open = function(...)
      local handle = assert(open(...))
      return {
        read = function()
          return handle:read(bytes)
        end,
        close = function()
          return handle:close()
        end,
      }
    end
    local ok, problem = pcall(body, path)
    io.open = open
    if not ok then
      error(problem, 0)
    end
  end)
end

test("fasta_pieces gives the records in pieces, whatever the blocks and the lines", function()
  local text = "\239\187\191\n>a first one\nACGTACGTAC\nGT\r\n\n>empty\n>b\n" .. ("ACGGT"):rep(7) .. "\nA C\n>c\nGG"
  local whole = bio.parse_fasta(text)
  for _, bytes in ipairs({ 3, 4, 7, 11, 64, 1000 }) do
    for _, cut in ipairs({ { 1, 0 }, { 2, 1 }, { 5, 0 }, { 5, 3 }, { 12, 0 }, { 37, 4 }, { 1000, 10 } }) do
      in_blocks(text, bytes, function(path)
        local records, record = {}, nil
        for piece in bio.fasta_pieces(path, { size = cut[1], overlap = cut[2] }) do
          if not record then
            record = { id = piece.id, description = piece.description, sequence = "" }
            records[#records + 1] = record
          end
          local known = #record.sequence - piece.start + 1 -- letters that were in the piece before
          equal(known, record.sequence == "" and 0 or cut[2])
          equal(piece.sequence:sub(1, known), record.sequence:sub(piece.start))
          equal(#piece.sequence <= cut[1] and (piece.is_last or #piece.sequence == cut[1]), true)
          record.sequence = record.sequence .. piece.sequence:sub(known + 1)
          record = not piece.is_last and record or nil
        end
        equal(records, whole)
      end)
    end
  end
end)

test("fasta_pieces counts every k-mer once", function()
  local sequence = ("ACGTTGCANGGATC"):rep(40)
  with_file(">a\n" .. sequence .. "\n>b\nACGTT\n", function(path)
    local counts = bio.count_kmers("", 5)
    for piece in bio.fasta_pieces(path, { size = 100, overlap = 4 }) do
      counts:add(piece.sequence)
    end
    equal(counts:stats(), bio.count_kmers(sequence, 5):add("ACGTT"):stats())
  end)
end)

test("fasta_pieces needs no more memory for a record of any length, on one line or many", function()
  for _, line in ipairs({ ("ACGT"):rep(2000), ("ACGT"):rep(15) .. "\n" }) do
    with_file(">long\n" .. line:rep(math.floor(8e6 / #line)) .. "\n", function(path)
      collectgarbage()
      local before, most, letters = collectgarbage("count"), 0, 0
      for piece in bio.fasta_pieces(path, { size = 50000 }) do
        letters = letters + #piece.sequence
        collectgarbage()
        most = math.max(most, collectgarbage("count") - before)
      end
      equal(letters > 7e6, true)
      equal(most < 1000, true) -- KiB
    end)
  end
end)

test("fasta_pieces refuses what fasta refuses", function()
  local function all(text, options)
    with_file(text, function(path)
      local ok, problem = pcall(function()
        for _ in bio.fasta_pieces(path, options) do
        end
      end)
      error(ok and "accepted" or problem:gsub("^" .. path:gsub("%p", "%%%0"), "FILE"), 0)
    end)
  end
  fails_with("FILE: line 1: sequence before the first header: a record begins with a line that starts with '>'", all, "AC\n>a\n")
  fails_with("FILE: line 1: this looks like FASTQ: read it with bio_sequence_analysis.fastq", all, "@read\nAC\n+\nII\n")
  fails_with("FILE: record 2, line 4: '>' inside a sequence: put each header on a line of its own", all, ">a\nA\n>b\nA>C\n")
  -- Of an object that gives lines, too.
  local lines = { lines = function()
    return ("\239\187\191>a\nAC\nA>\n"):gmatch("([^\n]*)\n")
  end }
  fails_with("FASTA: record 1, line 3: '>' inside a sequence: put each header on a line of its own", function()
    for _ in bio.fasta_pieces(lines) do
    end
  end)
  fails_with("bio_sequence_analysis.fasta_pieces: overlap (5) must be less than size (5)", all, ">a\n", { size = 5, overlap = 5 })
end)

test("parse_fasta refuses what is not FASTA and names the line", function()
  fails_with("FASTA: line 3: sequence before the first header: "
    .. "a record begins with a line that starts with '>'", bio.parse_fasta, "\n\nACGT\n>a\n")
  fails_with("FASTA: line 1: this looks like FASTQ: read it with bio_sequence_analysis.fastq", bio.parse_fasta, "@read\nACGT\n+\nIIII\n")
  fails_with("FASTA: this gzip data cannot be decompressed: it ends too early",
    bio.parse_fasta, "\31\139\8\0\n")
  fails_with("FASTA: record 1, line 2: '>' inside a sequence: put each header on a line of its own",
    bio.parse_fasta, ">a\nACGT>b\nACGT\n")
  fails_with("FASTA: line 1: the line ends are single carriage returns: convert them to line feeds first",
    bio.parse_fasta, ">a\rACGT\r")
  fails_with("bio_sequence_analysis.parse_fasta: the text must be a string, not nil", bio.parse_fasta)
end)

test("read_fasta reads a path and an open file alike", function()
  with_file(TWO, function(path)
    equal(bio.read_fasta(path), TWO_RECORDS)
    local handle = io.open(path, "rb")
    equal(bio.read_fasta(handle), TWO_RECORDS)
    equal(io.type(handle), "file")
    handle:close()
    fails_with("bio_sequence_analysis.read_fasta: a path or an open file is needed, not closed file",
      bio.read_fasta, handle)
  end)
end)

test("read_fasta names the file that it refuses", function()
  with_file("ACGT", function(path)
    fails_with(path .. ": line 1: sequence before the first header: "
      .. "a record begins with a line that starts with '>'", bio.read_fasta, path)
    fails_with("bio_sequence_analysis.read_fasta: cannot open the file: "
      .. path .. "/none: Not a directory", bio.read_fasta, path .. "/none")
  end)
  fails_with("bio_sequence_analysis.read_fasta: a path or an open file is needed, not nil", bio.read_fasta)
end)

test("fasta hands out one record at a time", function()
  local lines_read = 0
  local source = {
    lines = function()
      local next_line = TWO:gmatch("([^\n]*)\n")
      return function()
        lines_read = lines_read + 1
        return next_line()
      end
    end,
  }
  local next_record = bio.fasta(source)
  equal(next_record(), TWO_RECORDS[1])
  equal(lines_read, 4)
  equal(next_record(), TWO_RECORDS[2])
  equal(next_record(), nil)
  equal(next_record(), nil)
  with_file(TWO, function(path)
    local ids = {}
    for record in bio.fasta(path) do
      ids[#ids + 1] = record.id
    end
    equal(ids, { "first", "second" })
  end)
  fails_with("bio_sequence_analysis.fasta: a path or an open file is needed, not number", bio.fasta, 42)
end)

test("format_fasta wraps sequences and can be read back", function()
  equal(bio.format_fasta(TWO_RECORDS, { width = 4 }), ">first the  description\nACGT\nacgt\nn\n>second\nTT\n")
  equal(bio.format_fasta(TWO_RECORDS, { width = 0 }), ">first the  description\nACGTacgtn\n>second\nTT\n")
  local long = ("ACGTA"):rep(24)
  equal(bio.format_fasta({ { id = "x", sequence = long } }), ">x\n" .. long:sub(1, 60) .. "\n" .. long:sub(61) .. "\n")
  equal(bio.format_fasta({ { id = "x", sequence = "" } }, { width = 0 }), ">x\n")
  equal(bio.format_fasta({}), "")
  equal(bio.parse_fasta(bio.format_fasta(TWO_RECORDS, { width = 1 })), TWO_RECORDS)
end)

test("write_fasta writes to a path and to an open file", function()
  with_file("", function(path)
    bio.write_fasta(path, TWO_RECORDS, { width = 5 })
    equal(bio.read_fasta(path), TWO_RECORDS)
    local handle = io.open(path, "ab")
    bio.write_fasta(handle, { { id = "third", sequence = "A" } })
    equal(io.type(handle), "file")
    handle:close()
    equal(bio.read_fasta(path)[3], { id = "third", description = "", sequence = "A" })
  end)
  local full = {
    write = function()
      return nil, "No space left on device"
    end,
  }
  fails_with("bio_sequence_analysis.write_fasta: cannot write: No space left on device",
    bio.write_fasta, full, TWO_RECORDS)
end)

test("records that cannot be read back are not written", function()
  local name = "bio_sequence_analysis.format_fasta: "
  fails_with(name .. "the records must be an array or an iterator, not string", bio.format_fasta, "ACGT")
  fails_with(name .. "record 2 must be a table with the strings id and sequence",
    bio.format_fasta, { TWO_RECORDS[1], { id = "x" } })
  fails_with(name .. "record 1 must have an id without white space: put further words into description",
    bio.format_fasta, { { id = "a b", sequence = "" } })
  fails_with(name .. "record 1 has a line end in its description: remove it",
    bio.format_fasta, { { id = "a", description = "x\n>y", sequence = "" } })
  fails_with(name .. "record 1 has white space or '>' in its sequence: remove it",
    bio.format_fasta, { { id = "a", sequence = "AC\nGT" } })
  fails_with(name .. "width must be a whole number of at least 0, not -1",
    bio.format_fasta, TWO_RECORDS, { width = -1 })
  fails_with(name .. "unknown option 'widht': use width", bio.format_fasta, TWO_RECORDS, { widht = 1 })
end)

local function listed(counts)
  local all = {}
  for kmer, count in counts:each() do
    all[#all + 1] = kmer .. " " .. count
  end
  table.sort(all)
  return table.concat(all, "; ")
end

test("count_kmers counts windows of A, C, G and T in both cases", function()
  equal(listed(bio.count_kmers("ACGTACg", 3)), "ACG 2; CGT 1; GTA 1; TAC 1")
  equal(listed(bio.count_kmers("ACNGTRAACC", 2)), "AA 1; AC 2; CC 1; GT 1")
  equal(listed(bio.count_kmers("ACG", 1)), "A 1; C 1; G 1")
  equal(listed(bio.count_kmers("ACG", 4)), "")
  equal(listed(bio.count_kmers("", 4)), "")
end)

test("canonical counts join the strands under the alphabetically first k-mer", function()
  equal(listed(bio.count_kmers("ACGTACG", 3, { canonical = true })), "ACG 3; GTA 2")
  equal(listed(bio.count_kmers("TTTT", 2, { canonical = true })), "AA 3")
end)

test("windows never span two records", function()
  local records = bio.parse_fasta(">a\nACG\n>b\nTAC\n")
  equal(listed(bio.count_kmers(records, 3)), "ACG 1; TAC 1")
  equal(listed(bio.count_kmers("ACG", 3):add("TAC")), "ACG 1; TAC 1")
end)

-- Counts in the most obvious way, to compare with.
local function counted_plainly(sequence, k, canonical)
  local counts = {}
  sequence = sequence:upper()
  for first = 1, #sequence - k + 1 do
    local kmer = sequence:sub(first, first + k - 1)
    if not kmer:find("[^ACGT]") then
      local reverse = bio_compute.reverse_complement(kmer)
      if canonical and reverse < kmer then
        kmer = reverse
      end
      counts[kmer] = (counts[kmer] or 0) + 1
    end
  end
  return counts
end

test("every k gives the counts of the obvious way, around the change at 26 too", function()
  local letters, state = {}, 7
  for position = 1, 600 do
    state = (state * 16807) % 2147483647
    letters[position] = (("ACGTacgtACGTACGTACGTACGTACGTACGTACGTACGTACGTN"):sub(state % 45 + 1, state % 45 + 1))
  end
  -- Repeats, so that long k-mers occur more than once, on either strand.
  local part = table.concat(letters)
  local sequence = part .. "TTTTGGGGCCCCAAAA" .. part .. ("T"):rep(60) .. bio_compute.reverse_complement(part)
  for _, k in ipairs({ 1, 2, 3, 5, 11, 16, 17, 24, 25, 26, 27, 28, 31, 32, 40, 55 }) do
    for _, canonical in ipairs({ false, true }) do
      local counts = bio.count_kmers(sequence, k, { canonical = canonical })
      local expected = counted_plainly(sequence, k, canonical)
      local actual, total = {}, 0
      for kmer, count in counts:each() do
        actual[kmer] = count
        total = total + count
        if counts:get(kmer) ~= count then
          error("get and each disagree on " .. kmer)
        end
      end
      equal(actual, expected)
      equal(counts.total, total)
    end
  end
end)

test("get joins the strands of canonical counts and gives 0 for what is absent", function()
  local counts = bio.count_kmers("ACGTACG", 3, { canonical = true })
  equal({ counts:get("CGT"), counts:get("acg"), counts:get("AAA") }, { 3, 3, 0 })
  equal(bio.count_kmers("ACGTACG", 3):get("CGT"), 1)
  local long = ("ACGT"):rep(8)
  equal(bio.count_kmers(long, 32, { canonical = true }):get(long), 1)
  fails_with("KmerCounts:get: a string of 3 letters A, C, G and T is needed, not ACGT",
    counts.get, counts, "ACGT")
  fails_with("KmerCounts:get: a string of 3 letters A, C, G and T is needed, not ANT", counts.get, counts, "ANT")
end)

test("spectrum, stats and top agree with a list made by hand", function()
  local counts = bio.count_kmers("AAAAACCG", 2) -- AA 4, AC 1, CC 1, CG 1
  equal(counts:spectrum(), { [1] = 3, [4] = 1 })
  equal(counts:stats(), { unique = 3, distinct = 4, total = 7, max = 4 })
  equal(counts:top(2), { { kmer = "AA", count = 4 }, { kmer = "AC", count = 1 } })
  equal(#counts:top(), 4)
  equal(bio.count_kmers("", 2):stats(), { unique = 0, distinct = 0, total = 0, max = 0 })
  equal(bio.count_kmers("", 2):top(), {})
end)

test("count_kmers refuses wrong arguments", function()
  local name = "bio_compute.count_kmers: "
  fails_with(name .. "k must be a whole number of at least 1, not 0", bio.count_kmers, "ACGT", 0)
  fails_with(name .. "k must be a whole number of at least 1, not 2.5", bio.count_kmers, "ACGT", 2.5)
  fails_with(name .. "k must be a whole number of at least 1, not nil", bio.count_kmers, "ACGT")
  fails_with(name .. "the sequence must be a string, not nil", bio.count_kmers, nil, 3)
  fails_with(name .. "unknown option 'canon': use canonical", bio.count_kmers, "ACGT", 3, { canon = true })
  fails_with(name .. "record 2: unknown character 'U' at position 1 of the sequence: "
    .. "this looks like RNA, replace U by T first", bio.count_kmers, bio.parse_fasta(">a\nA\n>b\nU\n"), 1)
end)

test("summarize adds up the records", function()
  local orf = "ATG" .. ("CCA"):rep(9) .. "TAA"
  local records = bio.parse_fasta(">a\n" .. orf .. "\n>b\nNNNNGGGGR\n>empty\n")
  local summary = bio.summarize(records, { min_length = 30, k = 4 })
  equal(summary, {
    records = 3, length = 42, orfs = 2, table = 11, min_length = 30,
    counts = { A = 12, C = 18, G = 5, T = 2, N = 4, other = 1 },
    gc = 23 / 37,
    kmers = { k = 4, unique = 7, distinct = 10, total = 31, max = 8 },
  })
  equal(tostring(summary), table.concat({
    "records             3",
    "length              42 bp",
    "GC content          62.16 %",
    "ORFs                2 (at least 30 nt, genetic code 11)",
    "canonical 4-mers    7 unique, 10 distinct, 31 total, max count 8",
  }, "\n"))
end)

test("summarize gives the same for a path, an open file and records", function()
  local text = ">long\n" .. ("ACGTTGCAGG"):rep(1234) .. "\n"
  local expected = tostring(bio.summarize(bio.parse_fasta(text)))
  equal(expected:match("length%s+(%S+)"), "12,340")
  with_file(text, function(path)
    equal(tostring(bio.summarize(path)), expected)
    local handle = io.open(path, "rb")
    equal(tostring(bio.summarize(handle)), expected)
    handle:close()
  end)
end)

test("summarize refuses what makes no summary", function()
  fails_with("bio_sequence_analysis.summarize: there is no FASTA record: "
    .. "a record begins with a line that starts with '>'", bio.summarize, {})
  fails_with("bio_sequence_analysis.summarize: record 2 (x): unknown character 'U' at position 4 of the sequence: "
    .. "this looks like RNA, replace U by T first", bio.summarize, bio.parse_fasta(">a\nACGT\n>x\nACGU\n"))
  fails_with("bio_compute.find_orfs: unknown genetic code 7: use one of the NCBI numbers 1-6, 9-16, 21-33",
    bio.summarize, {}, { table = 7 })
  fails_with("bio_sequence_analysis.summarize: unknown option 'kmer': use k, min_length, start_codons, table",
    bio.summarize, {}, { kmer = 3 })
  equal(tostring(bio.summarize(bio.parse_fasta(">a\nNNN"))):match("GC content%s+([^\n]+)"),
    "undefined (no A, C, G or T)")
end)

harness.finish()
