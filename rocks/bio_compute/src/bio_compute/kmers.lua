--- Counts of k-mers.
--
-- A k-mer of up to 26 bases is kept as a number with two bits per base, first base
-- highest: 4^26 is 2^52, so doubles hold every code exactly, also in Lua 5.1 and
-- LuaJIT. Longer ones are kept as strings.

local check = require("bio_compute.check")
local strand = require("bio_compute.strand")

local kmers = {}

local LONGEST_CODED = 26
local COUNT_OPTIONS = { canonical = true }

-- In this order of digits the smaller code is the alphabetically first k-mer.
local DIGIT_OF_BYTE, BASE_OF_DIGIT = {}, {}
for digit, base in ipairs({ "A", "C", "G", "T" }) do
  DIGIT_OF_BYTE[base:byte()] = digit - 1
  DIGIT_OF_BYTE[base:lower():byte()] = digit - 1
  BASE_OF_DIGIT[digit - 1] = base
end

local KmerCounts = {}
KmerCounts.__index = KmerCounts

local function add_coded(self, sequence)
  local counts, k, canonical = self._counts, self.k, self.canonical
  local top = 1 -- the weight of the first base: 4^(k-1)
  for _ = 2, k do
    top = top * 4
  end
  local forward, reverse, run, added = 0, 0, 0, 0
  local byte, digit_of_byte = string.byte, DIGIT_OF_BYTE
  for position = 1, #sequence do
    local digit = digit_of_byte[byte(sequence, position)]
    if digit then
      forward = forward % top * 4 + digit
      reverse = (reverse - reverse % 4) / 4 + (3 - digit) * top
      run = run + 1
      if run >= k then
        local code = forward
        if canonical and reverse < forward then
          code = reverse
        end
        counts[code] = (counts[code] or 0) + 1
        added = added + 1
      end
    else
      run = 0
    end
  end
  return added
end

local function add_strings(self, sequence)
  local counts, k, canonical = self._counts, self.k, self.canonical
  local added = 0
  for run in sequence:upper():gmatch("[ACGT]+") do
    local length = #run
    local other = canonical and strand.reverse_complement(run)
    for first = 1, length - k + 1 do
      local kmer = run:sub(first, first + k - 1)
      if canonical then
        local reverse = other:sub(length - first - k + 2, length - first + 1)
        if reverse < kmer then
          kmer = reverse
        end
      end
      counts[kmer] = (counts[kmer] or 0) + 1
      added = added + 1
    end
  end
  return added
end

local function decode(code, k)
  local bases = {}
  for place = k, 1, -1 do
    local digit = code % 4
    bases[place] = BASE_OF_DIGIT[digit]
    code = (code - digit) / 4
  end
  return table.concat(bases)
end

local function encode(kmer)
  local code = 0
  for place = 1, #kmer do
    code = code * 4 + DIGIT_OF_BYTE[kmer:byte(place)]
  end
  return code
end

--- Adds the counts of other sequences, counted with the same k and mode elsewhere.
-- @param other counts, or what their method `state` gave
-- @return the counts, for chaining
function KmerCounts:merge(other)
  local state = other.state and other:state() or other
  if state.k ~= self.k or state.canonical ~= self.canonical then
    error(string.format("KmerCounts:merge: these are counts of k = %s%s, and those of k = %d%s",
      tostring(state.k), state.canonical and ", canonical" or "", self.k, self.canonical and ", canonical" or ""), 0)
  end
  local counts = self._counts
  local coded = self.k <= LONGEST_CODED
  for key, count in pairs(state.counts) do
    key = coded and tonumber(key) or key
    counts[key] = (counts[key] or 0) + count
  end
  self.total = self.total + state.total
  return self
end

--- The counts as plain data, to be sent elsewhere and merged there.
-- @return table with `k`, `canonical`, `total` and `counts` (from the k-mer, up to 26 bases as
--   a number of two bits per base, A 0, C 1, G 2, T 3, to its count)
function KmerCounts:state()
  return { k = self.k, canonical = self.canonical, total = self.total, counts = self._counts }
end

--- Adds the k-mers of one more sequence.
-- @param sequence string of IUPAC letters
-- @return the counts, for chaining
function KmerCounts:add(sequence)
  check.sequence("KmerCounts:add", sequence)
  local add = self.k <= LONGEST_CODED and add_coded or add_strings
  self.total = self.total + add(self, sequence)
  return self
end

--- How often a k-mer occurs. With canonical counts both of its strands have the
-- same number.
-- @param kmer string of k letters A, C, G and T
-- @return number, 0 when it does not occur
function KmerCounts:get(kmer)
  if type(kmer) ~= "string" or #kmer ~= self.k or kmer:find("[^ACGTacgt]") then
    error(string.format("KmerCounts:get: a string of %d letters A, C, G and T is needed, not %s",
      self.k, tostring(kmer)), 0)
  end
  kmer = kmer:upper()
  if self.canonical then
    local reverse = strand.reverse_complement(kmer)
    kmer = reverse < kmer and reverse or kmer
  end
  return self._counts[self.k <= LONGEST_CODED and encode(kmer) or kmer] or 0
