--- Eight cells of an alignment at once, in the integers of 64 bits that Lua has from 5.3 on.
--
-- What is computed are differences between the scores of neighbours (Suzuki and Kasahara 2018,
-- BMC Bioinformatics 19:45). They are small whatever the lengths, so that eight of them fit into
-- an integer, a byte each; its highest bit, the guard, tells which of two numbers is greater.
--
-- Rows are taken eight at a time, a strip, and of each the cell one column further left than that
-- of the row above: no such cell depends on another. With H the best score of a cell, E and F of
-- those ways to it that end in a vertical and in a horizontal gap, `open` the penalty of a gap's
-- first letter and `extend` of a further one, the bytes are
--
--   V = H(i,j) - H(i,j-1) + open        X = E(i+1,j) - H(i,j) + open       A = X + V
--   U = H(i,j) - H(i-1,j) + open        Y = F(i,j+1) - H(i,j) + open
--   Z = H(i,j) - H(i-1,j-1) + 2 open
--
-- Where a strip begins further right than the one above it, its left neighbours are a vertical gap,
-- and where it ends further right, its upper ones are a horizontal gap: ways that are possible, but
-- never better than what the caller knows to be within the band.

local lanes = {}

local ONES = 0x0101010101010101
local GUARD = 0x80 * ONES
local ROWS = 8
local SLICE = 128
-- Letters of a seed, and what a byte can hold of their scores.
local SEED, SEED_BYTE = 4, 127
local MODES = { global = true, fit = true }

