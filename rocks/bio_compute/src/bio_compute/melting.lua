--- Melting temperatures of short nucleic acids, by named methods.

local check = require("bio_compute.check")

local melting = {}

local OPTIONS = {
  method = true, na = true, k = true, tris = true, mg = true, dntp = true,
  strand = true, other_strand = true, self_complementary = true, salt = true,
}

local GAS_CONSTANT = 1.987 -- cal/(mol K)
local KELVIN = 273.15

-- Nearest neighbours: enthalpy in kcal/mol and entropy in cal/(mol K) of two stacked pairs, by
-- the 5' to 3' letters of the strand; a stack is the same read from its other strand.
-- `start` is for the duplex, with or without any G or C, `ends_at` and `ends_gc` for each end.
local STACKS = {
  Breslauer1986 = {
    start = { 0, 0 }, with_gc = { 0, -16.8 }, without_gc = { 0, -20.1 }, symmetry = { 0, -1.3 },
    AA = { -9.1, -24.0 }, AT = { -8.6, -23.9 }, TA = { -6.0, -16.9 }, CA = { -5.8, -12.9 }, GT = { -6.5, -17.3 },
    CT = { -7.8, -20.8 }, GA = { -5.6, -13.5 }, CG = { -11.9, -27.8 }, GC = { -11.1, -26.7 }, GG = { -11.0, -26.6 },
  },
  Sugimoto1996 = {
    start = { 0.6, -9.0 }, symmetry = { 0, -1.4 },
    AA = { -8.0, -21.9 }, AT = { -5.6, -15.2 }, TA = { -6.6, -18.4 }, CA = { -8.2, -21.0 }, GT = { -9.4, -25.5 },
    CT = { -6.6, -16.4 }, GA = { -8.8, -23.5 }, CG = { -11.8, -29.0 }, GC = { -10.5, -26.4 }, GG = { -10.9, -28.4 },
  },
  Allawi1997 = {
    start = { 0, 0 }, ends_at = { 2.3, 4.1 }, ends_gc = { 0.1, -2.8 }, symmetry = { 0, -1.4 },
    AA = { -7.9, -22.2 }, AT = { -7.2, -20.4 }, TA = { -7.2, -21.3 }, CA = { -8.5, -22.7 }, GT = { -8.4, -22.4 },
    CT = { -7.8, -21.0 }, GA = { -8.2, -22.2 }, CG = { -10.6, -27.2 }, GC = { -9.8, -24.4 }, GG = { -8.0, -19.9 },
  },
  SantaLucia2004 = {
    start = { 0.2, -5.7 }, ends_at = { 2.2, 6.9 }, symmetry = { 0, -1.4 },
    AA = { -7.6, -21.3 }, AT = { -7.2, -20.4 }, TA = { -7.2, -21.3 }, CA = { -8.5, -22.7 }, GT = { -8.4, -22.4 },
    CT = { -7.8, -21.0 }, GA = { -8.2, -22.2 }, CG = { -10.6, -27.2 }, GC = { -9.8, -24.4 }, GG = { -8.0, -19.9 },
  },
  Freier1986 = {
    start = { 0, -10.8 }, symmetry = { 0, -1.4 },
    AA = { -6.6, -18.4 }, AT = { -5.7, -15.5 }, TA = { -8.1, -22.6 }, CA = { -10.5, -27.8 }, GT = { -10.2, -26.2 },
    CT = { -7.6, -19.2 }, GA = { -13.3, -35.5 }, CG = { -8.0, -19.4 }, GC = { -14.2, -34.9 }, GG = { -12.2, -29.7 },
  },
  Xia1998 = {
    start = { 3.61, -1.5 }, ends_at = { 3.72, 10.5 }, symmetry = { 0, -1.4 },
    AA = { -6.82, -19.0 }, AT = { -9.38, -26.7 }, TA = { -7.69, -20.5 }, CA = { -10.44, -26.9 },
    GT = { -11.40, -29.5 }, CT = { -10.48, -27.1 }, GA = { -12.44, -32.5 }, CG = { -10.64, -26.7 },
    GC = { -14.88, -36.9 }, GG = { -13.39, -32.7 },
  },
}

