--- Composition along a sequence.

local check = require("bio_compute.check")

local composition = {}

local OPTIONS = { window = true, step = true }
local DEFAULT_WINDOW = 1000

local function counted(text, pattern)
  local _, count = text:gsub(pattern, "")
  return count
end

--- GC content and GC skew in windows.
--
-- The GC content is the fraction of G and C among A, C, G and T; the skew is (G - C) / (G + C)
-- (Lobry 1996, Molecular Biology and Evolution 13:660); its running sum has its least and
-- greatest values near the origin and the end of replication of many bacterial genomes.
-- @param sequence string of IUPAC letters
-- @param options table or nil: `window`, bases (default 1000); `step`, from window to window
--   (default: as long as the window). The last window may be shorter
-- @return array of tables with `start`, `stop` (1-based, inclusive), `gc` (0 to 1, nil without
--   A, C, G and T), `skew` (-1 to 1, 0 without G and C) and `cumulative_skew` (the sum of
--   the skews so far)
function composition.gc_windows(sequence, options)
  local caller = "bio_compute.gc_windows"
  check.sequence(caller, sequence)
  options = check.options(caller, options, OPTIONS)
  local window = check.whole_number(caller, "window", options.window, 1, DEFAULT_WINDOW)
  local step = check.whole_number(caller, "step", options.step, 1, window)
  local windows, sum = {}, 0
  local length = #sequence
  for start = 1, length, step do
    local stop = math.min(start + window - 1, length)
    local part = sequence:sub(start, stop)
    local g, c = counted(part, "[Gg]"), counted(part, "[Cc]")
    local known = g + c + counted(part, "[AaTt]")
    local skew = g + c > 0 and (g - c) / (g + c) or 0
    sum = sum + skew
    windows[#windows + 1] = {
      start = start, stop = stop,
      gc = known > 0 and (g + c) / known or nil,
      skew = skew, cumulative_skew = sum,
    }
    if stop == length then
      break
    end
  end
  return windows
end

--- Counts the letters of a sequence of any alphabet, upper and lower case together.
-- @param sequence string
-- @param kind "dna" (default), "rna" or "protein"
-- @return table from upper-case letter to number; letters that do not occur are left out
function composition.letter_counts(sequence, kind)
  local caller = "bio_compute.letter_counts"
  kind = check.kind(caller, kind)
  check.letters(caller, sequence, kind)
  local counts = {}
  local rest = sequence:upper()
  while rest ~= "" do
    local letter = rest:sub(1, 1)
    local left, count = rest:gsub(letter == "*" and "%*" or letter, "")
    counts[letter], rest = count, left
  end
  return counts
end

return composition
