-- Times the rocks' part of the comparison in bench.py: bench.lua GENOME READS PAIRS
-- Prints a line per task: its name, the seconds, and a figure that shows that the work was done.
local bio = require("bio_sequence_analysis")
local bio_compute = require("bio_compute")
local genome, reads, pairs_file = arg[1], arg[2], arg[3]

local function timed(name, work)
  local best, figure = math.huge, nil
  for _ = 1, 3 do
    collectgarbage()
    local start = os.clock()
    figure = work()
    best = math.min(best, os.clock() - start)
  end
  print(string.format("%s\t%.6f\t%s", name, best, tostring(figure)))
end

timed("parse FASTQ", function()
  local bases = 0
  for record in bio.fastq(reads) do
    bases = bases + #record.sequence
  end
  return bases
end)

local sequence = bio.fasta(genome)().sequence

timed("parse FASTA", function()
  local bases = 0
  for _ = 1, 20 do
    for record in bio.fasta(genome) do
      bases = bases + #record.sequence
    end
  end
  return bases
end)

timed("canonical 21-mers", function()
  return bio_compute.count_kmers(sequence, 21, { canonical = true }):stats().distinct
end)

timed("reverse complement", function()
  local last
  for _ = 1, 20 do
    last = bio_compute.reverse_complement(sequence)
  end
  return #last
end)

timed("translation", function()
  local length = 0
  for frame = 1, 3 do
    length = length + #bio_compute.translate(sequence, { frame = frame, table = 11 })
    length = length + #bio_compute.translate(sequence, { frame = -frame, table = 11 })
  end
  return length
end)

local groups, order = {}, {}
for line in io.lines(pairs_file) do
  local group, mode, matrix, left, right = line:match("^(.-)\t(.-)\t(.-)\t(.-)\t(.-)$")
  if not groups[group] then
    groups[group] = {}
    order[#order + 1] = group
  end
  table.insert(groups[group], { left, right, { mode = mode, matrix = matrix } })
end
for _, group in ipairs(order) do
  timed(group, function()
    local sum = 0
    for _, pair in ipairs(groups[group]) do
      sum = sum + bio_compute.align(pair[1], pair[2], pair[3]).score
    end
    return string.format("%.1f", sum)
  end)
end