end

--- Iterates over k-mers and their counts, in no particular order.
-- @return iterator of string and number, for `for`
function KmerCounts:each()
  local coded = self.k <= LONGEST_CODED
  local key, count
  return function()
    key, count = next(self._counts, key)
    if key == nil then
      return nil
    end
    return coded and decode(key, self.k) or key, count
  end
end

--- The most frequent k-mers; equally frequent ones in alphabetical order.
-- @param limit number of k-mers wanted
-- @return array of tables with `kmer` and `count`
function KmerCounts:top(limit)
  limit = check.whole_number("KmerCounts:top", "limit", limit, 1, 10)
  local keys = {}
  for key in pairs(self._counts) do
    keys[#keys + 1] = key
  end
  local counts = self._counts
  table.sort(keys, function(left, right)
    if counts[left] ~= counts[right] then
      return counts[left] > counts[right]
    end
    return left < right
  end)
  local top = {}
  for rank = 1, math.min(limit, #keys) do
    local key = keys[rank]
    top[rank] = {
      kmer = self.k <= LONGEST_CODED and decode(key, self.k) or key,
      count = counts[key],
    }
  end
  return top
end

--- The k-mer spectrum: how many distinct k-mers occur once, twice and so on.
-- @return table from count to the number of distinct k-mers; counts that no k-mer
--   has are left out
function KmerCounts:spectrum()
  local spectrum = {}
  for _, count in pairs(self._counts) do
    spectrum[count] = (spectrum[count] or 0) + 1
  end
  return spectrum
end

--- An estimate of the length of the genome that reads were made from.
--
-- The spectrum of k-mers of reads has a valley behind the k-mers of errors and then a peak
-- at the depth of the genome; the estimate is the number of k-mers behind the valley
-- divided by the depth at the peak (Li et al. 2010, Nature 463:311). It needs a depth of ten
-- or more, and a k that makes most words of the genome unique.
-- @return table with `length` (bases), `depth` (of k-mers, at the peak) and `valley`, or nil when
--   the spectrum has no peak
function KmerCounts:genome_size()
  local spectrum, highest = self:spectrum(), 0
  for count in pairs(spectrum) do
    highest = math.max(highest, count)
  end
  local valley = 1
  while valley < highest and (spectrum[valley + 1] or 0) <= (spectrum[valley] or 0) do
    valley = valley + 1
  end
  if valley >= highest then
    return nil
  end
  local peak, sum = valley, 0
  for count = valley, highest do
    local distinct = spectrum[count] or 0
    sum = sum + distinct * count
    if distinct > (spectrum[peak] or 0) then
      peak = count
    end
  end
  return { length = math.floor(sum / peak + 0.5), depth = peak, valley = valley }
end

--- The figures that `jellyfish stats` prints.
-- @return table with the numbers `unique` (k-mers that occur once), `distinct`,
--   `total` (windows counted) and `max` (the highest count)
function KmerCounts:stats()
  local unique, distinct, max = 0, 0, 0
  for _, count in pairs(self._counts) do
    distinct = distinct + 1
    if count == 1 then
      unique = unique + 1
    end
    if count > max then
      max = count
    end
  end
  return { unique = unique, distinct = distinct, total = self.total, max = max }
end

--- Counts the k-mers of a sequence or of several.
--
-- A window with any letter but A, C, G and T is skipped. Upper and lower case
-- count as the same.
-- The memory is that of the distinct k-mers.
-- @param source string of IUPAC letters, or array or iterator of records with `sequence`
-- @param k number of bases, 1 or more; 26 is the most that is kept compactly
-- @param options table or nil: `canonical`, true to count a k-mer and its reverse
--   complement together, under the alphabetically first (default false)
-- @return counts with the fields `k`, `canonical` and `total` and the methods `add`, `get`,
--   `each`, `top`, `spectrum`, `stats`, `genome_size`, `state` and `merge`
function kmers.count_kmers(source, k, options)
  k = check.whole_number("bio_compute.count_kmers", "k", k, 1)
  options = check.options("bio_compute.count_kmers", options, COUNT_OPTIONS)
  local counts = setmetatable({
    k = k,
    canonical = options.canonical and true or false,
    total = 0,
    _counts = {},
  }, KmerCounts)
  if type(source) ~= "table" and type(source) ~= "function" then
    check.sequence("bio_compute.count_kmers", source)
    return counts:add(source)
  end
  local index = 0
  local function add(record)
    index = index + 1
    local sequence = type(record) == "table" and record.sequence or nil
    local problem = check.problem_of(sequence)
    if problem then
      error(string.format("bio_compute.count_kmers: record %d: %s", index, problem), 0)
    end
    counts:add(sequence)
  end
  if type(source) == "function" then
    for record in source do
      add(record)
    end
  else
    for _, record in ipairs(source) do
      add(record)
    end
  end
  return counts
end

return kmers
