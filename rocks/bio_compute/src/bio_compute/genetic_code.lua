--- The genetic codes of the NCBI, by their numbers.
--
-- A codon is a string of three upper-case IUPAC letters. An ambiguous codon is
-- resolved when all codons it stands for agree, so that CTN is L and TAR a stop.

local EXPANSIONS = require("bio_compute.alphabet").EXPANSIONS

local genetic_code = {}

-- The order of the 64 letters in `amino_acids`: first base slowest, third fastest.
local BASE_ORDER = { "T", "C", "A", "G" }

-- `starts` lists the initiation codons. `stops` is given only where a codon is an
-- amino acid or a stop depending on its place in the transcript: `amino_acids` has
-- the amino acid then, and the stops cannot be read from it.
local TABLES = {
  [1] = {
    name = "Standard",
    amino_acids = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    starts = "TTG CTG ATG",
  },
  [2] = {
    name = "Vertebrate Mitochondrial",
    amino_acids = "FFLLSSSSYY**CCWWLLLLPPPPHHQQRRRRIIMMTTTTNNKKSS**VVVVAAAADDEEGGGG",
    starts = "ATT ATC ATA ATG GTG",
  },
  [3] = {
    name = "Yeast Mitochondrial",
    amino_acids = "FFLLSSSSYY**CCWWTTTTPPPPHHQQRRRRIIMMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    starts = "ATA ATG GTG",
  },
  [4] = {
    name = "Mold, Protozoan and Coelenterate Mitochondrial; Mycoplasma; Spiroplasma",
    amino_acids = "FFLLSSSSYY**CCWWLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    starts = "TTA TTG CTG ATT ATC ATA ATG GTG",
  },
  [5] = {
    name = "Invertebrate Mitochondrial",
    amino_acids = "FFLLSSSSYY**CCWWLLLLPPPPHHQQRRRRIIMMTTTTNNKKSSSSVVVVAAAADDEEGGGG",
    starts = "TTG ATT ATC ATA ATG GTG",
  },
  [6] = {
    name = "Ciliate, Dasycladacean and Hexamita Nuclear",
    amino_acids = "FFLLSSSSYYQQCC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    starts = "ATG",
  },
  [9] = {
    name = "Echinoderm and Flatworm Mitochondrial",
    amino_acids = "FFLLSSSSYY**CCWWLLLLPPPPHHQQRRRRIIIMTTTTNNNKSSSSVVVVAAAADDEEGGGG",
    starts = "ATG GTG",
  },
  [10] = {
    name = "Euplotid Nuclear",
    amino_acids = "FFLLSSSSYY**CCCWLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    starts = "ATG",
  },
  [11] = {
    name = "Bacterial, Archaeal and Plant Plastid",
    amino_acids = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    starts = "TTG CTG ATT ATC ATA ATG GTG",
  },
  [12] = {
    name = "Alternative Yeast Nuclear",
    amino_acids = "FFLLSSSSYY**CC*WLLLSPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    starts = "CTG ATG",
  },
  [13] = {
    name = "Ascidian Mitochondrial",
    amino_acids = "FFLLSSSSYY**CCWWLLLLPPPPHHQQRRRRIIMMTTTTNNKKSSGGVVVVAAAADDEEGGGG",
    starts = "TTG ATA ATG GTG",
  },
  [14] = {
    name = "Alternative Flatworm Mitochondrial",
    amino_acids = "FFLLSSSSYYY*CCWWLLLLPPPPHHQQRRRRIIIMTTTTNNNKSSSSVVVVAAAADDEEGGGG",
    starts = "ATG",
  },
  [15] = {
    name = "Blepharisma Nuclear",
    amino_acids = "FFLLSSSSYY*QCC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    starts = "ATG",
  },
  [16] = {
    name = "Chlorophycean Mitochondrial",
    amino_acids = "FFLLSSSSYY*LCC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    starts = "ATG",
  },
  [21] = {
    name = "Trematode Mitochondrial",
    amino_acids = "FFLLSSSSYY**CCWWLLLLPPPPHHQQRRRRIIMMTTTTNNNKSSSSVVVVAAAADDEEGGGG",
    starts = "ATG GTG",
  },
  [22] = {
    name = "Scenedesmus obliquus Mitochondrial",
    amino_acids = "FFLLSS*SYY*LCC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    starts = "ATG",
  },
  [23] = {
    name = "Thraustochytrium Mitochondrial",
    amino_acids = "FF*LSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    starts = "ATT ATG GTG",
  },
  [24] = {
    name = "Rhabdopleuridae Mitochondrial",
    amino_acids = "FFLLSSSSYY**CCWWLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSSKVVVVAAAADDEEGGGG",
    starts = "TTG CTG ATG GTG",
  },
  [25] = {
    name = "Candidate Division SR1 and Gracilibacteria",
    amino_acids = "FFLLSSSSYY**CCGWLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    starts = "TTG ATG GTG",
  },
  [26] = {
    name = "Pachysolen tannophilus Nuclear",
    amino_acids = "FFLLSSSSYY**CC*WLLLAPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    starts = "CTG ATG",
  },
  [27] = {
    name = "Karyorelict Nuclear",
    amino_acids = "FFLLSSSSYYQQCCWWLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    starts = "ATG",
    stops = "TGA",
  },
  [28] = {
    name = "Condylostoma Nuclear",
    amino_acids = "FFLLSSSSYYQQCCWWLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    starts = "ATG",
    stops = "TAA TAG TGA",
  },
  [29] = {
    name = "Mesodinium Nuclear",
    amino_acids = "FFLLSSSSYYYYCC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    starts = "ATG",
  },
  [30] = {
    name = "Peritrich Nuclear",
    amino_acids = "FFLLSSSSYYEECC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    starts = "ATG",
  },
  [31] = {
    name = "Blastocrithidia Nuclear",
    amino_acids = "FFLLSSSSYYEECCWWLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    starts = "ATG",
    stops = "TAA TAG",
  },
  [32] = {
    name = "Balanophoraceae Plastid",
    amino_acids = "FFLLSSSSYY*WCC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    starts = "TTG CTG ATT ATC ATA ATG GTG",
  },
  [33] = {
    name = "Cephalodiscidae Mitochondrial",
    amino_acids = "FFLLSSSSYYY*CCWWLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSSKVVVVAAAADDEEGGGG",
    starts = "TTG CTG ATG GTG",
  },
}

