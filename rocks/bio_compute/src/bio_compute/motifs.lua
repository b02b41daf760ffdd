--- Searching motifs and the sites of restriction enzymes.

local alphabet = require("bio_compute.alphabet")
local check = require("bio_compute.check")
local enzymes = require("bio_compute.enzymes")
local strand = require("bio_compute.strand")

local motifs = {}

local byte, find = string.byte, string.find

local MOTIF_OPTIONS = { strand = true, mismatches = true }
local STRANDS = { both = true, ["+"] = true, ["-"] = true }
local SITE_OPTIONS = { circular = true }

local function pattern_of(motif)
  return (motif:gsub(".", function(letter)
    return "[" .. alphabet.matched_by(letter) .. "]"
  end))
end

-- Visits the first positions of all matches, overlapping ones too.
local function each_match(sequence, motif, visit)
  local pattern = pattern_of(motif)
  local at = find(sequence, pattern)
  while at do
    visit(at, 0)
    at = find(sequence, pattern, at + 1)
  end
end

local function each_near_match(sequence, motif, mismatches, visit)
  local accepted = {}
  for place = 1, #motif do
    local set = {}
    for letter in alphabet.matched_by(motif:sub(place, place)):gmatch(".") do
      set[byte(letter)] = true
    end
    accepted[place] = set
  end
  local length = #motif
  for start = 1, #sequence - length + 1 do
    local wrong = 0
    for place = 1, length do
      if not accepted[place][byte(sequence, start + place - 1)] then
        wrong = wrong + 1
        if wrong > mismatches then
          break
        end
      end
    end
    if wrong <= mismatches then
      visit(start, wrong)
    end
  end
end

local function by_place(left, right)
  if left.start ~= right.start then
    return left.start < right.start
  end
  return left.strand == "+" and right.strand == "-"
end

