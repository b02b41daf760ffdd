local here = arg[0]:match("^(.*[/\\])") or "./"
package.path = here .. "../src/?.lua;" .. here .. "../../bio_compute/src/?.lua;"
  .. here .. "../../spec/?.lua;" .. package.path

local harness = require("harness")
local equal, fails_with, test = harness.equal, harness.fails_with, harness.test
local bio = require("bio_sequence_analysis")

local function lines_of(text)
  return { lines = function()
    return text:gmatch("([^\n]*)\n")
  end }
end

local GENBANK = [[
LOCUS       TEST1                     24 bp    DNA     circular PHG 01-JAN-2020
DEFINITION  A made-up record,
            of two lines.
ACCESSION   TEST1
VERSION     TEST1.2
KEYWORDS    one; two words.
SOURCE      Nobody
  ORGANISM  Nobody nowhere
            Nothing.
FEATURES             Location/Qualifiers
     source          1..24
                     /organism="Nobody nowhere"
     CDS             complement(join(1..3,
                     >7..9))
                     /gene="abc"
                     /note="says ""yes"", over
                     two lines"
                     /codon_start=1
                     /pseudo
     misc_feature    22..3
ORIGIN
        1 atgaaacccg ggtttaaacc cggg
//
]]

test("genbank reads heads, features with their parts, and sequence", function()
  local record = bio.read_genbank(lines_of(GENBANK))[1]
  equal({ record.id, record.name, record.accession, record.description, record.organism },
    { "TEST1.2", "TEST1", "TEST1", "A made-up record, of two lines", "Nobody nowhere" })
  equal({ record.length, record.topology, record.molecule, record.division, record.date },
    { 24, "circular", "DNA", "PHG", "01-JAN-2020" })
  equal(record.keywords, { "one", "two words" })
  equal(record.sequence, "ATGAAACCCGGGTTTAAACCCGGG")
  local cds = record.features[2]
  equal(cds.location, "complement(join(1..3,>7..9))")
  equal(cds.parts, { { start = 7, stop = 9, strand = "-", partial = true }, { start = 1, stop = 3, strand = "-" } })
  equal(bio.feature_sequence(record, cds), "GGGCAT")
  equal({ bio.qualifier(cds, "gene"), bio.qualifier(cds, "note"), bio.qualifier(cds, "pseudo"), bio.qualifier(cds, "none") },
    { "abc", 'says "yes", over two lines', true })
  -- Over the origin of a circle.
  equal(bio.feature_sequence(record, record.features[3]), "GGGATG")
end)

