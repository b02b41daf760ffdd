-- How much the letters behind a position can add to an alignment at most: what cannot reach a known
-- score any more need not be looked at.
--
-- Each letter's best pair is a bound (`plain`). A tighter one (`tight`) takes four letters at a
-- time: without a gap within, they score no more than at their best place in the other sequence,
-- and with one, a gap's first letter is paid (in the manner of the seeds of Ivanov, Bichsel and
-- Vechev 2022, RECOMB).

local hope = {}

local SEED = 4
-- Fewer kinds of letters: every four of them are found nearly everywhere.
local MANY = 10
local LONG = 32

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

-- The best scores for each number of letters, the highest first.
local function sums_of(letters, kinds, best_of)
  local counts = {}
  for _, letter in ipairs(letters) do
    counts[letter] = (counts[letter] or 0) + 1
  end
  table.sort(kinds, function(left, right)
    return best_of[left] > best_of[right]
  end)
  local sums, count = { [0] = 0 }, 0
  for _, letter in ipairs(kinds) do
    for _ = 1, counts[letter] do
      count = count + 1
      sums[count] = sums[count - 1] + best_of[letter]
    end
  end
  return sums
end

--- Bounds by letter.
-- @param letters, others arrays of letters
-- @param matrix table of tables
-- @param is_column whether the matrix has `letters` in its columns, not its rows
-- @return table: `sums` by the number of pairs, the highest first; `behind`, by position from 0,
--   for the letters behind it; `best` by position; for `tight`, `rows` of scores by letter and
--   number of the other, and `columns`, the others' numbers
function hope.plain(letters, others, matrix, is_column)
  local codes, list = distinct(others)
  local _, kinds = distinct(letters)
  local rows, best_of = {}, {}
  for _, letter in ipairs(kinds) do
    local row, best = {}, 0
    for code, other in ipairs(list) do
      local score = is_column and matrix[other][letter] or not is_column and matrix[letter][other]
      row[code] = score
      if score > best then
        best = score
      end
    end
    rows[letter], best_of[letter] = row, best
  end
  local best, behind, columns = {}, { [#letters] = 0 }, {}
  for position, letter in ipairs(letters) do
    best[position] = best_of[letter]
  end
  for position = #letters, 1, -1 do
    behind[position - 1] = behind[position] + best[position]
  end
  for position, other in ipairs(others) do
    columns[position] = codes[other]
  end
  return {
    sums = sums_of(letters, kinds, best_of), behind = behind, best = best,
    rows = rows, columns = columns, kinds = #kinds,
  }
end

-- For each four letters, what they score without a gap at their best place.
local function seeds_one_by_one(letters, columns, rows)
  local bests = {}
  for seed = 1, math.floor(#letters / SEED) do
    local at = SEED * (seed - 1)
    local row_1, row_2 = rows[letters[at + 1]], rows[letters[at + 2]]
    local row_3, row_4 = rows[letters[at + 3]], rows[letters[at + 4]]
    local best, code_1, code_2, code_3 = -math.huge, columns[1], columns[2], columns[3]
    for column = SEED, #columns do
      local code_4 = columns[column]
      local sum = row_1[code_1] + row_2[code_2] + row_3[code_3] + row_4[code_4]
      if sum > best then
        best = sum
      end
      code_1, code_2, code_3 = code_2, code_3, code_4
    end
    bests[seed] = best
  end
  return bests
end

--- Whether `tight` is worth its time.
-- @param plain what `plain` gave
-- @param score one that is reached
function hope.is_loose(plain, score)
  return plain.kinds >= MANY and #plain.best >= LONG and #plain.columns >= LONG and score < 0.75 * plain.behind[0]
end

--- Bounds by four letters.
-- @param letters those that `plain` was given
-- @param plain what it gave
-- @param open, extend penalties of a gap's first letter and of a further one, at most `open`
-- @param find finds the best places of several at once: nil, or `lanes.seeds`
-- @return array, by position from 0, what the letters behind it can score at most; it never rises
function hope.tight(letters, plain, open, extend, find)
  local columns, rows, best = plain.columns, plain.rows, plain.best
  local whole = find and find(letters, columns, rows) or seeds_one_by_one(letters, columns, rows)
  local count = #whole
  local behind = {}
  for position = SEED * count, #letters do
    behind[position] = plain.behind[position]
  end
  -- Behind four letters: when no gap leads over their end, and when one may.
  local closed = behind[SEED * count]
  local any = closed
  for seed = count, 1, -1 do
    local at = SEED * (seed - 1)
    local first, last = best[at + 1], best[at + 4]
    local three = first + best[at + 2] + best[at + 3] -- where the alignment ends within
    local sum = three + last
    behind[at + 3] = any + last
    behind[at + 2] = behind[at + 3] + best[at + 3]
    behind[at + 1] = behind[at + 2] + best[at + 2]
    local now = math.max(any, three, whole[seed] + closed, sum - open + closed, sum - last - open + any)
    any = math.max(now, sum - first - extend + closed)
    closed = now
    -- Never less than further on: an alignment may begin there, in a column that was left out here.
    behind[at] = math.max(any, behind[at + 1])
  end
  return behind
end

return hope
