--- Refuses arguments that make no sense, with the place, the reason and the remedy.
--
-- `caller` is the full name of the public function; it leads the message. The other
-- rocks of this project use this module too.

local alphabet = require("bio_compute.alphabet")
local genetic_code = require("bio_compute.genetic_code")

local check = {}

local function refuse(caller, format, ...)
  -- Level 0: the message is whole without the line of the library that raised it.
  error(caller .. ": " .. string.format(format, ...), 0)
end

local function shown(character)
  local byte = character:byte()
  if byte < 33 or byte > 126 then
    return string.format("byte %d", byte)
  end
  return string.format("'%s'", character)
end

local function remedy(character, kind)
  if character:find("%s") then
    return "remove white space and line ends, or read FASTA with bio_sequence_analysis"
  elseif kind == "dna" and (character == "U" or character == "u") then
    return "this looks like RNA, replace U by T first"
  elseif kind == "rna" and (character == "T" or character == "t") then
    return "this looks like DNA, transcribe it first"
  elseif character == "-" or character == "." then
    return "remove alignment gaps first"
  end
  return string.format("use the IUPAC letters %s only", alphabet.get(kind).letters)
end

-- The numbers of the genetic codes with runs joined: "1-6, 9-16".
local function known_codes()
  local runs = {}
  for _, id in ipairs(genetic_code.ids()) do
    local run = runs[#runs]
    if run and run.last == id - 1 then
      run.last = id
    else
      runs[#runs + 1] = { first = id, last = id }
    end
  end
  for index, run in ipairs(runs) do
    runs[index] = run.first == run.last and run.first or run.first .. "-" .. run.last
  end
  return table.concat(runs, ", ")
end

--- Says what is wrong with a sequence, if anything.
-- @param kind "dna" (default), "rna" or "protein"
-- @return nil when it is a string of IUPAC letters, else a message and, for an
--   unknown character, its position
function check.problem_of(sequence, kind)
  kind = kind or "dna"
  if type(sequence) ~= "string" then
    return string.format("the sequence must be a string, not %s", type(sequence))
  end
  if alphabet.is_plain(sequence, kind) then
    return nil
  end
  local position = sequence:find(alphabet.get(kind).foreign)
  if not position then
    return nil
  end
  local character = sequence:sub(position, position)
  return string.format("unknown character %s at position %d of the sequence: %s",
    shown(character), position, remedy(character, kind)), position
end

--- Demands a string of the IUPAC letters of a kind, in upper or lower case.
function check.letters(caller, sequence, kind)
  local problem = check.problem_of(sequence, kind)
  if problem then
    refuse(caller, "%s", problem)
  end
end

--- Demands a string of IUPAC letters of DNA, in upper or lower case.
function check.sequence(caller, sequence)
  check.letters(caller, sequence, "dna")
end

--- Demands the name of an alphabet; nil gives "dna".
function check.kind(caller, kind)
  if kind == nil then
    return "dna"
  elseif not alphabet.get(kind) then
    refuse(caller, "unknown kind '%s': use dna, rna or protein", tostring(kind))
  end
  return kind
end

--- Demands a table whose keys are all in `known`; nil counts as an empty one.
-- @return the options
function check.options(caller, options, known)
  if options == nil then
    return {}
  end
  if type(options) ~= "table" then
    refuse(caller, "the options must be a table, not %s", type(options))
  end
  for key in pairs(options) do
    if not known[key] then
      local names = {}
      for name in pairs(known) do
        names[#names + 1] = name
      end
      table.sort(names)
      refuse(caller, "unknown option '%s': use %s", tostring(key), table.concat(names, ", "))
    end
  end
  return options
end

--- Demands a whole number of at least `least`; nil gives `default`.
function check.whole_number(caller, name, value, least, default)
  if value == nil then
    value = default
  end
  if type(value) ~= "number" or value % 1 ~= 0 or value < least then
    refuse(caller, "%s must be a whole number of at least %d, not %s", name, least, tostring(value))
  end
  return value
end

--- Demands the number of a genetic code; nil gives 1, the standard code.
-- @return the code
function check.table(caller, id)
  if id == nil then
    id = 1
  end
  local code = genetic_code.get(id)
  if not code then
    refuse(caller, "unknown genetic code %s: use one of the NCBI numbers %s", tostring(id), known_codes())
  end
  return code
end

-- The set of START codons that the option `start_codons` means.
local function start_codons(caller, value, code)
  if value == nil then
    return { ATG = true }
  elseif value == "table" then
    return code.is_start
  elseif type(value) ~= "table" or #value == 0 then
    refuse(caller, "start_codons must be \"table\" or an array of codons such as {\"ATG\", \"GTG\"}, not %s",
      type(value) == "table" and "a table without any" or tostring(value))
  end
  local set = {}
  for _, codon in ipairs(value) do
    if type(codon) ~= "string" or not codon:find("^[ACGTacgt][ACGTacgt][ACGTacgt]$") then
      refuse(caller, "start_codons has %s: a codon is three of the letters A, C, G and T", tostring(codon))
    end
    codon = codon:upper()
    if code.is_stop[codon] then
      refuse(caller, "start_codons has %s, a stop in genetic code %d: leave it out", codon, code.id)
    end
    set[codon] = true
  end
  return set
end

local ORF_OPTIONS = { table = true, min_length = true, start_codons = true }

-- ORFs shorter than this many nucleotides are left out, unless the caller asks.
local DEFAULT_MIN_LENGTH = 30

--- Demands options of an ORF search; nil gives the default of each.
-- @return table with `code`, `is_start` (set of codons) and `min_length`
function check.orf_search(caller, options)
  options = check.options(caller, options, ORF_OPTIONS)
  local code = check.table(caller, options.table)
  return {
    code = code,
    is_start = start_codons(caller, options.start_codons, code),
    min_length = check.whole_number(caller, "min_length", options.min_length, 1, DEFAULT_MIN_LENGTH),
  }
end

return check