test("parse_location knows every form", function()
  equal(bio.parse_location("12"), { { start = 12, stop = 12, strand = "+" } })
  equal(bio.parse_location("<1..>9"), { { start = 1, stop = 9, strand = "+", partial = true } })
  equal(bio.parse_location("(1.3)..9")[1].start, 1)
  equal(bio.parse_location("one-of(5,3)..9")[1].start, 3)
  equal(bio.parse_location("5^6")[1].between, true)
  equal(bio.parse_location("J00194.1:1..9")[1].remote, "J00194.1")
  equal(#bio.parse_location("order(1..2,complement(4..5),7)"), 3)
  equal(bio.parse_location("complement(order(1..2,4..5))")[1].start, 4)
  equal(bio.parse_location("join(1..2"), nil)
  equal(bio.parse_location(""), nil)
end)

test("what was read is written the same, and in the other format", function()
  local records = bio.read_genbank(lines_of(GENBANK))
  equal(bio.read_genbank(lines_of(bio.format_genbank(records))), records)
  local embl = bio.read_embl(lines_of(bio.format_embl(records)))
  equal({ embl[1].id, embl[1].description, embl[1].sequence, embl[1].topology },
    { "TEST1.2", "A made-up record, of two lines", records[1].sequence, "circular" })
  equal(embl[1].features, records[1].features)
  equal(bio.read_embl(lines_of(bio.format_embl(embl))), embl)
end)

test("flat files that are cut short or contradict themselves are refused", function()
  local function refused(message, from, to)
    local text = GENBANK:gsub(from, to)
    fails_with("GenBank: record 1, line " .. message, bio.read_genbank, lines_of(text))
  end
  refused("22: the file ends within this record: there is no line '//'", "//\n", "")
  refused("23: the head says 25 letters and the sequence has 24", "24 bp", "25 bp")
  refused("1: the line LOCUS must have a name and a length, such as 'LOCUS NC_005816 9609 bp'", "24 bp", "")
  refused("13: the location 'complement(join(1..3,>7..9)' of the feature CDS is no location", "9%)%)", "9)")
  refused("20: the location '22..3' of the feature misc_feature ends before its start, and the sequence is no circle",
    "circular", "linear  ")
  refused("16: the value of /note has no closing quote", "lines\"", "lines")
  fails_with("EMBL: record 1, line 1: a record begins with a line ID", bio.read_embl, lines_of("AC   X;\n"))
  fails_with("bio_sequence_analysis.format_genbank: record 1 must have an id without white space",
    bio.format_genbank, { { id = "a b", sequence = "" } })
end)

local GFF3 = "##gff-version 3\n##sequence-region chr 1 100\n# a remark\n"
  .. "chr\tme\tgene\t1\t30\t.\t+\t.\tID=g1;Name=a%3Bb;Dbxref=x:1,y:2\n"
  .. "chr\t.\tCDS\t1\t30\t0.5\t-\t0\tParent=g1\n"
  .. "##FASTA\n>chr\nACGT\n"

test("gff3 reads features until sequence follows, and writes them again", function()
  local features = bio.parse_gff3(GFF3)
  equal(features, {
    { seqid = "chr", source = "me", type = "gene", start = 1, stop = 30, strand = "+",
      attributes = { ID = { "g1" }, Name = { "a;b" }, Dbxref = { "x:1", "y:2" } } },
    { seqid = "chr", type = "CDS", start = 1, stop = 30, score = 0.5, strand = "-", phase = 0,
      attributes = { Parent = { "g1" } } },
  })
  equal(bio.format_gff3(features), "##gff-version 3\n"
    .. "chr\tme\tgene\t1\t30\t.\t+\t.\tID=g1;Name=a%3Bb;Dbxref=x:1,y:2\n"
    .. "chr\t.\tCDS\t1\t30\t0.5\t-\t0\tParent=g1\n")
  local path = os.tmpname()
  bio.write_gff3(path, {})
  equal(bio.read_gff3(path), {})
  os.remove(path)
end)

test("gff3 refuses what is no feature", function()
  local function refused(message, line)
    fails_with("GFF3: record 1, line 2: " .. message, bio.parse_gff3, "##gff-version 3\n" .. line .. "\n")
  end
  refused("8 columns: a feature has nine, with tabs between them", "chr\t.\tgene\t1\t2\t.\t+\t.")
  refused("the start 3 is behind the end 2: the strand has a column of its own", "chr\t.\tgene\t3\t2\t.\t+\t.\tID=x")
  refused("'0' is no position: positions are whole numbers from 1 on", "chr\t.\tgene\t0\t2\t.\t+\t.\tID=x")
  refused("'x' is no strand: write +, -, ? or .", "chr\t.\tgene\t1\t2\t.\tx\t.\tID=x")
  refused("'x' is no score: write a number or '.'", "chr\t.\tgene\t1\t2\tx\t+\t.\tID=x")
  refused("a CDS needs a phase: 0, 1 or 2", "chr\t.\tCDS\t1\t2\t.\t+\t.\tID=x")
  refused("the attribute 'ID' has no value: write NAME=VALUE", "chr\t.\tgene\t1\t2\t.\t+\t.\tID")
  fails_with("GFF3: line 1: GFF3 begins with the line '##gff-version 3'", bio.parse_gff3, "chr\n")
  fails_with("bio_sequence_analysis.format_gff3: record 1 must have a start of at least 1 and a stop not before it",
    bio.format_gff3, { { seqid = "c", type = "gene", start = 3, stop = 1 } })
end)

harness.finish()
