--- Alignment of two sequences: Needleman-Wunsch and Smith-Waterman with affine gaps (Gotoh
-- 1982, Journal of Molecular Biology 162:705).
--
-- The result is exact, but not every cell is computed: only a band around the main diagonals
-- outside of which no way could score more than one that is known (Fickett 1984; Ukkonen 1985),
-- and of it only cells from which that score can still be reached. Similar sequences need few.
-- Where the interpreter has integers, end-to-end alignments take eight cells at once (`lanes`).

local check = require("bio_compute.check")
local hope = require("bio_compute.hope")
local lanes = math.type and require("bio_compute.lanes") -- from Lua 5.3 on
local matrices = require("bio_compute.matrices")

local align = {}

local byte, char = string.byte, string.char
local unpack = table.unpack or unpack

local OPTIONS = {
  mode = true, matrix = true, match = true, mismatch = true, gap_open = true, gap_extend = true, band = true,
}
local MODES = { global = true, ["local"] = true, overlap = true, fit = true }
local DEFAULT_MATRIX, DEFAULT_OPEN, DEFAULT_EXTEND = "EDNAFULL", 10, 0.5
local FIRST_BAND = 8
local MINUS = -1e15
-- As many values as `unpack` can put on the stack everywhere.
local SLICE = 4096

-- What a cell says of its way: where its best comes from, and whether the gaps that end there
-- go on from one before.
local DIAGONAL, VERTICAL, HORIZONTAL, STOP = 0, 1, 2, 3
local LONG_VERTICAL, LONG_HORIZONTAL = 4, 8

-- Scores for match and mismatch as a matrix.
local function plain_matrix(match, mismatch)
  return setmetatable({}, {
    __index = function(rows, letter)
      rows[letter] = setmetatable({}, {
        __index = function(row, other)
          row[other] = letter == other and match or mismatch
          return row[other]
        end,
      })
      return rows[letter]
    end,
  })
end

local function number_option(caller, options, name, default, least)
  local value = options[name]
  if value == nil then
    value = default
  end
  if type(value) ~= "number" or value ~= value or value < least then
    error(string.format("%s: %s must be a number%s, not %s", caller, name,
      least == 0 and " of at least 0: it is a penalty" or "", tostring(value)), 0)
  end
  return value
end

local function checked(caller, options)
  options = check.options(caller, options, OPTIONS)
  local mode = options.mode or "global"
  if not MODES[mode] then
    error(string.format("%s: unknown mode '%s': use global, local, overlap or fit", caller, tostring(mode)), 0)
  end
  local matrix, name = options.matrix, options.matrix or DEFAULT_MATRIX
  if options.match ~= nil or options.mismatch ~= nil then
    if matrix ~= nil then
      error(caller .. ": matrix and match are alternatives: give one of them", 0)
    end
    matrix = plain_matrix(number_option(caller, options, "match", 1, -math.huge),
      number_option(caller, options, "mismatch", 0, -math.huge))
    name = "match"
  elseif type(name) == "string" then
    matrix = matrices.get(name)
    if not matrix then
      error(string.format("%s: unknown matrix '%s': use %s, or a table of tables", caller, name,
        table.concat(matrices.names(), ", ")), 0)
    end
  elseif type(matrix) ~= "table" then
    error(caller .. ": the matrix must be a name or a table of tables", 0)
  end
  local open = number_option(caller, options, "gap_open", DEFAULT_OPEN, 0)
  local extend = number_option(caller, options, "gap_extend", DEFAULT_EXTEND, 0)
  if open < extend then
    error(string.format("%s: gap_open (%g) is the penalty of a gap's first letter and must be at least gap_extend (%g)",
      caller, open, extend), 0)
  end
  local band = options.band and check.whole_number(caller, "band", options.band, 0)
  return { mode = mode, matrix = matrix, name = tostring(name), open = open, extend = extend, band = band }
end

-- The letters of a sequence, upper case.
local function letters_of(caller, which, sequence, options)
  if type(sequence) ~= "string" then
    error(string.format("%s: the %s sequence must be a string, not %s", caller, which, type(sequence)), 0)
  end
  local letters = {}
  sequence = sequence:upper()
  for position = 1, #sequence do
    letters[position] = sequence:sub(position, position)
    if not options.matrix[letters[position]] then
      error(string.format("%s: '%s' at position %d of the %s sequence is not in the matrix %s%s", caller,
        letters[position], position, which, options.name,
        options.name == DEFAULT_MATRIX and ": for proteins take BLOSUM62" or ""), 0)
    end
  end
  return letters