local function distinct(letters)
  local codes, list = {}, {}
  for _, letter in ipairs(letters) do
    if not codes[letter] then
      list[#list + 1] = letter
      codes[letter] = #list
    end
  end
  return codes, list
end

-- For each letter of a and the number of one of b, the byte Z of the pair; nil when one does
-- not fit.
local function bytes_of(list_a, list_b, matrix, scale, open)
  local bytes = {}
  for _, letter in ipairs(list_a) do
    local row = { [0] = 0 }
    for code, other in ipairs(list_b) do
      local score = math.tointeger(matrix[letter][other] * scale)
      -- Z is at most the best pair and 3 open; what is added to it for a gap is less than another.
      if not score or score < -2 * open or score + 4 * open > 127 then
        return nil
      end
      row[code] = score + 2 * open
    end
    bytes[letter] = row
  end
  return bytes
end

-- In units of 1 / scale.
local function plan_in(scale, a, b, options)
  local open, extend = math.tointeger(options.open * scale), math.tointeger(options.extend * scale)
  local codes, list_b = distinct(b)
  local _, list_a = distinct(a)
  local bytes = open and extend and bytes_of(list_a, list_b, options.matrix, scale, open)
  if not bytes then
    return nil
  end
  local plan = {
    scale = scale, open = open, extend = extend, free = options.mode == "fit", codes = #list_b,
    rows = {}, columns = {},
  }
  for row, letter in ipairs(a) do
    plan.rows[row] = bytes[letter]
  end
  local nothing = {}
  for code = 0, #list_b do
    nothing[code] = 0
  end
  for row = #a + 1, #a + ROWS do
    plan.rows[row] = nothing
  end
  for column, letter in ipairs(b) do
    plan.columns[column] = codes[letter]
  end
  for column = #b + 1, #b + ROWS do
    plan.columns[column] = 0 -- pairs with nothing
  end
  return plan
end

--- What a sweep needs to know of two sequences; nil when the mode is not done here, or scores are
-- too large or neither whole nor half numbers.
function lanes.plan(a, b, options)
  if MODES[options.mode] and #a > 0 and #b > 0 then
    return plan_in(1, a, b, options) or plan_in(2, a, b, options)
  end
  return nil
end

-- Eight rows in one, a byte each: `first` and those that follow at a distance.
local function profile_of(rows, first, distance, codes, profile)
  local row_0, row_1 = rows[first], rows[first + distance]
  local row_2, row_3 = rows[first + 2 * distance], rows[first + 3 * distance]
  local row_4, row_5 = rows[first + 4 * distance], rows[first + 5 * distance]
  local row_6, row_7 = rows[first + 6 * distance], rows[first + 7 * distance]
  for code = 0, codes do
    profile[code] = row_0[code] | row_1[code] << 8 | row_2[code] << 16 | row_3[code] << 24
      | row_4[code] << 32 | row_5[code] << 40 | row_6[code] << 48 | row_7[code] << 56
  end
  return profile
end

--- One strip of rows.
-- @param from, to its columns
-- @param last the lane of its last row
-- @param top_v, top_a the bytes of the row above, by column; they become those of the last row
-- @param u those of the cells left of it
-- @param ways array for the ways
local function strip(plan, profile, from, to, last, top_v, top_a, u, ways)
  local columns = plan.columns
  local guard, gap = GUARD, GUARD + (plan.open - plan.extend) * ONES
  local even, odd = 0x00FF00FF00FF00FF, 0xFF00FF00FF00FF00 -- lanes 0, 2, 4, 6; and the others
  local twos, other_twos = 0x0000FFFF0000FFFF, 0xFFFF0000FFFF0000 -- lanes 0, 1, 4, 5; and the others
  local low, high = 0x00000000FFFFFFFF, 0xFFFFFFFF00000000
  local start_u, begun = u, from + ROWS - 1
  local v, a, y = plan.open * ONES, plan.open * ONES, 0
  local pairs_1 = 0
  local twos_1, twos_2 = 0, 0
  local fours_1, fours_2, fours_3, fours_4 = 0, 0, 0, 0
  local shift = 8 * last
  local number = 0
  for step = from, to + last do
    -- The pairs' scores, of each lane those of a column further left than of the lane before.
    local pairs_0 = profile[columns[step]]
    local twos_0 = pairs_0 & even | pairs_1 & odd
    pairs_1 = pairs_0
    local fours_0 = twos_0 & twos | twos_2 & other_twos
    twos_2, twos_1 = twos_1, twos_0
    local pair = fours_0 & low | fours_4 & high | guard
    fours_4, fours_3, fours_2, fours_1 = fours_3, fours_2, fours_1, fours_0
    -- The greater of two: where the guard is left, the difference is added.
    local above = v << 8 | top_v[step]
    local down = a << 8 | top_a[step]
    local difference = pair - down
    local is_pair = difference & guard
    local z = down + (difference & is_pair - (is_pair >> 7))
    local across = y + u
    difference = z + guard - across
    local not_across = difference & guard
    z = across + (difference & not_across - (not_across >> 7))
    v = z - u
    u = z - above
    difference = down + gap - z
    local longer_down = difference & guard
    a = v + (difference & longer_down - (longer_down >> 7))
    difference = across + gap - z
    local longer_across = difference & guard
    y = difference & longer_across - (longer_across >> 7)
    number = number + 1
    ways[number] = is_pair | not_across >> 1 | longer_down >> 2 | longer_across >> 3
    if step < begun then
      -- Lanes that have not come to their first column yet.
      local waiting = -1 << 8 * number
      u = u & ~waiting | start_u & waiting
      v = v & ~waiting | plan.open * ONES & waiting
      a = a & ~waiting | plan.open * ONES & waiting
      y = y & ~waiting
    end
    local column = step - last
    top_v[column] = v >> shift
    top_a[column] = a >> shift
  end
  if last < ROWS - 1 then
    for column = from, to do -- without the lanes that have no row
      top_v[column], top_a[column] = top_v[column] & 127, top_a[column] & 127
    end
  end
  return number
end

local function packed(ways, count)
  local parts = {}
  for first = 1, count, SLICE do
    local last = math.min(first + SLICE - 1, count)
    parts[#parts + 1] = string.pack("<" .. ("i8"):rep(last - first + 1), table.unpack(ways, first, last))
  end
  return table.concat(parts)
end

-- Where the ways of a strip are read: by cell, a byte, or nil outside of the strip.
local function cell(strips, i, j)
  local rows = strips[(i - 1) // ROWS + 1]
  if j < rows.from or j > rows.to then
    return nil, rows
  end
  local lane = (i - 1) % ROWS
  return rows.ways:byte(ROWS * (j + lane - rows.from) + lane + 1), rows
end

local DIAGONAL, VERTICAL, HORIZONTAL = 0, 1, 2
local LONG_VERTICAL, LONG_HORIZONTAL = 4, 8

local function way_in(strips)
  return function(i, j)
    local bits, rows = cell(strips, i, j)
    if not bits and j < rows.from then
      return VERTICAL + ((i - 1) % ROWS > 0 and LONG_VERTICAL or 0)
    elseif not bits then
      return HORIZONTAL + (j > rows.to + 1 and LONG_HORIZONTAL or 0)
    end
    local way = bits & 0x40 == 0 and HORIZONTAL or bits & 0x80 == 0 and VERTICAL or DIAGONAL
    local above = i > 1 and cell(strips, i - 1, j)
    local left = j > 1 and cell(strips, i, j - 1)
    return way + (above and above & 0x20 ~= 0 and LONG_VERTICAL or 0) + (left and left & 0x10 ~= 0 and LONG_HORIZONTAL or 0)
  end
end

local function scaled(bounds, scale)
  local result = {}
  for position = 0, #bounds do
    result[position] = bounds[position] * scale
  end
  return result
end

--- Fills the cells of diagonals `low` to `high`, and some more; as `sweep` in `align`.
-- @param plan what `lanes.plan` gave
-- @param known a score that is reached for sure
-- @param best_a for each position in a, what its letter can score at most
-- @param behind_a, behind_b for each position, what the letters behind it can score at most
-- @return score, where it ends in a and b, and a function that gives the way to a cell
function lanes.sweep(plan, low, high, known, best_a, behind_a, behind_b, with_ways)
  local open, extend, scale = plan.open, plan.extend, plan.scale
  local n, m = #plan.rows - ROWS, #plan.columns - ROWS
  local hope = scaled(behind_b, scale)
  local profile, top_v, top_a, strips, ways = {}, {}, {}, {}, {}
  for column = 1, m do
    top_v[column] = plan.free and open or column == 1 and 0 or open - extend
    top_a[column] = top_v[column]
  end
  known = known * scale
  local from, to = 1, m
  local reach = math.min(m, ROWS + high)
  local corner = 0 -- H left of the first column, in the row above
  local score, best, best_column
  for first = 1, n, ROWS do
    local last = math.min(ROWS, n - first + 1) - 1
    local row, above_to = first + last, to
    to = math.min(reach, row + high)
    for column = above_to + 1, to + ROWS do
      top_v[column] = column == above_to + 1 and 0 or open - extend
      top_a[column] = top_v[column]
    end
    local u = (open - extend) * ONES
    if from > 1 or first == 1 then
      u = u & ~0xFF -- a vertical gap begins here
    end
    local count = strip(plan, profile_of(plan.rows, first, 1, plan.codes, profile), from, to, last, top_v, top_a, u, ways)
    if with_ways then
      strips[#strips + 1] = { from = from, to = to, ways = packed(ways, count) }
    end
    score = corner + (u & 0xFF) - open - last * extend
    best, best_column = score, from - 1
    -- The next strip needs no cells from which `known` is out of reach.
    local rest, next_from, column = behind_a[row] * scale, row + 1 + low, from
    local border = from == 1 and next_from <= 1 and score + rest >= known and score + hope[0] >= known
    while column <= to and not border do
      local next_score = score + top_v[column] - open
      if column >= next_from and next_score + rest >= known and next_score + hope[column] >= known then
        break
      end
      score, column = next_score, column + 1
      if score > best then
        best, best_column = score, column - 1
      end
    end
    from, corner = column, score
    for further = column, to do
      score = score + top_v[further] - open
      if score > best then
        best, best_column = score, further
      end
    end
    local gain = 0 -- of the next strip
    for next_row = row + 1, math.min(row + ROWS, n) do
      gain = gain + best_a[next_row] * scale
    end
    reach = math.min(m, row + ROWS + high)
    while reach > from and best + gain + hope[reach] < known do
      reach = reach - 1
    end
  end
  if not plan.free then
    best, best_column = score, m
  end
  return best / scale, n, best_column, with_ways and way_in(strips) or nil
end

--- What four letters at a time score without a gap at their best places, of eight at once.
-- @param letters array of letters
-- @param columns the others, by number
-- @param rows by letter, its score with each number
-- @return array with a score, or a bit more, for each four letters; nil when scores are not whole
function lanes.seeds(letters, columns, rows)
  local highest = -math.huge
  for _, row in pairs(rows) do
    for _, score in ipairs(row) do
      if score % 1 ~= 0 then
        return nil
      elseif score > highest then
        highest = score
      end
    end
  end
  -- Of each a byte, from the lowest on; what is below is taken to be that.
  local lowest = math.tointeger(highest) - SEED_BYTE // SEED
  local bytes, nothing = {}, { [0] = 0 }
  for letter, row in pairs(rows) do
    local of_letter = { [0] = 0 }
    for code, score in ipairs(row) do
      of_letter[code], nothing[code] = score > lowest and math.tointeger(score) - lowest or 0, 0
    end
    bytes[letter] = of_letter
  end
  local places, bests, count = {}, {}, #letters // SEED
  for position = 1, SEED * (count + ROWS) do
    places[position] = bytes[letters[position]] or nothing
  end
  local codes = #nothing
  local profile_1, profile_2, profile_3, profile_4 = {}, {}, {}, {}
  for first = 1, count, ROWS do
    local at = SEED * (first - 1)
    profile_of(places, at + 1, SEED, codes, profile_1)
    profile_of(places, at + 2, SEED, codes, profile_2)
    profile_of(places, at + 3, SEED, codes, profile_3)
    profile_of(places, at + 4, SEED, codes, profile_4)
    local guard, best = GUARD, 0
    local code_1, code_2, code_3 = columns[1], columns[2], columns[3]
    for column = SEED, #columns do
      local code_4 = columns[column]
      local difference = (profile_1[code_1] + profile_2[code_2] + profile_3[code_3] + profile_4[code_4] | guard) - best
      local greater = difference & guard
      best = best + (difference & greater - (greater >> 7))
      code_1, code_2, code_3 = code_2, code_3, code_4
    end
    for seed = first, math.min(first + ROWS - 1, count) do
      bests[seed] = (best >> 8 * (seed - first) & 127) + SEED * lowest
    end
  end
  return bests
end

return lanes