--- Finds a motif of IUPAC letters, overlapping matches too.
--
-- A letter of the motif matches a letter of the sequence that stands for nothing else: R
-- matches A, G and R, but not N. A motif that is its own reverse complement is found on both
-- strands.
-- @param sequence string of IUPAC letters
-- @param motif string of IUPAC letters, in any case
-- @param options table or nil: `strand`, "both" (default), "+" or "-"; `mismatches`, how many
--   letters may differ (default 0)
-- @return array by place of tables with `start` and `stop` (1-based, inclusive, on the given
--   strand), `strand`, `mismatches` and `match` (as it stands on its strand)
function motifs.find_motif(sequence, motif, options)
  local caller = "bio_compute.find_motif"
  check.sequence(caller, sequence)
  local problem = check.problem_of(motif)
  if problem or motif == "" then
    error(string.format("%s: the motif is no motif: %s", caller, problem or "it is empty"), 0)
  end
  options = check.options(caller, options, MOTIF_OPTIONS)
  local wanted = options.strand or "both"
  if not STRANDS[wanted] then
    error(string.format("%s: unknown strand %s: use both, + or -", caller, tostring(wanted)), 0)
  end
  local mismatches = check.whole_number(caller, "mismatches", options.mismatches, 0, 0)
  local found = {}
  motif = motif:upper()
  for _, sense in ipairs({ "+", "-" }) do
    if wanted == "both" or wanted == sense then
      local searched = sense == "+" and motif or strand.reverse_complement(motif)
      local function visit(start, wrong)
        local match = sequence:sub(start, start + #motif - 1)
        found[#found + 1] = {
          start = start,
          stop = start + #motif - 1,
          strand = sense,
          mismatches = wrong,
          match = sense == "+" and match or strand.reverse_complement(match),
        }
      end
      if mismatches == 0 then
        each_match(sequence, searched, visit)
      else
        each_near_match(sequence, searched, mismatches, visit)
      end
    end
  end
  table.sort(found, by_place)
  return found
end

local function named(caller, names)
  local all = enzymes()
  if names == nil then
    names = motifs.enzymes()
  elseif type(names) == "string" then
    names = { names }
  elseif type(names) ~= "table" then
    error(string.format("%s: the enzymes must be a name or an array of names, not %s", caller, type(names)), 0)
  end
  for _, name in ipairs(names) do
    if not all[name] then
      error(string.format("%s: unknown enzyme '%s': names are as in REBASE, such as EcoRI, with exact case",
        caller, tostring(name)), 0)
    end
  end
  return names
end

--- The restriction enzymes that are known here: those of REBASE that are sold.
-- @return array of names, in alphabetical order
function motifs.enzymes()
  local names = {}
  for name in pairs(enzymes()) do
    names[#names + 1] = name
  end
  table.sort(names)
  return names
end

-- The cuts of one enzyme.
local function cuts_of(sequence, enzyme, circular)
  local length, site = #sequence, enzyme.site
  -- A site over the origin of a circle continues at its beginning.
  local text = circular and sequence .. sequence:sub(1, math.min(#site - 1, length)) or sequence
  local found, seen = {}, {}
  local function note(top, bottom, start, sense)
    if circular then
      top, bottom = (top - 1) % length + 1, (bottom - 1) % length + 1
    elseif top < 1 or top >= length or bottom > length then
      return -- a strand that ends before its cut is not cut
    end
    if not seen[top] then
      seen[top] = true
      found[#found + 1] = { cut = top, other_cut = bottom, start = start, strand = sense }
    end
  end
  local reverse = strand.reverse_complement(site)
  each_match(text, site, function(start)
    for index = 1, #enzyme.cuts, 2 do
      note(start - 1 + enzyme.cuts[index], start - 1 + enzyme.cuts[index + 1], start, "+")
    end
  end)
  if reverse ~= site then
    local behind = #site - 1
    each_match(text, reverse, function(start)
      for index = 1, #enzyme.cuts, 2 do
        note(start + behind - enzyme.cuts[index + 1], start + behind - enzyme.cuts[index], start, "-")
      end
    end)
  end
  table.sort(found, function(left, right)
    return left.cut < right.cut
  end)
  return found
end

--- Finds where restriction enzymes cut. Methylation is not considered.
-- @param sequence string of IUPAC letters
-- @param names name of an enzyme, array of names, or nil for all of `enzymes`
-- @param options table or nil: `circular`, true for a plasmid (default false)
-- @return table from name to an array, by place, of tables with `cut` (the strand is cut
--   behind this base, 1-based), `other_cut` (the same for the other strand, in the same
--   coordinates), `start` (first base of the site) and `strand` of the site; an enzyme that
--   does not cut has an empty array
function motifs.restriction_sites(sequence, names, options)
  local caller = "bio_compute.restriction_sites"
  check.sequence(caller, sequence)
  options = check.options(caller, options, SITE_OPTIONS)
  local sites = {}
  for _, name in ipairs(named(caller, names)) do
    sites[name] = cuts_of(sequence, enzymes()[name], options.circular)
  end
  return sites
end

--- Cuts a sequence with restriction enzymes, together.
-- @param sequence as for `restriction_sites`
-- @param names as for `restriction_sites`
-- @param options as for `restriction_sites`
-- @return array of fragments by place, tables with `start`, `stop` (1-based, inclusive, of
--   the given strand; in a circle `stop` of the last may be before its `start`) and `length`
function motifs.digest(sequence, names, options)
  local caller = "bio_compute.digest"
  check.sequence(caller, sequence)
  options = check.options(caller, options, SITE_OPTIONS)
  local seen, cuts = {}, {}
  for _, name in ipairs(named(caller, names)) do
    for _, site in ipairs(cuts_of(sequence, enzymes()[name], options.circular)) do
      if not seen[site.cut] then
        seen[site.cut] = true
        cuts[#cuts + 1] = site.cut
      end
    end
  end
  table.sort(cuts)
  local length, fragments = #sequence, {}
  local function add(start, stop)
    fragments[#fragments + 1] = { start = start, stop = stop, length = (stop - start) % length + 1 }
  end
  if length == 0 then
    return fragments
  elseif #cuts == 0 then
    add(1, length)
    return fragments
  end
  if not options.circular then
    add(1, cuts[1])
  end
  for index = 1, #cuts - 1 do
    add(cuts[index] + 1, cuts[index + 1])
  end
  local last = cuts[#cuts]
  if options.circular then
    add(last % length + 1, cuts[1])
  else
    add(last + 1, length)
  end
  return fragments
end

return motifs
