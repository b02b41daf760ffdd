--- Open reading frames in the six frames of a linear sequence.
--
-- An ORF runs from a START codon to the last codon before the next STOP codon of
-- its frame, or to the last whole codon when the sequence ends first. The START
-- nearest to the preceding STOP is taken, so that ORFs of one frame never overlap
-- or nest. An ambiguous codon ends an ORF when every codon it stands for is a
-- STOP; it never starts one.

local strand = require("bio_compute.strand")

local orfs = {}

local function scan_frame(sequence, frame, search, emit)
  local is_start, is_stop = search.is_start, search.code.is_stop
  local sub = string.sub
  local first
  local position = frame
  while position <= #sequence - 2 do
    local codon = sub(sequence, position, position + 2)
    if first then
      if is_stop[codon] then
        emit(first, position - 1, true)
        first = nil
      end
    elseif is_start[codon] then
      first = position
    end
    position = position + 3
  end
  if first then
    emit(first, position - 1, false)
  end
end

local function protein_of(sequence, code)
  -- Whatever the START codes for elsewhere, the initiator carries methionine.
  return "M" .. strand.translate(sequence, 4, code)
end

local function by_place(left, right)
  if left.start ~= right.start then
    return left.start < right.start
  elseif left.stop ~= right.stop then
    return left.stop < right.stop
  end
  return left.strand == "+" and right.strand == "-"
end

--- Finds the ORFs of an upper-case sequence.
-- @param sequence string
-- @param search table with `code` (genetic code), `is_start` (set of codons) and
--   `min_length` (nucleotides)
-- @return array of ORFs, by place
function orfs.find(sequence, search)
  local found = {}
  local length = #sequence
  for _, sense in ipairs({ "+", "-" }) do
    local read = sense == "+" and sequence or strand.reverse_complement(sequence)
    for frame = 1, 3 do
      scan_frame(read, frame, search, function(first, last, complete)
        if last - first + 1 < search.min_length then
          return
        end
        found[#found + 1] = {
          start = sense == "+" and first or length - last + 1,
          stop = sense == "+" and last or length - first + 1,
          strand = sense,
          frame = sense == "+" and frame or -frame,
          length = last - first + 1,
          complete = complete,
          protein = protein_of(read:sub(first, last), search.code),
        }
      end)
    end
  end
  table.sort(found, by_place)
  return found
end

return orfs
