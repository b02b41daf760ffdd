--- Placing reads on a reference by seeds and banded extension.
--
-- The scheme of scores is that of bowtie2 from end to end (Langmead and Salzberg 2012,
-- Nature Methods 9:357), as penalties: a mismatch costs 2 to 6 by its quality, an N 1, a gap
-- of n bases 5 + 3n; no gap stands within 4 bases of an end of the read. A read is placed
-- when its penalty is at most 0.6 + 0.6 times its length.
--
-- Every word of `seed` bases of the read that the reference has too votes for a diagonal.
-- Diagonals are tried by their votes. The band of an extension is as wide as a gap can be
-- that beats the best placement without gaps or with one, so that narrow bands lose nothing.

local check = require("bio_compute.check")
local extension = require("bio_compute.extension")
local strand = require("bio_compute.strand")

local placement = {}

local byte, floor = string.byte, math.floor

local INDEX_OPTIONS = { seed = true, step = true }
local PLACE_OPTIONS = { max_penalty = true, max_n = true }

local MISMATCH_MOST, MISMATCH_LEAST, BEST_QUALITY = 6, 2, 40
local UNKNOWN, GAP_OPEN, GAP_EXTEND = extension.UNKNOWN, extension.GAP_OPEN, extension.GAP_EXTEND
local ALLOWED, ALLOWED_PER_BASE = 0.6, 0.6
local DEFAULT_MAX_N = 0.15
-- Words that occur more often than this on the reference say nothing.
local MOST_HITS = 50
-- How many places of a read are extended.
local MOST_EXTENDED = 8
-- Diagonals this close to one another are one place.
local NEIGHBOURS = 20
local INFINITE = extension.INFINITE

local DIGIT_OF_BYTE = { [65] = 0, [67] = 1, [71] = 2, [84] = 3 }

-- The penalty of a mismatch by the quality's letter.
local PENALTY_OF_BYTE = {}
for letter = 33, 126 do
  local quality = math.min(letter - 33, BEST_QUALITY)
  PENALTY_OF_BYTE[letter] = MISMATCH_LEAST + floor((MISMATCH_MOST - MISMATCH_LEAST) * quality / BEST_QUALITY)
end

-- As many values as a call can give everywhere.
local SLICE = 4096

