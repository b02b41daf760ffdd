--- Work on one checked, single-stranded sequence of IUPAC letters.

local strand = {}

local PARTNERS = {
  A = "T", C = "G", G = "C", T = "A",
  R = "Y", Y = "R", S = "S", W = "W", K = "M", M = "K",
  B = "V", V = "B", D = "H", H = "D", N = "N",
}
local COMPLEMENTS = { dna = {}, rna = { A = "U", a = "u", U = "A", u = "a" } }
for letter, partner in pairs(PARTNERS) do
  for _, map in pairs(COMPLEMENTS) do
    map[letter] = map[letter] or partner
    map[letter:lower()] = map[letter:lower()] or partner:lower()
  end
end

--- How often each letter occurs, upper and lower case together.
-- @return table with `A`, `C`, `G`, `T`, `N` and `other`, the sum of all further
--   ambiguity codes; these are listed one by one in the table `ambiguous`
function strand.base_counts(sequence)
  local counts = { A = 0, C = 0, G = 0, T = 0, N = 0, other = 0, ambiguous = {} }
  local rest, seen = sequence:upper(), 0
  for _, letter in ipairs({ "A", "C", "G", "T", "N" }) do
    local _, count = rest:gsub(letter, letter)
    counts[letter], seen = count, seen + count
  end
  counts.other = #sequence - seen
  if counts.other > 0 then
    for letter in rest:gmatch("[^ACGTN]") do
      counts.ambiguous[letter] = (counts.ambiguous[letter] or 0) + 1
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

-- What is none of the letters is noticed on the way, as looking for it takes as long again.
local foreign = false
local REFUSE = {
  __index = function()
    foreign = true
  end,
}
-- Words of five letters are looked up whole. Those of A, C, G and T are kept when they are
-- first asked for; of others there are too many.
local WORDS = {}
for kind, map in pairs(COMPLEMENTS) do
  setmetatable(map, REFUSE)
  WORDS[kind] = setmetatable({}, {
    __index = function(words, word)
      local complement = word:gsub(".", map)
      if not word:find("[^ACGTacgt]") then
        words[word] = complement
      end
      return complement
    end,
  })
end

--- The other strand, read in its own direction; case is kept.
-- @param kind "dna" (default) or "rna"
-- @return string, or nil when the sequence has something else than letters of the kind
function strand.reverse_complement(sequence, kind)
  kind = kind or "dna"
  local whole = #sequence - #sequence % 5
  local reversed = sequence:reverse()
  foreign = false
  local complement = reversed:sub(1, whole):gsub(".....", WORDS[kind])
  local rest = reversed:sub(whole + 1):gsub(".", COMPLEMENTS[kind])
  return not foreign and complement .. rest or nil
end

-- LuaJIT compiles loops over bytes, but neither `gsub` nor what makes strings of parts.
if type(jit) == "table" and jit.status() then
  local has_ffi, ffi = pcall(require, "ffi")
  if has_ffi then
    local by_byte = {}
    for kind, map in pairs(COMPLEMENTS) do
      by_byte[kind] = ffi.new("uint8_t[256]") -- 0 for what is no letter
      for letter, partner in pairs(map) do
        by_byte[kind][letter:byte()] = partner:byte()
      end
    end

    function strand.reverse_complement(sequence, kind)
      local map, length = by_byte[kind or "dna"], #sequence
      local letters, complement = ffi.cast("const uint8_t *", sequence), ffi.new("uint8_t[?]", length)
      for position = 0, length - 1 do
        local partner = map[letters[position]]
        if partner == 0 then
          return nil
        end
        complement[length - 1 - position] = partner
      end
      return ffi.string(complement, length)
    end
  end
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
