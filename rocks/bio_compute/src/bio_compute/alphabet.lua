--- The alphabets of IUPAC (Cornish-Bowden 1985, Nucleic Acids Research 13:3021; for proteins
-- IUPAC-IUB 1984, with `*` for a stop).

local alphabet = {}

-- The bases that each nucleotide letter stands for.
alphabet.EXPANSIONS = {
  A = "A", C = "C", G = "G", T = "T",
  R = "AG", Y = "CT", S = "CG", W = "AT", K = "GT", M = "AC",
  B = "CGT", D = "AGT", H = "ACT", V = "ACG", N = "ACGT",
}

local KINDS = {
  dna = { letters = "ACGTRYSWKMBDHVN", foreign = "[^ACGTRYSWKMBDHVNacgtryswkmbdhvn]" },
  rna = { letters = "ACGURYSWKMBDHVN", foreign = "[^ACGURYSWKMBDHVNacguryswkmbdhvn]" },
  protein = { letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ*", foreign = "[^%a%*]" },
}

-- The letters of the Latin alphabet that an alphabet lacks, in both cases.
for _, kind in pairs(KINDS) do
  kind.missing = {}
  for letter in ("ABCDEFGHIJKLMNOPQRSTUVWXYZ"):gmatch(".") do
    if not kind.letters:find(letter, 1, true) then
      kind.missing[#kind.missing + 1] = letter
      kind.missing[#kind.missing + 1] = letter:lower()
    end
  end
end

--- The letters of an alphabet, and the pattern of what is none of them; nil for an unknown one.
function alphabet.get(kind)
  return KINDS[kind]
end

--- Whether a string is surely of an alphabet: looking for one letter at a time is many times
-- faster than for any of a set. Stops in proteins are left to `foreign`.
function alphabet.is_plain(sequence, kind)
  if not sequence:find("^%a*$") then
    return false
  end
  for _, letter in ipairs(KINDS[kind].missing) do
    if sequence:find(letter, 1, true) then
      return false
    end
  end
  return true
end

-- Whether every base that one letter stands for is among those of another.
local function within(inner, outer)
  for base in alphabet.EXPANSIONS[inner]:gmatch(".") do
    if not alphabet.EXPANSIONS[outer]:find(base, 1, true) then
      return false
    end
  end
  return true
end

local matching = {}

--- The letters, in both cases, that a letter of a motif matches: R matches A, G and R.
function alphabet.matched_by(letter)
  if not matching[letter] then
    local letters = {}
    for other in pairs(alphabet.EXPANSIONS) do
      if within(other, letter) then
        letters[#letters + 1] = other .. other:lower()
      end
    end
    table.sort(letters)
    matching[letter] = table.concat(letters)
  end
  return matching[letter]
end

return alphabet
