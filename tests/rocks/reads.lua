-- What the library makes of reads, in the words of the tools that it is compared with:
--   reads.lua stats FILE...                  the columns of seqkit stats -aT
--   reads.lua kmers FILE K                   unique, distinct, total, max of jellyfish stats
--   reads.lua refused FILE...                the files that are refused, with the reasons
--   reads.lua convert FILE FROM TO           FASTQ in another variant, on standard output
--   reads.lua trim FILE NAME=VALUE...        trimmed reads, on standard output
--   reads.lua trim_pairs FILE FILE OUT OUT NAME=VALUE...
--   reads.lua place GENOME READS SAM DEPTH   writes SAM and depths; prints figures and variants
local bio = require("bio_sequence_analysis")
local bio_compute = require("bio_compute")

local commands = {}

local function options_of(arguments)
  local options = {}
  for _, argument in ipairs(arguments) do
    local name, value = argument:match("^(.-)=(.*)$")
    options[name] = tonumber(value) or value
  end
  return options
end

function commands.stats(...)
  for _, path in ipairs({ ... }) do
    local figures = bio.quality_figures(bio.count_quality(path))
    print(string.format("%d %d %d %.1f %d %.1f %.1f %.1f %d %d %.2f %.2f %.2f",
      figures.reads, figures.bases, figures.min_length, figures.mean_length, figures.max_length,
      figures.q1_length, figures.median_length, figures.q3_length, figures.gaps, figures.n50,
      figures.q20 * 100, figures.q30 * 100, figures.gc_of_all * 100))
  end
end

function commands.kmers(path, k)
  local stats = bio.count_kmers(bio.fastq(path), tonumber(k), { canonical = true }):stats()
  print(string.format("%d %d %d %d", stats.unique, stats.distinct, stats.total, stats.max))
end

function commands.refused(...)
  for _, path in ipairs({ ... }) do
    local ok, problem = pcall(function()
      for _ in bio.fastq(path) do
      end
    end)
    if not ok then
      print(problem)
    end
  end
end

function commands.convert(path, from, to)
  bio.write_fastq(io.stdout, bio.fastq(path, { variant = from }), { variant = to })
end

function commands.trim(path, ...)
  bio.write_fastq(io.stdout, bio.trim(path, options_of({ ... })))
end

function commands.trim_pairs(first, second, to_first, to_second, ...)
  local one, two = bio.fastq_writer(to_first), bio.fastq_writer(to_second)
  for left, right in bio.trim_pairs(first, second, options_of({ ... })) do
    one:write(left)
    two:write(right)
  end
  one:close()
  two:close()
end

function commands.place(genome, reads, sam, depth)
  local references = bio.read_fasta(genome)
  local index = bio_compute.index(references)
  local pileup = bio.new_pileup(references)
  local writer = bio.sam_writer(sam, references)
  for record in bio.fastq(reads) do
    local placement = index:place(record.sequence, record.quality)
    writer:write(record, placement)
    if placement then
      pileup:add(placement, record)
    end
  end
  writer:close()
  local depths = assert(io.open(depth, "w"))
  for at, count in ipairs(pileup.counts[1].depth) do
    depths:write(string.format("%d %d\n", count, pileup.counts[1].good[at]))
  end
  depths:close()
  local coverage = bio.coverage(pileup.counts)[1]
  print(string.format("%.4f %d", coverage.mean, coverage.uncovered))
  for _, call in ipairs(bio.variants(pileup.counts)) do
    print(string.format("%d %s %s", call.position, call.ref, call.alt))
  end
end

local command = table.remove(arg, 1)
commands[command]((table.unpack or unpack)(arg))