-- The bytes of a part of a text; places outside of it are nil.
local function bytes_of(text, first, last)
  if last - first < SLICE and first >= 1 then
    return { byte(text, first, last) }
  end
  local bytes = {}
  for at = math.max(first, 1), math.min(last, #text) do
    bytes[at - first + 1] = byte(text, at)
  end
  return bytes
end

local Index = {}
Index.__index = Index

-- Enters the words of one reference whose first base stands at `offset` + 1 of all.
local function enter(index, sequence, offset)
  local k, step, words = index.seed, index.step, index._words
  local top = 4 ^ (k - 1)
  local code, run = 0, 0
  for at = 1, #sequence do
    local digit = DIGIT_OF_BYTE[byte(sequence, at)]
    if digit then
      code = code % top * 4 + digit
      run = run + 1
      if run >= k and (at - k) % step == 0 then
        local place = offset + at - k + 1
        local known = words[code]
        if not known then
          words[code] = place
        elseif type(known) == "number" then
          words[code] = { known, place }
        elseif #known <= MOST_HITS then
          known[#known + 1] = place
        end
      end
    else
      run = 0
    end
  end
end

--- Makes an index of a reference, on which reads can be placed.
-- @param reference string of IUPAC letters, or array of records with `id` and `sequence`
-- @param options table or nil: `seed`, bases in a word, 8 to 20 (default: so many that a
--   word is expected once in 256 times the reference, 12 for 50 kb); `step`, every how many
--   bases of the reference a word is kept (default 1, more from a million bases on)
-- @return index with the method `place`
function placement.index(reference, options)
  local caller = "bio_compute.index"
  options = check.options(caller, options, INDEX_OPTIONS)
  local records = type(reference) == "table" and reference or { { id = "reference", sequence = reference } }
  local length = 0
  for number, record in ipairs(records) do
    local problem = check.problem_of(type(record) == "table" and record.sequence or nil)
    if problem then
      error(string.format("%s: reference %d: %s", caller, number, problem), 0)
    end
    length = length + #record.sequence
  end
  if length == 0 then
    error(caller .. ": the reference has no base: give a sequence or records of FASTA", 0)
  end
  local seed = math.max(10, math.min(16, math.ceil(math.log(length) / math.log(4)) + 4))
  local index = setmetatable({
    seed = check.whole_number(caller, "seed", options.seed, 8, seed),
    step = check.whole_number(caller, "step", options.step, 1, math.ceil(length / 2 ^ 20)),
    length = length,
    references = {},
    _words = {},
  }, Index)
  if index.seed > 20 then
    error(string.format("%s: seed must be at most 20, not %d", caller, index.seed), 0)
  end
  local texts, offset = {}, 0
  for number, record in ipairs(records) do
    local sequence = record.sequence:upper():gsub("[^ACGT]", "N")
    index.references[number] = { id = record.id or tostring(number), length = #sequence, offset = offset }
    texts[number] = sequence
    enter(index, sequence, offset)
    offset = offset + #sequence
  end
  index._text = table.concat(texts)
  return index
end

-- Counts votes for diagonals: place on the reference minus place in the read.
local function vote(index, digits, length)
  local k, words = index.seed, index._words
  local top = 4 ^ (k - 1)
  local votes, code, run = {}, 0, 0
  for at = 1, length do
    local digit = digits[at]
    if digit then
      code = code % top * 4 + digit
      run = run + 1
      if run >= k then
        local found = words[code]
        if found then
          local start = at - k + 1
          if type(found) == "number" then
            local diagonal = found - start
            votes[diagonal] = (votes[diagonal] or 0) + 1
          elseif #found <= MOST_HITS then
            for hit = 1, #found do
              local diagonal = found[hit] - start
              votes[diagonal] = (votes[diagonal] or 0) + 1
            end
          end
        end
      end
    else
      run = 0
    end
  end
  return votes
end

-- Joins neighbouring diagonals into places.
-- @return array of places with `votes`, `best` (their best diagonal) and `diagonals`
local function places_of(votes, read, places)
  local diagonals = {}
  for diagonal in pairs(votes) do
    diagonals[#diagonals + 1] = diagonal
  end
  table.sort(diagonals)
  local place
  for _, diagonal in ipairs(diagonals) do
    local count = votes[diagonal]
    if place and diagonal - place.last <= NEIGHBOURS then
      place.votes = place.votes + count
      place.last = diagonal
      place.diagonals[#place.diagonals + 1] = diagonal
      if count > place.most then
        place.most, place.best = count, diagonal
      end
    else
      place = { read = read, votes = count, most = count, best = diagonal, last = diagonal, diagonals = { diagonal } }
      places[#places + 1] = place
    end
  end
end

local function by_votes(left, right)
  if left.votes ~= right.votes then
    return left.votes > right.votes
  elseif left.best ~= right.best then
    return left.best < right.best
  end
  return left.read.strand == "+" and right.read.strand == "-"
end

-- The best placement at one place with a penalty of at most `bound`.
local function try_place(index, place, bound, with_gaps)
  local read = place.read
  local length, bases, penalties = read.length, read.bases, read.penalties
  local widest = math.max(0, floor((bound - GAP_OPEN) / GAP_EXTEND))
  -- The part of the reference that any way through the band can touch.
  local first = place.diagonals[1] + 1 - widest
  local reference = bytes_of(index._text, math.max(first, 1), place.last + length + widest)
  local origin = math.max(first, 1) - 1
  local best, best_diagonal = INFINITE, nil
  for _, diagonal in ipairs(place.diagonals) do
    local penalty = extension.plain_penalty(bases, penalties, length, reference, diagonal - origin, math.min(bound, best - 1))
    if penalty < best then
      best, best_diagonal = penalty, diagonal
    end
  end
  local found = best_diagonal and { penalty = best, diagonal = best_diagonal, cigar = length .. "M" }
  local one_gap = best
  if best > GAP_OPEN + GAP_EXTEND and with_gaps and #place.diagonals > 1 then
    for _, other in ipairs(place.diagonals) do
      if other ~= place.best then
        for _, pair in ipairs({ { place.best, other }, { other, place.best } }) do
          one_gap = math.min(one_gap,
            extension.one_gap_penalty(bases, penalties, length, reference, pair[1] - origin, pair[2] - origin))
        end
      end
    end
  end
  local limit = math.min(one_gap, bound)
  if best > GAP_OPEN + GAP_EXTEND and with_gaps then
    -- Any gap that is longer costs more than what is known already.
    local width = math.max(0, floor((limit - GAP_OPEN) / GAP_EXTEND))
    local penalty, last, columns = extension.extend(bases, penalties, length, reference, place.best - origin, width, limit)
    if penalty and penalty < best then
      local cigar, column = extension.way_back(length, last, columns)
      found = { penalty = penalty, diagonal = place.best - width + column, cigar = cigar }
    end
  end
  return found
end

-- The reference that a place on all of them is on, or nil across a border.
local function locate(index, first, last)
  for _, reference in ipairs(index.references) do
    if first > reference.offset and last <= reference.offset + reference.length then
      return reference.id, first - reference.offset
    elseif first <= reference.offset + reference.length then
      return nil
    end
  end
  return nil
end

-- One direction of a read, as arrays.
local function direction(sequence, quality, sense)
  local length = #sequence
  local bases, digits, penalties = bytes_of(sequence, 1, length), {}, {}
  local letters = quality and bytes_of(quality, 1, length)
  local unknown = 0
  for at = 1, length do
    local digit = DIGIT_OF_BYTE[bases[at]]
    if digit then
      digits[at] = digit
      penalties[at] = letters and PENALTY_OF_BYTE[letters[at]] or MISMATCH_MOST
    else
      -- No letter of the reference is equal to this one.
      bases[at], penalties[at] = 0, UNKNOWN
      unknown = unknown + 1
    end
  end
  return { strand = sense, length = length, bases = bases, digits = digits, penalties = penalties }, unknown
end

local function reference_length(cigar)
  local length = 0
  for count, operation in cigar:gmatch("(%d+)(%a)") do
    if operation ~= "I" then
      length = length + tonumber(count)
    end
  end
  return length
end

--- Places a read.
--
-- The result is the best of what the seeds lead to; a read may fit better elsewhere only
-- where none of its words stands on the reference without an error.
-- @param sequence string of IUPAC letters
-- @param quality string of Sanger quality letters of the same length, or nil, where every
--   mismatch costs 6
-- @param options table or nil: `max_penalty` (default 0.6 + 0.6 times the length);
--   `max_n`, the greatest part of letters other than A, C, G and T (default 0.15)
-- @return nil when the read is not placed, else a table with `reference` (id), `position`
--   (of its first base, 1-based), `last` (of its last), `strand` ("+" or "-"), `penalty`,
--   `cigar` (in the direction of the reference, `M` for matches and mismatches), `second` (penalty of the
--   next best place, or nil) and `unique` (no other place was found)
function Index:place(sequence, quality, options)
  local caller = "Index:place"
  check.sequence(caller, sequence)
  if quality ~= nil and (type(quality) ~= "string" or #quality ~= #sequence or quality:find("[^!-~]")) then
    error(string.format("%s: the quality must be a string of %d Sanger letters", caller, #sequence), 0)
  end
  options = check.options(caller, options, PLACE_OPTIONS)
  local length = #sequence
  local bound = options.max_penalty or ALLOWED + ALLOWED_PER_BASE * length
  sequence = sequence:upper()
  local forward, unknown = direction(sequence, quality, "+")
  if length < self.seed or unknown > (options.max_n or DEFAULT_MAX_N) * length then
    return nil
  end
  local backward = direction(strand.reverse_complement(sequence), quality and quality:reverse(), "-")
  local places = {}
  for _, read in ipairs({ forward, backward }) do
    places_of(vote(self, read.digits, length), read, places)
  end
  table.sort(places, by_votes)
  local best, second
  for number = 1, math.min(#places, MOST_EXTENDED) do
    local place = places[number]
    -- One word alone is mostly chance: worth an extension only when there is nothing better.
    local found = try_place(self, place, bound, place.votes > 1 or not best)
    if found then
      found.strand = place.read.strand
      local first = found.diagonal + 1
      found.last = first + reference_length(found.cigar) - 1
      found.reference, found.position = locate(self, first, found.last)
      if found.reference then
        found.last = found.position + found.last - first
        if not best or found.penalty < best.penalty then
          best, second = found, best
        elseif not second or found.penalty < second.penalty then
          second = found
        end
      end
    end
  end
  if not best then
    return nil
  end
  best.diagonal = nil
  best.second = second and second.penalty
  best.unique = second == nil
  return best
end

return placement