-- Letters for "one of these two amino acids".
local PAIRS = { DN = "B", EQ = "Z", IL = "J" }

local function set_of(words)
  local set = {}
  for word in words:gmatch("%S+") do
    set[word] = true
  end
  return set
end

local function each_expansion(codon, visit)
  for first in EXPANSIONS[codon:sub(1, 1)]:gmatch(".") do
    for second in EXPANSIONS[codon:sub(2, 2)]:gmatch(".") do
      for third in EXPANSIONS[codon:sub(3, 3)]:gmatch(".") do
        visit(first .. second .. third)
      end
    end
  end
end

-- Both tables below start with the 64 plain codons and learn ambiguous ones when
-- they are first asked for: there are 3,311 of these, and a sequence has few.

local function resolving_amino_acids(amino_acid_of)
  return setmetatable(amino_acid_of, {
    __index = function(known, codon)
      local seen, distinct = {}, {}
      each_expansion(codon, function(plain)
        local letter = known[plain]
        if not seen[letter] then
          seen[letter] = true
          distinct[#distinct + 1] = letter
        end
      end)
      table.sort(distinct)
      local letter = distinct[1]
      if #distinct > 1 then
        letter = PAIRS[table.concat(distinct)] or "X"
      end
      known[codon] = letter
      return letter
    end,
  })
end

local function resolving_stops(is_stop)
  return setmetatable(is_stop, {
    __index = function(known, codon)
      local all = true
      each_expansion(codon, function(plain)
        all = all and known[plain]
      end)
      known[codon] = all
      return all
    end,
  })
end

local function build(id)
  local source = TABLES[id]
  local ambiguous_stops = source.stops and set_of(source.stops) or {}
  local amino_acid_of, is_stop = {}, {}
  local index = 0
  for _, first in ipairs(BASE_ORDER) do
    for _, second in ipairs(BASE_ORDER) do
      for _, third in ipairs(BASE_ORDER) do
        index = index + 1
        local codon = first .. second .. third
        local letter = source.amino_acids:sub(index, index)
        amino_acid_of[codon] = letter
        is_stop[codon] = letter == "*" or ambiguous_stops[codon] or false
      end
    end
  end
  return {
    id = id,
    name = source.name,
    amino_acid_of = resolving_amino_acids(amino_acid_of),
    is_stop = resolving_stops(is_stop),
    is_start = set_of(source.starts),
  }
end

local built = {}

--- The code with an NCBI number, or nil when there is none.
-- @param id number
-- @return table with `id`, `name`, `amino_acid_of` (codon to letter), `is_stop`
--   (codon to boolean) and `is_start` (set of plain codons)
function genetic_code.get(id)
  if not TABLES[id] then
    return nil
  end
  built[id] = built[id] or build(id)
  return built[id]
end

--- The numbers of all codes, ascending.
-- @return array of numbers
function genetic_code.ids()
  local ids = {}
  for id in pairs(TABLES) do
    ids[#ids + 1] = id
  end
  table.sort(ids)
  return ids
end

return genetic_code