-- Of base content: a + b (% G and C) - c / length, and the correction for salt.
local CONTENTS = {
  MarmurDoty1962 = { 69.3, 0.41, 650 },
  QuikChange = { 81.5, 0.41, 675 },
  Schildkraut1965 = { 81.5, 0.41, 675, "Schildkraut1965" },
  Wetmur1991 = { 81.5, 0.41, 500, "Wetmur1991" },
  Wetmur1991RNA = { 78.0, 0.7, 500, "Wetmur1991" },
  Wetmur1991Hybrid = { 67.0, 0.8, 500, "Wetmur1991" },
  Primer3Plus = { 81.5, 0.41, 600, "Schildkraut1965" },
  VonAhsen2001 = { 77.1, 0.41, 528, "SantaLucia1998Tm" },
}

local OTHER_STRAND = { A = "T", C = "G", G = "C", T = "A" }

local SALTS = {
  none = true, Schildkraut1965 = true, Wetmur1991 = true, SantaLucia1996 = true, SantaLucia1998Tm = true,
  SantaLucia1998 = true, Owczarzy2004 = true, Owczarzy2008 = true,
}

local function names_of(...)
  local names = {}
  for _, set in ipairs({ ... }) do
    for name in pairs(set) do
      names[#names + 1] = name
    end
  end
  table.sort(names)
  return table.concat(names, ", ")
end

local function concentration(caller, options, name, default)
  local value = options[name]
  if value == nil then
    return default
  elseif type(value) ~= "number" or value < 0 then
    error(string.format("%s: %s must be a concentration of at least 0, not %s", caller, name, tostring(value)), 0)
  end
  return value
end

local function log10(value)
  return math.log(value) / math.log(10)
end

-- Owczarzy et al. 2004, for monovalent ions, on the reciprocal of the temperature.
local function owczarzy_2004(gc, sodium)
  local log_sodium = math.log(sodium)
  return (4.29 * gc - 3.95) * 1e-5 * log_sodium + 9.40e-6 * log_sodium ^ 2
end

-- Owczarzy et al. 2008, for magnesium and monovalent ions.
local function owczarzy_2008(gc, length, salt)
  local monovalent = salt.monovalent * 1e-3
  local magnesium = salt.mg * 1e-3
  if salt.dntp > 0 then
    -- What dNTPs bind is not free, by their association constant.
    local dntp, constant = salt.dntp * 1e-3, 3e4
    local middle = constant * dntp - constant * magnesium + 1
    magnesium = (-middle + math.sqrt(middle ^ 2 + 4 * constant * magnesium)) / (2 * constant)
  end
  local a, d, g = 3.92, 1.42, 8.31
  if monovalent > 0 then
    local ratio = math.sqrt(magnesium) / monovalent
    if ratio < 0.22 then
      return owczarzy_2004(gc, monovalent)
    elseif ratio < 6 then
      local log_monovalent = math.log(monovalent)
      a = 3.92 * (0.843 - 0.352 * math.sqrt(monovalent) * log_monovalent)
      d = 1.42 * (1.279 - 4.03e-3 * log_monovalent - 8.03e-3 * log_monovalent ^ 2)
      g = 8.31 * (0.486 - 0.258 * log_monovalent + 5.25e-3 * log_monovalent ^ 3)
    end
  end
  local log_magnesium = math.log(magnesium)
  return (a - 0.911 * log_magnesium + gc * (6.26 + d * log_magnesium)
    + (-48.2 + 52.5 * log_magnesium + g * log_magnesium ^ 2) / (2 * (length - 1))) * 1e-5
end

-- What the salt does: `add` to the temperature, `entropy` to add, or `reciprocal` to add.
local function salt_effect(caller, name, salt, gc, length)
  local sodium = salt.monovalent
  if (salt.k > 0 or salt.tris > 0 or salt.mg > 0 or salt.dntp > 0) and name ~= "Owczarzy2008" and salt.dntp < salt.mg then
    -- Von Ahsen et al. 2001: magnesium as so much sodium.
    sodium = sodium + 120 * math.sqrt(salt.mg - salt.dntp)
  end
  sodium = sodium * 1e-3
  if name ~= "Owczarzy2008" and name ~= "none" and sodium <= 0 then
    error(string.format("%s: the salt correction %s needs ions: give na, k, tris or mg", caller, name), 0)
  elseif name == "Owczarzy2008" and salt.mg <= 0 then
    error(caller .. ": the salt correction Owczarzy2008 needs magnesium: give mg, or take Owczarzy2004", 0)
  end
  if name == "Schildkraut1965" then
    return { add = 16.6 * log10(sodium) }
  elseif name == "Wetmur1991" then
    return { add = 16.6 * log10(sodium / (1 + 0.7 * sodium)) }
  elseif name == "SantaLucia1996" then
    return { add = 12.5 * log10(sodium) }
  elseif name == "SantaLucia1998Tm" then
    return { add = 11.7 * log10(sodium) }
  elseif name == "SantaLucia1998" then
    return { entropy = 0.368 * (length - 1) * math.log(sodium) }
  elseif name == "Owczarzy2004" then
    return { reciprocal = owczarzy_2004(gc, sodium) }
  elseif name == "Owczarzy2008" then
    return { reciprocal = owczarzy_2008(gc, length, salt) }
  end
  return {}
end

local function of_stacks(caller, sequence, stacks, options, gc, salt_of)
  local enthalpy, entropy = 0, 0
  local function add(pair)
    if pair then
      enthalpy, entropy = enthalpy + pair[1], entropy + pair[2]
    end
  end
  add(stacks.start)
  if gc > 0 then
    add(stacks.with_gc)
  else
    add(stacks.without_gc)
  end
  for _, place in ipairs({ 1, #sequence }) do
    if sequence:find("^[AT]", place) then
      add(stacks.ends_at)
    else
      add(stacks.ends_gc)
    end
  end
  for place = 1, #sequence - 1 do
    local pair = sequence:sub(place, place + 1)
    add(stacks[pair] or stacks[OTHER_STRAND[pair:sub(2, 2)] .. OTHER_STRAND[pair:sub(1, 1)]])
  end
  local one = concentration(caller, options, "strand", 25)
  local other = concentration(caller, options, "other_strand", 25)
  local effective = (one - other / 2) * 1e-9
  if options.self_complementary then
    effective = one * 1e-9
    add(stacks.symmetry)
  end
  if effective <= 0 then
    error(caller .. ": strand must be more than half of other_strand: name the more concentrated one `strand`", 0)
  end
  local salt = salt_of(options.salt or "SantaLucia1998")
  entropy = entropy + (salt.entropy or 0)
  local kelvin = 1000 * enthalpy / (entropy + GAS_CONSTANT * math.log(effective))
  if salt.reciprocal then
    kelvin = 1 / (1 / kelvin + salt.reciprocal)
  end
  return kelvin - KELVIN + (salt.add or 0)
end

--- The melting temperature of a DNA or RNA duplex, in degrees Celsius.
--
-- Methods of nearest neighbours: "Allawi1997" (the default; Allawi and SantaLucia 1997,
-- Biochemistry 36:10581), "Breslauer1986" (PNAS 83:3746), "Sugimoto1996" (Nucleic Acids Research 24:4501),
-- "SantaLucia2004" (SantaLucia and Hicks, Annual Review of Biophysics 33:415); for RNA
-- "Freier1986" (PNAS 83:9373) and "Xia1998" (Biochemistry 37:14719). They take the
-- concentrations of strands and the correction for salt.
--
-- Methods of base content, a + b (% G and C) - c / length, each with its own correction for salt or
-- none: "MarmurDoty1962" (69.3, 0.41, 650, none; Marmur and Doty 1962, Journal of Molecular Biology 5:109,
-- with the term of the length that came later), "Schildkraut1965" (81.5, 0.41, 675, and its
-- correction), "QuikChange" (the same without a correction, as Stratagene gave it for primers of its
-- mutagenesis), "Wetmur1991" (81.5, 0.41, 500, and its correction; Wetmur 1991, Critical Reviews in
-- Biochemistry and Molecular Biology 26:227), "Wetmur1991RNA" (78.0, 0.7, 500) and "Wetmur1991Hybrid"
-- (RNA with DNA; 67.0, 0.8, 500) from there too, "Primer3Plus" (81.5, 0.41, 600, correction
-- "Schildkraut1965"; what that program takes for products), "VonAhsen2001" (77.1, 0.41, 528, correction
-- "SantaLucia1998Tm"; von Ahsen et al. 2001, Clinical Chemistry 47:1956). And "Wallace1979", 2 degrees for
-- A and T and 4 for G and C, for oligomers of 14 to 20 bases, the rule named after Wallace et al. 1979,
-- Nucleic Acids Research 6:3543.
--
-- Corrections for salt, of the temperature: "Schildkraut1965" (16.6 log10 of the sodium in mol/l;
-- Schildkraut and Lifson 1965, Biopolymers 3:195), "Wetmur1991" (16.6 log10 (Na / (1 + 0.7 Na))),
-- "SantaLucia1996" (12.5 log10 Na; Biochemistry 35:3555), "SantaLucia1998Tm" (11.7 log10 Na; PNAS 95:1460);
-- of the entropy: "SantaLucia1998" (the default; 0.368 (length - 1) ln Na, also PNAS 95:1460); of the
-- reciprocal of the temperature: "Owczarzy2004" (Biochemistry 43:3537) and, for magnesium,
-- "Owczarzy2008" (Biochemistry 47:5336); or "none". Other ions than sodium count as in von Ahsen et al.
-- 2001: potassium as much, Tris half, magnesium 120 times the root of what is more than dNTPs,
-- in mmol/l; "Owczarzy2008" has magnesium apart.
-- @param sequence string of A, C, G and T or U, two letters at least
-- @param options table or nil: `method`, `salt` (names as above); `na` (default 50), `k`,
--   `tris`, `mg`, `dntp` (default 0), in mmol/l; `strand` and `other_strand`, in nmol/l
--   (default 25 each); `self_complementary`, true for a strand that pairs with itself
-- @return number, degrees Celsius
function melting.melting_temperature(sequence, options)
  local caller = "bio_compute.melting_temperature"
  options = check.options(caller, options, OPTIONS)
  if type(sequence) == "string" then
    sequence = sequence:upper():gsub("U", "T")
  end
  check.sequence(caller, sequence)
  local position = sequence:find("[^ACGT]")
  if position then
    error(string.format("%s: '%s' at position %d is ambiguous: use A, C, G and T",
      caller, sequence:sub(position, position), position), 0)
  elseif #sequence < 2 then
    error(caller .. ": the sequence must have two letters at least", 0)
  end
  local method = options.method or "Allawi1997"
  local _, strong = sequence:gsub("[GC]", "")
  local gc = strong / #sequence
  local salt = { k = concentration(caller, options, "k", 0), tris = concentration(caller, options, "tris", 0),
    mg = concentration(caller, options, "mg", 0), dntp = concentration(caller, options, "dntp", 0) }
  salt.monovalent = concentration(caller, options, "na", 50) + salt.k + salt.tris / 2
  local function salt_of(name)
    if not SALTS[name] then
      error(string.format("%s: unknown salt correction '%s': use %s", caller, tostring(name), names_of(SALTS)), 0)
    end
    return salt_effect(caller, name, salt, gc, #sequence)
  end
  if method == "Wallace1979" then
    return 2 * (#sequence - strong) + 4 * strong
  elseif STACKS[method] then
    return of_stacks(caller, sequence, STACKS[method], options, gc, salt_of)
  elseif CONTENTS[method] then
    local content = CONTENTS[method]
    return content[1] + content[2] * gc * 100 - content[3] / #sequence + (salt_of(content[4] or "none").add or 0)
  end
  error(string.format("%s: unknown method '%s': use %s", caller, tostring(method),
    names_of(STACKS, CONTENTS, { Wallace1979 = true })), 0)
end

return melting
