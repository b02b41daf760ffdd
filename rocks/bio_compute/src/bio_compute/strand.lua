--- Work on one checked, single-stranded sequence of IUPAC letters.

local strand = {}

local COMPLEMENT = {}
for letter, partner in pairs({
  A = "T", C = "G", G = "C", T = "A",
  R = "Y", Y = "R", S = "S", W = "W", K = "M", M = "K",
  B = "V", V = "B", D = "H", H = "D", N = "N",
}) do
  COMPLEMENT[letter] = partner
  COMPLEMENT[letter:lower()] = partner:lower()
end

--- How often each letter occurs, upper and lower case together.
-- @return table with `A`, `C`, `G`, `T`, `N` and `other`, the sum of all further
--   ambiguity codes; these are listed one by one in the table `ambiguous`
function strand.base_counts(sequence)
  local by_byte = {}
  local byte = string.byte
  for position = 1, #sequence do
    local value = byte(sequence, position)
    by_byte[value] = (by_byte[value] or 0) + 1
  end
  local counts = { A = 0, C = 0, G = 0, T = 0, N = 0, other = 0, ambiguous = {} }
  for value, count in pairs(by_byte) do
    local letter = string.char(value):upper()
    if counts[letter] then
      counts[letter] = counts[letter] + count
    else
      counts.other = counts.other + count
      counts.ambiguous[letter] = (counts.ambiguous[letter] or 0) + count
    end
  end
  return counts
end

--- The fraction of G and C among A, C, G and T, or nil when there is none of them.
function strand.gc_content(counts)
  local known = counts.A + counts.C + counts.G + counts.T
  if known == 0 then
    return nil
  end
  return (counts.G + counts.C) / known
end

--- The other strand, read in its own direction; case is kept.
function strand.reverse_complement(sequence)
  return (sequence:reverse():gsub(".", COMPLEMENT))
end

--- The protein of an upper-case sequence, from `first` on; a last incomplete codon
-- is left out.
function strand.translate(sequence, first, code)
  local amino_acid_of = code.amino_acid_of
  local protein = {}
  for position = first, #sequence - 2, 3 do
    protein[#protein + 1] = amino_acid_of[sequence:sub(position, position + 2)]
  end
  return table.concat(protein)
end

return strand
