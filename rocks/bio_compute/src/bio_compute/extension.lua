--- The extension of a read on one place of a reference, in a band of diagonals.
--
-- Penalties are those of bowtie2 from end to end; `placement` says them. Bases are bytes; a
-- reference is an array of them, in which places beyond its ends are nil.

local extension = { UNKNOWN = 1, GAP_OPEN = 5, GAP_EXTEND = 3, INFINITE = 1e9 }

local UNKNOWN, GAP_OPEN, GAP_EXTEND = extension.UNKNOWN, extension.GAP_OPEN, extension.GAP_EXTEND
local INFINITE = extension.INFINITE
-- No gap stands within so many bases of an end of the read.
local BARRIER = 4

--- The penalty without gaps on a diagonal, or INFINITE as soon as it is above `bound`.
function extension.plain_penalty(bases, penalties, length, reference, shift, bound)
  local penalty = 0
  for at = 1, length do
    local there = reference[at + shift]
    if bases[at] ~= there then
      penalty = penalty + (there == 78 and UNKNOWN or there and penalties[at] or INFINITE)
      if penalty > bound then
        return INFINITE
      end
    end
  end
  return penalty
end

--- The least penalty with one gap between two diagonals: the first bases on the one, the
-- rest on the other.
function extension.one_gap_penalty(bases, penalties, length, reference, left, right)
  local rest = 0
  for at = 1, length do
    local there = reference[at + right]
    if bases[at] ~= there then
      rest = rest + (there == 78 and UNKNOWN or there and penalties[at] or INFINITE)
    end
  end
  -- An insertion consumes bases of the read between the two.
  local skipped = left > right and left - right or 0
  local best, head = INFINITE, 0
  local consumed = 0
  for at = 1, length - BARRIER - skipped do
    local here = reference[at + left]
    if bases[at] ~= here then
      head = head + (here == 78 and UNKNOWN or here and penalties[at] or INFINITE)
    end
    while consumed < at + skipped do
      consumed = consumed + 1
      local there = reference[consumed + right]
      if bases[consumed] ~= there then
        rest = rest - (there == 78 and UNKNOWN or there and penalties[consumed] or INFINITE)
      end
    end
    if at > BARRIER and head + rest < best then
      best = head + rest
    end
  end
  return best + GAP_OPEN + GAP_EXTEND * math.abs(left - right)
end

-- Rows of the extension, kept from read to read.
local above, above_insertion, current, current_insertion, steps = {}, {}, {}, {}, {}

-- What a cell says of its way: 1 and 2, the best comes from an insertion or deletion; 4 and
-- 8, that insertion or deletion goes on from one before.
local FROM_INSERTION, FROM_DELETION, LONG_INSERTION, LONG_DELETION = 1, 2, 4, 8

--- Extends over a band of diagonals, `shift - width` to `shift + width`.
-- @return the least penalty, or nil when all are above `bound`; then the column where the
--   best ends (0 is the first diagonal) and the number of columns
function extension.extend(bases, penalties, length, reference, shift, width, bound)
  local columns = 2 * width + 1
  local opening = GAP_OPEN + GAP_EXTEND
  for column = 0, columns do
    above[column], above_insertion[column] = 0, INFINITE
  end
  above[columns], current[columns], current_insertion[columns] = INFINITE, INFINITE, INFINITE
  for at = 1, length do
    local base, mismatch = bases[at], penalties[at]
    local gaps_open = at > BARRIER and at <= length - BARRIER
    local deletion, left = INFINITE, INFINITE
    local least = INFINITE
    local from = at + shift - width
    local row = (at - 1) * columns
    for column = 0, columns - 1 do
      local there = reference[from + column]
      local best, way = above[column], 0
      if base ~= there then
        best = best + (there == 78 and UNKNOWN or there and mismatch or INFINITE)
      end
      local insertion = INFINITE
      if gaps_open then
        insertion = above[column + 1] + opening
        local longer = above_insertion[column + 1] + GAP_EXTEND
        if longer < insertion then
          insertion, way = longer, LONG_INSERTION
        end
      end
      if gaps_open then
        local longer = deletion + GAP_EXTEND
        deletion = left + opening
        if longer < deletion then
          deletion, way = longer, way + LONG_DELETION
        end
        if deletion < best then
          best, way = deletion, way + FROM_DELETION
        end
      end
      if insertion < best then
        -- A deletion was better until now: its mark is taken back.
        if way % 4 >= FROM_DELETION then
          way = way - FROM_DELETION
        end
        best, way = insertion, way + FROM_INSERTION
      end
      current[column], current_insertion[column], steps[row + column] = best, insertion, way
      left = best
      if best < least then
        least = best
      end
    end
    if least > bound then
      return nil
    end
    above, current = current, above
    above_insertion, current_insertion = current_insertion, above_insertion
  end
  local best, last = INFINITE, nil
  for column = 0, columns - 1 do
    -- Of equal ends the one nearest to the middle.
    if above[column] < best or above[column] == best and math.abs(column - width) < math.abs(last - width) then
      best, last = above[column], column
    end
  end
  if best > bound then
    return nil
  end
  return best, last, columns
end

--- The way back through the steps of the last extension.
-- @return the CIGAR and the column where the read begins
function extension.way_back(length, column, columns)
  local operations, counts = {}, {}
  local function push(operation)
    if operations[#operations] == operation then
      counts[#counts] = counts[#counts] + 1
    else
      operations[#operations + 1], counts[#counts + 1] = operation, 1
    end
  end
  local at = length
  while at > 0 do
    local way = steps[(at - 1) * columns + column]
    local source = way % 4
    if source == FROM_INSERTION then
      local longer
      repeat
        way = steps[(at - 1) * columns + column]
        longer = way % 8 >= LONG_INSERTION
        push("I")
        at, column = at - 1, column + 1
      until not longer
    elseif source == FROM_DELETION then
      local longer
      repeat
        way = steps[(at - 1) * columns + column]
        longer = way >= LONG_DELETION
        push("D")
        column = column - 1
      until not longer
    else
      push("M")
      at = at - 1
    end
  end
  local parts = {}
  for number = #operations, 1, -1 do
    parts[#parts + 1] = counts[number] .. operations[number]
  end
  return table.concat(parts), column
end

return extension
