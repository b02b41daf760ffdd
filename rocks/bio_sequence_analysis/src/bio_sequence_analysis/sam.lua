--- Writing placed reads as SAM (version 1.6), for samtools and genome browsers.

local bio_compute = require("bio_compute")
local output = require("bio_sequence_analysis.output")

local sam = {}

local UNPLACED, REVERSE = 4, 16

--- Opens a SAM file, to which reads are given one at a time.
--
-- The mapping quality is 255, which SAM has for "not known"; the penalty is told, negative, as
-- the tag AS, and that of the next best place as XS.
-- @param target string (path of a file, which is replaced), open file, or any object with a
--   `write` method; what is open already stays open
-- @param references array of records with `id` and `sequence`, for the header
-- @return table with the methods `write(record, placement)`, where a `placement` of nil
--   writes an unplaced read, and `close()`
function sam.sam_writer(target, references)
  local caller = "bio_sequence_analysis.sam_writer"
  local write, close = output.open(caller, target)
  write("@HD\tVN:1.6\tSO:unknown\n")
  for _, reference in ipairs(references) do
    write(string.format("@SQ\tSN:%s\tLN:%d\n", reference.id, #reference.sequence))
  end
  local writer = {}
  function writer.write(_, record, placement)
    local sequence, quality = record.sequence, record.quality or "*"
    if not placement then
      write(table.concat({ record.id, UNPLACED, "*", 0, 0, "*", "*", 0, 0, sequence, quality }, "\t") .. "\n")
      return
    end
    local flag = 0
    if placement.strand == "-" then
      flag, sequence, quality = REVERSE, bio_compute.reverse_complement(sequence), quality:reverse()
    end
    local line = table.concat({
      record.id, flag, placement.reference, string.format("%d", placement.position), 255, placement.cigar,
      "*", 0, 0, sequence, quality, string.format("AS:i:%d", -placement.penalty),
    }, "\t")
    if placement.second then
      line = line .. string.format("\tXS:i:%d", -placement.second)
    end
    write(line .. "\n")
  end
  function writer.close()
    close()
  end
  return setmetatable(writer, { __close = close })
end

return sam