end

-- Per letter of the one sequence, its score with each letter of the other.
local function profile_of(letters, others, matrix)
  local profile = {}
  for _, letter in ipairs(letters) do
    if not profile[letter] then
      local row, scores = {}, matrix[letter]
      for position, other in ipairs(others) do
        row[position] = scores[other]
      end
      profile[letter] = row
    end
  end
  return profile
end

local function packed(line, first, last)
  if last - first < SLICE then
    return char(unpack(line, first, last))
  end
  local parts = {}
  for from = first, last, SLICE do
    parts[#parts + 1] = char(unpack(line, from, math.min(from + SLICE - 1, last)))
  end
  return table.concat(parts)
end

--- Fills the cells of diagonals `low` to `high` (position in b less position in a).
--
-- Cells from which even the best pairs for all letters that are left would not lead to `known`
-- are left out at both ends of each row.
-- @param known a score that is reached for sure
-- @param behind_a, behind_b for each position, what the letters behind it can score at most
-- @return best score, where it ends in a and b, and `with_ways` a function that gives the way to a cell
local function sweep(a, b, profile, options, low, high, known, behind_a, behind_b, with_ways)
  local mode, open, extend = options.mode, options.open, options.extend
  local n, m = #a, #b
  local is_local = mode == "local"
  local floor_score = is_local and 0 or MINUS
  local free_a, free_b = is_local or mode == "overlap", mode ~= "global"
  local scores, vertical, line = {}, {}, {}
  for j = 0, m do
    scores[j] = j > high and MINUS or j == 0 and 0 or free_b and 0 or -open - (j - 1) * extend
    vertical[j] = MINUS
  end
  -- Only a local alignment may end anywhere.
  local best, best_i, best_j = is_local and 0 or -MINUS, 0, 0
  local edge, edge_i, edge_j = MINUS, 0, 0
  local from, to = 1, math.min(high, m)
  local rows, firsts = {}, {} -- the ways, a string per letter of a, and where it begins
  local function way_to(i, j)
    return byte(rows[i], j - firsts[i] + 1)
  end
  for i = 1, n do
    local limit = math.min(i + high, m)
    if from < i + low then
      from = i + low
    end
    if to < limit then
      to = to + 1
      scores[to], vertical[to] = MINUS, MINUS
    end
    local diagonal = scores[from - 1]
    local left = MINUS
    if from == 1 and i + low <= 0 then
      left = free_a and 0 or -open - (i - 1) * extend
    end
    scores[from - 1] = left
    local horizontal = MINUS
    local row = profile[a[i]]
    local rest = behind_a[i] -- of this row
    -- Whether a way through the column before the first letter of b may still be the best.
    local at_border = left + (rest < behind_b[0] and rest or behind_b[0]) >= known
    local start = from
    while true do
      for j = start, to do
        local above = scores[j]
        local down, way = vertical[j] - extend, LONG_VERTICAL
        local opened = above - open
        if opened >= down then
          down, way = opened, 0
        end
        vertical[j] = down
        horizontal = horizontal - extend
        opened = left - open
        if opened >= horizontal then
          horizontal = opened
        else
          way = way + LONG_HORIZONTAL
        end
        left = diagonal + row[j]
        diagonal = above
        if down > left then
          if horizontal > down then
            left, way = horizontal, way + HORIZONTAL
          else
            left, way = down, way + VERTICAL
          end
        elseif horizontal > left then
          left, way = horizontal, way + HORIZONTAL
        end
        if left > best then
          best, best_i, best_j = left, i, j
        elseif left <= floor_score then
          left, way = floor_score, STOP
        end
        scores[j] = left
        line[j] = way
      end
      -- A gap may lead on to the right.
      if to >= limit or left + (rest < behind_b[to] and rest or behind_b[to]) < known then
        break
      end
      start, to = to + 1, to + 1
      scores[to], vertical[to] = MINUS, MINUS
    end
    if with_ways then
      rows[i], firsts[i] = from <= to and packed(line, from, to) or "", from
    end
    if mode == "overlap" and to == m and scores[m] > edge then
      edge, edge_i, edge_j = scores[m], i, m
    end
    while not at_border and from <= to and scores[from] + (rest < behind_b[from] and rest or behind_b[from]) < known do
      from = from + 1
    end
    while to > from and scores[to] + (rest < behind_b[to] and rest or behind_b[to]) < known do
      to = to - 1
    end
  end
  if mode == "global" then
    return to == m and scores[m] or MINUS, n, m, way_to
  elseif is_local then
    return best, best_i, best_j, way_to
  end
  if mode == "overlap" and edge < 0 then
    edge, edge_i, edge_j = 0, 0, m -- nothing is aligned at all
  end
  for j = math.max(0, from - 1), to do
    if scores[j] > edge then
      edge, edge_i, edge_j = scores[j], n, j
    end
  end
  return edge, edge_i, edge_j, way_to
end

-- The best score that a way outside of a band could have.
local function outside(options, sums_a, sums_b, n, m, low, high)
  local most = MINUS
  local function gaps(count)
    return count > 0 and options.mode == "global" and options.open + (count - 1) * options.extend or 0
  end
  if high < m then
    local across = high + 1 -- letters of b without a partner
    local down = across - (m - n)
    local pairs_left = math.min(m - across, n)
    most = math.max(most, math.min(sums_b[pairs_left], sums_a[pairs_left]) - gaps(across) - gaps(down))
  end
  if low > -n then
    local down = 1 - low
    local across = down + (m - n)
    local pairs_left = math.min(n - down, m)
    most = math.max(most, math.min(sums_b[pairs_left], sums_a[pairs_left]) - gaps(down) - gaps(across))
  end
  return most
end

-- The score, where it ends, and the ways of the band that was enough.
local function solve(a, b, options, with_ways)
  local n, m = #a, #b
  local lowest, highest = math.min(0, m - n), math.max(0, m - n)
  local matrix = options.matrix
  local hope_a, hope_b = hope.plain(a, b, matrix), hope.plain(b, a, matrix, true)
  local behind_a, behind_b = hope_a.behind, hope_b.behind
  local plan = lanes and lanes.plan(a, b, options)
  local profile = not plan and profile_of(a, b, matrix)
  local function run(half, known, only_score)
    local low, high = math.max(lowest - half, -n), math.min(highest + half, m)
    local ways = with_ways and not only_score
    local score, i, j, way_to
    if plan then
      score, i, j, way_to = lanes.sweep(plan, low, high, known, hope_a.best, behind_a, behind_b, ways)
    else
      score, i, j, way_to = sweep(a, b, profile, options, low, high, known, behind_a, behind_b, ways)
    end
    return { score = score, i = i, j = j, way_to = way_to }
  end
  local wide = math.max(n, m)
  if options.band then
    return run(options.band, MINUS)
  elseif options.mode == "fit" then
    return run(wide, MINUS)
  end
  local function enough(half, score)
    local low, high = math.max(lowest - half, -n), math.min(highest + half, m)
    return outside(options, hope_a.sums, hope_b.sums, n, m, low, high) <= score
  end
  -- A narrow band gives a score, which tells the least band around it outside of which nothing
  -- can be better. The score of that one can only be higher, so that it is wide enough.
  local narrow = math.min(FIRST_BAND, wide)
  local score = run(narrow, MINUS, true).score
  if not enough(narrow, score) and hope.is_loose(hope_a, score) then
    local find = lanes and lanes.seeds
    behind_a = hope.tight(a, hope_a, options.open, options.extend, find)
    behind_b = hope.tight(b, hope_b, options.open, options.extend, find)
  end
  while wide - narrow > 1 and not enough(narrow, score) do
    local middle = math.floor((narrow + wide) / 2)
    if enough(middle, score) then
      wide = middle
    else
      narrow = middle
    end
  end
  return run(enough(narrow, score) and narrow or wide, score)
end

-- The way back from the end of an alignment.
local function way_back(a, b, options, found)
  local i, j = found.i, found.j
  local line_a, line_b, operations = {}, {}, {}
  local function push(letter_a, letter_b, operation)
    line_a[#line_a + 1], line_b[#line_b + 1], operations[#operations + 1] = letter_a, letter_b, operation
  end
  local function way_at()
    return found.way_to(i, j)
  end
  while i > 0 and j > 0 do
    local way = way_at()
    local source = way % 4
    if source == STOP then
      break
    elseif source == VERTICAL then
      local longer
      repeat
        longer = way_at() % 8 >= LONG_VERTICAL
        push(a[i], "-", "I")
        i = i - 1
      until not longer or i == 0
    elseif source == HORIZONTAL then
      local longer
      repeat
        longer = way_at() >= LONG_HORIZONTAL
        push("-", b[j], "D")
        j = j - 1
      until not longer or j == 0
    else
      push(a[i], b[j], "M")
      i, j = i - 1, j - 1
    end
  end
  if options.mode == "global" or options.mode == "fit" then
    while i > 0 do
      push(a[i], "-", "I")
      i = i - 1
    end
  end
  if options.mode == "global" then
    while j > 0 do
      push("-", b[j], "D")
      j = j - 1
    end
  end
  return i, j, line_a, line_b, operations
end

local function reversed(parts)
  return table.concat(parts):reverse()
end

local function cigar_of(operations)
  local parts = {}
  local at = #operations
  while at > 0 do
    local operation, count = operations[at], 0
    while operations[at] == operation do
      at, count = at - 1, count + 1
    end
    parts[#parts + 1] = count .. operation
  end
  return table.concat(parts)
end

--- Aligns two sequences.
--
-- Modes: "global" (Needleman-Wunsch: both from end to end), "local" (Smith-Waterman: the best
-- parts of both), "overlap" (end to end, but gaps at the ends cost nothing, as EMBOSS
-- `needle` has it), "fit" (all of `a` within `b`). A gap of n letters costs `gap_open` and n - 1
-- times `gap_extend`. Of several best alignments one is given.
--
-- The score is that of the whole matrix whatever the band, unless `band` is given. Time and
-- memory (a byte per cell) are those of the band, at most the product of the lengths.
-- @param a, b strings, in any case
-- @param options table or nil: `mode` (default "global"); `matrix`, a name of
--   `matrix_names` or a table of tables (default "EDNAFULL"; for proteins "BLOSUM62"), or
--   `match` and `mismatch`, scores; `gap_open` (default 10) and `gap_extend` (0.5),
--   penalties; `band`, how many diagonals on each side of the main ones are looked at
--   (default: as many as are needed for the exact result)
-- @return table with `score`, `a_start`, `a_stop`, `b_start`, `b_stop` (1-based, inclusive;
--   0 and 0 when nothing is aligned), `a` and `b` (the aligned parts, with `-` in gaps),
--   `cigar` (`I`: a letter of `a` alone, `D`: of `b` alone), `length` (columns),
--   `identities`, `similar` (pairs that score above 0) and `gaps` (columns)
function align.align(a, b, options)
  local caller = "bio_compute.align"
  options = checked(caller, options)
  local letters_a, letters_b = letters_of(caller, "first", a, options), letters_of(caller, "second", b, options)
  local found = solve(letters_a, letters_b, options, true)
  local before_a, before_b, line_a, line_b, operations = way_back(letters_a, letters_b, options, found)
  local identities, similar, gaps = 0, 0, 0
  for column, operation in ipairs(operations) do
    if operation == "M" then
      identities = identities + (line_a[column] == line_b[column] and 1 or 0)
      similar = similar + (options.matrix[line_a[column]][line_b[column]] > 0 and 1 or 0)
    else
      gaps = gaps + 1
    end
  end
  local empty = #operations == 0
  local stop_a, stop_b = found.i, found.j
  return {
    score = found.score,
    a_start = empty and 0 or before_a + 1, a_stop = empty and 0 or stop_a,
    b_start = empty and 0 or before_b + 1, b_stop = empty and 0 or stop_b,
    a = reversed(line_a), b = reversed(line_b),
    cigar = cigar_of(operations),
    length = #operations, identities = identities, similar = similar, gaps = gaps,
  }
end

--- The score of the best alignment of two sequences, in the memory of one row.
-- @param a, b as for `align`
-- @param options as for `align`
-- @return number
function align.align_score(a, b, options)
  local caller = "bio_compute.align_score"
  options = checked(caller, options)
  local letters_a, letters_b = letters_of(caller, "first", a, options), letters_of(caller, "second", b, options)
  return solve(letters_a, letters_b, options, false).score
end

--- The names of the substitution matrices.
-- @return array of names, in alphabetical order
function align.matrix_names()
  return matrices.names()
end

return align
