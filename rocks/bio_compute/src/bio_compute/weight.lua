--- Molecular weights.

local check = require("bio_compute.check")
local strand = require("bio_compute.strand")

local weight = {}

local OPTIONS = { kind = true, double_stranded = true, circular = true, monoisotopic = true }

-- Of the 5' monophosphates and the free amino acids, in Da; a bond sets one water free. Sums of their
-- formulas, of atoms as the comment of `molecular_weight` tells; the specs add them up.
local AVERAGE = {
  water = 18.0153,
  dna = { A = 331.2218, C = 307.1971, G = 347.2212, T = 322.2085 },
  rna = { A = 347.2212, C = 323.1965, G = 363.2206, U = 324.1813 },
  protein = {
    A = 89.0932, C = 121.1582, D = 133.1027, E = 147.1293, F = 165.1891, G = 75.0666, H = 155.1546,
    I = 131.1729, K = 146.1876, L = 131.1729, M = 149.2113, N = 132.1179, O = 255.3134, P = 115.1305,
    Q = 146.1445, R = 174.201, S = 105.0926, T = 119.1192, U = 168.0532, V = 117.1463, W = 204.2252,
    Y = 181.1885,
  },
}
local MONOISOTOPIC = {
  water = 18.010565,
  dna = { A = 331.06817, C = 307.056936, G = 347.063084, T = 322.056602 },
  rna = { A = 347.063084, C = 323.051851, G = 363.057999, U = 324.035867 },
  protein = {
    A = 89.047678, C = 121.019749, D = 133.037508, E = 147.053158, F = 165.078979, G = 75.032028,
    H = 155.069477, I = 131.094629, K = 146.105528, L = 131.094629, M = 149.051049, N = 132.053492,
    O = 255.158292, P = 115.063329, Q = 146.069142, R = 174.111676, S = 105.042593, T = 119.058243,
    U = 168.964203, V = 117.078979, W = 204.089878, Y = 181.073893,
  },
}

local function chain(caller, sequence, weights, water, circular)
  local sum = 0
  for position = 1, #sequence do
    local letter = sequence:sub(position, position)
    local of_letter = weights[letter]
    if not of_letter then
      error(string.format("%s: '%s' at position %d has no weight: replace ambiguity codes and stops first",
        caller, letter, position), 0)
    end
    sum = sum + of_letter
  end
  return sum - (#sequence - (circular and 0 or 1)) * water
end

--- The molecular weight of a sequence.
--
-- The sum of the 5' monophosphates (of the free amino acids for proteins) less one water for
-- each bond, so that a linear nucleic acid has a 5' phosphate. Average isotopes by default:
-- the standard atomic weights of IUPAC as of 2007 (H 1.00794, C 12.0107, N 14.0067, O 15.9994,
-- P 30.973762, S 32.065, Se 78.96). Monoisotopic: 1H 1.007825, 12C 12, 14N 14.003074, 16O 15.994915,
-- 31P 30.973762, 32S 31.972071, 80Se 79.916521.
-- @param sequence string without ambiguity codes, in any case
-- @param options table or nil: `kind`, "dna" (default), "rna" or "protein";
--   `double_stranded`, true to add the other strand (nucleic acids); `circular`, true for a
--   ring; `monoisotopic`, true for the most frequent isotope of each element
-- @return number in Da (g/mol), 0 for an empty sequence
function weight.molecular_weight(sequence, options)
  local caller = "bio_compute.molecular_weight"
  options = check.options(caller, options, OPTIONS)
  local kind = check.kind(caller, options.kind)
  check.letters(caller, sequence, kind)
  if options.double_stranded and kind == "protein" then
    error(caller .. ": a protein has no other strand: leave double_stranded out", 0)
  elseif sequence == "" then
    return 0
  end
  local tables = options.monoisotopic and MONOISOTOPIC or AVERAGE
  sequence = sequence:upper()
  local sum = chain(caller, sequence, tables[kind], tables.water, options.circular)
  if options.double_stranded then
    local other = strand.reverse_complement(sequence, kind)
    sum = sum + chain(caller, other, tables[kind], tables.water, options.circular)
  end
  return sum
end

return weight
